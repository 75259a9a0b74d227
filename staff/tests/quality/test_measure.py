"""The bank of right and wrong solutions, and the rates that come from grading it."""

from __future__ import annotations

import ast
import json
import re

import pytest

from staff.grader.assignment import load
from staff.quality import confusion, measure
from staff.quality.bank import load_bank, reference, todos_by_file
from staff.quality.confusion import Graded
from staff.tests.grading_tools import command
from toolkit.errors import UserError

BANK = load_bank()
GRADED = tuple(reference())
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
        assert set(variant.files) == set(GRADED), variant.name
    assert len({variant.digest() for variant in BANK}) == len(BANK)


def test_every_todo_has_mistakes_and_every_mistake_is_explained():
    counts = {todo: sum(todo in variant.todos for variant in BANK) for todo in TODOS}
    few = [todo for todo, count in counts.items() if 0 < count < 3]  # a TODO that is new has none yet
    assert few == []
    for variant in BANK:
        if not variant.is_right:
            assert set(variant.todos + variant.may_cost) <= set(TODOS), variant.name
            assert variant.title, variant.name
            assert variant.hint.endswith((".", "?")) or not variant.hint, variant.name


def test_an_entry_that_no_longer_fits_is_named(tmp_path):
    entry = '[[mutant]]\nname = "old"\nmisconception = "x."\ntodos = ["1.0"]\nhint = "x?"\n'
    (tmp_path / "mutants").mkdir()
    entry += 'file = "classification_models.py"\nold = "no such line"\nnew = ""\n'
    (tmp_path / "mutants/part.toml").write_text(entry)
    with pytest.raises(UserError, match=r"part\.toml: old: the text to replace stands 0 times"):
        load_bank(folder=tmp_path)


def entry(name: str, old: str, new: str, todo: str = "1.4", more: str = "") -> str:
    return (
        f'[[mistake]]\nname = "{name}"\nwhy = "x."\ntodo = "{todo}"\nfile = "classification_train.py"\n'
        f"old = '{old}'\nnew = '{new}'\n{more}"
    )


def test_mistakes_of_a_file_by_path_are_unseen_by_the_checks(tmp_path):
    path = tmp_path / "elsewhere.toml"
    path.write_text(entry("mine", "model.train()", "model.eval()"))
    mine = load_bank([path])[-1]
    assert (mine.name, mine.set, mine.seen, mine.todos, mine.title) == ("mine", "elsewhere", False, ("1.4",), "x.")
    assert "model.eval()  # dropout is on" in mine.files["classification_train.py"]
    path.write_text('set = "second year"\nseen = true\n' + entry("mine", "model.train()", "pass"))
    assert (load_bank([path])[-1].set, load_bank([path])[-1].seen) == ("second year", True)


def test_a_text_that_stands_twice_is_looked_for_in_the_function_of_the_todo(tmp_path):
    path = tmp_path / "part.toml"
    text = "return total_loss / seen, correct / seen"
    for todo, other in (("1.4", "1.5"), ("1.5", "1.4")):
        path.write_text(entry("swap", text, "return correct / seen, total_loss / seen", todo))
        changed = load_bank([path])[-1].files["classification_train.py"]
        assert f"return correct / seen, total_loss / seen\n    # END SOLUTION {todo}" in changed
        assert f"{text}\n    # END SOLUTION {other}" in changed


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no mistake"),
        ("[[mistake]]\n", "needs a name and todos"),
        (entry("a", "model.train()", "", more='base = "no_one"\n'), "base is 'no_one'"),
        ("[[mistake\n", r"part\.toml is not valid TOML"),
    ],
)
def test_a_file_of_mistakes_that_cannot_be_used_is_named(tmp_path, text, complaint):
    path = tmp_path / "part.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        load_bank([path])


def test_a_whole_submission_is_read_from_its_folder(tmp_path):
    folder = tmp_path / "submissions/someone"
    folder.mkdir(parents=True)
    for name in GRADED:
        (folder / name).write_text("# someone: in the manner of a book.\nimport torch\n")
    mistake = entry("theirs", "import torch", "import numpy", more='base = "someone"\n')
    (tmp_path / "theirs.toml").write_text(mistake)
    bank_now = load_bank([tmp_path / "theirs.toml"], folder=tmp_path)
    someone = next(variant for variant in bank_now if variant.name == "someone")
    assert (someone.is_right, someone.is_whole, someone.changed) == (True, True, GRADED)
    assert someone.title == "in the manner of a book."
    assert bank_now[-1].changed == ("classification_train.py",)
    assert bank_now[-1].name == "someone.theirs"
    assert bank_now[-1].base == someone.files
    assert (someone.set, someone.seen) == ("whole submissions", True)
    (folder / "origin.toml").write_text('set = "next year"\nseen = false\n')
    someone = next(variant for variant in load_bank(folder=tmp_path) if variant.is_whole)
    assert (someone.set, someone.seen) == ("next year", False)
    (folder / GRADED[2]).unlink()
    with pytest.raises(UserError, match=r"someone has no segmentation_models\.py"):
        load_bank(folder=tmp_path)


def test_unknown_name_is_refused():
    run = command("staff.measure", "train-no-steps")
    assert (run.returncode, run.stdout) == (2, "")
    assert "'train-no-steps' is not in the bank; allowed: train-no-step, " in run.stderr
    assert len(run.stderr) < 200, "a bank of hundreds is not listed"


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


