"""Random and TPE search and early stopping with Optuna.

A search draws points from lists and ranges instead of a whole grid. A range is {"low": 1e-4, "high": 0.1, "log": true}
or {"low": 16, "high": 128, "step": 16}; whole numbers as bounds give whole numbers, unless the flag takes floats. A
list is a choice, anything else is fixed. Pruning stops hopeless jobs early, judged by the history.csv that they append
to after each epoch: the dispatcher leaves a request in the job's folder, which works on every engine.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from toolkit.effects import is_number
from toolkit.errors import UserError
from toolkit.sweeps import grid, jobs, table
from toolkit.sweeps.jobs import Job, Status
from toolkit.sweeps.script import Probe
from toolkit.sweeps.sweep import Sweep

Config = dict[str, Any]
LOOK_S = 0.5


@dataclass(frozen=True)
class Search:
    """How points are chosen and judged, in the words of the dispatcher's flags."""

    search: str = "grid"  # or random, tpe
    trials: int = 20
    search_seed: int = 0
    seeds: int = 0  # each point is run with --seed 0 .. seeds-1; 0: as it is
    metric: str = "auto"
    direction: str = "auto"  # by the metric's name; or min, max


def import_optuna() -> Any:
    """Optuna, quiet; UserError with the command that installs it."""
    try:
        import optuna
    except ImportError:
        raise UserError("--search random|tpe and --prune need Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def make_distribution(name: str, value: Any, child: Probe) -> Any | None:
    """Optuna's distribution for a list or a range; None for a fixed value."""
    distributions = import_optuna().distributions
    if isinstance(value, list):
        for one in grid.as_choices(name, value):
            if isinstance(one, (list, dict)):
                raise UserError(f"{name} has the value {one}; a search takes single values and ranges")
        return distributions.CategoricalDistribution(value)
    if not grid.is_range(value):
        return None
    if not {"low", "high"} <= set(value) <= grid.RANGE_KEYS:
        raise UserError(f"{name} is {value}; a range needs low and high, and may have log (true) or step")
    bounds = {key: value[key] for key in ("low", "high", "step") if value.get(key) is not None}
    if not all(is_number(one) for one in bounds.values()):
        raise UserError(f"{name} is {value}; low, high and step must be numbers")
    whole = all(isinstance(one, int) for one in bounds.values())
    if whole and "step" not in bounds and name in child.script.flags:  # 0 to 1 of a dropout are not two values
        flag = child.script.flags[name]
        (problem,) = child.find_problems([[f"{flag.option}={bounds['low'] + 0.5}"]])
        whole = flag.type is None or flag.option in (problem or "")
    kind = distributions.IntDistribution if whole else distributions.FloatDistribution
    try:
        return kind(**bounds, log=bool(value.get("log", False)))
    except ValueError as error:
        raise UserError(f"{name} is {value}: {error}") from None


class Searcher:
    """Draws `search.trials` points; for tpe each one with the knowledge of the results so far."""

    def __init__(self, search: Search, config: Any, child: Probe) -> None:
        self.optuna, self.search, self.script = import_optuna(), search, child.script
        grids = grid.split_grids(config)
        if len(grids) != 1:
            raise UserError("a search takes one object; a list of objects is for --search grid")
        grid.add_seeds(grids, search.seeds)  # refuses a seed of its own next to --seeds
        drawn = {name: make_distribution(name, value, child) for name, value in grids[0].items()}
        self.space = {name: one for name, one in drawn.items() if one is not None}
        self.fixed = {name: value for name, value in grids[0].items() if name not in self.space}
        if not self.space:
            raise UserError("the configuration has only fixed values; a search needs a list or a range")
        self._asked = 0
        self._known: list[Config] = []  # parameters of every point drawn, also by earlier starts
        self._trials: dict[str, tuple[Any, dict[str, float | None]]] = {}  # job -> (trial, metric of each of its jobs)

    def draw_all(self) -> list[Config]:
        """All points of a random search: independent of results, so they are known at once."""
        study = self.optuna.create_study(sampler=self.optuna.samplers.RandomSampler(seed=self.search.search_seed))
        return [point for _ in range(self.search.trials) for point in self._points(study.ask(self.space))]

    def corners(self) -> list[Config]:
        """Points that show every choice and both ends of every range, to be checked by the script's parser."""
        ends = {
            name: list(one.choices) if hasattr(one, "choices") else [one.low, one.high]
            for name, one in self.space.items()
        }
        longest = max(len(values) for values in ends.values())
        points = [{**self.fixed, **{n: v[i % len(v)] for n, v in ends.items()}} for i in range(longest)]
        return grid.add_seeds(points, self.search.seeds and 1)

    def attach(self, sweep: Sweep, score: Callable[[str], float], index: dict[str, Any]) -> None:
        """Feed `sweep` with points and learn from its results; points of an earlier start come first.

        `score` gives a job's result, where more is better; `index` is what sweep.json says besides the jobs.
        """
        self.sweep, self._score, self._index = sweep, score, index
        self._memory = os.path.join(sweep.log_dir, "search.json")
        space = {name: repr(one) for name, one in self.space.items()}
        self._about = {"space": space, "fixed": self.fixed, "seeds": self.search.seeds, "seed": self.search.search_seed}
        known = jobs.read_json(self._memory)
        if isinstance(known, dict) and known.get("about") == self._about:
            self._known = known["points"]
        # constant_liar: points that are being run count as bad, so that parallel jobs do not all try the same corner.
        seed = self.search.search_seed + len(self._known)  # else a restart would draw its first points again
        sampler = self.optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=5)
        self.study = self.optuna.create_study(direction="maximize", sampler=sampler)
        for params in self._known:
            self.study.enqueue_trial(params)
        sweep.refill, sweep.waits_for_results = self._refill, True
        sweep.on_finished.append(self._learn)

    def _points(self, trial: Any) -> list[Config]:
        """A trial's point, once for each seed. Four digits are enough for a hyperparameter and make readable names."""
        drawn = {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in trial.params.items()}
        return grid.add_seeds([{**self.fixed, **drawn}], self.search.seeds)

    def _refill(self) -> Iterable[Job]:
        """The jobs of the next point (one for each seed); nothing when all trials are drawn."""
        while self._asked < self.search.trials:
            self._asked += 1
            trial = self.study.ask(self.space)
            if self._asked > len(self._known):
                self._known.append(trial.params)
                jobs.write_json(self._memory, {"about": self._about, "points": self._known})
            made = [Job.build(self.script.name, one, self.script.to_argv(one)) for one in self._points(trial)]
            new = [job for job in made if job.name not in self.sweep.jobs]
            if new:
                values = dict.fromkeys(job.name for job in new)
                self._trials.update((job.name, (trial, values)) for job in new)
                table.write_index(self.sweep.log_dir, self._index, [*self.sweep.jobs.values(), *new])
                return new
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)  # a small space: drawn before
        return []

    def _learn(self, job: Job, status: Status) -> None:
        """Tell Optuna the mean over the seeds of a point when all of them have ended."""
        if job.name not in self._trials:
            return
        trial, values = self._trials[job.name]
        values[job.name] = self._score(job.name) if status.state == "done" else math.nan
        if None not in values.values():
            good = [value for value in values.values() if not math.isnan(value)]
            fail = self.optuna.trial.TrialState.FAIL
            self.study.tell(trial, sum(good) / len(good) if good else None, state=None if good else fail)


