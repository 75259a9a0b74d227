"""From images to predictions with the four commands, as processes, and what they say to wrong input."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from labs.image_classifier import predict
from labs.image_classifier.utils import trained
from tests.labs.image_classifier.conftest import ROOT
from toolkit.errors import UserError

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
    from sklearn import metrics

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
