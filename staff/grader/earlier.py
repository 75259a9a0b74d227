"""Results of an earlier grading: where only some TODOs or checks are graded again, the rest is taken from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from staff.grader.assignment import Assignment
from staff.grader.checks import Outcome
from toolkit.errors import UserError
from toolkit.runs import read_json


def read(path: Path, assignment: Assignment, digest: str) -> dict[str, Any]:
    """A whole results.json of the same files. UserError for anything else.

    digest: SHA-256 of the submission that is graded again.
    """
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("todos"), list):
        raise UserError(f"--onto {path} is no results.json of this grader")
    if found.get("assignment") != assignment.name:
        raise UserError(f"--onto {path} belongs to {found.get('assignment')}, not to {assignment.name}")
    if found["submission"]["sha256"] != digest:
        raise UserError(f"--onto {path} belongs to other files; grade the submission as a whole")
    if found.get("partial"):
        raise UserError(f"--onto {path} is itself partial: {found['partial']}")
    return found


def outcomes(results: dict[str, Any], assignment: Assignment) -> dict[str, Outcome]:
    """Test -> outcome of every check that the assignment still has."""
    found = {}
    for entry in (check for todo in results["todos"] for check in todo["checks"]):
        place = assignment.find(entry["test"])
        if place:
            known = {name: entry[name] for name in ("status", "message", "frames", "seconds", "measured")}
            found[entry["test"]] = Outcome(
                *place, **known, **{name: entry.get(name, True) for name in ("is_about_code", "counts")}
            )
    return found


def note(results: dict[str, Any], again: str, seed: int) -> dict[str, Any]:
    """What the staff's part of the new results says about seeds: the earlier one, and which parts have another.

    again: what was graded again.
    """
    old = results["staff_only"]
    return {"seed": old["seed"], "graded_again": [*old.get("graded_again", []), {"what": again, "seed": seed}]}
