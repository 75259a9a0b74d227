"""The notebook for Google Colab, executed as a student would, with shorter runs and without installing anything."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from staff.release.starter import markers, recipe
from staff.tests.release.tools import built


@pytest.mark.timeout(900)
def test_the_notebook_trains_and_packs_from_an_uploaded_zip(sources, tmp_path, monkeypatch):
    """About 20 s: two trainings of two steps, the installation check and the packing, each in its own process."""
    files = built(sources).files
    solved = {item.name: item.original.encode() for item in markers.read_graded(recipe.load("project2", sources))}
    with zipfile.ZipFile(tmp_path / "project.zip", "w") as archive:
        for name, content in {**files, **solved}.items():
            archive.writestr(name, content)
    book = nbformat.reads(files["colab.ipynb"].decode(), as_version=4)
    book.cells = [cell for cell in book.cells if "pip install" not in cell.source]
    settings = next(cell for cell in book.cells if cell.source.startswith("EPOCHS = 1"))
    settings.source = settings.source.replace("STEPS = 100", "STEPS = 2")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MEDMNIST_MIRROR", "http://127.0.0.1:9")  # no server there: nothing is downloaded

    NotebookClient(book, timeout=800, resources={"metadata": {"path": str(tmp_path)}}).execute()

    printed = {
        cell.source: "".join(out.get("text", "") for out in cell.outputs) for cell in book.cells if "outputs" in cell
    }
    assert "ready; next" in printed["!python check_installation.py"]
    names = zipfile.ZipFile(tmp_path / "project" / "submission.zip").namelist()
    assert {"classification.pt", "segmentation.pt", *solved} == set(names)
    assert "not on Colab" in printed[book.cells[-1].source]
    curves = next(cell for cell in book.cells if "display(Image" in cell.source)
    assert sum("image/png" in out.get("data", {}) for out in curves.outputs) == 2
