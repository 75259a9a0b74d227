"""Random and TPE search with Optuna: points from lists and ranges instead of a whole grid.

A range is {"low": 1e-4, "high": 0.1, "log": true} or {"low": 16, "high": 128, "step": 16}; whole numbers as bounds
give whole numbers. A list is a choice, anything else is fixed.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable
from typing import Any

from toolkit.errors import UserError
from toolkit.sweeps import grid, jobs, table
from toolkit.sweeps.jobs import Job, Status
from toolkit.sweeps.script import Script
from toolkit.sweeps.sweep import Sweep

Config = dict[str, Any]
RANGE_KEYS = {"low", "high", "log", "step"}


def import_optuna() -> Any:
    """Optuna, quiet; UserError with the command that installs it."""
    try:
        import optuna
    except ImportError:
        raise UserError("--search random|tpe and --prune need Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def make_distribution(name: str, value: Any) -> Any | None:
    """Optuna's distribution for a list or a range; None for a fixed value."""
    distributions = import_optuna().distributions
    if isinstance(value, list):
        return distributions.CategoricalDistribution([_hashable(name, one) for one in grid.as_choices(name, value)])
    if not isinstance(value, dict):
        return None
    wrong = set(value) - RANGE_KEYS
    if wrong or not {"low", "high"} <= set(value):
        raise UserError(f"{name} is {value}; a range needs low and high, and may have log (true) or step")
    bounds = {key: value[key] for key in ("low", "high", "step") if value.get(key) is not None}
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in bounds.values()):
        raise UserError(f"{name} is {value}; low, high and step must be numbers")
    whole = all(isinstance(one, int) for one in bounds.values())
    kind = distributions.IntDistribution if whole else distributions.FloatDistribution
    try:
        return kind(**bounds, log=bool(value.get("log", False)))
    except ValueError as error:
        raise UserError(f"{name} is {value}: {error}") from None


def _hashable(name: str, value: Any) -> Any:
    if isinstance(value, (list, dict)):
        raise UserError(f"{name} has the value {value}; a search takes single values and ranges")
    return value


class Searcher:
    """Draws `args.trials` points; for tpe each one with the knowledge of the results so far."""

    def __init__(self, args: argparse.Namespace, config: Any, script: Script) -> None:
        optuna = import_optuna()
        self.optuna, self.args, self.script = optuna, args, script
        grids = grid.split_grids(config)
        if len(grids) != 1:
            raise UserError("a search takes one object; a list of objects is for --search grid")
        if "seed" in grids[0] and args.seeds:
            raise UserError(f"seeds is {args.seeds}, but the configuration has its own 'seed'; use one of the two")
        self.fixed = {name: v for name, v in grids[0].items() if not isinstance(v, (list, dict))}
        self.space = {name: d for name, v in grids[0].items() if (d := make_distribution(name, v)) is not None}
        if not self.space:
            raise UserError("the configuration has only fixed values; a search needs a list or a range")
        self.study: Any = None
        self.sweep: Sweep | None = None
        self.metric: str | None = None
        self._asked = 0
        self._known: list[Config] = []  # parameters of every point drawn, also by earlier starts
        self._trials: dict[str, tuple[Any, dict[str, float]]] = {}  # job name -> (trial, metric of each of its jobs)
        self._sizes: dict[int, int] = {}  # trial number -> how many jobs it has

    def draw_all(self) -> list[Config]:
        """All points of a random search: independent of results, so they are known at once."""
        study = self.optuna.create_study(sampler=self.optuna.samplers.RandomSampler(seed=self.args.search_seed))
        points = [self._point(study.ask(self.space)) for _ in range(self.args.trials)]
        return grid.add_seeds(points, self.args.seeds)

    def corners(self) -> list[Config]:
        """Points that show every choice and both ends of every range, to be checked by the script's parser."""
        ends = {
            name: list(one.choices) if hasattr(one, "choices") else [one.low, one.high]
            for name, one in self.space.items()
        }
        longest = max(len(values) for values in ends.values())
        points = [{**self.fixed, **{n: v[i % len(v)] for n, v in ends.items()}} for i in range(longest)]
        return grid.add_seeds(points, self.args.seeds and 1)

    def attach(self, sweep: Sweep) -> None:
        """Feed `sweep` with points and learn from its results; points of an earlier start come first."""
        self.sweep = sweep
        self.metric = None if self.args.metric == "auto" else self.args.metric
        self._memory = os.path.join(sweep.log_dir, "search.json")
        space = {name: repr(one) for name, one in self.space.items()}
        self._about = {"space": space, "fixed": self.fixed, "seeds": self.args.seeds, "seed": self.args.search_seed}
        known = jobs.read_json(self._memory)
        if isinstance(known, dict) and known.get("about") == self._about:
            self._known = known["points"]
        # Whether more is better is known from the metric's name; without one it is an accuracy or an IoU.
        low = self.metric is not None and table.is_better_when_low(self.metric)
        # constant_liar: points that are being run count as bad, so that parallel jobs do not all try the same corner.
        seed = self.args.search_seed + len(self._known)  # else a restart would draw its first points again
        sampler = self.optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=5)
        self.study = self.optuna.create_study(direction="minimize" if low else "maximize", sampler=sampler)
        for params in self._known:
            self.study.enqueue_trial(params)
        sweep.refill = self._refill
        sweep.on_finished.append(self._learn)

    def _point(self, trial: Any) -> Config:
        drawn = {name: self._rounded(value) for name, value in trial.params.items()}
        return {**self.fixed, **drawn}

    @staticmethod
    def _rounded(value: Any) -> Any:
        """Four digits are enough for a hyperparameter and make names that can be read."""
        return float(f"{value:.4g}") if isinstance(value, float) else value

    def _refill(self) -> Iterable[Job]:
        """The jobs of the next point (one for each seed); nothing when all trials are drawn."""
        while self._asked < self.args.trials:
            self._asked += 1
            trial = self.study.ask(self.space)
            if self._asked > len(self._known):
                self._known.append(trial.params)
                jobs.write_json(self._memory, {"about": self._about, "points": self._known})
            points = grid.add_seeds([self._point(trial)], self.args.seeds)
            made = [Job.build(self.script.name, point, self.script.to_argv(point)) for point in points]
            new = [job for job in made if job.name not in self.sweep.jobs]
            if new:
                values: dict[str, float] = {}
                self._trials.update((job.name, (trial, values)) for job in new)
                self._sizes[trial.number] = len(new)
                listed = [*self.sweep.jobs.values(), *new]
                table.write_index(self.sweep.log_dir, self.script.name, self.args.metric, listed)
                return new
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)  # a small space: drawn before
        return []

    def _learn(self, job: Job, status: Status) -> None:
        """Tell Optuna the mean over the seeds of a point when all of them have ended."""
        if job.name not in self._trials:
            return
        trial, values = self._trials[job.name]
        values[job.name] = self._value(job) if status.state == "done" else math.nan
        if len(values) < self._sizes[trial.number]:
            return
        good = [value for value in values.values() if not math.isnan(value)]
        if good:
            self.study.tell(trial, sum(good) / len(good))
        else:
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)

    def _value(self, job: Job) -> float:
        row = table.read_row(self.sweep.log_dir, job.name, job.config)
        self.metric = self.metric or table.pick_metric([row])
        return table.number(row, table.find_metric(list(row.metrics), self.metric or ""))
