"""The mains' command line: flags, named configurations, and one line for each mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import classification_main
import segmentation_main
from toolkit.cli import one_line, parse
from toolkit.errors import UserError
from toolkit.runs import read_json

pytestmark = pytest.mark.provided
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def parser():
    return classification_main.build_parser()


def refused(parser, argv: list[str], capsys) -> str:
    """The one line that the parser prints before it exits with 2."""
    with pytest.raises(SystemExit) as exit_info:
        parse(parser, argv)
    assert exit_info.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


def test_defaults_are_those_of_the_course():
    for main, model in ((classification_main, "mlp"), (segmentation_main, "unet")):
        args = parse(main.build_parser(), [])
        assert (args.model_name, args.learning_rate, args.num_epochs, args.weight_decay) == (model, 0.001, 1, 0.0)
        assert (args.batch_size, args.max_steps_per_epoch) == (32, 100)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--model_name", "resnet"], "cnn"),
        (["--learning_rate", "0"], "above 0"),
        (["--learning_rate", "nan"], "above 0"),
        (["--num_epochs", "0"], "at least 1"),
        (["--num_epochs", "1.5"], "whole number"),
        (["--max_steps_per_epoch", "-1"], "at least 0"),
        (["--batch_size", "zero"], "whole number"),
        (["--precision", "int8"], "bfloat16"),
        (["--dataset", "chest"], "sample"),
        (["--ema_decay", "1"], "at least 0"),
        (["--lr", "0.1"], "did you mean --learning_rate?"),
        (["--epochs=3"], "did you mean --num_epochs?"),
        (["--bs", "8"], "did you mean --batch_size?"),
        (["--model_name", "CNN"], "did you mean cnn, in small letters?"),
        (["--model_name", "unet"], "the U-Net is a model of segmentation_main.py"),
        (["--modelname", "linear"], "did you mean --model_name? (--help lists all)"),
        (["--model-name=linear"], "did you mean --model_name?"),
        (["--model", "cnn"], "--model_name"),
        (["--num_workers", "5000"], "up to 64"),
        (["--resume", ""], "leave the flag out"),
        (["--output_dir="], "leave the flag out"),
    ],
)
def test_a_bad_flag_is_one_line_that_says_what_is_allowed(parser, capsys, argv, named):
    assert named in refused(parser, argv, capsys)


def test_help_tells_each_default_once_and_none_where_there_is_none(parser):
    told = " ".join(parser.format_help().split())
    assert "(default: 0.001)" in told
    assert "(default: None)" not in told
    assert "(default: False)" not in told
    assert not re.search(r"\(default[^()]*\) \(default", told)


def test_command_line_wins_over_the_configuration(parser, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"description": "x", "model_name": "cnn", "learning_rate": 0.01, "patience": None}))
    args = parse(parser, ["--config", str(path), "--learning_rate", "0.1"])
    assert (args.model_name, args.learning_rate, args.patience) == ("cnn", 0.1, None)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"model": "cnn"}', "unknown key 'model'; allowed: augment"),
        ('{"learning_rate": [0.1, 0.2]}', "lists are for dispatcher.py"),
        ('{"overwrite": 1}', "allowed: true, false"),
        ('["cnn"]', "one JSON object"),
        ('{"model_name": "cnn",}', "line 1, column"),
        ('{"resume": "runs/a"}', "unknown key 'resume'"),
        ("[" * 100_000, "not valid JSON"),
        ('{"seed": ' + "1" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a_bad_configuration_is_refused(parser, tmp_path, content, named):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        parse(parser, ["--config", str(path)])
    assert named in str(error.value)
    assert str(path) in str(error.value)


def test_a_configuration_may_begin_with_the_mark_that_some_editors_write(parser, tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"model_name": "cnn"}', encoding="utf-8-sig")
    assert parse(parser, ["--config", str(path)]).model_name == "cnn"


@pytest.mark.parametrize("content", ["[]", "null", '"run"'])
def test_a_folder_with_another_config_json_is_no_run(parser, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="not a run folder"):
        parse(parser, ["--resume", str(tmp_path)])


def test_a_value_of_the_configuration_is_checked_like_a_flag(parser, tmp_path, capsys):
    path = tmp_path / "c.json"
    path.write_text('{"model_name": "vit"}')
    assert "choose from" in refused(parser, ["--config", str(path)], capsys)


def test_a_missing_configuration_is_named(parser):
    with pytest.raises(UserError, match=r"cannot read nowhere\.json"):
        parse(parser, ["--config", "nowhere.json"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("[!g]*.json")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_accepted_and_says_what_it_is(path):
    config = read_json(path)
    main = segmentation_main if path.stem.startswith("segmentation") else classification_main
    parse(main.build_parser(), ["--config", str(path)])
    assert config["description"]
    assert config["measured"]


@pytest.mark.parametrize("script", ["classification_main.py", "segmentation_main.py", "check_installation.py"])
def test_help_imports_no_torch(script):
    code = f"import sys, runpy; sys.argv = [{script!r}, '--help']\n"
    code += f"try: runpy.run_path({script!r}, run_name='__main__')\n"
    code += "except SystemExit as end: assert not end.code, end.code\n"
    code += "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_a_bug_keeps_its_traceback_and_a_full_disk_does_not():
    assert one_line(TypeError("bug")) is None
    assert "free some space" in one_line(OSError(28, "No space left on device"))
    assert "activate .venv" in one_line(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert one_line(ModuleNotFoundError("No module named 'my_layers'", name="my_layers")) is None  # the student's own
    assert one_line(PermissionError(13, "Permission denied", "out/x")) == "out/x: Permission denied"


def test_a_stub_is_one_line_with_its_place():
    with pytest.raises(NotImplementedError) as caught:
        raise NotImplementedError("TODO 1.2: define the layers")
    line = one_line(caught.value)
    assert re.fullmatch(r"TODO 1\.2: define the layers \(test_cli\.py, line \d+\); `python -m tests` lists .*", line)
    assert one_line(NotImplementedError("another of torch's")) is None


def test_output_that_the_terminal_cannot_show_or_nobody_reads_is_no_traceback():
    code = "from toolkit.cli import run_script; run_script(lambda: print('0.98 ± 0.01', flush=True))"
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ascii_only, capture_output=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"0.98 ? 0.01", b"")
    reader, writer = os.pipe()
    os.close(reader)
    closed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (closed.returncode, closed.stderr) == (1, b"")
