"""docs/grading.md tells the way of a submission: eight files at most, and no file of the grader is left out."""

from __future__ import annotations

import re

from staff.tests.grading_tools import ROOT

TEXT = (ROOT / "docs" / "grading.md").read_text(encoding="utf-8")
STEP = re.compile(r"^\| (\d+) \| `([^`]+)` \|", re.MULTILINE)


def test_a_submission_passes_through_at_most_eight_files():
    steps = STEP.findall(TEXT)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert 6 <= len(steps) <= 8
    drawing = TEXT.split("```")[1]
    for number, name in steps:
        assert list(ROOT.glob(name.replace("NAME", "*"))), f"step {number}: there is no {name}"
        assert f"{number}  {name.removeprefix('staff/')}" in drawing


def test_every_file_of_the_grader_is_named():
    ours = [path for room in ("student_side", "grader") for path in (ROOT / "staff" / room).rglob("*.py")]
    named = [path.name for path in ours if path.name != "__init__.py"]
    assert [name for name in named if name not in TEXT] == []


def test_every_file_that_is_named_exists():
    for name in re.findall(r"`((?:staff/)?[\w/]+\.(?:py|toml))`", TEXT):
        assert list(ROOT.glob(name)) or list((ROOT / "staff").rglob(name.replace("NAME", "*"))), f"there is no {name}"
