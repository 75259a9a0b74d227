"""Points from outcomes, gates from metrics, and an assignment's file that must not contradict itself."""

from __future__ import annotations

import contextlib
import json
import types

import pytest

from staff.grader import assignment as assignments
from staff.grader import earlier, facts
from staff.grader.assignment import Check, Gate, Todo
from staff.grader.checks import GradingPlugin, Outcome, score_all, score_todo
from staff.grader.client import CheckFailed, clean
from staff.grader.models_of import check_own_network
from staff.grader.toml_file import read_toml
from toolkit.errors import UserError

POINTS = int(assignments.load("project2").points)
TODO = Todo("1.1", "model", "Part 1", 4, [Check("a", "a", 1, core=True), Check("b", "b", 2), Check("c", "c", 1)])


def score(**statuses: str) -> tuple[float, str]:
    outcomes = {check.test: Outcome(TODO, check, statuses.get(check.test, "passed")) for check in TODO.checks}
    made = score_todo(TODO, outcomes)
    return made["points"], made["status"]


def test_points_follow_weights_and_need_the_core():
    assert score() == (4, "passed")
    assert score(b="failed") == (2, "partly")
    assert score(b="failed", c="skipped") == (1, "partly")
    assert score(a="failed") == (0, "failed")  # nothing without the core, whatever else passes
    assert score(a="not_started", b="not_started") == (0, "not started")
    assert score(a="skipped", b="skipped", c="skipped") == (0, "skipped")
    assert score(a="grader_error") == (0, "failed")


def test_a_check_that_never_ran_earns_nothing():
    outcomes = {check.test: Outcome(TODO, check, "passed") for check in TODO.checks[1:]}
    assert score_todo(TODO, outcomes)["points"] == 0


@pytest.mark.parametrize(
    ("values", "above", "tries", "passes"),
    [
        ([0.90], False, 1, True),  # reached exactly
        ([0.99], True, 1, True),
        ([0.90, 0.90, 0.90], True, 3, False),  # "more than" is more than
        ([0.85, 0.86, 0.91], False, 3, True),  # in the grey zone: measured again
        ([0.85, 0.86, 0.87], False, 3, False),
        ([0.70], False, 1, False),  # far below: not measured again
        ([float("nan")], False, 1, False),
    ],
)
def test_gate(values, above, tries, passes):
    gate = Gate("acc", 0.90, grey=0.1, tries=3, timeout_s=1, above=above)
    recorded, left = [], list(values)

    def check():
        gate.apply(lambda attempt: left.pop(0), recorded.append, "it")

    if passes:
        check()
    else:
        with pytest.raises(CheckFailed, match=r"expected more than 0\.900" if above else r"expected at least 0\.900"):
            check()
    assert len(recorded[0]["values"]) == tries


def test_project2_has_gates_and_outcome_counts_for_less_than_mechanism():
    project = assignments.load("project2")
    assert set(project.gates["full"]) == {*project.gates["sample"], "acc_extra"}
    assert project.gates["full"]["acc_extra"].above
    assert project.gates["full"]["acc_extra"].value == 0.99
    # Outcome counts for less than mechanism: the two TODOs of results.
    assert sum(todo.points for todo in project.todos if todo.id in ("1.6", "2.8")) <= 0.2 * project.points


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f"\npoints = {POINTS}\n", f"\npoints = {POINTS - 1}\n", f"points add up to {POINTS}"),
        ('id = "1.1"', 'id = "1.0"', "names a test or a TODO twice"),
        ('needs = ["1.2"]', 'needs = ["9.9"]', "needs of test_1_results.py::test_checkpoint is '9.9'"),
        ("core = true", "core = false", "TODO 1.0 has no core check that is verified"),
    ],
)
def test_contradictions_are_found(tmp_path, monkeypatch, old, new, message):
    text = (assignments.FOLDER / "project2/assignment.toml").read_text()
    assert old in text
    (tmp_path / "project2").mkdir()
    (tmp_path / "project2/assignment.toml").write_text(text.replace(old, new))
    monkeypatch.setattr(assignments, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=message.replace("+", r"\+")):
        assignments.load("project2")


def test_text_of_a_submission_is_made_harmless():
    assert clean("\x1b[31mred\x1b[0m\ttab\x00\u202e") == "red tab??"
    assert clean(b"bytes") == clean(None) == ""
    assert len(clean("x" * 10**6)) == 1500


