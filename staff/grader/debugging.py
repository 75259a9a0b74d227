"""`staff.grade --debug`: a submission that talks to the person who grades it, in the same sandbox.

What it prints appears at once, and what is typed while it works reaches it, so print(), input() and breakpoint() work
there, and no time limit ends it. Only text crosses, without terminal codes: the terminal itself stays out of its reach.
breakpoint() works in a graded test, too, because nothing is passed on between two questions.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys

from staff.grader.client import Budget, StudentProcess, clean
from staff.grader.sandbox import Confined, Limits, Place

DAY_S = 86_400.0


class DebuggedWorker(Confined):
    """A worker whose input and output are the terminal's, passed on."""

    stdin = subprocess.PIPE

    def _drain(self) -> None:
        while chunk := self.process.stdout.read1(4096):
            self.output.append(chunk)
            sys.stderr.write(clean(chunk.decode("utf-8", "replace"), 4096))
            sys.stderr.flush()

    def pass_on(self) -> None:
        """Give the submission what was typed until now; where nothing more can come, say so to it."""
        if self.process.stdin.closed or not select.select([sys.stdin], [], [], 0)[0]:
            return
        typed = os.read(sys.stdin.fileno(), 4096)
        with contextlib.suppress(BrokenPipeError):  # where it has ended, the grader notices by itself
            self.process.stdin.write(typed)
            self.process.stdin.flush()
            if not typed:
                self.process.stdin.close()

    def end(self) -> None:
        super().end()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


class DebuggedProcess(StudentProcess):
    """The submission with a person at its terminal and all the time in the world."""

    worker_class = DebuggedWorker

    def __init__(self, place: Place, layer: str, limits: Limits, budget: Budget, secret_paths: list[str]) -> None:
        super().__init__(place, layer, limits, Budget(DAY_S, DAY_S, budget.restarts), secret_paths)

    def request(self, op, spec, arrays=None, timeout_s=None):
        return super().request(op, spec, arrays, DAY_S)

    def _deadline_of_answer(self, seconds: float, deadline: float) -> float:
        while not self.worker.channel.stirs(0.05):
            self.worker.pass_on()
        return deadline
