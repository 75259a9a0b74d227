"""Which misconception is behind a failed TODO? The one whose mistake in the bank fails in the most similar way.

`staff.measure --patterns` keeps how every mistake of the bank fails: which checks, with which words and values, and
what its code has or lacks compared with the reference, to tell mistakes apart that fail alike. A submission's TODO is
compared with all of them, those of the other part too: `train_epoch` and `train_segmentation_epoch` go wrong in the
same ways. What is shown is the hint of the mistake: a question, no answer.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from staff.grader import code_features

PATTERNS = Path(__file__).resolve().parents[1] / "assignments" / "{assignment}" / "patterns.json"
LARGEST = 1e12  # a value in a message may be anything, "1e999" included
SHOWN = 2  # hints for a TODO
FARTHEST = 0.75  # from here on a pattern says nothing
OTHER_TODO = 0.02  # what a pattern of another TODO is farther away: at equal fit, the hint for the same task is better
ABSENT = 0.3  # a check that failed and that the other TODO does not have
CODE_SHARE = 0.5  # of the distance of two patterns; the rest is how differently they fail
WORDS_SHARE = 0.6  # of the distance between two messages; the rest is the distance of their values


@dataclass(frozen=True)
class Pattern:
    """How one mistake fails one TODO. checks: see `signature`. code: see `code_features.changes`."""

    entry: str
    todo: str
    hint: str
    checks: dict[str, list[str]]
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bank:
    """All patterns of an assignment. places: TODO -> (file, function or class, words of the reference)."""

    patterns: tuple[Pattern, ...] = ()
    places: Mapping[str, tuple[str, str, tuple[str, ...]]] = field(default_factory=dict)

    def code_of(self, todo_id: str, files: Mapping[str, str]) -> set[str]:
        """What a submission's code for a TODO has or lacks compared with the reference; files: name -> text."""
        if todo_id not in self.places:
            return set()
        file, name, reference = self.places[todo_id]
        return code_features.changes(files.get(file, ""), name, set(reference))


def signature(todo: dict) -> dict[str, list[str]]:
    """Check -> [status, message] of a graded TODO, without the checks that were not run.

    Checks are named without part and model, so that 'test_1_training.py::test_max_steps' and its twin of Part 2 meet.
    """
    return {
        short_name(check["test"]): [check["status"], _first_lines(check["message"])]
        for check in todo["checks"]
        if check["status"] in ("passed", "failed") and check.get("is_about_code", True)
    }


def short_name(test: str) -> str:
    """'test_1_models.py::test_mlp_learns' -> 'models::learns'."""
    file, _, name = test.partition("::")
    plain = re.sub(r"^test_(linear_(?=learns)|(mlp|cnn|convolution|unet|dice|combined)_)?", "", name.partition("[")[0])
    return f"{re.sub(r'^test_[0-9]_|[.]py$', '', file)}::{plain}"


def _first_lines(message: str) -> str:
    return "\n".join(message.splitlines()[:3])[:400]


