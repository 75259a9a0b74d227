"""The answers of a sweep as a table: one row a job, mean and spread over seeds, the best configurations."""

from __future__ import annotations

import csv
import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import UserError
from toolkit.sweeps import causes, claims, jobs
from toolkit.sweeps.jobs import Status

INDEX = "sweep.json"  # script, metric and all jobs of the last start, also those that no engine has begun


@dataclass
class Row:
    """One job as the report sees it."""

    name: str
    config: dict[str, Any]
    status: Status
    metrics: dict[str, Any] = field(default_factory=dict)  # the scalars of results.json


@dataclass
class Group:
    """The jobs that differ in nothing but the seed."""

    config: dict[str, Any]
    values: list[float] = field(default_factory=list)  # the metric of its done jobs
    seeds: list[Any] = field(default_factory=list)
    missing: list[Any] = field(default_factory=list)  # seeds without a result

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Sample standard deviation; NaN for fewer than two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    def describe(self) -> str:
        """'0.912 ± 0.004 (n=3)', with the missing seeds."""
        if not self.values:
            return "no result"
        spread = "" if math.isnan(self.sd) else f" ± {self.sd:.4g}"
        missing = f", missing: seed {', '.join(map(str, self.missing))}" if self.missing else ""
        return f"{self.mean:.4g}{spread} (n={len(self.values)}{missing})"


def write_index(log_dir: str, script: str, metric: str, listed: list[jobs.Job]) -> None:
    """Remember what belongs to the sweep."""
    content = {"script": script, "metric": metric, "jobs": {job.name: job.config for job in listed}}
    jobs.write_json(os.path.join(log_dir, INDEX), content, indent=None)


def read_rows(log_dir: str, known: Mapping[str, Row] | None = None) -> list[Row]:
    """Every job of the folder, those of the last start first; UserError if there is none.

    `known` are rows of done jobs that were read before; they do not change any more.
    """
    known = known or {}
    if not os.path.isdir(log_dir):
        raise UserError(f"log_dir is {log_dir!r}, which is no folder")
    index = jobs.read_json(os.path.join(log_dir, INDEX)) or {}
    listed: dict[str, dict[str, Any]] = dict(index.get("jobs", {}))
    for entry in sorted(os.scandir(log_dir), key=lambda entry: entry.name):
        if entry.name not in listed and entry.is_dir():
            content = jobs.read_json(os.path.join(entry.path, "config.json"))
            if isinstance(content, dict) and "argv" in content:
                listed[entry.name] = content["config"]
    if not listed:
        raise UserError(f"{log_dir} holds no jobs; the dispatcher's --log_dir does")
    return [known.get(name) or read_row(log_dir, name, config) for name, config in listed.items()]


def read_row(log_dir: str, name: str, config: dict[str, Any], status: Status | None = None) -> Row:
    """The row of one job; `status` if it is known already."""
    folder = os.path.join(log_dir, name)
    row = Row(name, config, status or jobs.read_status(folder))
    if row.status.state == "running" and not claims.is_alive(folder, claims.newest_claim(folder)):
        row.status.state, row.status.cause = "stopped", causes.LOST
        row.status.detail = "it and what watched over it were killed; the next start runs it again"
    if row.status.state == "done":
        row.metrics = scalars(jobs.read_results(folder)[0] or {}, config)
    return row


def scalars(results: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The entries of results.json that fit in a cell and are not flags of the configuration."""
    return {
        name: value
        for name, value in results.items()
        if name not in config and isinstance(value, (int, float, str, bool)) and len(str(value)) < 200
    }


def pick_metric(rows: list[Row], wanted: str = "auto") -> str | None:
    """The name under which the results hold the metric: `wanted`, best_`wanted`, or the first best_val_*.

    None if no job is done yet. UserError if none of the results has it.
    """
    done = [row.metrics for row in rows if row.status.state == "done"]
    if not done:
        return None
    several = ((name, value) for metrics in done for name, value in metrics.items())
    names = [name for name, value in several if isinstance(value, (int, float)) and not isinstance(value, bool)]
    names = list(dict.fromkeys(names))
    if wanted != "auto":
        found = find_metric(names, wanted)
        if found is None:
            raise UserError(f"metric is {wanted!r}; the results have: {', '.join(names) or 'no numbers'}")
        return found
    for start in ("best_val_", "val_", "best_"):
        found = next((name for name in names if name.startswith(start) and name != "best_epoch"), None)
        if found:
            return found
    return names[0] if names else None


def find_metric(names: list[str], wanted: str) -> str | None:
    """`wanted` or best_`wanted`, whichever is in `names`."""
    return next((name for name in (wanted, f"best_{wanted}") if name in names), None)


def is_better_when_low(metric: str) -> bool:
    """True for losses, errors and times."""
    return any(word in metric for word in ("loss", "error", "seconds", "mse", "mae"))


def number(row: Row, metric: str | None) -> float:
    """The metric of a row; NaN if it has none."""
    value = row.metrics.get(metric) if metric else None
    return float(value) if isinstance(value, (int, float)) else math.nan


def group_by_seed(rows: list[Row], metric: str | None) -> list[Group]:
    """One group for each configuration without its seed, best mean first, groups without a result last."""
    groups: dict[str, Group] = {}
    for row in rows:
        config = {name: value for name, value in row.config.items() if name != "seed"}
        group = groups.setdefault(repr(sorted(config.items(), key=lambda item: item[0])), Group(config))
        seed = row.config.get("seed", "-")
        value = number(row, metric)
        if math.isnan(value):
            group.missing.append(seed)
        else:
            group.seeds.append(seed)
            group.values.append(value)
    sign = 1 if metric and is_better_when_low(metric) else -1
    return sorted(groups.values(), key=lambda group: sign * group.mean if group.values else math.inf)


def varying(rows: list[Row]) -> list[str]:
    """The flags that do not have one and the same value in all rows, in the order of the grid."""
    names = list(dict.fromkeys(name for row in rows for name in row.config))
    return [name for name in names if len({repr(row.config.get(name)) for row in rows}) > 1]


def write_csv(path: str, rows: list[Row]) -> None:
    """One row a job: configuration, metrics, status, seconds. Written by rename."""
    flags = list(dict.fromkeys(name for row in rows for name in row.config))
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics if name not in flags))
    metrics = [name for name in metrics if name not in ("status", "seconds", "cause", "attempts", "job")]
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*flags, *metrics, "status", "seconds", "cause", "attempts", "job"])
            for row in rows:
                status = row.status
                cause = f"{status.cause}: {status.detail}" if status.cause else ""
                writer.writerow(
                    [row.config.get(name, "") for name in flags]
                    + [row.metrics.get(name, "") for name in metrics]
                    + [status.state, "" if status.seconds is None else status.seconds, cause, status.attempt, row.name]
                )
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write the table {path}: {error.strerror}") from None
