"""Mistakes that are judged together: none of them may meet another."""

from __future__ import annotations

import ast
from dataclasses import replace

from staff.quality.bank import load_bank, reference
from staff.quality.grouping import MOST, groups, together

BANK = {variant.name: variant for variant in load_bank()}
MISTAKES = [variant for variant in BANK.values() if not variant.is_right]


def parts(text: str) -> dict[str, str]:
    """Name -> source of each function and class of a module."""
    lines = text.splitlines()
    return {
        node.name: "\n".join(lines[min([node.lineno, *[d.lineno for d in node.decorator_list]]) - 1 : node.end_lineno])
        for node in ast.parse(text).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }


def test_every_mistake_is_in_one_group():
    found = groups(MISTAKES)
    assert sorted(v.name for group in found for v in group) == sorted(v.name for v in MISTAKES)
    assert max(map(len, found)) == MOST
    assert len(found) < len(MISTAKES) / 3


def test_a_group_makes_all_its_mistakes_and_no_other():
    for group in groups(MISTAKES):
        for name, text in together(group).items():
            base, alone = parts(group[0].base[name]), [parts(one.files[name]) for one in group]
            for part, source in parts(text).items():
                wrong = {other[part] for other in alone} - {base[part]}
                assert {source} == (wrong or {base[part]}), (name, part, [one.name for one in group])


def test_mistakes_of_one_todo_or_of_what_it_runs_are_kept_apart():
    pairs = [
        ("train-no-step", "train-step-twice"),
        ("train-no-step", "history-twice-an-epoch"),  # training runs train_epoch
        ("dice-log", "combined-halved"),  # the combined loss contains Dice
        ("validate-turns-gradients-off-for-good", "linear-grey"),  # leaks into whatever is judged with it
    ]
    for names in pairs:
        assert len(groups(BANK[name] for name in names)) == 2, names
        assert len(groups(BANK[name] for name in reversed(names))) == 2, names
    assert len(groups([BANK["train-no-step"], BANK["validate-sums"], BANK["dice-log"]])) == 1


def test_what_was_made_from_different_submissions_stays_apart():
    twin = replace(BANK["dice-log"], base=dict(reference()))
    assert len(groups([BANK["linear-grey"], twin])) == 1, "what counts is the text, not which object holds it"
    stranger = replace(BANK["dice-log"], base=BANK["tutorial.dice-log"].base)
    assert len(groups([BANK["linear-grey"], stranger])) == 2
