"""What course.toml may say. A key that no tool reads is named: a misspelt deduction would cost nothing.

An assignment that staff.new_assignment wrote has the same facts in the table [course] of its assignment.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from staff.grader import facts
from toolkit.errors import UserError

TEXT, NUMBER = "text in quotes", "a number from 0"
DATE = "a date with its time, as 2027-10-08T23:59:00"
COURSE = {"course": TEXT, "term": TEXT, "team_size": NUMBER, "office_hours": TEXT}
COURSE_MAY = {"about": TEXT, "office_hours_when": TEXT, "timezone": TEXT}
LATE_MAY = {"percent_per_day": NUMBER, "free_days": NUMBER, "hard_end_days": NUMBER}
ASSIGNMENT = {"due": DATE, "due_timezone": TEXT}
ASSIGNMENT_MAY = {"released": DATE, "analysis_points": NUMBER, "classroom_link": TEXT, "canvas_column": TEXT}


def check_course(file: str, content: Mapping[str, Any]) -> None:
    """UserError for a setting of the term that is missing, of another kind, or read by no tool."""
    tables = {name: table for name, table in content.items() if isinstance(table, dict)}
    _check(file, {name: value for name, value in content.items() if name not in tables}, COURSE, COURSE_MAY)
    facts.zone(content.get("timezone", ""))
    _check(f"[late] in {file}", tables.pop("late", {}), {}, LATE_MAY)
    for name, table in tables.items():
        check_assignment(name, table)


def check_assignment(name: str, content: Mapping[str, Any]) -> None:
    """UserError unless these are the dates of an assignment, and what else a term may say of it."""
    _check(name, content, ASSIGNMENT, ASSIGNMENT_MAY)


def _check(where: str, content: Mapping[str, Any], needed: Mapping[str, str], others: Mapping[str, str]) -> None:
    allowed = {**needed, **others}
    for key, value in content.items():
        if key not in allowed:
            raise UserError(f"no tool reads {key} of {where}; allowed: {', '.join(allowed)}")
        if not _is(allowed[key], value):
            raise UserError(f"{key} of {where} is {value!r}; write {allowed[key]}")
    for key, kind in needed.items():
        if key not in content:
            raise UserError(f"{key} of {where} is missing; write {kind}")


def _is(kind: str, value: object) -> bool:
    if kind == NUMBER:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    return isinstance(value, str if kind == TEXT else datetime)
