"""The zip for Gradescope: what is in it, and a run in a scratch root without network and without this repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from staff.grader import facts
from staff.tests.grading_tools import LEGACY, MODULES, command
from staff.tests.release.tools import Site, needs_root


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("package") / "autograder.zip"
    run = command("staff.package", "gradescope", "--out", path)
    assert run.returncode == 0, run.stderr
    return path


def test_contents(archive):
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        modes = {info.filename: info.external_attr >> 16 for info in opened.infolist()}
    assert {"setup.sh", "run_autograder", "requirements.txt", "grader/staff/student_side/worker.py"} <= names
    assert "grader/data/bundled/pathmnist_sample.npz" in names
    # Neither the solution nor what would help to cheat.
    assert not [name for name in names if Path(name).name in MODULES]
    assert not [name for name in names if "attacks" in name or "checkpoints" in name or "__pycache__" in name]
    assert modes["setup.sh"] & 0o111
    assert modes["run_autograder"] & 0o111


def test_same_sources_same_bytes(archive, tmp_path):
    command("staff.package", "gradescope", "--out", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("script", ["setup.sh", "run_autograder"])
def test_scripts_are_valid_bash(archive, tmp_path, script):
    with zipfile.ZipFile(archive) as opened:
        text = opened.read(script)
    assert b"@" not in text  # every setting was filled in
    assert subprocess.run(["bash", "-n"], input=text, check=False).returncode == 0


@pytest.fixture
def site(tmp_path, archive) -> Site:
    needs_root()
    return Site(tmp_path, archive)


def test_runs_in_a_scratch_root_without_network(site):
    made = site.run("source/setup.sh")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("sandbox:")
    # Only the losses are there: fast to grade, and points that must come out.
    shutil.copy(LEGACY / "segmentation_models.py", site.autograder / "submission")
    text = (site.autograder / "submission/segmentation_models.py").read_text()
    for name in ("MLPSegmentation", "SimpleCNN", "TinyUNet"):
        text += f"\n\nclass {name}(nn.Module):\n    def __init__(self, *a, **k):\n        raise NotImplementedError\n"
    (site.autograder / "submission/segmentation_models.py").write_text(text)
    run = site.run("run_autograder")
    results = site.results()
    assert {test["number"]: test["score"] for test in results["tests"] if test["score"]} == {"2.4": 2, "2.5": 2}, run
    assert results["score"] == 4
    staff = json.loads((site.autograder / "staff-results.json").read_text())
    assert staff["sandbox"]["layer"] in ("bwrap", "user")
    assert staff["grader"]["commit"] == facts.grader_versions()["commit"]
    for path in (
        site.autograder / "staff-results.json",
        site.autograder / "source/grader/staff/student_side/worker.py",
    ):
        assert path.stat().st_mode & 0o077 == 0  # other users, the student's code among them, cannot read it


def test_a_wrong_submission_is_told(site):
    site.run("source/setup.sh")
    (site.autograder / "submission/notes.txt").write_text("I handed in the wrong file")
    site.run("run_autograder")
    assert site.results()["score"] == 0
    assert "holds none of the assignment's files" in site.results()["output"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("staff/grader/grade.py", b"raise SystemError"),
        ("data/bundled/pathmnist_sample.npz", b"damaged"),
        ("staff/assignments/project2/graded_tests/test_1_models.py", b"import nothing_of_this_name"),
    ],
    ids=["grader", "data", "graded test"],
)
def test_a_broken_grader_is_no_score(site, file, content):
    shutil.copy(LEGACY / "segmentation_models.py", site.autograder / "submission")
    (site.autograder / "source/grader" / file).write_bytes(content)
    run = site.run("run_autograder")
    assert run.returncode not in (0, 2)
    assert "score" not in site.results()
    assert "tests" not in site.results()
    assert "not your fault" in site.results()["output"]
    assert "/" not in site.results()["output"]
