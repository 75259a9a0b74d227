"""Mistakes that can be judged together in one submission, because they lie in different places and do not meet.

Most of a quick judgement is the start of processes and the collection of tests. A mistake in TODO 1.0 and one in 2.4
share no line, and no check of one looks at the other; so up to MOST of them are put into one submission.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable

from staff.quality.bank import Variant

MOST = 8
# What a TODO's tests run besides its own code. Everything of a part is run by its results.
RUNS = {
    "1.6": ("1.0", "1.1", "1.2", "1.3", "1.4", "1.5"),
    "2.5": ("2.4",),
    "2.8": ("2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7"),
}
Edit = tuple[int, int, list[str]]  # lines first..last of the base give way to these


def groups(mistakes: Iterable[Variant]) -> list[tuple[Variant, ...]]:
    """Put each mistake into the first group that it fits into, those first that meet most others."""
    mistakes = list(mistakes)
    crowd = Counter(todo for mistake in mistakes for todo in mistake.todos)
    found: list[list[Variant]] = []
    for mistake in sorted(mistakes, key=lambda one: -crowd[one.todos[0]]):
        home = next((group for group in found if len(group) < MOST and all(_fit(mistake, o) for o in group)), None)
        if home is None:
            found.append([mistake])
        else:
            home.append(mistake)
    return [tuple(group) for group in found]


def _fit(one: Variant, other: Variant) -> bool:
    if one.alone or other.alone or one.base != other.base:
        return False
    if any(_meets(one, todo) for todo in other.todos) or any(_meets(other, todo) for todo in one.todos):
        return False
    return not any(
        mine[0] <= theirs[1] and theirs[0] <= mine[1]
        for name in set(one.changed) & set(other.changed)
        for mine in edits(one, name)
        for theirs in edits(other, name)
    )


def _meets(mistake: Variant, todo: str) -> bool:
    """Whether the tests of `todo` may notice a mistake."""
    return bool({todo, *RUNS.get(todo, ())} & {*mistake.todos, *mistake.may_cost})


def edits(variant: Variant, name: str) -> list[Edit]:
    """The lines of a file that a variant replaces in what it was made from."""
    before, after = (text.splitlines(keepends=True) for text in (variant.base[name], variant.files[name]))
    codes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [(i, j, after[k:m]) for kind, i, j, k, m in codes if kind != "equal"]


def together(variants: tuple[Variant, ...]) -> dict[str, str]:
    """The files of a submission that makes all the mistakes of a group."""
    if len(variants) == 1:
        return variants[0].files
    files = dict(variants[0].base)
    for name in files:
        lines = files[name].splitlines(keepends=True)
        wanted = [edit for variant in variants if name in variant.changed for edit in edits(variant, name)]
        for first, last, new in sorted(wanted, key=lambda edit: -edit[0]):
            lines[first:last] = new
        files[name] = "".join(lines)
    return files
