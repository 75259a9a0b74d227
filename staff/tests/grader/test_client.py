"""The clock of a request: what a busy machine takes is not charged to the submission."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from staff.grader import client, processes
from staff.grader.client import PATIENCE, Budget, StudentProcess


def student_that_waits(monkeypatch, share: float, answers_after_s: float):
    """A student whose process waits for a processor for this share of the time, on a clock of the test's own."""
    clock = SimpleNamespace(now=0.0)

    def stirs(seconds):
        clock.now += min(seconds, max(0.0, answers_after_s - clock.now))
        return clock.now >= answers_after_s

    monkeypatch.setattr(client.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(processes, "waiting_times", lambda pid: {})
    monkeypatch.setattr(processes, "waited_since", lambda before, pid: share * clock.now)
    student = StudentProcess(None, "limits", None, Budget(10, 100, started=0.0), [])
    student.worker = SimpleNamespace(process=SimpleNamespace(pid=1), channel=SimpleNamespace(stirs=stirs))
    return student


@pytest.mark.parametrize(
    ("share", "answers_after_s", "in_time"),
    [(0.0, 9, True), (0.0, 11, False), (0.5, 18, True), (0.5, 25, False), (0.75, 38, True), (1.0, 1000, False)],
)
def test_waiting_for_a_processor_does_not_count(monkeypatch, share, answers_after_s, in_time):
    student = student_that_waits(monkeypatch, share, answers_after_s)
    deadline = student._deadline_of_answer(10, 10.0)
    assert (deadline >= answers_after_s) == in_time
    assert 10 <= deadline <= 10 * PATIENCE
    assert student.budget.started == pytest.approx(share * client.time.monotonic())  # also when nothing was late


def test_the_kernel_says_how_long_threads_waited():
    before = processes.waiting_times(os.getpid())
    assert str(os.getpid()) in before
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        pass
    assert 0 <= processes.waited_since(before, os.getpid()) <= 60


def test_an_operation_that_does_not_exist_is_a_fault_of_the_grader():
    student = StudentProcess(None, "limits", None, Budget(), [])
    for op in ("scores", "hw5.scores", "hw9.cases", "hw5.forward"):
        with pytest.raises(NameError, match=op):  # NameError: checks.OWN_FAULTS, whatever was answered before
            student.request(op, {})
    assert {"forward", "train_epoch", "hw5.cases"} <= client.operations()
