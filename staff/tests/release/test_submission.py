"""toolkit.submission: what it says about a student's folder, and what it packs."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest
import torch

from classification_models import get_model
from segmentation_models import get_segmentation_model
from staff.assignments import __file__ as assignments_file
from staff.grader import assignment as assignments
from staff.release.starter import markers, recipe
from toolkit import submission
from toolkit.runs import save_checkpoint

ROOT = recipe.ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A student's folder with all TODOs done."""
    for name in (*submission.CODE, "classification_dataset.py", "synthetic_data.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "toolkit", tmp_path / "toolkit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.setattr(submission, "ROOT", tmp_path)
    return tmp_path


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["submission", *arguments])
    code = submission.main()
    return code, capsys.readouterr().out


def finish_run(folder, task: str, value: float, **config) -> bytes:
    """A finished run; the bytes of its checkpoint."""
    folder.mkdir(parents=True)
    metric = {"classification": "best_val_acc", "segmentation": "best_val_iou"}[task]
    results = {"task": task, "dataset": "pathmnist", metric: value, "config": config}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "best.pt").write_bytes(content := folder.name.encode())
    return content


def test_it_hands_in_what_grading_takes():
    files = assignments.load("project2").files
    assert files == submission.LIMITS, f"differs from {assignments_file}'s assignment.toml"


def test_every_stub_of_the_starter_is_seen_and_none_of_the_solution(project):
    left, todos = {}, {}
    for item in markers.read_graded(recipe.load("project2", ROOT)):
        assert submission.look_at_code(item.name) == (item.name, "no stub is left", True)
        (project / item.name).write_text(item.starter)
        left[item.name] = submission.look_at_code(item.name).text
        todos[item.name] = "stubs are left: TODO " + ", ".join(sorted({region.todo for region in item.regions}))
    assert left == todos


def test_a_stub_that_python_never_reaches_is_not_left(project):
    """Below a return of the same block it harms nothing; below an inner one it is reached."""
    stub = 'raise NotImplementedError("TODO 1.4: x")'
    harmless = f"def f(x):\n    if x:\n        return 1\n    return 2\n    {stub}\n"
    (project / "classification_train.py").write_text(harmless)
    assert submission.look_at_code("classification_train.py").text == "no stub is left"
    (project / "classification_train.py").write_text(f"def f(x):\n    if x:\n        return 1\n    {stub}\n")
    assert submission.look_at_code("classification_train.py").text == "stubs are left: TODO 1.4"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"def f(:\n", "is not valid Python (line 1)"),
        (b"\xff\xfe", "is not valid Python"),
        (b"import os, helpers\nfrom einops.layers import x\n", "imports einops, helpers, which grading does not have"),
        (b"def f():\n    raise NotImplementedError('TODO 1.12: x')\n", "TODO 1.12"),
        (b"#" * 300_001, "300,001 bytes; grading accepts 300,000"),
    ],
)
def test_what_would_cost_points_is_said_before_it_does(project, content, words):
    (project / "classification_models.py").write_bytes(content)
    found = submission.look_at_code("classification_models.py")
    assert words in found.text
    assert not found.fine


def test_weights_that_fit_are_measured_and_others_named(project, monkeypatch, capsys):
    monkeypatch.setattr(submission, "CHILD_LIMIT_S", 120.0)  # a busy machine is not what this is about
    save_checkpoint(
        project / "classification.pt", {"model_name": "linear", "state_dict": get_model("linear").state_dict()}
    )
    save_checkpoint(
        project / "segmentation.pt",
        {"model_name": "unet", "state_dict": get_segmentation_model("unet", base_channels=8).state_dict()},
    )
    code, said = run(monkeypatch, capsys)
    lines = {line.split()[1]: line for line in said.splitlines() if line.startswith(("ok", "LOOK")) and ".pt" in line}
    assert "linear, validation accuracy 0." in lines["classification.pt"]
    assert "149 of 149 images of pathmnist-sample" in lines["classification.pt"]
    assert lines["segmentation.pt"].startswith("LOOK")
    assert "does not fit the unet of your code" in lines["segmentation.pt"]
    assert (code, torch.load(project / "classification.pt")["model_name"]) == (1, "linear")
    assert sorted(zipfile.ZipFile(project / "submission.zip").namelist()) == sorted(submission.LIMITS)


@pytest.mark.parametrize(
    ("line", "limit_s", "words"),
    [
        ("import os; os._exit(3)", 60.0, "ended Python with code 3"),
        ("while True: pass", 6.0, "did not end within 6 s, in classification_models.py, line 1"),
    ],
)
def test_code_that_crashes_or_never_ends_is_packed_all_the_same(project, monkeypatch, capsys, line, limit_s, words):
    (project / "torch.py").write_text("")  # the real one takes seconds
    (project / "classification_models.py").write_text(line)
    (project / "classification.pt").write_bytes(b"x")
    monkeypatch.setattr(submission, "CHILD_LIMIT_S", limit_s)
    code, said = run(monkeypatch, capsys, "--out", str(project / "mine.zip"))
    assert code == 1
    assert "classification.pt          was not measured" in said
    assert f"LOOK  classification_models.py   {words}" in said
    assert "classification.pt" in zipfile.ZipFile(project / "mine.zip").namelist()


def test_the_best_run_is_named_copied_and_nothing_lost(project, monkeypatch, capsys):
    monkeypatch.setattr(submission, "ask_child", list)
    finish_run(project / "runs" / "bad", "classification", 0.5)
    finish_run(project / "logs" / "sweep" / "other", "classification", 0.99, model_args={"width": 9})
    best = finish_run(project / "logs" / "sweep" / "best", "classification", 0.9)
    assert (
        "sweep/best (validation accuracy 0.9000); --copy_best" in submission.look_at_weights("classification.pt").text
    )
    (project / "classification.pt").write_bytes(b"from elsewhere")
    code, said = run(monkeypatch, capsys, "--copy_best")
    assert (project / "classification.pt").read_bytes() == best
    assert (project / "classification.before.pt").read_bytes() == b"from elsewhere"
    assert "segmentation.pt: nothing copied" in said
    assert code == 1  # segmentation.pt is missing
    assert submission.look_at_weights("classification.pt") is None


def test_a_large_checkpoint_is_left_out_and_an_empty_folder_is_an_error(project, monkeypatch):
    (project / "segmentation.pt").write_bytes(bytes(60_000_001))
    assert submission.look_at_weights("segmentation.pt").text.startswith("LEFT OUT")
    assert "segmentation.pt" not in submission.pack(project / "submission.zip")
    monkeypatch.setattr(submission, "ROOT", project / "toolkit")
    with pytest.raises(submission.UserError, match="nothing to pack"):
        submission.pack(project / "submission.zip")


def test_a_changed_provided_file_is_named_whatever_its_line_ends(project):
    hashes = {
        name: submission.hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in ("synthetic_data.py",)
    }
    hashes["toolkit/layers.py"] = "0"
    (project / "RELEASE.json").write_text(json.dumps({"files": hashes}))
    (project / "synthetic_data.py").write_bytes((ROOT / "synthetic_data.py").read_bytes().replace(b"\n", b"\r\n"))
    assert [found.name for found in submission.changed_files()] == ["toolkit/layers.py"]
