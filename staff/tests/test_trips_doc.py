"""docs/trips.md: files and functions that it names exist, and a learning rate passes through three files."""

from __future__ import annotations

import ast
import re

import pytest

from staff.tests.grading_tools import ROOT

TEXT = (ROOT / "docs" / "trips.md").read_text(encoding="utf-8")
STEP = re.compile(r"^\| (\d) \| `([^`]+)` \| `([^`]+)` \|", re.MULTILINE)
TRIPS = {part.splitlines()[0]: STEP.findall(part) for part in TEXT.split("\n## ")[1:]}


def names_in(path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


@pytest.mark.parametrize("trip", TRIPS)
def test_steps_are_in_order_and_what_they_name_exists(trip):
    steps = TRIPS[trip]
    assert [int(number) for number, _, _ in steps] == list(range(1, len(steps) + 1))
    missing = [f"{name}: {function}" for _, name, function in steps if function not in names_in(ROOT / name)]
    assert missing == []


def test_there_are_three_trips_and_other_files_that_are_named_exist():
    assert list(TRIPS) == ["A learning rate", "An image", "A submission"]
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", TEXT)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("part", ["classification", "segmentation"])
def test_a_learning_rate_reaches_its_optimizer_through_three_files(part):
    files = [name.replace("classification", part) for _, name, _ in TRIPS["A learning rate"]]
    assert len(files) == 3
    main, train, session = ((ROOT / name).read_text(encoding="utf-8") for name in files)
    assert "learning_rate=args.learning_rate" in main
    assert re.search(r"TrainingSession\(.*\*schedule", train)
    assert "schedule = (epochs, learning_rate," in train
    assert '"lr": learning_rate' in session
