"""A term for tests: a roster, and results as the grader would have written them, without grading."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from staff.grader import assignment as assignments
from staff.grader import checks, facts
from staff.release.starter import recipe as recipes

ROSTER = "id,name,email,team,section,lms_id\n"
PEOPLE = (
    ("s1", "Ada Lovelace", "ada@uni.example", "blue"),
    ("s2", "Émile Borel", "emile@uni.example", "blue"),
    ("s3", "Curie, Marie", "marie@uni.example", "red"),
    ("s4", "=cmd|' /C calc'!A0", "mallory@uni.example", "red"),
)
COURSE_FILE = Path(__file__).with_name("course.toml")  # of these tests, whatever the course's own says
COURSE = recipes.read_course(COURSE_FILE)
ZONE = facts.zone(COURSE["timezone"])
DUE = facts.in_zone(COURSE["project2"]["due"], ZONE).timestamp()
DAY = 86400
PROJECT = assignments.load("project2")
CODE = PROJECT.points  # of a hand-in in which all checks pass
FULL = PROJECT.points + PROJECT.extra_points
MOST = PROJECT.points + COURSE["project2"]["analysis_points"]  # without extra credit


def at(days: float) -> str:
    """The time so many days after the due date of Project 2, as git and the sites write it."""
    return datetime.fromtimestamp(DUE + days * DAY).astimezone(ZONE).isoformat(timespec="seconds")


def results_of(name: str, failed: Iterable[str] = (), files: str = "") -> dict:
    """Results in which every check has passed but those named."""
    assignment = assignments.load(name)
    outcomes = {
        check.test: checks.Outcome(todo, check, "failed" if check.test in failed else "passed", seconds=0.5)
        for todo in assignment.todos
        for check in todo.checks
    }
    return {
        "assignment": name,
        "title": assignment.title,
        **checks.score_all(assignment, outcomes),
        "submission": {"sha256": hashlib.sha256(files.encode()).hexdigest(), "ignored": [], "notes": [], "commit": ""},
        "data": {"name": "sample", "kind": "sample", "notes": []},
        "staff_only": {"seed": 7, "grader_errors": []},
        "sandbox": {"in_force": ["bwrap"]},
        "grader": {"commit": "0123456789abcdef", "python": "3", "torch": "2"},
        "graded_at": "2027-03-20 10:00",
        "partial": "",
        "seconds": 60.0,
    }


def graded(term: Path, name: str, by_student: dict[str, dict], days_late: dict[str, float] | None = None) -> None:
    """Write what grade_class leaves behind; a hand-in without a number in `days_late` came a day early."""
    rows = []
    for number, (student, results) in enumerate(by_student.items()):
        folder = term / f"{name}-grades" / "jobs" / f"job{number}{results['submission']['sha256'][:6]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(results))
        rows.append(
            {
                "name": student,
                "job": folder.name,
                "job_before": "",
                "graded": True,
                "problem": "",
                "same_as": student,
                "last_change": DUE + DAY * (days_late or {}).get(student, -1),
                "commit": "",
                "commit_time": None,
                "later_commits": [],
                "notes": [],
            }
        )
    (term / f"{name}-grades" / "grades.json").write_text(json.dumps({"assignment": name, "rows": rows}))


def decide(term: Path, text: str) -> None:
    """Add a decision by hand: 'kind = "excuse"; student = "s1"'."""
    lines = ['assignment = "project2"', 'who = "ta"', 'reason = "why"', "when = 2027-04-01T00:00:00Z"]
    given = [line.strip() for line in text.split(";")]
    lines = [line for line in lines if line.split(" =")[0] not in [one.split(" =")[0] for one in given]]
    with open(term / "decisions.toml", "a") as file:
        file.write("\n".join(["[[decision]]", *given, *lines, ""]))


def make(folder: Path) -> Path:
    """A term with four people and no hand-ins."""
    folder.mkdir(parents=True)
    text = io.StringIO()
    csv.writer(text).writerows([*csv.reader([ROSTER]), *([*person, "A", ""] for person in PEOPLE)])
    (folder / "roster.csv").write_text(text.getvalue(), encoding="utf-8")
    return folder
