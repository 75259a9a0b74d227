"""The last two steps of the study: its pages, from what the trainings left."""

from __future__ import annotations

from labs.pathmnist_resnet18.src import attention, collect, figures
from labs.pathmnist_resnet18.src import notebook as notebooks
from labs.pathmnist_resnet18.src import report as pages
from labs.pathmnist_resnet18.src.study import Study
from toolkit.errors import UserError
from toolkit.runs import write_json


def report(study: Study) -> None:
    """results.json, the pictures, and the report as Markdown, HTML, PDF and Word file."""
    results = collect.collect(study)
    if not any(results[name] for name in ("baseline", "search", "final", "ablation")):
        raise UserError(f"nothing of the study is in {study.folder} yet; run the baseline first, or all")
    # The second copy is published with the pages: the notebook reads it where the study's own folder is missing.
    for folder in (study.folder, study.pages / "reports"):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "results.json", results)
    print(f"results: {study.folder / 'results.json'}")
    (study.pages / "figures").mkdir(parents=True, exist_ok=True)
    figures.draw_all(results, study.pages / "figures")
    attention.draw(study, study.pages / "figures")
    pages.from_file(study.folder / "results.json", study.pages)


def notebook(study: Study) -> None:
    """The notebook, executed on the results of the study."""
    notebooks.execute(study.folder, study.pages / "notebooks")