class Pruner:
    """Reports every epoch of every job to an Optuna study and stops the jobs that its pruner gives up.

    median: worse than the median of the others at the same epoch. asha: not in the best third at epochs 1, 3, 9, ...
    """

    def __init__(self, kind: str, search: Search, after: int, sweep: Sweep) -> None:
        self.optuna, self.after, self.direction, self.sweep = import_optuna(), after, search.direction, sweep
        self.column = None if search.metric == "auto" else search.metric.removeprefix("best_")
        pruners = self.optuna.pruners
        self.pruner = (
            pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=after)
            if kind == "median"
            else pruners.SuccessiveHalvingPruner(min_resource=after, reduction_factor=3)
        )
        self.study: Any = None  # made when the first history shows which metric and so which direction it has
        self._trials: dict[str, Any] = {}
        self._curves: dict[str, list[float]] = {}  # what has been reported
        self._asked_to_stop: set[str] = set()
        self._next_look = 0.0
        self._said = False
        sweep.on_turn.append(self.look)
        sweep.on_finished.append(self.job_ended)

    def look(self) -> None:
        """Read what the running jobs have appended; ask the hopeless ones to stop. At most twice a second."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_S
        for name in self.sweep.progress.running.keys() - self._asked_to_stop:
            folder = os.path.join(self.sweep.log_dir, name)
            if not self._report(name) or len(self._curves[name]) <= self.after or not self._trials[name].should_prune():
                continue
            status, curve = jobs.read_status(folder), self._curves[name]
            if status.state == "running":
                self._asked_to_stop.add(name)
                detail = f"{self.column} {curve[-1]:.4g} after {len(curve)} epochs is hopeless"
                jobs.request_stop(folder, status.attempt, jobs.PRUNED, detail)

    def job_ended(self, job: Job, status: Status) -> None:
        """Keep the whole curve of an ended job: later jobs are compared with it."""
        self._report(job.name)
        if status.state == "done" and job.name not in self._trials and not self._said:
            self._said = True
            columns = ", ".join(jobs.read_history(os.path.join(self.sweep.log_dir, job.name))) or "no epoch"
            wanted = self.column or "val_acc, val_iou or val_loss"
            print(f"note: --prune stops nothing: it needs {wanted} in history.csv of {job.name}, which has {columns}")
        if job.name in self._trials:
            states, last = self.optuna.trial.TrialState, self._curves[job.name][-1]
            state = {"done": states.COMPLETE, "stopped": states.PRUNED}.get(status.state, states.FAIL)
            state = states.FAIL if state == states.COMPLETE and math.isnan(last) else state
            self.study.tell(self._trials.pop(job.name), last if state == states.COMPLETE else None, state=state)

    def _report(self, name: str) -> bool:
        """Pass on new epochs of a job; True if there were any."""
        history = jobs.read_history(os.path.join(self.sweep.log_dir, name))
        # The first val_acc or val_iou that a history has is the metric of all.
        self.column = self.column or next((c for c in ("val_acc", "val_iou", "val_loss") if c in history), None)
        values, before = history.get(self.column or "", []), len(self._curves.get(name, []))
        if len(values) <= before:
            return False
        if self.study is None:
            direction = "minimize" if table.is_better_when_low(self.column, self.direction) else "maximize"
            self.study = self.optuna.create_study(direction=direction, pruner=self.pruner)
        trial = self._trials[name] if name in self._trials else self._trials.setdefault(name, self.study.ask())
        for epoch in range(before, len(values)):
            trial.report(values[epoch], epoch + 1)
        self._curves[name] = values
        return True
