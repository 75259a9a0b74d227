"""Stop hopeless jobs early, judged by the history.csv that they append to each epoch, with Optuna's pruners.

median: worse than the median of the other jobs at the same epoch. asha: not in the best third at epochs 1, 3, 9, ...
The dispatcher judges and leaves a request in the job's folder, which works on every engine.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

from toolkit.errors import UserError
from toolkit.sweeps import jobs
from toolkit.sweeps.jobs import Job, Status
from toolkit.sweeps.run_job import request_stop
from toolkit.sweeps.search import import_optuna
from toolkit.sweeps.sweep import Sweep
from toolkit.sweeps.table import is_better_when_low

LOOK_S = 1.0


class Pruner:
    """Reports every epoch of every job to an Optuna study and stops the jobs that its pruner gives up."""

    def __init__(self, kind: str, metric: str, after: int) -> None:
        if after < 1:
            raise UserError(f"prune_after is {after}; it must be at least 1 epoch")
        self.optuna = import_optuna()
        self.after = after
        self.column = None if metric == "auto" else metric.removeprefix("best_")
        self.pruner = (
            self.optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=after)
            if kind == "median"
            else self.optuna.pruners.SuccessiveHalvingPruner(min_resource=after, reduction_factor=3)
        )
        self.study: Any = None
        self.sweep: Sweep | None = None
        self._trials: dict[str, Any] = {}
        self._reported: dict[str, int] = {}
        self._asked_to_stop: set[str] = set()
        self._next_look = 0.0

    def attach(self, sweep: Sweep) -> None:
        self.sweep = sweep
        sweep.on_turn.append(self.look)
        sweep.on_finished.append(self.job_ended)

    def look(self) -> None:
        """Read what the running jobs have appended; ask the hopeless ones to stop. At most once a second."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_S
        for name in list(self.sweep.progress.running):
            if name not in self._asked_to_stop and self._report(name) and self._is_hopeless(name):
                status = jobs.read_status(os.path.join(self.sweep.log_dir, name))
                if status.state == "running":
                    self._asked_to_stop.add(name)
                    detail = f"{self.column} {self._last(name):.4g} after {self._reported[name]} epochs is hopeless"
                    request_stop(os.path.join(self.sweep.log_dir, name), status.attempt, jobs.PRUNED, detail)

    def job_ended(self, job: Job, status: Status) -> None:
        """Keep the whole curve of an ended job: later jobs are compared with it."""
        self._report(job.name)
        if job.name in self._trials:
            trial = self._trials[job.name]
            states = self.optuna.trial.TrialState
            state = {"done": states.COMPLETE, "stopped": states.PRUNED}.get(status.state, states.FAIL)
            value = self._last(job.name) if state == states.COMPLETE else None
            if value is not None and math.isnan(value):
                state, value = states.FAIL, None
            self.study.tell(trial, value, state=state)
            del self._trials[job.name]

    def _report(self, name: str) -> bool:
        """Pass on new epochs of a job; True if there were any."""
        values = self._curve(name)
        done = self._reported.get(name, 0)
        if len(values) <= done:
            return False
        if self.study is None:
            direction = "minimize" if is_better_when_low(self.column) else "maximize"
            self.study = self.optuna.create_study(direction=direction, pruner=self.pruner)
        if name not in self._trials:
            self._trials[name] = self.study.ask()
        for epoch in range(done, len(values)):
            self._trials[name].report(values[epoch], epoch + 1)
        self._reported[name] = len(values)
        return True

    def _is_hopeless(self, name: str) -> bool:
        return self._reported[name] > self.after and self._trials[name].should_prune()

    def _curve(self, name: str) -> list[float]:
        """The metric of each epoch so far; the first val_acc or val_iou that a history has is the metric of all."""
        history = jobs.read_history(os.path.join(self.sweep.log_dir, name))
        if self.column is None:
            self.column = next((column for column in ("val_acc", "val_iou", "val_loss") if column in history), None)
        return history.get(self.column, []) if self.column else []

    def _last(self, name: str) -> float:
        values = self._curve(name)
        return values[-1] if values else math.nan
