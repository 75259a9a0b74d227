"""The report says what results.json says, in every format; the notebook runs."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from labs.pathmnist_resnet18.src import pathmnist_resnet18
from toolkit.runs import read_json

document, notebook, report = (
    pytest.importorskip(f"labs.pathmnist_resnet18.src.{module}", reason="its packages: requirements-dev.txt")
    for module in ("document", "notebook", "report")
)

pytestmark = [pytest.mark.provided, pytest.mark.timeout(900)]  # the quick study takes minutes on a busy machine
FIGURES = ("loss_curve", "accuracy_curve", "confusion_matrix", "per_class_bars", "search", "gradcam")


@pytest.fixture(scope="module")
def results(quick_study) -> dict[str, Any]:
    """Of the quick study, with the ablation of a longer one."""
    found = read_json(quick_study[0] / "results.json")
    row = {"settings": {}, "values": [0.5, 0.6], "n": 2, "mean": 0.55, "sd": 0.07, "parameters": 11, "seconds": 3.0}
    rows = [{"change": {}, "gain": 0.0, **row}, {"change": {"mixup": 0.2}, "gain": 0.031, **row}]
    found["ablation"] = {"rows": rows, "seeds": 2, "settings": {"num_epochs": 5, "batch_size": 64}}
    return found


def changed(results: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at 'final.test.n'."""
    *way, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    made = copy.deepcopy(results)
    reduce(lambda inner, key: inner[key], way, made)[last] = value
    return made


CHANGES = [
    ("final.test.metrics.accuracy", 0.7654, "0.765"),
    ("final.test.metrics.macro_auc", 0.8765, "0.876"),
    ("final.test.intervals.accuracy", [0.111, 0.999], "0.111 – 0.999"),
    ("final.test.per_class.3.f1", 0.4321, "0.432"),
    ("final.test.per_class.0.support", 4711, "4,711"),
    ("final.test.n", 7180, "7,180"),
    ("final.validation.metrics.macro_f1", 0.3456, "0.346"),
    ("final.config.learning_rate", 0.0123, "learning rate 0.0123"),
    ("baseline.history.val_loss.0", 1.2345, "1.234"),
    ("baseline.best_val_acc", 0.5432, "0.543"),
    ("baseline.config.batch_size", 99, "batches of 99"),
    ("baseline.config.step_factor", 0.35, "times 0.35 every"),
    ("baseline.parameters", 12345678, "12,345,678"),
    ("baseline.normalization.mean.1", 0.2222, "0.222"),
    ("search.rows.1.mean", 0.6789, "0.679"),
    ("search.rows.0.settings.learning_rate", 0.0333, "0.0333"),
    ("search.train_images", 18000, "18,000"),
    ("ablation.rows.1.gain", -0.0777, "-7.8"),
    ("ablation.rows.1.sd", 0.0888, "± 0.089"),
    ("ablation.settings.num_epochs", 17, "17 epochs"),
    ("data.images.train", 76543, "76,543"),
    ("data.train_counts.2", 3141, "3,141"),
    ("goals.test_accuracy", 0.9444, "0.944"),
    ("environment.torch", "9.8.7", "torch 9.8.7"),
]


@pytest.mark.parametrize(("path", "value", "text"), CHANGES, ids=[path for path, _, _ in CHANGES])
def test_a_changed_result_changes_the_report(results, path: str, value: Any, text: str) -> None:
    nowhere = Path("nowhere")
    assert text not in report.render(results, nowhere)
    assert text in report.render(changed(results, path, value), nowhere)


def test_html_and_pdf_change_with_the_file(results, quick_study, tmp_path) -> None:
    pypdfium2 = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed (requirements-dev.txt)")
    folder, _read = quick_study
    path = tmp_path / "results.json"
    path.write_text(json.dumps(changed(results, "final.test.metrics.accuracy", 0.7654)))
    shutil.copytree(folder / "figures", tmp_path / "figures")
    report.from_file(path, tmp_path)
    page = (tmp_path / "reports" / "report.html").read_text(encoding="utf-8")
    paper = pypdfium2.PdfDocument(tmp_path / "reports" / "report.pdf")
    text = "".join(paper[number].get_textpage().get_text_bounded() for number in range(len(paper)))
    paper.close()
    for made in (page, text):
        assert "0.765" in made
        assert "pathmnist-sample" in made
        assert "Bundled sample, not PathMNIST" in made
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert "0.765" not in (folder / "reports" / "report.html").read_text(encoding="utf-8")


