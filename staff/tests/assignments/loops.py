"""The checks of Project 2 in this process (see local_student.py), on the reference with a few lines changed."""

from __future__ import annotations

import importlib
import zlib

import numpy as np

from staff.grader import assignment
from staff.grader.client import CheckFailed
from staff.tests.local_student import LocalStudent, reference_with

PROJECT = assignment.load("project2")
TRAIN, SEG_TRAIN = "classification_train.py", "segmentation_train.py"
LOOPS = ("1.4", "1.5", "1.6", "2.6", "2.7", "2.8")


def failures(folder, edits, todos, seed: int = 0) -> dict[str, str]:
    """Test name -> message, of the checks of these TODOs that need no long training."""
    student = LocalStudent(folder, reference_with(*edits))
    found = {}
    for todo in PROJECT.todos:
        for check in todo.checks if todo.id in todos else ():
            file, _, name = check.test.partition(".py::")
            function, _, case = name.rstrip("]").partition("[")
            elsewhere = ("test_gate", "test_checkpoint", "test_unet_has_skips", "test_own_network")
            if function in elsewhere or "learns" in function:
                continue
            module = importlib.import_module(f"staff.assignments.project2.graded_tests.{file}")
            rng = np.random.default_rng([seed, zlib.crc32(check.test.encode())])
            try:
                getattr(module, function)(student, rng, *([case] if case else []))
            except CheckFailed as error:
                found[name] = str(error)
    return found


def both(old: str, new: str) -> list[tuple[str, str, str]]:
    """The same edit in both parts."""
    return [(TRAIN, old, new), (SEG_TRAIN, old, new)]
