"""Which misconception is behind a failed TODO? The one whose mistake in the bank fails in the most similar way.

`staff.measure --patterns` keeps how every mistake of the bank fails: which checks, with which words and which values. A
submission's TODO is compared with all of them, those of the other part too: `train_epoch` and
`train_segmentation_epoch` go wrong in the same ways. What is shown is the hint of the mistake: a question, no answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PATTERNS = Path(__file__).parent / "assignments" / "{assignment}_patterns.json"
SHOWN = 2  # hints for a TODO
FARTHEST = 0.5  # a pattern that differs by more says nothing
OTHER_TODO = 0.05  # what a pattern of another TODO is farther away: at equal fit, the hint for the same task is better
ABSENT = 0.5  # a check that failed and that the other TODO does not have
WORDS_SHARE = 0.6  # of the distance between two messages; the rest is the distance of their values


@dataclass(frozen=True)
class Pattern:
    """How one mistake fails one TODO. checks: see `signature`."""

    entry: str
    todo: str
    hint: str
    checks: dict[str, list[str]]


def signature(todo: dict) -> dict[str, list[str]]:
    """Check -> [status, message] of a graded TODO, without the checks that were not run.

    Checks are named without part and model, so that 'test_1_training.py::test_max_steps' and its twin of Part 2 meet.
    """
    return {
        short_name(check["test"]): [check["status"], _first_lines(check["message"])]
        for check in todo["checks"]
        if check["status"] in ("passed", "failed")
    }


def short_name(test: str) -> str:
    """'test_1_models.py::test_not_linear[mlp]' -> 'models::not_linear'."""
    file, _, name = test.partition("::")
    return f"{re.sub(r'^test_[0-9]_|[.]py$', '', file)}::{name.partition('[')[0].removeprefix('test_')}"


def _first_lines(message: str) -> str:
    return "\n".join(message.splitlines()[:3])[:400]


def distance(one: dict[str, list[str]], other: dict[str, list[str]]) -> float:
    """0 for two signatures that fail alike to 1 for two that share nothing: the mean over the checks that failed."""
    failed = [name for name in {**one, **other} if "failed" in (one.get(name, " ")[0], other.get(name, " ")[0])]
    total = 0.0
    for name in failed:
        if name not in one or name not in other:
            total += ABSENT
        elif one[name][0] != other[name][0]:
            total += 1.0
        else:
            total += message_distance(one[name][1], other[name][1])
    return total / len(failed) if failed else 1.0


def message_distance(one: str, other: str) -> float:
    """0 to 1: which words differ, and how far the observed values lie apart relative to what was expected."""
    words, other_words = _words(one), _words(other)
    union = words | other_words
    apart = 1 - len(words & other_words) / len(union) if union else 0.0
    return WORDS_SHARE * apart + (1 - WORDS_SHARE) * _values_distance(_values(one), _values(other))


def _words(message: str) -> set[str]:
    # The two parts measure different things in the same way: "accuracy" and "IoU" must not keep twins apart.
    plain = re.sub(r"accuracy|iou\b|_acc\b", "score", message.lower())
    return set(re.findall(r"[a-z_]+", re.sub(r"[0-9.]+(e[+-]?[0-9]+)?", " ", plain)))


def _values(message: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?", message)]


def _values_distance(one: list[float], other: list[float]) -> float:
    """How far the ratios of the first value to the second are apart: 0 for none, 1 for a factor of ten and more."""
    if min(len(one), len(other)) < 2:
        return 0.0 if len(one) == len(other) else 1.0
    ratios = [math.log10((abs(a) + 1e-6) / (abs(b) + 1e-6)) for a, b in (one[:2], other[:2])]
    return min(1.0, abs(ratios[0] - ratios[1]))


@cache
def load(assignment: str) -> tuple[Pattern, ...]:
    """The patterns of an assignment; none if it has no bank."""
    path = Path(str(PATTERNS).format(assignment=assignment))
    if not path.exists():
        return ()
    return tuple(Pattern(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["patterns"])


def rank(todo_id: str, checks: dict[str, list[str]], patterns: Iterable[Pattern]) -> list[tuple[float, str]]:
    """(distance, hint) of every hint whose patterns fail like `checks`, the nearest first."""
    best: dict[str, float] = {}
    for pattern in patterns:
        apart = distance(checks, pattern.checks) + (0.0 if pattern.todo == todo_id else OTHER_TODO)
        best[pattern.hint] = min(apart, best.get(pattern.hint, math.inf))
    return sorted((apart, hint) for hint, apart in best.items() if apart <= FARTHEST)


def diagnose(todos: list[dict], assignment: str) -> None:
    """Put `diagnosis` into each graded TODO that failed checks: a list of at most two hints, likelier first."""
    patterns = load(assignment)
    for todo in todos:
        checks = signature(todo)
        started = not any(check["status"] == "not_started" for check in todo["checks"])
        failed = any(status == "failed" for status, _ in checks.values())
        todo["diagnosis"] = [h for _, h in rank(todo["id"], checks, patterns)[:SHOWN]] if failed and started else []


def leave_one_out(patterns: tuple[Pattern, ...]) -> tuple[list[Pattern], list[Pattern]]:
    """Each mistake is diagnosed by all the others: those whose hint is among the first two, and those missed.

    A mistake whose hint no other one shares cannot be found, and counts as missed.
    """
    found, missed = [], []
    for pattern in patterns:
        others = [other for other in patterns if other.entry != pattern.entry]
        hints = [hint for _, hint in rank(pattern.todo, pattern.checks, others)[:SHOWN]]
        (found if pattern.hint in hints else missed).append(pattern)
    return found, missed
