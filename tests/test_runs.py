"""The run folder: files are whole or not there, and mistakes are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from toolkit import experiment
from toolkit.errors import UserError
from toolkit.runs import (
    RunFolder,
    free_run_path,
    load_checkpoint,
    read_json,
    save_checkpoint,
    write_bytes,
    write_json,
)

pytestmark = pytest.mark.provided


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def power_cut(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("words", "expected"), [(["-m", "lab.train"], "-m lab.train"), (["lab/train.py"], "train.py")])
def test_the_command_to_go_on_names_a_module_as_a_module(tmp_path, words, expected):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "train.py").write_text("from toolkit.runs import started_as\nprint(started_as())\n")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    run = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_a_device_or_a_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_json(tmp_path / "pipe", {"accuracy": 0.5})
    assert (tmp_path / "pipe").is_fifo()
    assert json.loads(os.read(reader, 100)) == {"accuracy": 0.5}
    os.close(reader)


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_broken_json_names_file_line_and_column(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{\n  "a": 1,\n  b: 2\n}')
    with pytest.raises(UserError, match="line 3, column 3") as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_a_checkpoint_survives_the_round_trip_and_loads_without_pickle(tmp_path):
    content = {"state_dict": {"w": torch.randn(3, 4)}, "epoch": 2}
    save_checkpoint(tmp_path / "c.pt", content)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert loaded["epoch"] == 2
    assert torch.equal(loaded["state_dict"]["w"], content["state_dict"]["w"])


class Payload:
    """An object that a checkpoint must not bring to life."""


def test_a_checkpoint_with_an_object_in_it_is_refused(tmp_path):
    torch.save({"state_dict": Payload()}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"c\.pt is not a checkpoint of this course"):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("content", "cure"), [(b"", "copy it again"), (b"version https://git-lfs.github.com/spec/v1", "git lfs pull")]
)
def test_a_file_that_is_no_checkpoint_is_named_with_its_cure(tmp_path, content, cure):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"c\.pt is not a checkpoint of this course: it is .*{cure}"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*none\.pt"):
        load_checkpoint(tmp_path / "none.pt")


def test_history_rows_are_appended_and_rewritten_alike(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    history = {"train_loss": [2.0, 1.0], "val_acc": [0.25, 0.5]}
    for epoch in (1, 2):
        run.append_history(epoch, {name: values[epoch - 1] for name, values in history.items()})
    appended = run.file("history.csv").read_bytes()
    assert appended.decode() == "epoch,train_loss,val_acc\n1,2.0,0.25\n2,1.0,0.5\n"
    run.write_history(history)
    assert run.file("history.csv").read_bytes() == appended


def test_no_two_runs_get_the_same_folder(tmp_path):
    """The folder is made at once: between choosing a name and making it another process could choose it too."""
    names = [free_run_path(tmp_path, "a").name for _ in range(3)]
    assert names == ["a", "a-2", "a-3"]
    assert all((tmp_path / name).is_dir() for name in names)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        free_run_path(tmp_path / "file", "a")


def test_of_two_runs_that_start_in_one_folder_one_gets_it(tmp_path):
    def start(number: int) -> bool:
        try:
            RunFolder.create(tmp_path / "run", {"number": number})
        except UserError as error:
            assert "holds a run without a finished epoch: it still runs" in str(error)  # noqa: PT017 -- the other outcome is allowed
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(start, range(16))) == 1
    assert isinstance(read_json(tmp_path / "run" / "config.json")["number"], int)


@pytest.mark.parametrize("name", ["best.pt", "results.json", "predictions.png"])
def test_files_of_something_else_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name} of something else"):
        RunFolder.create(tmp_path, {})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_a_run_that_fails_in_its_first_epoch_leaves_its_name_to_the_next(tmp_path, error, capsys):
    run = RunFolder.create(free_run_path(tmp_path, "a"), {"seed": 1})
    run.file("steps.csv").write_text("step,loss\n")
    with pytest.raises(error), experiment.saying_how_to_resume(run):
        raise error
    said = capsys.readouterr()
    assert "no epoch was finished" in said.out
    assert said.err == ""  # which is for the error, in one line
    assert free_run_path(tmp_path, "a").name == "a"


@pytest.mark.parametrize("name", ["history.csv", "last.pt", "best.pt", "results.json"])
def test_a_run_that_has_something_to_lose_is_kept(tmp_path, name):
    run = RunFolder.create(tmp_path / "a", {"seed": 1})
    run.file(name).write_text("x")
    with pytest.raises(KeyboardInterrupt), experiment.saying_how_to_resume(run):
        raise KeyboardInterrupt
    assert run.file(name).exists()
    assert run.config == {"seed": 1}


def test_files_that_the_run_did_not_write_stay(tmp_path):
    run = RunFolder.create(tmp_path / "a", {})
    run.file("notes.txt").write_text("mine")
    assert run.remove_unfinished()
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_overwriting_leaves_no_picture_of_the_old_run(tmp_path):
    run = RunFolder.create(tmp_path, {"old": 1})
    for name in ("best.pt", "confusion.png", "notes.txt"):
        run.file(name).write_text("old")
    RunFolder.create(tmp_path, {"new": 1}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.txt"]
    assert read_json(run.file("config.json")) == {"new": 1}
