"""From images to predictions with the four commands, as processes, and what they say to wrong input."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics

from labs.image_classifier import predict, prepare
from labs.image_classifier.utils import trained
from labs.medmnist_experiments import predict_onnx
from tests.labs.image_classifier.conftest import ROOT, make_images
from toolkit.errors import UserError
from toolkit.images.errors import ImageError, check_size, pick_frame

pytestmark = pytest.mark.provided
Run = Callable[..., object]


def test_the_run_folder_is_the_course_s(trained_run: Path) -> None:
    names = {path.name for path in trained_run.iterdir()}
    assert {"config.json", "history.csv", "results.json", "curves.png", "best.pt", "last.pt", "confusion.png"} <= names
    results = json.loads((trained_run / "results.json").read_text())
    assert results["task"] == "classification"
    assert len(results["history"]["val_acc"]) == 2
    assert set(results["val_metrics"]) >= {"accuracy", "macro_auc", "macro_f1"}


def test_evaluate_writes_figures_that_scikit_learn_confirms(run: Run, trained_run: Path, prepared: Path) -> None:
    done = run("evaluate", trained_run, "--data", prepared, "--bootstrap", 50)
    assert done.returncode == 0, done.stderr
    folder = trained_run / "evaluation-test"
    figures = json.loads((folder / "metrics.json").read_text())
    with open(folder / "predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    true = [row["true"] for row in rows]
    right = [float(row["right"]) for row in rows]
    assert figures["n"] == len(rows)
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(true, [row["label"] for row in rows]))
    assert figures["macro_auc"] == pytest.approx(metrics.roc_auc_score([t == "right" for t in true], right), abs=1e-9)
    low, high = figures["interval_95"]["accuracy"]
    assert low <= figures["accuracy"] <= high
    for name in ("confusion.png", "roc_pr.png", "calibration.png", "mistakes.png"):
        Image.open(folder / name).verify()


def test_broken_files_get_their_line_and_exit_code_3(
    run: Run, trained_run: Path, prepared: Path, tmp_path: Path
) -> None:
    good = sorted((prepared.parent / "images" / "left").iterdir())[:3]
    (tmp_path / "cut.png").write_bytes(good[0].read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    listed = tmp_path / "list.csv"
    listed.write_text(f"path\n{good[0]}\ncut.png\nempty.png\nmissing.png\n{good[1]}\n")
    done = run("predict", trained_run, listed, good[2], "--format", "csv")
    assert done.returncode == 3
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, False, False]
    assert "the file is empty" in rows[2]["error"]
    assert all(row["label"] in ("left", "right") for row in rows if not row["error"])
    assert "3 could not be read" in done.stderr


def test_formats_agree_and_unsure_is_marked(trained_run: Path, prepared: Path, capsys: pytest.CaptureFixture) -> None:
    folder = str(prepared.parent / "images" / "right")
    assert predict.main([str(trained_run), folder, "--format", "json", "--device", "cpu"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert predict.main([str(trained_run), folder, "--format", "csv", "--device", "cpu"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [answer["label"] for answer in answers] == [row["label"] for row in rows]
    for answer in answers:
        assert answer["confidence"] == max(answer["probabilities"].values())
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert predict.main([str(trained_run), folder, "--min_confidence", "1", "--format", "json"]) == 0
    strict = json.loads(capsys.readouterr().out)
    assert {answer["label"] for answer in strict if answer["confidence"] < 1} == {"unsure"}


def test_predictions_from_files_and_from_memory_agree_bit_for_bit(trained_run: Path, prepared: Path) -> None:
    model = trained.load(trained_run, torch.device("cpu"))
    files = sorted((prepared.parent / "images").rglob("*.png"))
    answers = predict.predict(model, files, batch_size=16, min_confidence=0)
    from_files = np.array([list(answer["probabilities"].values()) for answer in answers])
    arrays = [model.preprocessing.apply(np.asarray(Image.open(path))) for path in files]
    from_memory = model.predict(arrays, batch_size=16)
    assert np.array_equal(from_files.astype(np.float32), from_memory)


def test_the_checkpoint_loads_without_pickle_and_carries_everything(trained_run: Path) -> None:
    content = torch.load(trained_run / "best.pt", weights_only=True)
    assert content["classes"] == ["left", "right"]
    assert content["preprocessing"]["image_size"] == 28
    assert content["state_dict"]["mean"].abs().max() > 0.01, "the normalisation is part of the state"


def test_help_and_mistakes_are_told_without_importing_torch(prepared: Path) -> None:
    program = (
        "import sys; from labs.image_classifier import MODULE as script\n"
        "try:\n    script.main(WORDS)\nexcept (SystemExit, ValueError) as end: print(end)\n"
        "print('torch' in sys.modules)"
    )
    nowhere = str(prepared / "nowhere")
    for module, words, told in (
        ("train", ["--help"], "--folds"),
        ("train", ["--data", nowhere], "has no metadata.csv"),
        ("train", ["--data", nowhere, "--model", "resnet19"], "2"),
        ("evaluate", [nowhere, "--data", nowhere], "has no metadata.csv"),
        ("predict", [nowhere, nowhere], "no model at"),
        ("prepare", [nowhere, "--out", nowhere], "no such folder or file"),
    ):
        code = program.replace("MODULE", module).replace("WORDS", repr(words))
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert told in done.stdout, done.stderr
        assert done.stdout.endswith("False\n"), f"{module} {words} imported torch"


def test_other_checkpoints_are_refused_in_one_line(run: Run, tmp_path: Path, prepared: Path) -> None:
    other = tmp_path / "best.pt"
    torch.save({"state_dict": {}, "model_name": "cnn"}, other)
    done = run("predict", other, prepared.parent / "images")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is a checkpoint of something else" in done.stderr
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="is not a checkpoint"):
        trained.load(tmp_path / "text.pt", torch.device("cpu"))


def test_what_predict_leaves_out_is_counted_listed_and_changes_the_exit_code(
    trained_run: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(prepared.parent / "images" / "left", folder)
    (folder / "notes.txt").write_text("hello")
    words = [str(trained_run), str(folder), "--format", "csv", "--device", "cpu", "--output", str(tmp_path / "a.csv")]
    assert predict.main(words) == 0
    assert "21 files, 20 images taken; left out: 1 .txt" in capsys.readouterr().err
    Image.new("L", (9, 9)).save(folder / "a.gif")
    (folder / ".hidden").mkdir()
    shutil.copy(folder / "p00_0.png", folder / ".hidden" / "b.png")
    assert predict.main(words) == 3
    assert "23 files, 20 images taken; left out: " in capsys.readouterr().err
    with open(tmp_path / "problems.csv", encoding="utf-8") as file:
        assert {Path(row["path"]).name for row in csv.DictReader(file)} == {"a.gif", "b.png", "notes.txt"}
    (tmp_path / "nothing").mkdir()
    (folder / "a.gif").unlink()
    shutil.rmtree(folder / ".hidden")
    assert predict.main([words[0], str(tmp_path / "nothing"), *words[1:]]) == 3, "it costs no other answer"
    with pytest.raises(UserError, match="no image in"):
        predict.main([str(trained_run), str(tmp_path / "nothing")])


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are always Unicode there")
@pytest.mark.parametrize("kind", ["table", "csv", "json"])
def test_one_bad_file_costs_no_other_answer(trained_run: Path, prepared: Path, tmp_path: Path, kind: str) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed (requirements-dev.txt)")
    good = sorted((prepared.parent / "images" / "left").iterdir())[0]
    folder = tmp_path / "set"
    folder.mkdir()
    shutil.copy(good, os.path.join(os.fsencode(folder), b"caf\xe9.png").decode("utf-8", "surrogateescape"))
    (folder / "empty.png").touch()
    tifffile.imwrite(folder / "nan.tif", np.full((8, 8), np.nan, np.float32))
    tifffile.imwrite(folder / "units.tif", np.linspace(-1000, 3000, 64, dtype=np.float32).reshape(8, 8))
    Image.new("L", (4000, 1)).save(folder / "thin.png")
    words = [str(trained_run), str(folder), "--format", kind, "--device", "cpu", "--output", str(tmp_path / "answers")]
    assert predict.main(words) == 3
    text = (tmp_path / "answers").read_text(encoding="utf-8")
    assert "xe9.png" in text
    for reason in ("the file is empty", "64 of 64 values are NaN", "its values go from -1000 to 3000"):
        assert reason in text
    if kind == "csv":
        rows = {Path(row["path"]).name: row for row in csv.DictReader(text.splitlines())}
        assert sorted(name for name, row in rows.items() if row["label"]) == [r"caf\xe9.png", "thin.png"]


def test_another_grey_scale_than_in_training_is_marked(trained_run: Path, tmp_path: Path, capsys) -> None:
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((32, 32), 150, np.uint8)).save(tmp_path / "usual.png")
    assert predict.main([str(trained_run), str(tmp_path), "--format", "json", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    answers = {Path(answer["path"]).name: answer for answer in json.loads(told.out)}
    assert "more than 8 bits, the training images: 8 bits" in answers["deep.png"]["warning"]
    assert "warning" not in answers["usual.png"]
    assert "warning: 1 images have another grey scale" in told.err


def test_frames_are_named_or_all_taken(trained_run: Path, tmp_path: Path, capsys) -> None:
    frames = [Image.new("L", (32, 32), number * 50) for number in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    words = [str(trained_run), str(tmp_path), "--format", "json", "--device", "cpu"]
    assert predict.main(words) == 3
    assert "name one with --frame 1 .. 3" in capsys.readouterr().out
    assert predict.main([*words, "--frame", "all"]) == 0
    each = [answer["path"] for answer in json.loads(capsys.readouterr().out)]
    assert [path.rpartition("#")[2] for path in each] == ["frame=1", "frame=2", "frame=3"]
    assert predict.main([str(trained_run), each[1], "--format", "json", "--device", "cpu"]) == 0
    with pytest.raises(SystemExit):
        predict.main([*words, "--frame", "0"])


@pytest.mark.parametrize("place", ["", "nowhere/a.csv", "data/a.csv"])
def test_an_output_that_cannot_be_written_is_noticed_first(
    trained_run: Path, prepared: Path, tmp_path: Path, place: str
) -> None:
    target = prepared / "a.csv" if place.startswith("data") else tmp_path / place
    with pytest.raises(UserError, match="--output"):
        predict.main([str(trained_run), str(prepared), "--output", str(target)])


def test_answers_never_replace_what_is_read(trained_run: Path, prepared: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(next((prepared.parent / "images" / "left").iterdir()).read_bytes())
    for name in ("list.csv", "problems.csv"):
        (tmp_path / name).write_text("path,finding\na.png,my own\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for read, output in (
        (image, "a.png"),
        (tmp_path, "a.png"),
        (tmp_path / "list.csv", "list.csv"),
        (tmp_path / "list.csv", "a.png"),
        (tmp_path / "problems.csv", "answers.csv"),
        (image, "problems.csv"),
        (image, "answers.csv"),  # next to a problems.csv of someone else
        (image, "best.pt"),
    ):
        with pytest.raises(UserError, match=r"--output .*(which is read|is taken|is not of this lab)"):
            predict.main([str(trained_run), str(read), "--output", str(tmp_path / output)])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_devices_and_folders_of_images_are_no_places_for_answers(trained_run: Path, tmp_path: Path, capsys) -> None:
    make_images(tmp_path / "images", 2)
    folder = str(tmp_path / "images")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is no file; leave --output out"):
        predict.main([str(trained_run), folder, "--output", str(tmp_path / "pipe")])
    with pytest.raises(UserError, match=r"--gradcam .* is in .*images, whose images are read; name a folder outside"):
        predict.main([str(trained_run), folder, "--gradcam", str(tmp_path / "images" / "left" / "cam")])
    assert not (tmp_path / "images" / "left" / "cam").exists()


def test_a_path_that_is_empty_or_too_long_is_no_traceback(trained_run: Path, capsys) -> None:
    with pytest.raises(UserError, match="a path is empty"):
        predict.main([str(trained_run), ""])
    assert predict.main([str(trained_run), "n" * 300 + ".png", "--device", "cpu"]) == 3
    assert "error: File name too long" in capsys.readouterr().out


def test_the_flags_that_messages_of_the_reader_name_are_there(trained_run: Path, prepared: Path, capsys) -> None:
    with pytest.raises(ImageError) as large:
        check_size(9, 9, 80)
    with pytest.raises(ImageError) as several:
        pick_frame(0, 3)
    named = set(re.findall(r"--\w+", f"{large.value} {several.value}"))
    assert named == {"--max_pixels", "--frame"}
    for command in (prepare, predict, predict_onnx):
        assert named <= set(command.build_parser()._option_string_actions), command
    image = next((prepared.parent / "images" / "left").iterdir())
    assert predict.main([str(trained_run), str(image), "--max_pixels", "1000", "--device", "cpu"]) == 3
    assert predict.main([str(trained_run), str(image), "--max_pixels", "1024", "--device", "cpu"]) == 0


def test_class_names_with_commas_are_quoted_in_lists() -> None:
    answers = [{"path": "a", "label": "x", "confidence": 1.0, "probabilities": {"normal, benign": 0.25, "x": 0.75}}]
    assert '"normal, benign" 0.250, x 0.750' in predict.as_text(answers, ["normal, benign", "x"], "table")
