"""From outcomes to points. A TODO earns nothing until its core checks pass; then its other checks share its points.

Core checks are verified: they compare arrays with what the grader computed itself, or predictions on fresh inputs with
answers that never left the grader. A check that rests on what the student's process reports about itself (`reported`
in the toml) can therefore only take points away from a TODO that really works, and never earn one by itself.
"""

from __future__ import annotations

from dataclasses import asdict

from staff.grader.assignment import Assignment, Todo
from staff.grader.grading_plugin import Outcome


def score_todo(todo: Todo, outcomes: dict[str, Outcome]) -> dict:
    """{'id', 'title', 'points', 'max', 'status', 'checks': [...]} of one TODO."""
    found = [outcomes.get(check.test) or Outcome(todo, check, "skipped", "not run") for check in todo.checks]
    passed = [outcome.status == "passed" for outcome in found]
    core = all(ok for ok, check in zip(passed, todo.checks, strict=True) if check.core)
    total = sum(check.weight for check in todo.checks)
    earned = sum(check.weight for ok, check in zip(passed, todo.checks, strict=True) if ok) if core else 0.0
    statuses = {outcome.status for outcome in found}
    if all(passed):
        status = "passed"
    elif "not_started" in statuses:
        status = "not started"
    elif core:
        status = "partly"
    else:
        status = "failed" if statuses - {"skipped", "passed"} else "skipped"
    return {
        "id": todo.id,
        "title": todo.title,
        "part": todo.part,
        "extra": todo.extra,
        "points": round(todo.points * earned / total, 2),
        "max": todo.points,
        "status": status,
        "checks": [_check_entry(outcome) for outcome in found],
    }


def _check_entry(outcome: Outcome) -> dict:
    entry = asdict(outcome.check)
    entry |= {"status": outcome.status, "message": outcome.message, "frames": outcome.frames}
    entry |= {"seconds": round(outcome.seconds, 2), "measured": outcome.measured}
    if outcome.status == "passed":
        entry["hint"] = ""
    return entry


def score_all(assignment: Assignment, outcomes: dict[str, Outcome]) -> dict:
    """{'score', 'max_score', 'extra', 'max_extra', 'todos'}."""
    todos = [score_todo(todo, outcomes) for todo in assignment.todos]
    return {
        "score": round(sum(todo["points"] for todo in todos if not todo["extra"]), 2),
        "max_score": assignment.points,
        "extra": round(sum(todo["points"] for todo in todos if todo["extra"]), 2),
        "max_extra": assignment.extra_points,
        "todos": todos,
    }
