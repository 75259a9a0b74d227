"""A hint only where something was learnt about the code; one cause is said once; a timeout names the line."""

from __future__ import annotations

import functools
import shutil
from types import SimpleNamespace

import pytest

from staff.grader import assignment, checks, diagnosis, functions
from staff.grader.client import Budget, CheckFailed, Incident, StudentError, StudentProcess, last_line
from staff.grader.reports.feedback import todo_lines
from staff.grader.sandbox import Limits, temporary_place
from staff.grader.training_checks import checkpoint_model
from staff.quality.bank import load_bank
from staff.tests.grading_tools import ROOT

MODULES = {
    "stops": "raise SystemExit(2)",
    "fits": "def get(name): raise RuntimeError('size mismatch for fc.weight')",
    "loops": "def call():\n    number = 0\n    while True:\n        number += 1",
}


@pytest.fixture
def student():
    """A student's process with the modules above and a damaged checkpoint, in no sandbox."""
    with temporary_place() as place:
        for name, text in MODULES.items():
            (place.tree / f"{name}.py").write_text(text)
        shutil.copytree(ROOT / "toolkit", place.tree / "toolkit")  # provided, as in every submission's tree
        (place.tree / "damaged.pt").write_bytes(b"no weights")
        student = StudentProcess(
            place, "limits", Limits(start_s=400, without=("landlock", "seccomp")), Budget(200, 900), []
        )
        yield student
        student.end()


@functools.cache
def mistake() -> dict[str, str]:
    """Files of a mistake of the bank, for which there is a hint as soon as a check of its code fails."""
    return next(variant.files for variant in load_bank() if "1.0" in variant.todos)


def graded(error: CheckFailed) -> list[dict]:
    """The TODOs of project2 after `error` met every check of TODO 1.0 and 1.1."""
    project = assignment.load("project2")
    plugin = checks.GradingPlugin(project, None, None, 0, None)
    outcomes = {c.test: plugin._outcome(t, c, error) for t in project.todos[:2] for c in t.checks}
    todos = checks.score_all(project, outcomes)["todos"][:2]
    diagnosis.diagnose(todos, "project2", {name: text.encode() for name, text in mistake().items()})
    return todos


def ask(student: StudentProcess, what: str) -> None:
    part = SimpleNamespace(models="fits", factory="get")
    if what in ("absent", "stops"):
        student.require(what)
    elif what == "loops":
        functions.call(student, "loops", "call", timeout_s=4.0)
    else:
        checkpoint_model(student, student.place, what, part, "cnn")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("absent", "absent.py was not handed in"),
        ("stops", "SystemExit: 2 (while importing stops.py)"),
        ("missing.pt", "no missing.pt was handed in"),
        ("damaged.pt", "damaged.pt is damaged, or no file of torch.save"),
    ],
)
def test_no_hint_where_nothing_was_learnt_about_the_code(student, what, says):
    with pytest.raises(CheckFailed) as caught:
        ask(student, what)
    _check_told_once_without_hints(caught.value, says)


def _check_told_once_without_hints(error: CheckFailed, says: str) -> None:
    assert says in str(error)
    todos = graded(error)
    assert [todo["diagnosis"] for todo in todos] == [[], []]
    lines = [line for todo in todos for line in todo_lines(todo)]
    assert sum(says in line for line in lines) == 1, "one cause, one message"
    assert not [line for line in lines if "hint" in line or "ask yourself" in line]


def test_a_failed_check_of_the_code_has_its_hints():
    """What the tests above would miss if hints were never given."""
    first, _ = graded(StudentError("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (4x784 and 2352x9)", []))
    assert any("hint: " in line for line in todo_lines(first))


def test_a_low_score_alone_is_no_mistake_of_the_code():
    todos = graded(CheckFailed("accuracy is 0.30, expected at least 0.85"))
    for check in todos[0]["checks"]:
        check["measured"] = [{"gate": "acc", "threshold": 0.85, "values": [0.3]}]
    diagnosis.diagnose(todos, "project2", {})
    assert todos[0]["diagnosis"] == []


def test_a_timeout_names_the_line(student):
    with pytest.raises(Incident, match=r"did not finish within 4 s.*; it was at loops.py:[34] in call: ") as caught:
        ask(student, "loops")
    _check_told_once_without_hints(caught.value, "did not finish")


def test_the_line_is_read_from_the_last_dump_and_never_from_outside(tmp_path):
    (tmp_path / "a.py").write_text("one\ntwo\n")
    dump = f'Timeout (0:00:04)!\nThread 0x1:\n  File "/lib/b.py", line 1 in g\n  File "{tmp_path}/a.py", line 2 in f\n'
    assert last_line(f'File "{tmp_path}/a.py", line 1 in old\n{dump}', tmp_path) == "a.py:2 in f: two"
    assert last_line(dump.replace("a.py", "../secret.py"), tmp_path) == "../secret.py:2 in f"
    assert last_line("nothing of the kind", tmp_path) == ""
