"""Execute the notebook on the results of a study and export it as HTML."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from labs.pathmnist_resnet18.src import LAB
from toolkit.errors import UserError
from toolkit.runs import write_bytes

SOURCE = LAB / "notebooks" / "pathmnist_resnet18.ipynb"
FOLDER_VARIABLE = "PATHMNIST_STUDY"  # the notebook reads which study it shows
TIMEOUT_S = 600  # of one cell


def execute(study: Path, folder: Path) -> Path:
    """Write the executed notebook and its HTML into `folder`; returns the HTML. `study`: has results.json.

    Raises UserError if there are no results, and with the cell's last line if one fails.
    """
    if not (study / "results.json").exists():
        raise UserError(f"{study} has no results.json yet; run the report first")
    notebook = nbformat.read(SOURCE, as_version=4)
    client = NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": str(SOURCE.parent)}})
    before = os.environ.get(FOLDER_VARIABLE)
    os.environ[FOLDER_VARIABLE] = str(study.resolve())  # the kernel inherits it
    try:
        client.execute()
    except CellExecutionError as error:
        raise UserError(f"{SOURCE.name}: {error.ename}: {error.evalue}") from None
    finally:
        if before is None:
            del os.environ[FOLDER_VARIABLE]
        else:
            os.environ[FOLDER_VARIABLE] = before
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{SOURCE.stem}.html"
    body, _resources = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    write_bytes(folder / f"{SOURCE.stem}.executed.ipynb", nbformat.writes(notebook).encode())
    write_bytes(page, body.encode())
    print(f"notebook: {page}")
    return page
