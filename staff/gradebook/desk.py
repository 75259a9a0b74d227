"""What people read and judge in a term: answers and reports, each with what was decided about it so far."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from staff.gradebook import decisions, rubric
from staff.gradebook.decisions import Decision
from staff.gradebook.rubric import Item, Level, Rubric
from staff.gradebook.term import Term
from staff.grader import assignment as assignments
from staff.grader.other_work import answers_in
from staff.grader.packing import printable, read_regular
from toolkit.errors import UserError
from toolkit.runs import read_json

ROOT = Path(__file__).resolve().parents[2]
MOST_REPORT_BYTES = 100 << 20
REPORT_ENDINGS = (".pdf", ".html", ".htm")


@dataclass(frozen=True)
class Card:
    """One thing to read: a student's answer to a question, or a team's report.

    key: stands for whose it is in addresses and forms, and does not tell.
    whose: {"student": id} or {"team": name}, as decisions have it.
    name: for people.
    text: the answer; "" for a report.
    worth: points that the grader gave for the answer being there.
    """

    key: str
    whose: Mapping[str, str]
    name: str
    text: str = ""
    worth: float = 0.0


@dataclass(frozen=True)
class State:
    """What is decided about an item of a card. seen: of the last decision, to notice one that came in between."""

    level: str = ""
    points: float | None = None
    comment: str = ""
    who: str = ""
    when: datetime | None = None

    @property
    def seen(self) -> str:
        return self.when.isoformat() if self.when else ""

    def as_json(self) -> dict[str, Any]:
        """For the browser."""
        when = self.when.astimezone().strftime("%d %b %H:%M") if self.when else ""
        return {
            "level": self.level,
            "points": self.points,
            "comment": self.comment,
            "who": self.who,
            "when": when,
            "seen": self.seen,
        }


class ConflictError(Exception):
    """Somebody else decided the same thing since it was shown."""

    def __init__(self, state: State) -> None:
        super().__init__(f"{state.who} decided this meanwhile")
        self.state = state


class Desk:
    """The material of a term. secret: what the keys of cards are made with."""

    def __init__(self, path: Path, secret: bytes) -> None:
        self.term = Term(path)
        self.rubrics: dict[str, Rubric] = {name: rubric.load(name) for name in rubric.names()}
        self._secret, self._lock = secret, threading.Lock()

    def cards(self, name: str, item: Item) -> tuple[list[Card], list[str]]:
        """(What there is to read for an item, by name; whose work is missing and why)."""
        return self._reports(name) if self.rubrics[name].per == "team" else self._answers(name, item)

    def _answers(self, name: str, item: Item) -> tuple[list[Card], list[str]]:
        assignment, folder = self.term.load(name), self.term.grades_of(name)
        table = folder / "grades.json"
        rows = read_json(table)["rows"] if table.is_file() else []
        found, missing = {}, []
        for row in rows:
            student = self.term.roster.find(row["name"])
            path = folder / "jobs" / row["job"] / "results.json"
            if student is None or not row["graded"] or not path.is_file():
                missing.append(f"{row['name']}: {'not in roster.csv' if student is None else row['problem']}")
                continue
            results = _results(path, path.stat().st_mtime_ns)
            text = results.get("answers", {}).get(item.question, "")
            if student.id not in found or row["name"] == student.id:
                found[student.id] = (student, text, _worth(results, item, assignment))
        cards = [self._card({"student": one.id}, one.name, text, worth) for one, text, worth in found.values() if text]
        missing += [f"{one.name}: no answer {item.question}" for one, text, _ in found.values() if not text]
        missing += [f"{one.name}: not graded" for one in self.term.roster.students if one.id not in found]
        return sorted(cards, key=lambda card: card.name), missing

    def _reports(self, name: str) -> tuple[list[Card], list[str]]:
        teams = sorted({student.team for student in self.term.roster.students} - {""})
        cards = [self._card({"team": team}, team) for team in teams if self.report(name, team)]
        there = {card.name for card in cards}
        missing = [f"{team}: no report in {name}-reports" for team in teams if team not in there]
        folder = self.reports_folder(name)
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        known = {team.casefold() for team in teams}
        strangers = [printable(path.name) for path in paths if path.stem.casefold() not in known]
        missing += [f"{name}: belongs to no team" for name in strangers]
        return cards, missing

    def reports_folder(self, name: str) -> Path:
        """Where reports lie: TEAM.pdf, TEAM.html."""
        return self.term.path / f"{name}-reports"

    def report(self, name: str, team: str) -> Path | None:
        """A team's report; of several the first by name."""
        folder = self.reports_folder(name)
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        named = [path for path in paths if path.stem.casefold() == team.casefold()]
        return next((path for path in named if path.suffix.lower() in REPORT_ENDINGS), None)

    def report_bytes(self, name: str, team: str) -> bytes:
        """The content of a team's report. UserError if it is too large or no plain file."""
        path = self.report(name, team)
        try:
            content = read_regular(path)(MOST_REPORT_BYTES + 1) if path else b""
        except OSError as error:
            raise UserError(f"{printable(path.name)}: {error.strerror}") from None
        if len(content) > MOST_REPORT_BYTES:
            raise UserError(f"{printable(path.name)} is larger than {MOST_REPORT_BYTES >> 20} MB")
        return content

    def _card(self, whose: dict[str, str], name: str, text: str = "", worth: float = 0.0) -> Card:
        digest = hmac.new(self._secret, repr(whose).encode("utf-8", "replace"), hashlib.sha256).hexdigest()
        return Card(digest[:20], whose, name, text, worth)

    def mixed(self, cards: list[Card]) -> list[Card]:
        """The cards in an order that does not tell whose they are."""
        return sorted(cards, key=lambda card: card.key)

    def ours(self, name: str, item: Item) -> str:
        """The answer of the reference solution."""
        files = [ROOT / file for file in self.term.load(name).files if file.endswith(".py")]
        found = [answers_in(path.read_text(encoding="utf-8")) for path in files if path.is_file()]
        return next((answers[item.question] for answers in found if item.question in answers), "")

    def states(self, name: str) -> dict[tuple[str, str], State]:
        """(Key of a card, id of an item) -> what is decided about it now."""
        levels = {item.id: item.levels for item in self.rubrics[name].items}
        found: dict[tuple[str, str], State] = {}
        for one in decisions.read(self.term.decisions_path):
            if one.assignment != name or one.item not in levels or one.kind not in ("rubric", "comment"):
                continue
            whose = {"student": one.student} if one.student else {"team": one.team}
            place = (self._card(whose, "").key, one.item)
            before = found.get(place, State())
            level, points, comment = before.level, before.points, before.comment
            if one.kind == "comment":
                comment = "" if one.withdrawn else one.comment
            elif one.withdrawn:
                level, points = "", None
            else:
                level, points = _level_of(levels[one.item], one), one.points
            found[place] = State(level, points, comment, one.who, one.when)
        return found

    def comments(self, name: str, item: Item) -> list[str]:
        """Every comment about an item so far, the most frequent first."""
        count: Counter[str] = Counter()
        for one in decisions.read(self.term.decisions_path):
            if (one.assignment, one.item, one.kind) == (name, item.id, "comment") and not one.withdrawn:
                count.update(line.strip() for line in one.comment.splitlines() if line.strip())
        return [text for text, _ in count.most_common()]

    def save(
        self, name: str, item: Item, card: Card, who: str, seen: str, *, level: str | None, comment: str | None
    ) -> None:
        """Decide: a level ("" takes it back) or a comment ("" takes it back); None: as it is.

        seen: of the state that was shown. ConflictError if another person decided since.
        """
        with self._lock:
            now = self.states(name).get((card.key, item.id), State())
            if now.seen != seen and now.who != who:
                raise ConflictError(now)
            about = {"assignment": name, "item": item.id, "who": who, **card.whose}
            if comment is not None and comment.strip() != now.comment:
                self._append("comment", about, {"comment": comment.strip()})
            chosen = next((one for one in item.levels if one.key == level), None)
            if level == "" and now.level:
                self._append("rubric", about, {})
            elif chosen:
                self._append("rubric", about, {"points": points_of(item, chosen, card.worth), "reason": chosen.text})

    def _append(self, kind: str, about: dict[str, str], values: dict[str, Any]) -> None:
        withdrawn = not any(value != "" for value in values.values())
        decisions.append(self.term.decisions_path, Decision(kind, **about, **values, withdrawn=withdrawn))


