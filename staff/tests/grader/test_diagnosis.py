"""From the way a TODO fails to the question that helps: the nearest mistakes of the bank."""

from __future__ import annotations

import pytest

from staff.grader import code_features, diagnosis
from staff.grader.diagnosis import Pattern
from staff.grader.reports.feedback import todo_lines
from staff.quality.bank import load_bank, places, reference

BANK = diagnosis.load("project2")
PATTERNS = BANK.patterns
MISTAKES = {variant.name: variant for variant in load_bank() if variant.hint}  # the others ask no question


def todo(identifier: str, checks: dict[str, tuple[str, str]]) -> dict:
    entries = [
        {"test": test, "title": test, "status": status, "message": message, "frames": [], "measured": [], "hint": ""}
        for test, (status, message) in checks.items()
    ]
    return {"id": identifier, "checks": entries}


def test_patterns_belong_to_the_bank():
    assert len({pattern.entry for pattern in PATTERNS}) > 0.8 * len(MISTAKES), "run python -m staff.measure --patterns"
    for pattern in PATTERNS:
        mistake = MISTAKES[pattern.entry]
        assert pattern.todo in mistake.todos
        assert pattern.hint == mistake.hint, "run python -m staff.measure --patterns after changing hints"
        assert "failed" in [status for status, _ in pattern.checks.values()]


def test_leave_one_out_finds_most_misconceptions():
    found, missed = diagnosis.leave_one_out(PATTERNS)
    assert len(found) / len(PATTERNS) >= 0.80, [pattern.entry for pattern in missed]


def test_leave_one_out_does_not_ask_the_mistake_itself():
    alone = Pattern("a", "1.4", "why?", {"training::one_step": ["failed", "off by 1"]})
    assert diagnosis.leave_one_out((alone,)) == ([], [alone])
    twin = Pattern("b", "2.6", "why?", alone.checks)
    assert diagnosis.leave_one_out((alone, twin)) == ([alone, twin], [])


def test_distance_is_nothing_for_twins_and_grows_with_what_differs():
    one = {"training::max_steps": ["failed", "the loss is 0.5000, expected 1.0000"], "training::mode": ["passed", ""]}
    assert diagnosis.distance(one, one) == 0
    value = {**one, "training::max_steps": ["failed", "the loss is 2.0000, expected 1.0000"]}
    words = {**one, "training::max_steps": ["failed", "RuntimeError: shapes do not fit"]}
    also = {**one, "training::mode": ["failed", "the model is in evaluation mode"]}
    assert 0 < diagnosis.distance(one, value) < diagnosis.distance(one, words) <= 1
    assert diagnosis.distance(one, also) == 0.5
    assert diagnosis.distance({"a": ["failed", ""]}, {"b": ["failed", ""]}) == 1
    more = {**one, "training::loss": ["failed", "is None"]}
    assert diagnosis.distance(one, more) == diagnosis.ABSENT / 2


def test_parts_and_models_share_their_names():
    assert diagnosis.short_name("test_1_training.py::test_max_steps") == "training::max_steps"
    assert diagnosis.short_name("test_2_models.py::test_not_linear[unet]") == "models::not_linear"
    assert diagnosis.short_name("test_1_models.py::test_mlp_learns") == "models::learns"
    assert diagnosis.short_name("test_1_models.py::test_linear_is_affine") == "models::linear_is_affine"


def test_only_what_was_tried_and_failed_is_diagnosed():
    pattern = next(p for p in PATTERNS if p.entry == "validate-accuracy-in-percent")
    failing = {f"test_1_{name.replace('::', '.py::test_')}": tuple(value) for name, value in pattern.checks.items()}
    todos = [
        todo("1.5", failing),
        todo("1.4", {**failing, "test_1_training.py::test_one_step": ("not_started", "TODO 1.4")}),
        todo("1.3", {"test_1_training.py::test_loss": ("passed", "")}),
    ]
    mistake = MISTAKES[pattern.entry]
    diagnosis.diagnose(todos, "project2", {name: text.encode() for name, text in mistake.files.items()})
    assert todos[0]["diagnosis"][0] == pattern.hint
    assert len(todos[0]["diagnosis"]) <= diagnosis.SHOWN
    assert todos[1]["diagnosis"] == todos[2]["diagnosis"] == []
    assert f"ask yourself: {pattern.hint}" in todo_lines(todos[0])


def test_an_assignment_without_a_bank_has_no_diagnosis():
    assert diagnosis.load("hw5") == diagnosis.Bank()


def test_what_fails_like_nothing_known_gets_no_hint():
    strange = {"elsewhere::never_seen": ["failed", "zebra"], "elsewhere::nor_this": ["failed", "okapi"]}
    assert diagnosis.rank("1.4", strange, {"+call zebra x1"}, PATTERNS) == []


def test_code_tells_apart_what_fails_alike():
    right = "def f(a, b):\n    opt.zero_grad()\n    loss.backward()\n    opt.step()\n    return loss, b"
    words = code_features.features(right, "f")
    assert {"call step x1", "order backward step", "order zero_grad backward", "ignores a"} <= words
    late = right.replace("    opt.zero_grad()\n", "").replace("opt.step()", "opt.zero_grad()\n    opt.step()")
    assert code_features.changes(late, "f", words) == {
        "-order zero_grad backward",
        "-order backward step",
        "+order backward zero_grad",
        "+order zero_grad step",
    }
    none = right.replace("    opt.step()\n", "")
    assert code_features.changes(none, "f", words) == {"-call step x1", "-attribute step", "-order backward step"}


@pytest.mark.parametrize(
    "source", ["def f(:", "\0", "x = 1", "def f():\n" + "    if x:\n" * 3, "f = " + "(" * 5000 + ")" * 5000]
)
def test_code_that_cannot_be_read_has_no_features(source):
    assert code_features.features(source, "f") == set()


def test_places_are_those_of_the_reference():
    assert places()["1.4"] == ("classification_train.py", "train_epoch")
    assert {todo: tuple(place[:2]) for todo, place in BANK.places.items()}.items() <= places().items()
    for file, name, words in BANK.places.values():
        assert set(words) == code_features.features(reference()[file], name), "run python -m staff.measure --patterns"


HOSTILE = ["0 1e999", "1e999 0", "9" * 400, "1" * 700 + "e" + "1." * 400, "", "\n\n", "-1e-999 nan inf"]


@pytest.mark.parametrize("message", HOSTILE, ids=range(len(HOSTILE)))
def test_no_message_stops_the_diagnosis(message):
    entry = todo("1.4", {"test_1_training.py::test_one_step": ("failed", message)})
    assert diagnosis.diagnose([entry], "project2", {"classification_train.py": b""}) == []


@pytest.mark.parametrize("literal", ["9" * 400, "-1e999", "1e999", "0x" + "f" * 400, "1e999j"])
def test_no_literal_stops_the_diagnosis(literal):
    source = f"def train_epoch():\n    return {literal}\n".encode()
    entry = todo("1.4", {"test_1_training.py::test_one_step": ("failed", "off by 1")})
    assert diagnosis.diagnose([entry], "project2", {"classification_train.py": source}) == []


def test_a_diagnosis_that_fails_costs_only_its_hints(monkeypatch):
    def broken(*_arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(diagnosis, "rank", broken)
    entry = todo("1.4", {"test_1_training.py::test_one_step": ("failed", "off by 1")})
    assert diagnosis.diagnose([entry], "project2", {}) == ["no diagnosis of TODO 1.4: ZeroDivisionError"]
    assert entry["diagnosis"] == []
