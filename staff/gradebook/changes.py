"""What changed since the grades were published: whose points, by how much, and who asked for it or decided it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff.gradebook.pages import frame, part, points, table
from staff.gradebook.sums import EXCUSED, Book, Grade
from toolkit.runs import read_json

SNAPSHOT = "gradebook.json"


@dataclass(frozen=True)
class Change:
    """One student's change. parts: 'TODO 1.4: 0 → 2'; asked: regrade requests; decided: what people decided."""

    student: str
    assignment: str
    before: float | None
    now: float | None
    parts: list[str]
    asked: list[str]
    decided: list[str]

    def line(self) -> str:
        """For the terminal."""
        more = f" ({'; '.join(self.parts)})" if self.parts else ""
        return f"{self.student} {self.assignment}: {points(self.before)} -> {points(self.now)}{more}"


def snapshot(book: Book) -> bytes:
    """What is compared with later: sums and the points of each part."""
    grades = {
        student: {name: {"total": grade.total, "parts": _parts(grade)} for name, grade in mine.items()}
        for student, mine in book.grades.items()
    }
    return (json.dumps({"grades": grades}, indent=1) + "\n").encode()


def _parts(grade: Grade) -> dict[str, Any]:
    found = {f"TODO {todo['id']}": todo["points"] for todo in grade.results["todos"]} if grade.results else {}
    found |= {what: after for what, _, after, _ in grade.changed}
    found |= {one.item: one.points for one in grade.of("rubric")}
    found |= {"late": -grade.penalty} if grade.penalty else {}
    return found | ({"excused": 1.0} if grade.state == EXCUSED else {})


def since(book: Book, published: Path) -> list[Change]:
    """Everybody whose grade differs from the published one, or is gone; none before anything was published."""
    path = published / SNAPSHOT
    old = read_json(path)["grades"] if path.is_file() else {}
    found = []
    for student, mine in book.grades.items() if old else []:
        for name, grade in mine.items():
            before = old.get(student, {}).get(name, {"total": None, "parts": {}})
            parts = _parts(grade)
            if before["total"] == grade.total and before["parts"] == parts:
                continue
            both = [(key, before["parts"].get(key), parts.get(key)) for key in {**before["parts"], **parts}]
            both = [(key, was, now) for key, was, now in both if was != now]
            told = [f"{key}: {points(was)} → {points(now)}" for key, was, now in both]
            same = set(parts) - {key for key, _, _ in both}  # a report that was judged before decided nothing here
            asked = [f"{one.student or one.team} asked ({part(one)}): {one.comment}" for one in grade.of("regrade")]
            reasons = [one for one in grade.decided if one.reason and one.item not in same]
            decided = [f"{one.who}: {one.kind} {one.part}: {one.reason}" for one in reasons]
            found.append(Change(student, name, before["total"], grade.total, told, asked, decided))
    for student, theirs in old.items():
        gone = "no longer in roster.csv" if student not in book.grades else "no longer an assignment of the term"
        missing = [name for name in theirs if name not in book.grades.get(student, {})]
        found += [Change(student, name, theirs[name]["total"], None, [gone], [], []) for name in missing]
    return found


def page_of(changes: list[Change], book: Book, was_published: bool) -> str:
    """Old and new next to each other."""
    if not was_published:
        return frame("Changes", "<p>Nothing has been published yet.</p>")
    rows = [
        [
            change.student,
            book.term.roster.by_id[change.student].name if change.student in book.term.roster.by_id else "",
            change.assignment,
            points(change.before),
            points(change.now),
            f"{(change.now or 0) - (change.before or 0):+g}" if change.now != change.before else "",
            "; ".join(change.parts),
            "; ".join(change.asked),
            "; ".join(change.decided),
        ]
        for change in changes
    ]
    head = ["id", "name", "assignment", "published", "now", "", "what changed", "who asked", "who decided"]
    up = sum((change.now or 0) > (change.before or 0) for change in changes)
    down = sum((change.now or 0) < (change.before or 0) for change in changes)
    intro = f"<p>Grades that differ from the published ones: {len(changes)} ({up} higher, {down} lower).</p>"
    return frame("Changes since published", intro + table(head, rows, (3, 4, 5)))