def distance(one: dict[str, list[str]], other: dict[str, list[str]]) -> float:
    """0 for two signatures that fail alike to 1 for two that share nothing: the mean over the checks that failed."""
    failed = [name for name in {**one, **other} if "failed" in (one.get(name, " ")[0], other.get(name, " ")[0])]
    if one.keys().isdisjoint(other):
        return 1.0
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
    found = re.findall(r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?", message)
    return [max(-LARGEST, min(LARGEST, float(text))) for text in found]


def _values_distance(one: list[float], other: list[float]) -> float:
    """How far the ratios of the first value to the second are apart: 0 for none, 1 for a factor of ten and more."""
    if min(len(one), len(other)) < 2:
        return 0.0 if len(one) == len(other) else 1.0
    ratios = [math.log10((abs(a) + 1e-6) / (abs(b) + 1e-6)) for a, b in (one[:2], other[:2])]
    return min(1.0, abs(ratios[0] - ratios[1]))


@cache
def load(assignment: str) -> Bank:
    """The patterns of an assignment; none if it has no bank."""
    path = Path(str(PATTERNS).format(assignment=assignment))
    if not path.exists():
        return Bank()
    content = json.loads(path.read_text(encoding="utf-8"))
    patterns = tuple(Pattern(**{**entry, "code": tuple(entry["code"])}) for entry in content["patterns"])
    return Bank(patterns, {todo: (*place[:2], tuple(place[2])) for todo, place in content["places"].items()})


def rank(
    todo_id: str, checks: dict[str, list[str]], code: set[str], patterns: Iterable[Pattern]
) -> list[tuple[float, str]]:
    """(distance, hint) of every hint whose patterns are like `checks` and `code`, the nearest first.

    checks: see `signature`. code: see `Bank.code_of`.
    """
    patterns = tuple(patterns)
    rarity = _rarity(patterns)
    best: dict[str, float] = {}
    for pattern in patterns:
        apart = (1 - CODE_SHARE) * distance(checks, pattern.checks)
        apart += CODE_SHARE * code_distance(code, set(pattern.code), rarity)
        apart += 0.0 if pattern.todo == todo_id else OTHER_TODO
        best[pattern.hint] = min(apart, best.get(pattern.hint, math.inf))
    return sorted((apart, hint) for hint, apart in best.items() if apart < FARTHEST)


def _failed(checks: dict[str, list[str]]) -> set[str]:
    return {name for name, (status, _) in checks.items() if status == "failed"}


def _rarity(patterns: tuple[Pattern, ...]) -> dict[str, float]:
    """Weight of each word: the fewer mistakes leave it, the more it says."""
    seen = Counter(word for pattern in patterns for word in pattern.code)
    return {word: math.log(1 + len(patterns) / count) for word, count in seen.items()}


def code_distance(one: set[str], other: set[str], rarity: dict[str, float]) -> float:
    """0 for the same words to 1 for no word in common, by weight. Words that no mistake leaves are style: no weight.

    One half if neither leaves any: nothing is known then.
    """
    union = sum(rarity.get(word, 0.0) for word in one | other)
    return 1 - sum(rarity.get(word, 0.0) for word in one & other) / union if union else 0.5


def diagnose(todos: list[dict], assignment: str, files: Mapping[str, bytes]) -> list[str]:
    """Put `diagnosis` into each graded TODO that failed checks of its code: at most two hints, likelier first.

    Where nothing was learnt about the code (a missing file, an import that failed, a timeout) there is no hint, nor
    where only a score was too low.

    files: the submission's, name -> content. Returned: what went wrong on the way, for the staff; it costs hints and
    never the result.
    """
    problems = []
    bank = load(assignment)
    texts = {name: content.decode(errors="replace") for name, content in files.items() if name.endswith(".py")}
    for todo in todos:
        checks = signature(todo)
        started = not any(check["status"] == "not_started" for check in todo["checks"])
        scores = {short_name(check["test"]) for check in todo["checks"] if check.get("measured")}
        failed = _failed(checks) - scores
        todo["diagnosis"] = []
        if failed and started:
            try:
                ranked = rank(todo["id"], checks, bank.code_of(todo["id"], texts), bank.patterns)
                todo["diagnosis"] = [hint for _, hint in ranked[:SHOWN]]
            except Exception as error:  # whatever a student's code and messages made it raise
                problems.append(f"no diagnosis of TODO {todo['id']}: {type(error).__name__}")
    return problems


def leave_one_out(patterns: tuple[Pattern, ...]) -> tuple[list[Pattern], list[Pattern]]:
    """Each mistake is diagnosed by all the others: those whose hint is among the first two, and those missed.

    A mistake whose hint no other one shares cannot be found, and counts as missed.
    """
    found, missed = [], []
    for pattern in patterns:
        others = [other for other in patterns if other.entry != pattern.entry]
        hints = [hint for _, hint in rank(pattern.todo, pattern.checks, set(pattern.code), others)[:SHOWN]]
        (found if pattern.hint in hints else missed).append(pattern)
    return found, missed
