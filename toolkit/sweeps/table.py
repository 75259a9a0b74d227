"""The answers of a sweep as a table: one row per job, mean and spread over seeds."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit import effects
from toolkit.effects import is_number, show
from toolkit.errors import UserError
from toolkit.sweeps import jobs
from toolkit.sweeps.jobs import Status

INDEX = "sweep.json"  # script, metric, modules and all jobs of the last start, also those that no engine has begun
# Words in the name of a metric of which less is better, and parts of words.
LOW = """err mse rmse nrmse mae nll ece mce ppl hd dist assd asd msd rvd wer cer eer fid kid kl ce bce regret fpr fnr ms
time runtime duration memory cost params parameters flops mape smape msle rmsle lpips risk false miss missed emd
wasserstein chamfer deviance hinge bpb bpc bpd""".split()
LOW_PARTS = "loss error distance entropy perplex hausdorff brier divergence latency seconds".split()


@dataclass
class Row:
    """One job as the report sees it."""

    name: str
    config: dict[str, Any]
    status: Status
    metrics: dict[str, Any] = field(default_factory=dict)  # the scalars of results.json

    @property
    def origin(self) -> dict[str, Any]:
        """What must agree before two jobs are seeds of one thing, besides their flags."""
        return {"script": self.status.script, "dataset": self.metrics.get("dataset"), "code": self.status.code}


@dataclass
class Group:
    """The jobs that differ in nothing but the seed: flags, script, data set and code are the same."""

    config: dict[str, Any]
    origin: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    values: list[float] = field(default_factory=list)  # the metric of its done jobs
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


def write_index(log_dir: str, content: dict[str, Any], listed: Iterable[jobs.Job]) -> None:
    """Remember what belongs to the sweep: script, metric and direction, modules, and every job."""
    jobs.write_json(os.path.join(log_dir, INDEX), {**content, "jobs": {job.name: job.config for job in listed}})


def read_index(log_dir: str) -> dict[str, Any]:
    """What `write_index` wrote; empty if there is nothing."""
    index = jobs.read_json(os.path.join(log_dir, INDEX))
    return index if isinstance(index, dict) else {}


def read_rows(log_dir: str, known: Mapping[str, Row] | None = None) -> list[Row]:
    """Every job of the folder, those of the last start first; UserError if there is none.

    `known` are rows of done jobs that were read before; they do not change any more.
    """
    known = known or {}
    if not os.path.isdir(log_dir):
        raise UserError(f"log_dir is {log_dir!r}, which is not a folder")
    listed: dict[str, dict[str, Any]] = dict(read_index(log_dir).get("jobs", {}))
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
    if row.status.state == "running":
        newest = jobs.newest_claim(folder)
        if not jobs.is_alive(folder, newest):
            row.status.state, row.status.cause = "stopped", jobs.LOST
            row.status.detail = "it and what watched over it were killed; the next start runs it again"
        # By the clocks of two machines, so it is no more than a hint.
        elif (quiet_s := time.time() - os.path.getmtime(jobs.claim_path(folder, newest))) > jobs.SILENT_S:
            row.status.detail = f"last sign of life from {row.status.host} {quiet_s / 60:.0f} min ago"
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
    names = list(dict.fromkeys(name for metrics in done for name, value in metrics.items() if is_number(value)))
    if wanted != "auto" and done:
        found = next((name for name in (wanted, f"best_{wanted}") if name in names), None)
        if found is None:
            raise UserError(f"metric is {wanted!r}; the results have: {', '.join(names) or 'no numbers'}")
        return found
    order = ("best_val_", "val_", "best_", "")
    ranked = [name for start in order for name in names if name.startswith(start) and name != "best_epoch"]
    return next(iter(ranked or names), None)


def is_better_when_low(metric: str, direction: str = "auto") -> bool:
    """True for losses, errors, distances and times, by the words of the name; `direction` min or max overrides it."""
    if direction != "auto":
        return direction == "min"
    words = [word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", metric.lower())]
    is_low = any(word in LOW or any(part in word for part in LOW_PARTS) for word in words)
    # neg_mean_squared_error, as in scikit-learn; and a likelihood is better when high.
    return is_low != ("neg" in words or "negative_log" in metric.lower())


def number(row: Row, metric: str | None) -> float:
    """The metric of a row; NaN if it has none or one that is not finite."""
    return effects.finite(row.metrics.get(metric))


def not_finite(rows: list[Row], metric: str | None) -> list[str]:
    """'NAME: inf' for each done job whose metric is no finite number, or missing."""
    done = [row for row in rows if metric and row.status.state == "done"]
    return [f"{row.name}: {row.metrics.get(metric)}" for row in done if math.isnan(number(row, metric))]


def group_by_seed(rows: list[Row], metric: str | None, direction: str = "auto") -> list[Group]:
    """One group for each configuration without its seed, script, data set and code: best mean first, empty ones last.

    A job without a result counts as missing where it would belong: its data set is in no results.
    """
    groups: dict[str, dict[str, Group]] = {}  # configuration -> origin -> group
    for row in sorted(rows, key=lambda row: row.status.state != "done"):
        config, origin = {n: value for n, value in row.config.items() if n != "seed"}, row.origin
        alike = groups.setdefault(repr(sorted((n, repr(value)) for n, value in config.items())), {})
        if row.status.state != "done":
            known = {n: v for n, v in origin.items() if v is not None}
            origin = next((g.origin for g in alike.values() if known.items() <= g.origin.items()), origin)
        group = alike.setdefault(repr(origin), Group(config, origin))
        group.rows.append(row)
        value = number(row, metric)
        if math.isnan(value):
            group.missing.append(row.config.get("seed", "-"))
        else:
            group.values.append(value)
    sign = 1 if metric and is_better_when_low(metric, direction) else -1
    flat = [group for alike in groups.values() for group in alike.values()]
    return sorted(flat, key=lambda group: sign * group.mean if group.values else math.inf)


def differing_origins(groups: list[Group]) -> list[str]:
    """Which of script, data set and code are not the same in all groups."""
    names = list(groups[0].origin) if groups else []
    return [n for n in names if len({repr(g.origin[n]) for g in groups if g.origin[n] is not None}) > 1]


def label_groups(rows: list[Row], groups: list[Group]) -> list[str]:
    """'learning_rate=0.001, model_name=cnn' for each group; with script, data set and code where they differ."""
    origins, flags = differing_origins(groups), [flag for flag in varying(rows) if flag != "seed"]
    return [
        ", ".join([f"{n}={show(g.origin[n])}" for n in origins] + [f"{f}={show(g.config.get(f))}" for f in flags])
        for g in groups
    ]


def varying(rows: list[Row]) -> list[str]:
    """The flags that do not have one and the same value in all rows, in the order of the grid."""
    return effects.varying([row.config for row in rows])


def place_of_csv(path: str, log_dir: str, rows: list[Row]) -> str:
    """`path`; or a table inside log_dir where `path` holds jobs that ran in another folder, which would be replaced."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            there = {line.get("job") for line in csv.DictReader(file) if line.get("status") != "queued"} - {None}
    except (OSError, ValueError, csv.Error):
        return path
    return os.path.join(log_dir, "grid_results.csv") if there - {row.name for row in rows} else path


def write_csv(path: str, rows: list[Row]) -> None:
    """One row per job: configuration, metrics, status, seconds. Written by rename."""
    own = ("status", "seconds", "cause", "attempts", "job")
    flags = list(dict.fromkeys(name for row in rows for name in row.config))
    metrics = dict.fromkeys(name for row in rows for name in row.metrics if name not in (*flags, *own))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*flags, *metrics, *own])
    for row in rows:
        status = row.status
        cells = [row.config.get(name, "") for name in flags] + [row.metrics.get(name, "") for name in metrics]
        cause = f"{status.cause}: {status.detail}" if status.cause else ""
        writer.writerow([*cells, status.state, status.seconds, cause, status.attempt, row.name])
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        jobs.write_text(path, text.getvalue())
    except OSError as error:
        raise UserError(f"cannot write the table {path}: {error.strerror}") from None
