"""The answers of a sweep as a table: one row per job, mean and spread over seeds, which choices mattered.

How much of the differences a flag explains is the share of a one-way analysis of variance, corrected for what chance
alone would explain (epsilon squared: (SS_between - (k-1) MS_within) / SS_total for k values). In a full grid the shares
of different flags do not overlap; what they leave to 100% is interactions and chance. In a random search or a
conditional grid they may overlap, and the report says so.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import UserError
from toolkit.sweeps import jobs
from toolkit.sweeps.jobs import Status

INDEX = "sweep.json"  # script, metric, modules and all jobs of the last start, also those that no engine has begun
MOST_VALUES = 8  # a number with more different values than this is cut into quarters
# Words in the name of a metric of which less is better.
LOW = """loss error err mse rmse mae nll ece mce brier perplexity ppl hausdorff hd distance dist assd asd msd rvd wer
cer eer fid kl ce bce entropy divergence regret fpr fnr seconds time latency memory cost params parameters flops mape
smape msle rmsle lpips risk""".split()


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
        raise UserError(f"log_dir is {log_dir!r}, which is no folder")
    index = read_index(log_dir)
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
    if row.status.state == "running":
        newest = jobs.newest_claim(folder)
        quiet_s = jobs.silent_s(folder, newest)
        if not jobs.is_alive(folder, newest):
            row.status.state, row.status.cause = "stopped", jobs.LOST
            row.status.detail = "it and what watched over it were killed; the next start runs it again"
        elif quiet_s > jobs.SILENT_S:
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


def is_better_when_low(metric: str, direction: str = "auto") -> bool:
    """True for losses, errors, distances and times, by the words of the name; `direction` min or max overrides it."""
    if direction != "auto":
        return direction == "min"
    words = [word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", metric.lower())]
    return any(word in LOW or "loss" in word or "error" in word for word in words)


def number(row: Row, metric: str | None) -> float:
    """The metric of a row; NaN if it has none or one that is not finite: an average with it would say nothing."""
    value = row.metrics.get(metric) if metric else None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan


def not_finite(rows: list[Row], metric: str | None) -> list[str]:
    """'NAME: inf' for each done job whose metric is no finite number."""
    done = [row for row in rows if metric and row.status.state == "done" and metric in row.metrics]
    return [f"{row.name}: {row.metrics[metric]}" for row in done if math.isnan(number(row, metric))]


def group_by_seed(rows: list[Row], metric: str | None, direction: str = "auto") -> list[Group]:
    """One group for each configuration without its seed, best mean first, groups without a result last."""
    by_flags: dict[str, list[Row]] = {}
    for row in rows:
        config = sorted((name, repr(value)) for name, value in row.config.items() if name != "seed")
        by_flags.setdefault(repr(config), []).append(row)
    groups = [group for several in by_flags.values() for group in _split_by_origin(several, metric)]
    sign = 1 if metric and is_better_when_low(metric, direction) else -1
    return sorted(groups, key=lambda group: sign * group.mean if group.values else math.inf)


def _split_by_origin(rows: list[Row], metric: str | None) -> list[Group]:
    """One group for each script, data set and code; a job without a result counts as missing where it would belong."""
    groups: dict[str, Group] = {}
    for row in sorted(rows, key=lambda row: row.status.state != "done"):
        origin = row.origin
        if row.status.state != "done":  # its data set is in no results, and its code may be unknown
            known = {n: v for n, v in origin.items() if v is not None}
            origin = next((g.origin for g in groups.values() if known.items() <= g.origin.items()), origin)
        config = {name: value for name, value in row.config.items() if name != "seed"}
        group = groups.setdefault(repr(origin), Group(config, origin))
        group.rows.append(row)
        seed, value = row.config.get("seed", "-"), number(row, metric)
        if math.isnan(value):
            group.missing.append(seed)
        else:
            group.seeds.append(seed)
            group.values.append(value)
    return list(groups.values())


def differing_origins(groups: list[Group]) -> list[str]:
    """Which of script, data set and code are not the same in all groups."""
    names = list(groups[0].origin) if groups else []
    return [n for n in names if len({repr(g.origin[n]) for g in groups if g.origin[n] is not None}) > 1]


def varying(rows: list[Row]) -> list[str]:
    """The flags that do not have one and the same value in all rows, in the order of the grid."""
    names = list(dict.fromkeys(name for row in rows for name in row.config))
    first = {name: rows[0].config.get(name) for name in names}

    def differs(name: str, value: Any) -> bool:
        return value != first[name] or type(value) is not type(first[name])

    return [name for name in names if any(differs(name, row.config.get(name)) for row in rows)]


def write_csv(path: str, rows: list[Row]) -> None:
    """One row per job: configuration, metrics, status, seconds. Written by rename."""
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


@dataclass
class Level:
    """One value (or range of values) of a hyperparameter and the metric of the jobs that have it."""

    label: str
    values: list[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


@dataclass
class Effect:
    """A hyperparameter: its levels and the share (0..1) of the variance that it explains (NaN: cannot be told)."""

    flag: str
    levels: list[Level]
    share: float

    @property
    def span(self) -> float:
        """Best mean minus worst mean."""
        means = [level.mean for level in self.levels]
        return max(means) - min(means)


def main_effects(rows: list[Row], metric: str | None) -> list[Effect]:
    """The effect of every flag that varies (but the seed), most important first, from the jobs that have the metric."""
    kept = [row for row in rows if not math.isnan(number(row, metric))]
    effects = []
    for flag in varying(kept):
        if flag == "seed":
            continue
        levels = split_levels([(row.config.get(flag), number(row, metric)) for row in kept])
        if len(levels) > 1:
            effects.append(Effect(flag, levels, explained_share([level.values for level in levels])))
    return sorted(effects, key=lambda effect: (math.isnan(effect.share), -effect.share, -effect.span))


def split_levels(pairs: list[tuple[Any, float]]) -> list[Level]:
    """Group (value, metric) by value in ascending order; many different numbers are grouped by quarters."""
    values = [value for value, _ in pairs]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if numeric and len(set(values)) > MOST_VALUES:
        ordered = sorted(pairs, key=lambda pair: pair[0])
        cuts = [round(len(ordered) * quarter / 4) for quarter in range(5)]
        parts = [ordered[a:b] for a, b in itertools.pairwise(cuts)]
        return [Level(f"{part[0][0]:.3g} to {part[-1][0]:.3g}", [metric for _, metric in part]) for part in parts]
    groups: dict[str, list[float]] = {}
    for value, metric in sorted(pairs, key=lambda pair: pair[0]) if numeric else pairs:
        groups.setdefault(show(value), []).append(metric)
    return [Level(label, metrics) for label, metrics in groups.items()]


def explained_share(groups: Sequence[Sequence[float]]) -> float:
    """Epsilon squared of a one-way analysis of variance, at least 0; NaN if it cannot be told."""
    everything = [value for group in groups for value in group]
    if len(everything) <= len(groups):
        return math.nan
    total = sum_of_squares(everything)
    if total == 0:
        return math.nan
    within = sum(sum_of_squares(group) for group in groups)
    chance = (len(groups) - 1) * within / (len(everything) - len(groups))
    return max(0.0, (total - within - chance) / total)


def seed_share(groups: Iterable[Group]) -> float:
    """Share of the variance that lies between seeds of one configuration; NaN without repeated seeds."""
    kept = [group.values for group in groups if group.values]
    everything = [value for values in kept for value in values]
    if not any(len(values) > 1 for values in kept) or sum_of_squares(everything) == 0:
        return math.nan
    return sum(sum_of_squares(values) for values in kept) / sum_of_squares(everything)


def sum_of_squares(values: Sequence[float]) -> float:
    """Squared distances from the mean, summed."""
    mean = statistics.fmean(values)
    return sum((value - mean) ** 2 for value in values)


def show(value: Any) -> str:
    """A configuration's value as a person writes it; a flag that is left out is '-'."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
