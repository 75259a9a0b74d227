"""`make train` with few steps: both mains run, and the table says honestly what was not reached."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from toolkit.runs import read_json

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_has_both_models_beside_the_expectations(tmp_path):
    command = [sys.executable, "-m", "toolkit.quickstart", "--dataset", "sample", "--max_steps_per_epoch", "1"]
    done = subprocess.run(
        [*command, "--output_root", tmp_path, "--seed", "4"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[-2:]}
    for model, task, key, expected in (
        ("cnn", "classification", "best_val_acc", "> 54% accuracy"),
        ("unet", "segmentation", "best_val_iou", "> 96% IoU"),
    ):
        folder = tmp_path / f"{task}-{model}-seed4"
        results = read_json(folder / "results.json")
        assert results["seed"] == 4
        assert results["dataset"] == "pathmnist-sample"
        for text in (f"{results[key]:.4f}", expected, " NO ", "pathmnist-sample", str(folder)):
            assert text in rows[model], done.stdout
    assert done.returncode == 1, "one step reaches no expectation"


def test_a_main_that_fails_ends_it_with_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    command = [sys.executable, "-m", "toolkit.quickstart", "--output_root", tmp_path / "file"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
