"""A new assignment in a copy of the repository: every tool runs on it at once, and nothing else has to be changed."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import tomllib

from staff.grader.toml_file import read_toml
from staff.quality import bank
from staff.release.new_assignment import make
from staff.release.starter.recipe import ROOT
from staff.tests.release.tools import Site, command, needs_root
from toolkit.errors import UserError

COPIED = ("staff", "toolkit", "tests")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "attacks", "submissions", "checkpoints")
NEW = ("hw6", "--todo", "1.2 Calibration curve 4", "--todo", "1.1 Brier score 4.5", "--todo", "2.1 Running hits 1.5")


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A copy of what the tools need, without git, and hw6 in it."""
    folder = tmp_path_factory.mktemp("course")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*.toml"), *ROOT.glob("*.txt"), ROOT / "LICENSE"):
        shutil.copy(path, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "3 TODOs" in run(folder, "staff.new_assignment", *NEW)
    changed = {path for path in folder.rglob("*") if path.is_file() and before.get(path) != path.read_bytes()}
    own = folder / "staff/assignments/hw6"
    assert [path for path in changed if own not in path.parents and "__pycache__" not in path.parts] == []
    return folder


def run(folder: Path, *arguments: object) -> str:
    """Run a staff tool of the copy; what it printed."""
    words = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def starter(course, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "hw6"
    run(course, "staff.make_starter", "--assignment", "hw6", "--out", folder)
    return folder


def test_the_starter_holds_and_says_what_the_folder_says(course, starter):
    assert "all 13 proofs hold" in run(course, "staff.check_starter", starter)
    page = (starter / "README.md").read_text()
    assert "10 points" in page
    assert "Part 1 (8.5 points)" in page
    assert "python -m pytest -m hw6_1_1 " in page
    assert 'Todo("1.1", "Brier score", 4.5, "tests/test_hw6.py", "hw6"),' in (starter / "tests/todos.py").read_text()
    settings = (starter / "pyproject.toml").read_text()
    assert '"hw6_2_1: TODO 2.1, Running hits",' in settings
    assert "todo_1_1" not in settings


def alternates(own: Path) -> str:
    """The graded module with the other right solution of every TODO."""
    files = {"hw6.py": (own / "starter/hw6.py").read_text()}
    for path in sorted(own.glob("bank/alternates/*.toml")):
        for todo, bodies in read_toml(path).items():
            if todo != "title":
                bank._fill(files, todo, [bodies["body"].strip("\n")], path.name)
    return files["hw6.py"]


def test_right_solutions_get_all_points_and_the_unfilled_starter_none(course, starter, tmp_path):
    own = course / "staff/assignments/hw6"
    shutil.copytree(own / "starter", tmp_path / "class/example")
    shutil.copytree(starter, tmp_path / "class/unfilled")
    (tmp_path / "class/others").mkdir()
    (tmp_path / "class/others/hw6.py").write_text(alternates(own))
    run(course, "staff.grade_class", tmp_path / "class", "--assignment", "hw6")
    with open(tmp_path / "class-grades/grades.csv", encoding="utf-8", newline="") as file:
        scores = {row["name"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores == {"example": 10, "others": 10, "unfilled": 0}


def test_its_mistakes_are_caught_by_both_judges(course, tmp_path):
    names = [entry["name"] for entry in read_toml(course / "staff/assignments/hw6/bank/mutants/first.toml")["mutant"]]
    report = run(course, "staff.measure", *names, "--assignment", "hw6", "--quick", "--out", tmp_path)
    caught = r"3 of 3 (43.9% to 100.0%)"
    assert f"| first bank | yes | 3 | {caught} | {caught} | 0 |" in report
    assert "2 judgements" in report  # they lie in different functions and are judged together


@pytest.fixture(scope="module")
def archive(course, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("package") / "hw6.zip"
    run(course, "staff.package", "gradescope", "--assignment", "hw6", "--out", path)
    return path


def test_the_package_for_gradescope_holds_no_data_and_no_solution(archive):
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    assert "grader/staff/assignments/hw6/graded_tests/test_hw6.py" in names
    assert not [name for name in names if "data/" in name or "project2" in name or name.endswith("/hw6.py")]


@pytest.mark.parametrize(("handed_in", "score"), [("solution", 10), ("starter", 0)])
def test_the_package_grades_in_a_scratch_root(course, starter, archive, tmp_path, handed_in, score):
    needs_root()
    site = Site(tmp_path, archive)
    assert site.run("source/setup.sh").returncode == 0
    folder = course / "staff/assignments/hw6/starter" if handed_in == "solution" else starter
    shutil.copy(folder / "hw6.py", site.autograder / "submission")
    run = site.run("run_autograder")
    assert site.results()["score"] == score, run.stderr


def written(monkeypatch) -> dict[str, str]:
    """The files of a new assignment in a term of these tests."""
    last = {"due": datetime(2028, 1, 1, 23, 59), "due_timezone": "Basel time"}
    monkeypatch.setattr(make, "last_of_the_course", lambda: last)
    return make.contents("hw7", "Homework 7", make.read_todos(["1.1 Cohen's kappa 3"]), make.read_due(""))


def test_what_is_written_follows_the_term_and_the_titles(monkeypatch):
    files = written(monkeypatch)
    assert "def cohens_kappa(" in files["starter/hw7.py"]
    dates = {"due": datetime(2028, 1, 15, 23, 59), "due_timezone": "Basel time"}
    assert tomllib.loads(files["assignment.toml"])["course"] == dates
    assert "title" not in tomllib.loads(files["starter.toml"])  # assignment.toml has it
    assert {"{{late_work}}", "{{office_hours}}"} <= set(re.findall(r"{{\w+}}", files["templates/handout.md"]))


def test_a_graded_test_draws_until_the_wrong_answer_differs(monkeypatch):
    found: dict = {}
    text = written(monkeypatch)["graded_tests/test_hw7.py"]
    assert "telling(rng, cohens_kappa_oracle, " in text
    exec(text, found)
    answers = iter([0.5, 0.5, 0.7])
    data = found["telling"](np.random.default_rng(0), lambda *_data: 0.5, lambda *_data: next(answers))
    assert next(answers, "asked three times") == "asked three times"
    assert len(data[0]) == len(data[1]) >= 40
    with pytest.raises(AssertionError, match="is as good as"):
        found["telling"](np.random.default_rng(0), lambda *_data: 0.5, lambda *_data: 0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("project2", "--todo", "1.1 x 5"), "project2 is there already"),
        (("torch", "--todo", "1.1 x 5"), "a module or folder is called so"),
        (("Hw 6", "--todo", "1.1 x 5"), "allowed: small letters"),
        (("hw6", "--todo", "Brier score 5"), "expected number, title and points"),
        (("hw6", "--todo", "1.1 4D scans 5"), "begin with a letter"),
        (("hw6", "--todo", "1.1 Nothing 0"), "allowed: above 0"),
        (("hw6", "--todo", "1.1 A b 1", "--todo", "1.2 a-B 1"), "two TODOs have the function a_b"),
        (("hw6", "--todo", "1.1 x 5", "--due", "soon"), "expected a date and a time"),
    ],
)
def test_mistakes_in_the_call_are_named_and_nothing_is_written(monkeypatch, arguments, says):
    written = []
    monkeypatch.setattr(make, "write", lambda folder, files: written.append(folder))
    monkeypatch.setattr(sys, "argv", ["new_assignment", *arguments])
    with pytest.raises(UserError, match=says):
        make.main()
    assert not written


def test_the_command_ends_with_one_line_and_2():
    made = command("staff.new_assignment", "project2", "--todo", "1.1 x 5")
    assert (made.returncode, made.stderr.count("\n"), made.stdout) == (2, 1, "")
