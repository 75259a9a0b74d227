"""What people grade: the items of an assignment's rubric.toml and their levels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff.grader import assignment as assignments
from staff.grader import facts
from staff.grader.toml_file import read_toml
from toolkit.errors import UserError, check_choice


@dataclass(frozen=True)
class Level:
    """One choice of an item. key: the key that chooses it; value: points, or the share of `check` that stays."""

    key: str
    value: float
    text: str


@dataclass(frozen=True)
class Item:
    """One thing to judge.

    id: what decisions call it.
    title: the question, or what is judged.
    levels: its choices.
    question: number of the answer that it is about, "" for a report.
    check: the check whose points its levels keep or take back, "" if levels are points.
    """

    id: str
    title: str
    levels: tuple[Level, ...]
    question: str = ""
    check: str = ""

    @property
    def most(self) -> float:
        """Most points, or the largest share."""
        return max(level.value for level in self.levels)


@dataclass(frozen=True)
class Rubric:
    """All items of an assignment. per: "student" (answers) or "team" (a report)."""

    assignment: str
    title: str
    per: str
    items: tuple[Item, ...]

    def item(self, number: int) -> Item | None:
        """The item with this place, from 0; None if there is none."""
        return self.items[number] if 0 <= number < len(self.items) else None


def names() -> list[str]:
    """Assignments that have a rubric."""
    return [name for name in assignments.names() if (assignments.FOLDER / name / "rubric.toml").is_file()]


def load(name: str, folder: Path = assignments.FOLDER) -> Rubric:
    """Read and check a rubric. UserError: the file and what is wrong in it."""
    path = folder / name / "rubric.toml"
    content = read_toml(path)
    try:
        check_choice("per", content["per"], ("student", "team"))
        items = tuple(_item(entry, content) for entry in content["item"])
        rubric = Rubric(name, content["title"], content["per"], items)
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    _check(rubric, path)
    return rubric


def _item(entry: dict[str, Any], content: dict[str, Any]) -> Item:
    question = entry.get("question", "")
    pairs = entry.get("levels") or content["levels"]
    whole = all(float(value).is_integer() and 0 <= value <= 9 for value, _ in pairs) and "check" not in content
    keys = [f"{value:g}" if whole else str(place) for place, (value, _) in enumerate(pairs, 1)]
    levels = tuple(Level(key, float(value), text) for key, (value, text) in zip(keys, pairs, strict=True))
    check = content.get("check", "").format(question=question)
    return Item(entry.get("id") or f"answer {question}", entry["title"], levels, question, check)


def _check(rubric: Rubric, path: Path) -> None:
    assignment = assignments.load(rubric.assignment)
    ids = [item.id for item in rubric.items]
    if len(set(ids)) < len(ids):
        raise UserError(f"{path} names an item twice")
    for item in rubric.items:
        keys = [level.key for level in item.levels]
        if len(set(keys)) < len(keys) or not 1 < len(keys) <= 10:
            raise UserError(f"{path}, {item.id}: 2 to 10 levels with different points are needed")
        if item.check and not assignment.find(item.check):
            raise UserError(f"{path}, {item.id}: {item.check} is no check of {rubric.assignment}")
    wanted = facts.term(rubric.assignment).get("analysis_points")
    total = sum(item.most for item in rubric.items)
    if rubric.per == "team" and total != wanted:
        raise UserError(f"{path}: its points add up to {total:g}, but course.toml has analysis_points = {wanted}")
