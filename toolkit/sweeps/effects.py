"""Which choices mattered: the main effect of each hyperparameter and its share of the differences between the jobs.

The share is that of a one-way analysis of variance, corrected for what chance alone would explain (epsilon squared:
(SS_between - (k-1) MS_within) / SS_total for k values). In a full grid the shares of different hyperparameters do
not overlap; what they leave to 100% is interactions and chance. In a random search or a conditional grid they may
overlap, and the report says so.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.sweeps.table import Group, Row, number, varying

MOST_VALUES = 8  # a number with more different values than this is cut into quarters


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
