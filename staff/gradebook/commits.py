"""Which commit of a repository is graded where there is a due date: the last one before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from staff.gradebook.term import Term
from staff.grader import repository
from staff.grader.repository import Commit

MOST_NAMED = 5


@dataclass(frozen=True)
class Choice:
    """The commit that is graded, those after it (newest first), and both in words for the student."""

    commit: Commit
    later: list[Commit]
    notes: list[str]


def choose(path: Path, term: Term, assignment: str, name: str) -> Choice | None:
    """The last commit of a student's repository before the due date, with extension and late days decided.

    Where all commits are later it is the newest one, and the late policy says what that costs. None: it is no
    repository, its student or the due date is not known, or the course's site knows when it was handed in (then its
    files count). Commits carry the date of the computer they were made on; only a server that was pushed to could know
    better.
    """
    student, git_folder = term.roster.find(name), repository.find(path) if path.is_dir() else None
    until = term.last_moment(assignment, student) if student and git_folder else None
    if until is None or term.handed_in(assignment).get(student.id, {}).get("when"):
        return None
    with repository.opened(git_folder) as opened:
        commits = opened.commits()
    in_time = [one for one in commits if one.time <= until.timestamp()]
    chosen = (in_time or commits)[0]
    later = [one for one in commits if one.time > until.timestamp()] if in_time else []

    def told(one: Commit) -> str:
        return f"{one.number[:12]} of {shown(term.local(one.time))}"

    limit = shown(term.last_moment(assignment, student))
    notes = [f"graded: commit {told(chosen)}, the last one before {limit}"]
    if not in_time:
        notes = [f"graded: commit {told(chosen)}; there is none before {limit}"]
    if later:
        more = f" and {len(later) - MOST_NAMED} more" if len(later) > MOST_NAMED else ""
        notes.append(f"not graded, because later: commit {', '.join(map(told, later[:MOST_NAMED]))}{more}")
    return Choice(chosen, later, notes)


def shown(when: datetime) -> str:
    """'2027-03-12 23:59 CET'."""
    return f"{when:%Y-%m-%d %H:%M %Z}".strip()