def points_of(item: Item, level: Level, worth: float) -> float:
    """What a level counts: its points, or less of what the grader gave."""
    return round((level.value - item.most) * worth, 2) + 0.0 if item.check else level.value


def _level_of(levels: tuple[Level, ...], decision: Decision) -> str:
    """The key of the level that a decision chose; "?" where it was made by hand, or the rubric has changed."""
    found = next((level for level in levels if level.text == decision.reason), None)
    return found.key if found else "?"


def _worth(results: dict[str, Any], item: Item, assignment: assignments.Assignment) -> float:
    """Points that the grader gave for a check: its share of its TODO's points, if it passed and the TODO has any."""
    found = assignment.find(item.check)
    todo = next((todo for todo in results["todos"] if found and todo["id"] == found[0].id), None)
    if todo is None or not todo["points"]:
        return 0.0
    passed = any(check["test"] == item.check and check["status"] == "passed" for check in todo["checks"])
    weights = {check.test: check.weight for check in found[0].checks}
    return todo["max"] * weights[item.check] / sum(weights.values()) if passed else 0.0


@lru_cache(maxsize=1024)
def _results(path: Path, changed: int) -> dict[str, Any]:
    """A results.json; `changed`, its time, makes a new one be read again."""
    full = read_json(path)
    todos = [
        {key: todo[key] for key in ("id", "points", "max")}
        | {"checks": [{"test": check["test"], "status": check["status"]} for check in todo["checks"]]}
        for todo in full["todos"]
    ]
    return {"answers": full.get("answers", {}), "todos": todos}