def test_pictures_that_no_entry_of_a_bank_holds_do_not_count():
    names = ("a.py::test_figure[1_samples.png]", "a.py::test_checkpoint")
    checks = [{"test": name, "status": "failed"} for name in names]
    graded = Graded(BANK[0], 0, [{"id": "2.4", "checks": checks}])
    assert (graded.lost(), graded.seen()) == ({}, [])


def test_the_bank_of_homework_5_reads_and_every_todo_with_code_has_mistakes():
    bank = load_bank(assignment="hw5")
    coded = {todo for todos in todos_by_file("hw5").values() for todo in todos if not todo.startswith("6")}
    assert {todo for variant in bank for todo in variant.todos} == coded
    assert sum(variant.is_right for variant in bank) >= 9


def test_what_is_judged_of_an_entry():
    by_entry = {
        (task.judge, variant.name): task
        for task in measure.plan(BANK, quick=True, seeds=1)
        for variant in task.variants
    }
    assert set(by_entry) == {(judge, variant.name) for judge in measure.JUDGES for variant in BANK}
    assert set(by_entry["grader", "validate-sums"].todos) >= {"1.5"}
    assert by_entry["mains", "validate-sums"].todos == ("1.5",)
    assert not any(task.gates for task in by_entry.values())
    assert by_entry["public", "functional"].todos == by_entry["grader", "functional"].todos
    assert "1.2" in by_entry["public", "functional"].todos
    assert "1.4" not in by_entry["public", "functional"].todos


def test_a_full_run_grades_right_solutions_with_gates_and_mistakes_alone():
    full = measure.plan(BANK, quick=False, seeds=5)
    gradings = [task for task in full if task.judge == "grader"]
    by_name = {task.variants[0].name: task for task in gradings}
    assert by_name["validate-freezes"].todos == ("1.3", "1.4", "1.5", "1.6"), "all of the file that it changes"
    assert all(task.gates == task.variants[0].is_right for task in gradings)
    assert all(set(task.todos) == set(TODOS) for task in gradings if task.variants[0].is_right)
    assert sum(task.variants[0].name == "functional" for task in gradings) == 5
    assert not any(task.first_failure or len(task.variants) > 1 for task in full)


def test_only_the_judges_that_were_asked_for():
    assert {task.judge for task in measure.plan(BANK, True, 1, ("mains", "public"))} == {"mains", "public"}


def test_patterns_of_a_quick_run_are_refused(tmp_path):
    run = command("staff.measure", "--quick", "--patterns", tmp_path / "patterns.json")
    assert (run.returncode, run.stdout) == (2, "")
    assert "--quick stops at the first" in run.stderr


@pytest.mark.timeout(400)
def test_public_tests_take_right_code_of_a_rare_kind(tmp_path):
    """Closures, lazy layers, dense layers as convolutions; last layers that start at zero, batches put together."""
    run = command("staff.measure", "closure_and_lazy", "zero_heads", "--quick", "--judges", "public", "--out", tmp_path)
    assert "Right solutions that a judge objects to: none" in run.stdout, run.stdout + run.stderr


@pytest.mark.timeout(400)
def test_real_gradings_are_counted_and_kept(tmp_path):
    names = ["validate-sums", "seg-history-last-epoch-only", "plain_loops"]
    words = ["staff.measure", *names, "--quick", "--seeds", "1", "--out", tmp_path]
    run = command(*words)
    assert run.returncode == 0, run.stdout + run.stderr
    count = re.search(r"^(\d+) judgements, 0 of them kept", run.stdout, re.MULTILINE)[1]
    # The mains show one of the two at least: a wrong history is refused, a sum may still fall.
    rates = r"2 of 2 \(34.2% to 100.0%\)"
    assert re.search(rf"\| first bank \| yes \| 2 \| {rates} \| [12] of 2 \([^|]*\) \| {rates} \| 0 \|", run.stdout)
    assert "Right solutions that a judge objects to: none" in run.stdout
    assert "| 1.5 | 0 of 1 (0.0% to 79.3%) | 1 of 1 (20.7% to 100.0%) | 0 of 1 (0.0% to 79.3%) |" in run.stdout
    # Its checks need two earlier TODOs, whose core checks are run, too.
    assert "| 2.8 | 0 of 1 (0.0% to 79.3%) | 1 of 1 (20.7% to 100.0%) | 0 of 1 (0.0% to 79.3%) |" in run.stdout
    again = command(*words)
    assert f"{count} judgements, {count} of them kept" in again.stdout
    assert again.stdout.split("kept from earlier")[1] == run.stdout.split("kept from earlier")[1]


@pytest.mark.timeout(400)
def test_a_wrong_average_costs_its_own_todo_alone(tmp_path):
    names = ["train-divides-by-len-loader", "unet-inner-skip-missing", "linear-grey"]
    words = ["--judges", "grader", "--out", tmp_path, "--patterns", tmp_path / "patterns.json"]
    run = command("staff.measure", *names, *words)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Survivors: none" in run.stdout
    assert "Collateral: none" in run.stdout
    patterns = json.loads((tmp_path / "patterns.json").read_text())["patterns"]
    assert {(pattern["entry"], pattern["todo"]) for pattern in patterns} == {
        ("train-divides-by-len-loader", "1.4"),
        ("unet-inner-skip-missing", "2.3"),
        ("linear-grey", "1.0"),
    }
