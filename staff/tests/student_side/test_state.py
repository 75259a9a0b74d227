"""What a request leaves behind is put back, and what would have spoilt later checks is named."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from staff.grader.client import LEFT_BEHIND
from staff.student_side import state
from staff.tests.grading_tools import ROOT


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: torch.set_grad_enabled(False), ["gradients"]),
        (lambda: torch.set_default_dtype(torch.float64), ["dtype"]),
        (lambda: torch.set_autocast_enabled("cpu", True), ["autocast"]),
        (lambda: torch.set_num_threads(torch.get_num_threads() + 1), []),
        (lambda: warnings.simplefilter("ignore"), []),
        (lambda: np.seterr(all="ignore"), []),
        (lambda: os.chdir("/"), []),
        (lambda: os.environ.pop("PATH"), []),
    ],
)
def test_changes_are_put_back_and_the_harmful_are_named(change, named):
    before = state.note()
    change()
    assert state.note() != before
    assert state.restore(before) == named
    after = state.note()
    assert before.environment.items() <= after.environment.items()
    assert dataclasses.replace(after, environment=before.environment) == before
    assert set(named) <= set(LEFT_BEHIND)


def test_nothing_to_put_back_loads_no_compiler():
    code = (
        "import sys, torch; from staff.student_side import state; state.restore(state.note())\n"
        "sys.exit('torch._inductor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