def test_no_table_of_the_word_file_is_torn_over_pages(results, tmp_path) -> None:
    docx = pytest.importorskip("docx", reason="python-docx is not installed (requirements-dev.txt)")
    body = report.to_html(report.render(changed(results, "final.test.metrics.accuracy", 0.7654), Path("nowhere")))
    document.write(body, tmp_path, tmp_path / "report.docx")
    made = docx.Document(tmp_path / "report.docx")
    assert len(made.tables) == body.count("<table>") > 3
    assert any("0.765" in cell.text for table in made.tables for row in table.rows for cell in row.cells)
    assert "Question" in [paragraph.text for paragraph in made.paragraphs if paragraph.style.name == "Heading 1"]
    for table in made.tables:
        assert all(row._tr.trPr.find(docx.oxml.ns.qn("w:cantSplit")) is not None for row in table.rows)
        kept = [all(p.paragraph_format.keep_with_next for p in row.cells[0].paragraphs) for row in table.rows]
        assert kept == [True] * (len(kept) - 1) + [False]


def test_the_template_holds_no_figure_of_its_own() -> None:
    text = report.TEMPLATE.read_text(encoding="utf-8")
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|`[^`]*`|ResNet-18|F1", "", text)
    assert not re.findall(r".*\d.*", text)


def test_steps_that_were_not_run_are_said(results) -> None:
    text = report.render({**results, "search": None, "final": None, "ablation": None}, Path("nowhere"))
    assert text.count("Not run yet.") == 3
    assert "goals are met" not in text


@pytest.mark.parametrize(
    ("accuracy", "auc", "validation", "said"),
    [
        (0.95, 0.996, 0.97, "test accuracy: met; macro AUC: met; gap: met."),
        (0.83, 0.97, 0.97, "test accuracy: not met; macro AUC: not met; gap: not met."),
    ],
)
def test_goals_are_judged_on_the_official_data_alone(results, accuracy, auc, validation, said) -> None:
    made = changed(results, "final.test.metrics.accuracy", accuracy)
    made = changed(made, "final.test.metrics.macro_auc", auc)
    made = changed(made, "final.validation.metrics.accuracy", validation)
    assert said not in report.render(made, Path("nowhere"))
    made["data"] |= {"name": "pathmnist", "is_sample": False, "origin": "file"}
    official = report.render(made, Path("nowhere"))
    assert said in official
    assert "Bundled sample" not in official
    made["data"]["name"] = "pathmnist-unverified"
    assert "Not the official file" in report.render(made, Path("nowhere"))
    assert said not in report.render(made, Path("nowhere"))


def test_every_picture_is_drawn(quick_study) -> None:
    folder, _read = quick_study
    assert sorted(path.stem for path in (folder / "figures").glob("*.png")) == sorted(FIGURES)
    for path in (folder / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(maxcolors=1 << 20)) > 20, path


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_notebook_is_kept_without_outputs() -> None:
    for cell in cells_of(notebook.SOURCE):
        assert not cell.get("outputs"), "strip the outputs before you commit"
        assert cell.get("execution_count") is None


def test_notebook_runs_and_is_exported(quick_study, tmp_path, do) -> None:
    for package in ("nbclient", "ipykernel", "nbconvert", "captum"):
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-dev.txt)")
    folder, _read = quick_study
    # Its own process: the notebook client brings event loops and warnings that are not ours.
    words = ["notebook", "--quick", "--dataset", "sample", "--output_dir", str(folder), "--pages_dir", str(tmp_path)]
    command = [sys.executable, "-m", pathmnist_resnet18.MODULE, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    executed = cells_of(tmp_path / "notebooks" / "pathmnist_resnet18.executed.ipynb")
    outputs = [output for cell in executed for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8
    page = (tmp_path / "notebooks" / "pathmnist_resnet18.html").read_text(encoding="utf-8")
    assert "pathmnist-sample" in page
    assert page.count("data:image/png;base64,") >= 8
