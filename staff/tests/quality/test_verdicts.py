"""What three judges say, and where they disagree."""

from __future__ import annotations

import pytest

from staff.quality import verdicts
from staff.quality.bank import Variant
from staff.quality.confusion import Graded
from staff.quality.verdicts import Heard, Opinions

FILES = {"classification_train.py": "x = 1\n"}


def variant(name: str, *todos: str, **more) -> Variant:
    return Variant(name, f"{name} is a title.", FILES, FILES, todos, **more)


def graded(one: Variant, *lost: str) -> Graded:
    todos = sorted({*lost, *one.todos, "1.0"})
    checks = [{"id": t, "checks": [{"test": f"t{t}", "status": "failed" if t in lost else "passed"}]} for t in todos]
    return Graded(one, 0, checks)


RIGHT = variant("tidy")
CAUGHT, HIDDEN = variant("all-see-it", "1.4"), variant("grader-sees-it", "1.4")
PUBLIC, MAINS = variant("tests-see-it", "1.4"), variant("mains-see-it", "1.4", seen=False, set="new")
BANK = [RIGHT, CAUGHT, HIDDEN, PUBLIC, MAINS]


@pytest.fixture
def opinions(monkeypatch, tmp_path):
    (tmp_path / "hidden.toml").write_text("[because]\n")
    monkeypatch.setattr(verdicts, "HIDDEN", tmp_path / "hidden.toml")
    gradings = [graded(RIGHT), graded(CAUGHT, "1.4"), graded(HIDDEN, "1.4"), graded(PUBLIC), graded(MAINS)]
    heard = [Heard(one, "public", {"1.4": ["no"]} if one in (CAUGHT, PUBLIC) else {}) for one in BANK]
    heard += [Heard(one, "mains", {"classification mlp": ["bad"]} if one in (CAUGHT, MAINS) else {}) for one in BANK]
    return lambda: Opinions(BANK, gradings, heard)


def test_every_disagreement_is_named(opinions):
    text = verdicts.report(opinions())
    sections = dict(part.split(": ", 1) for part in text.split("\n\n") if ": " in part and not part.startswith("-"))
    assert sections["Right solutions that a judge objects to"] == "none"
    for title, name in (
        ("Caught by the grader, not by the public tests: 1", "grader-sees-it (1.4): grader-sees-it is a title."),
        ("Caught by the public tests, not by the grader: 1", "tests-see-it (1.4): tests-see-it is a title."),
        ("Caught by the mains alone: 1", "mains-see-it (1.4): mains-see-it is a title. (classification mlp: bad)"),
    ):
        assert f"{title}\n\n- {name}" in text
    assert "| first bank | yes | 3 | 2 of 3 (20.8% to 93.9%) | 1 of 3 (6.1% to 79.2%) | 2 of 3" in text
    assert "| new | no | 1 | 0 of 1 (0.0% to 79.3%) | 1 of 1 (20.7% to 100.0%) | 0 of 1" in text


def test_what_is_hidden_on_purpose_needs_a_reason_that_holds(opinions, tmp_path):
    assert verdicts.shortfalls(opinions()) == [
        "grader-sees-it is caught by the grader, not by the public tests, and no reason is given"
    ]
    (tmp_path / "hidden.toml").write_text('[because]\ngrader-sees-it = "it takes long."\n')
    assert verdicts.shortfalls(opinions()) == []
    assert "- grader-sees-it (1.4): grader-sees-it is a title. Because it takes long." in verdicts.report(opinions())
    (tmp_path / "hidden.toml").write_text('[because]\ngrader-sees-it = "x."\ntests-see-it = "y."\n')
    assert verdicts.shortfalls(opinions()) == [
        "tests-see-it is listed as hidden on purpose, and the public tests catch it"
    ]


def test_a_right_solution_that_the_tests_or_the_mains_object_to_misses_the_bar():
    heard = [Heard(RIGHT, "public", {"1.4": ["no", "nor this"]}), Heard(RIGHT, "mains", {"segmentation unet": ["bad"]})]
    opinions = Opinions([RIGHT], [], heard)
    assert verdicts.shortfalls(opinions) == [
        "public tests object to tidy: 1.4: no",
        "mains object to tidy: segmentation unet: bad",
    ]
    assert "- tidy: mains: segmentation unet: bad" in verdicts.report(opinions)


def test_a_mistake_that_keeps_one_of_its_todos_is_not_caught():
    two = variant("two", "1.4", "1.6")
    assert not Opinions([two], [graded(two, "1.4")], []).objects(two, "grader")
    assert Opinions([two], [graded(two, "1.4", "1.6")], []).objects(two, "grader")


def test_rates_from_before_the_checks_knew_a_set_stay(monkeypatch, tmp_path):
    path = tmp_path / "first.toml"
    monkeypatch.setattr(verdicts, "FIRST", path)
    path.write_text("")
    assert verdicts.first_measured(path) == []
    path.write_text('[[measured]]\nset = "new"\ncommit = "abc"\nright = 0\nmistakes = 4\ngrader = [0, 3]\n')
    assert verdicts.first_measured(path)[-1] == "| new | abc | 0, 4 | not asked | not asked | 3 of 4 (30.1% to 95.4%) |"
    path.write_text('[[measured]]\nset = "both"\ncommit = "abc"\nright = 2\nmistakes = 4\ngrader = [1, 3]\n')
    assert "1 of 2 (9.5% to 90.5%); 3 of 4 (30.1% to 95.4%)" in verdicts.first_measured(path)[-1]
