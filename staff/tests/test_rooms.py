"""The rooms of staff/: who may import whom, and what lies within reach of a submission."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from staff.grader.sandbox import temporary_place

STAFF = Path(__file__).resolve().parents[1]


def imported_rooms(path: Path) -> set[str]:
    """The parts of staff/ that a file imports at any place: 'grader' for `from staff.grader import oracle`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself; say where from"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found.update(name.split(".")[1] for name in names if name.startswith("staff."))
    return found


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ("student_side/*.py", {"student_side"}),
        ("assignments/*/operations.py", {"student_side"}),
        ("grader/**/*.py", {"student_side", "grader"}),
        ("assignments/*/graded_tests/*.py", {"student_side", "grader", "assignments"}),
        # The rest for similarity: what the starter gives, and which solutions lie here for everyone to read.
        ("gradebook/*.py", {"grader", "gradebook", "release", "quality"}),
        ("release/**/*.py", {"grader", "release", "quality"}),  # quality: the measured error rates, for the course site
    ],
)
def test_rooms_import_only_what_they_may(files, allowed):
    paths = sorted(STAFF.glob(files))
    assert paths, f"there is no {files}"
    for path in paths:
        strangers = imported_rooms(path) - allowed
        assert not strangers, f"{path.relative_to(STAFF)} imports from {', '.join(sorted(strangers))}"


def test_only_the_students_side_lies_within_reach_of_a_submission():
    """What the worker can read of staff/: no expected value, no test, no points, no data."""
    with temporary_place() as place:
        shown = {path.relative_to(place.code / "staff").as_posix() for path in place.code.rglob("*") if path.is_file()}
    assert {"student_side/worker.py", "student_side/operations.py", "assignments/hw5/operations.py"} <= shown
    others = {
        name
        for name in shown
        if not name.startswith("student_side/") and Path(name).name not in ("__init__.py", "operations.py")
    }
    assert not others
