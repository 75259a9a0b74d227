"""The notebooks run from top to bottom, draw pictures, and are kept without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.labs.image_classifier.conftest import ROOT

pytestmark = pytest.mark.provided
FOLDER = ROOT / "labs" / "image_classifier" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Its own process: the notebook client brings event loops and warnings that are not ours.
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=240, resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(notebook, sys.argv[3])
"""


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["exploration", "training_and_errors"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    for cell in cells_of(path):
        assert not cell.get("outputs"), "strip the outputs before you commit"
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_draws(path: Path, prepared: Path, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel", "captum"):
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-dev.txt)")
    target = tmp_path / "executed.ipynb"
    quick = {"IMAGE_CLASSIFIER_DATA": str(prepared), "IMAGE_CLASSIFIER_QUICK": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, path, FOLDER, target],
        env={**os.environ, **quick},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [output for cell in cells_of(target) for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
