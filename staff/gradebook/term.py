"""A term's folder, and what its dates say about a hand-in.

TERM/roster.csv          who is in the course
TERM/decisions.toml      what people decided
TERM/audit.jsonl         what was graded, decided and published
TERM/project2/           hand-ins, one folder or archive a student (or a download of the course's site)
TERM/project2-grades/    what `python -m staff.grade_class TERM/project2` wrote
TERM/draft/              tables, LMS files and pages of `python -m staff.gradebook sum TERM`
TERM/published/          the same as they were last given to students
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from staff.gradebook import decisions, rubric
from staff.gradebook.decisions import Decision
from staff.gradebook.handed_in import whose
from staff.gradebook.roster import Roster, Student
from staff.gradebook.roster import read as read_roster
from staff.grader import assignment as assignments
from staff.grader import facts
from staff.grader.assignment import Assignment
from staff.release.starter.recipe import read_course
from toolkit.errors import UserError
from toolkit.runs import read_json

COURSE = Path(__file__).resolve().parents[1] / "assignments" / "course.toml"
DAY = timedelta(days=1)
GRACE = timedelta(seconds=60)  # 23:59 is the whole minute


@dataclass(frozen=True)
class Policy:
    """What a late hand-in costs: [late] in course.toml."""

    percent_per_day: float = 0.0
    free_days: float = 0.0
    hard_end_days: float = math.inf


@dataclass(frozen=True)
class Lateness:
    """When a hand-in came and what that costs.

    when, source: the time, and where it comes from; None if it is not known.
    due: with the extension, of `extension` days.
    days: late, each day begun; decided: whether a person set them.
    free: how many of them are free.
    percent: of the points that are taken off, 100 after the hard end.
    """

    when: datetime | None
    source: str
    due: datetime | None
    extension: float = 0.0
    days: float = 0.0
    decided: bool = False
    free: float = 0.0
    percent: float = 0.0

    def text(self) -> str:
        """'2 days late, 1 of them free: 10% off'."""
        if not self.days:
            return "in time" if self.when and self.due else "time not known"
        free = f", {self.free:g} of them free" if self.free else ""
        end = " (after the hard end)" if self.percent >= 100 else ""
        return f"{self.days:g} {'day' if self.days == 1 else 'days'} late{free}: {self.percent:g}% off{end}"


class Term:
    """What a term's folder says. UserError for whatever is wrong in its files."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if not self.path.is_dir():
            raise UserError(f"term is {str(path)!r}, which is no folder")
        self.roster: Roster = read_roster(self.path / "roster.csv")
        self.course = read_course(COURSE)
        self._loaded: dict[str, Assignment] = {}
        self._items: dict[str, tuple[rubric.Item, ...]] = {}
        self._handed_in: dict[str, dict[str, Any]] = {}
        self.decisions_path, self.audit_path = self.path / "decisions.toml", self.path / "audit.jsonl"
        self.decisions: list[Decision] = decisions.read(self.decisions_path)
        for one in self.decisions:
            self.check_decision(one, f"{self.decisions_path}, line {one.line}")

    @property
    def assignments(self) -> list[str]:
        """Those that have hand-ins, results or decisions here, by due date."""
        found = {one.assignment for one in self.decisions}
        found |= {n for n in assignments.names() if (self.path / n).is_dir() or self.grades_of(n).is_dir()}
        return sorted(found, key=lambda name: (self.due(name) or datetime.max.replace(tzinfo=timezone.utc), name))

    def load(self, name: str) -> Assignment:
        """An assignment, read once."""
        if name not in self._loaded:
            self._loaded[name] = assignments.load(name)
        return self._loaded[name]

    def grades_of(self, name: str) -> Path:
        """The folder with the results of an assignment."""
        return self.path / f"{name}-grades"

    def handed_in(self, name: str) -> dict[str, dict[str, Any]]:
        """Student's id -> what `collect` noted about the hand-in: when, source, site_id, files."""
        if name not in self._handed_in:
            self._handed_in[name] = read_notes(self.path / f"{name}-handed_in.json")
        return self._handed_in[name]["students"]

    def lying(self, name: str) -> dict[str, list[Path]]:
        """Student's id -> the hand-ins that lie in the term's folder, graded or not."""
        found: dict[str, list[Path]] = {}
        for who, paths in whose(self.path / name).items():
            student = self.roster.find(who)
            if student:
                found.setdefault(student.id, []).extend(paths)
        return found

    def strangers(self, name: str) -> list[str]:
        """Hand-ins that `collect` found and of people who are not in the roster."""
        self.handed_in(name)
        return [entry for entries in self._handed_in[name]["unknown"].values() for entry in entries]

    def decided(self, name: str, student: Student) -> list[Decision]:
        """The decisions in force for a student and an assignment."""
        return decisions.in_force(self.decisions, name, student.id, student.team)

    @property
    def policy(self) -> Policy:
        return Policy(**self.course.get("late", {}))

    def facts(self, name: str) -> dict[str, Any]:
        """What course.toml, or else the assignment itself, says of the term: due date, analysis_points."""
        return self.course.get(name) or facts.term(name)

    def items(self, name: str) -> dict[str, rubric.Item]:
        """Id -> what people judge in an assignment; empty if it has no rubric."""
        if name not in self._items:
            self._items[name] = rubric.load(name).items if name in rubric.names() else ()
        return {item.id: item for item in self._items[name]}

    def due(self, name: str) -> datetime | None:
        """The due date of an assignment, without extensions."""
        when = self.facts(name).get("due")
        return when if when is None else self.of_course(when)

    def of_course(self, when: datetime) -> datetime:
        """A time without a zone as one of the course's zone."""
        return facts.in_zone(when, self._zone)

    @cached_property
    def _zone(self) -> ZoneInfo | None:
        return facts.zone(self.course.get("timezone", ""))

    def local(self, seconds: float) -> datetime:
        """Seconds since 1970 as a time of the course."""
        when = datetime.fromtimestamp(seconds, timezone.utc)
        return when.astimezone(self._zone)

    def last_moment(self, name: str, student: Student) -> datetime | None:
        """Until when commits count: due date, extension, and the late days that a person decided."""
        due = self.due(name)
        if due is None:
            return None
        days = sum(one.days for one in self.decided(name, student) if one.kind in ("extension", "late_days"))
        return due + days * DAY + GRACE

    def lateness(
        self,
        name: str,
        decided: list[Decision],
        when: datetime | None,
        source: str,
        free_left: float,
        is_commit: bool = False,
    ) -> Lateness:
        """What a hand-in of this time costs.

        decided: decisions in force.
        when, source: time of the hand-in and where it is from.
        free_left: free late days that the student still has.
        is_commit: the time is a commit's: then days that a person decided are how many later commits may be late.
        """
        due, policy = self.due(name), self.policy
        extension = next((one.days for one in decided if one.kind == "extension"), 0.0)
        set_by = next((one.days for one in decided if one.kind == "late_days"), None)
        if due is None or (when is None and set_by is None):
            return Lateness(when, source, due, extension)
        due += extension * DAY
        computed = max(0, math.ceil((when - due - GRACE) / DAY)) if when else 0
        days = computed if set_by is None else math.ceil(set_by)
        days = min(days, computed) if is_commit else days
        free = min(days, free_left)
        percent = min(100.0, (days - free) * policy.percent_per_day)
        percent = 100.0 if days > policy.hard_end_days else percent
        return Lateness(when, source, due, extension, days, set_by is not None, free, percent)

    def check_decision(self, one: Decision, place: str) -> None:
        """UserError unless a decision is about a student, an assignment and a part that exist."""
        if one.student and one.student not in self.roster.by_id:
            raise UserError(f"{place}: student is {one.student!r}, who is not in roster.csv (give the id)")
        teams = sorted({student.team for student in self.roster.students} - {""})
        if one.team and one.team not in teams:
            raise UserError(f"{place}: team is {one.team!r}; allowed: {', '.join(teams) or 'none in roster.csv'}")
        if one.assignment not in assignments.names():
            raise UserError(f"{place}: assignment is {one.assignment!r}; allowed: {', '.join(assignments.names())}")
        assignment, items = self.load(one.assignment), self.items(one.assignment)
        if one.item and items and one.item not in items:
            raise UserError(f"{place}: item is {one.item!r}; allowed: {', '.join(items)}")
        try:
            has_history = one.todo == "git" and assignment.history
            assignment.check_names([one.todo] if one.todo and not has_history else None, [one.check][: bool(one.check)])
        except UserError as error:
            raise UserError(f"{place}: {error}") from None


def read_notes(path: Path) -> dict[str, dict[str, Any]]:
    """{'students': {id: what was noted}, 'unknown': {site: names}} of `collect`. UserError for another file."""
    found = read_json(path) if path.is_file() else {"students": {}, "unknown": {}}
    if not isinstance(found, dict) or not all(isinstance(found.get(key), dict) for key in ("students", "unknown")):
        raise UserError(f"{path} was not written by this gradebook; move it away and collect again")
    return found


def find(folder: Path) -> Term | None:
    """The term that a folder of hand-ins belongs to; None if the folder above it holds no roster."""
    return Term(folder.parent) if (folder.parent / "roster.csv").is_file() else None
