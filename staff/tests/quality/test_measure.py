"""The bank of right and wrong solutions, and the rates that come from grading it."""

from __future__ import annotations

import ast
import json

import pytest

from staff.grader.assignment import load
from staff.quality import bank, confusion, measure
from staff.quality.bank import load_bank
from staff.quality.confusion import Graded
from staff.tests.grading_tools import command
from toolkit.errors import UserError

BANK = load_bank()
TODOS = [todo.id for todo in load("project2").todos if not todo.extra]


def results(statuses: dict[str, str]) -> list[dict]:
    return [{"id": todo, "checks": [{"test": f"t{todo}", "status": status}]} for todo, status in statuses.items()]


def test_bank_is_large_and_every_entry_parses_and_differs():
    right = [variant for variant in BANK if variant.is_right]
    assert len(right) - 1 >= 12, "without the reference"
    assert len(BANK) - len(right) >= 60
    for variant in BANK:
        for text in variant.files.values():
            ast.parse(text)
        assert variant.changed or variant.name == "reference"
    assert len({variant.digest() for variant in BANK}) == len(BANK)


def test_every_todo_has_mistakes_and_every_mistake_is_explained():
    for todo in TODOS:
        assert sum(todo in variant.todos for variant in BANK) >= 3, todo
    for variant in BANK:
        if not variant.is_right:
            assert set(variant.todos + variant.may_cost) <= set(TODOS), variant.name
            assert variant.title.endswith("."), variant.name
            assert variant.hint.endswith((".", "?")), variant.name


def test_an_entry_that_no_longer_fits_is_named(tmp_path, monkeypatch):
    entry = '[[mutant]]\nname = "old"\nmisconception = "x."\ntodos = ["1.0"]\nhint = "x?"\n'
    (tmp_path / "part.toml").write_text(entry + 'file = "classification_models.py"\nold = "no such line"\nnew = ""\n')
    monkeypatch.setattr(bank, "MUTANTS", tmp_path)
    with pytest.raises(UserError, match=r"part\.toml: old: the text to replace stands 0 times"):
        load_bank()


def test_unknown_name_is_refused():
    run = command("staff.measure", "no-such-entry")
    assert (run.returncode, run.stdout) == (2, "")
    assert "'no-such-entry' is not in the bank" in run.stderr


def test_rates_count_what_they_say():
    by_name = {variant.name: variant for variant in BANK}
    right, mistake = by_name["functional"], by_name["dice-one-plus"]
    assert (mistake.todos, mistake.may_cost) == (("2.4",), ("2.5",))
    fine = {"2.3": "passed", "2.4": "passed", "2.5": "skipped"}
    good = [Graded(right, 0, results(fine)), Graded(mistake, 0, results({**fine, "2.4": "failed", "2.5": "failed"}))]
    assert confusion.shortfalls(good) == []
    assert confusion.survivors([Graded(mistake, 0, results(fine))])[0][1] == "2.4"
    assert confusion.collateral([Graded(mistake, 0, results({**fine, "2.3": "failed"}))])[0][1] == "2.3"
    assert confusion.false_failures([Graded(right, 3, results({**fine, "2.3": "not_started"}))])[0][1] == "2.3"
    # 1 of 2 with Wilson's interval, by hand: (0.5 + 0.960) / 2.921 -+ 1.96 sqrt(0.125 + 0.240) / 2.921
    assert confusion.interval(1, 2) == "1 of 2 (9.5% to 90.5%)"
    assert "| 2.4 | 0 of 1 (0.0% to 79.3%) | 1 of 1 (20.7% to 100.0%) | 0 of 1 (0.0% to 79.3%) |" in confusion.report(
        good, True
    )


def test_what_is_graded_of_an_entry():
    quick = measure.plan(BANK, quick=True, seeds=2)
    by_name = {variant.name: task for task in quick for variant in task.variants}
    assert set(by_name) == {variant.name for variant in BANK}
    assert {"1.5", "1.6"} <= set(by_name["validate-freezes"].todos), "what it must and may cost"
    assert not any(task.gates for task in quick)
    assert sum(task.name == "functional" for task in quick) == 2
    assert sum("validate-freezes" in task.name for task in quick) == 1
    full = measure.plan(BANK, quick=False, seeds=5)
    by_name = {task.name: task for task in full}
    assert by_name["validate-freezes"].todos == ("1.3", "1.4", "1.5", "1.6"), "all of the file that it changes"
    assert all(task.gates == task.variants[0].is_right for task in full)
    assert all(task.todos is None for task in full if task.variants[0].is_right)
    assert not any(task.first_failure or len(task.variants) > 1 for task in full)


def test_mistakes_that_are_graded_together_lie_in_different_parts():
    for task in measure.plan(BANK, quick=True, seeds=1):
        if len(task.variants) == 2:
            first, second = task.variants
            assert {todo[0] for todo in first.todos + first.may_cost} == {"1"}
            assert {todo[0] for todo in second.todos + second.may_cost} == {"2"}
            files = task.files()
            assert all(files[name] == one.files[name] for one in task.variants for name in one.changed)
            both = task.split([{"id": todo, "checks": []} for todo in task.todos])
            assert [todo["id"] for todo in both[0].todos] == sorted(first.todos + first.may_cost)


def test_patterns_of_a_quick_run_are_refused(tmp_path):
    run = command("staff.measure", "--quick", "--patterns", tmp_path / "patterns.json")
    assert (run.returncode, run.stdout) == (2, "")
    assert "--quick stops at the first" in run.stderr


@pytest.mark.timeout(400)
def test_real_gradings_are_counted_and_kept(tmp_path):
    names = ["validate-sums", "seg-history-last-epoch-only", "plain_loops"]
    words = ["staff.measure", *names, "--quick", "--seeds", "1", "--out", tmp_path]
    run = command(*words)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 gradings, 0 of them kept" in run.stdout
    assert "| 1.5 | 0 of 1 (0.0% to 79.3%) | 1 of 1 (20.7% to 100.0%) | 0 of 1 (0.0% to 79.3%) |" in run.stdout
    # Its checks need two earlier TODOs, whose core checks are run, too.
    assert "| 2.8 | 0 of 1 (0.0% to 79.3%) | 1 of 1 (20.7% to 100.0%) | 0 of 1 (0.0% to 79.3%) |" in run.stdout
    again = command(*words)
    assert "2 gradings, 2 of them kept" in again.stdout
    assert again.stdout.split("kept from earlier")[1] == run.stdout.split("kept from earlier")[1]


@pytest.mark.timeout(400)
def test_a_wrong_average_costs_its_own_todo_alone(tmp_path):
    names = ["train-divides-by-len-loader", "unet-inner-skip-missing", "linear-grey"]
    run = command("staff.measure", *names, "--out", tmp_path, "--patterns", tmp_path / "patterns.json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Survivors: none" in run.stdout
    assert "Collateral: none" in run.stdout
    patterns = json.loads((tmp_path / "patterns.json").read_text())["patterns"]
    assert {(pattern["entry"], pattern["todo"]) for pattern in patterns} == {
        ("train-divides-by-len-loader", "1.4"),
        ("unet-inner-skip-missing", "2.3"),
        ("linear-grey", "1.0"),
    }