@pytest.mark.parametrize(
    ("error", "answers", "status"),
    [
        (KeyError("object"), 1, "failed"),
        (ValueError("operands could not be broadcast"), 1, "failed"),
        (OverflowError("inf"), 1, "failed"),
        (KeyError("gate"), 0, "grader_error"),  # nothing had been asked: the check itself is at fault
        (NameError("typo"), 1, "grader_error"),  # no answer can cause this
        (None, 1, "passed"),
    ],
)
def test_an_exception_after_an_answer_is_a_nonsensical_answer(error, answers, status):
    process = types.SimpleNamespace(request_number=5)
    plugin = GradingPlugin(assignments.load("project2"), process, None, 0, None)
    plugin.answered, process.request_number = 5, 5 + answers
    outcome = plugin._outcome(TODO, TODO.checks[0], error)
    assert outcome.status == status
    assert ("nonsensical" in outcome.message) == (status == "failed")
    assert len(plugin.nonsense) == (status == "failed")


def test_no_outcome_holds_control_codes():
    plugin = GradingPlugin(assignments.load("project2"), types.SimpleNamespace(request_number=0), None, 0, None)
    outcome = plugin._outcome(TODO, TODO.checks[0], CheckFailed("no gradient: \x1b]0;pwned\x07\x1b[2J\ud800\u202e"))
    assert outcome.message.isprintable()


def results_with(message: str, **more: object) -> dict:
    """What a results.json holds of one check of TODO 1.0."""
    check = {"test": TEST_OF_1_0, "status": "failed", "message": message, "frames": [], "seconds": 1.0, "measured": []}
    about = {"assignment": "project2", "submission": {"sha256": "d"}, "staff_only": {"seed": 1}, "partial": ""}
    return {**about, "todos": [{"id": "1.0", "checks": [check]}], **more}


TEST_OF_1_0 = assignments.load("project2").todos[0].checks[0].test


def test_earlier_results_are_joined_or_refused(tmp_path):
    """Grading a part again takes the other checks from a whole result of the same files and nothing else."""
    project = assignments.load("project2")
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_with("as before")))
    found = earlier.outcomes(earlier.read(path, project, "d"), project)
    assert [(outcome.status, outcome.message) for outcome in found.values()] == [("failed", "as before")]
    assert score_all(project, found)["todos"][0]["checks"][0]["message"] == "as before"
    noted = earlier.note(results_with(""), "only TODO 1.4", 2)
    assert noted == {"seed": 1, "graded_again": [{"what": "only TODO 1.4", "seed": 2}]}
    for content, message in (
        ([], "is no results.json"),
        (results_with("", assignment="hw5"), "belongs to hw5"),
        (results_with("", submission={"sha256": "e"}), "belongs to other files"),
        (results_with("", partial="only TODO 1.0"), "is itself partial"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            earlier.read(path, project, "d")


@pytest.mark.parametrize(
    "source",
    [None, b"", b"x = (", "import torch".encode("utf-16"), b"\0", b"x" + b".a" * 900, b"(" * 3000, b"-" * 9000],
)
def test_reading_a_source_is_never_a_fault_of_the_grader(tmp_path, source):
    """Whatever a submission holds where its own network is read, or nothing: a verdict and no other exception."""
    if source is not None:
        (tmp_path / "m.py").write_bytes(source)
    said = (
        contextlib.nullcontext() if source is not None else pytest.raises(CheckFailed, match=r"m\.py was not handed in")
    )
    with said:
        check_own_network(types.SimpleNamespace(tree=tmp_path), "m", "CNNModel", ["CNNModel"])


@pytest.mark.parametrize("content", [b"points = ", b"points = 5\npoints = 6", b"\xff\xfe", None])
def test_a_toml_file_that_cannot_be_read_is_named(content, tmp_path, monkeypatch):
    file = tmp_path / "staff" / "assignments" / "course.toml"
    file.parent.mkdir(parents=True)
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(UserError, match=r"course\.toml"):
        read_toml(file)
    monkeypatch.setattr(facts, "ROOT", tmp_path)
    if content is not None:
        with pytest.raises(UserError, match="is not valid TOML"):
            facts.due("project2")
