"""Which choices mattered: how much of the differences between runs each setting explains.

How much a setting explains is its share of an analysis of variance, corrected for what chance alone would explain
(epsilon squared: (SS_between - (k-1) MS_error) / SS_total for k values). In a full grid with several seeds chance is
what the seeds of one configuration differ by; the shares of different settings do not overlap, and what they leave to
100% is interactions and chance. Elsewhere (one seed, a random search, a conditional grid) chance is all that the
setting itself does not explain, other settings included, and shares may overlap.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DIVERGED = 1e100  # a metric of that size is as good as infinite, and its square would overflow
MOST_VALUES = 8  # a number with more different values than this is cut into quarters


@dataclass
class Effect:
    """A setting: the results at each of its values, and the share (0..1) of the variance that it explains."""

    setting: str
    levels: dict[str, list[float]]
    share: float  # NaN: cannot be told

    @property
    def means(self) -> dict[str, float]:
        return {label: statistics.fmean(values) for label, values in self.levels.items()}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def finite(value: Any) -> float:
    """`value` as a float; NaN if it is not a finite number, with which no mean would say anything."""
    return float(value) if is_number(value) and abs(value) < DIVERGED else math.nan


def show(value: Any) -> str:
    """A setting's value as a person writes it; one that is left out is '-'."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def varying(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that do not have one and the same value in all of `configs`, in the order of their first mention."""
    names = list(dict.fromkeys(name for config in configs for name in config))
    first = {name: configs[0].get(name) for name in names}

    def differs(name: str, value: Any) -> bool:
        return value != first[name] or type(value) is not type(first[name])

    return [name for name in names if any(differs(name, config.get(name)) for config in configs)]


def main_effects(configs: Sequence[Mapping[str, Any]], results: Sequence[float]) -> list[Effect]:
    """The effect of every setting that varies (but the seed), most important first.

    Args:
        configs: the settings of each run.
        results: the metric of each run; runs where it is NaN are left out.
    """
    kept = [(config, result) for config, result in zip(configs, results, strict=True) if not math.isnan(result)]
    found, names = [], [name for name in varying([config for config, _ in kept]) if name != "seed"]
    error = _error_between_seeds(kept, names)
    for name in names:
        levels = _split_levels([(config.get(name), result) for config, result in kept])
        if len(levels) > 1:
            found.append(Effect(name, levels, _explained_share(list(levels.values()), error)))
    return sorted(found, key=lambda one: (math.isnan(one.share), -one.share, -_span(one)))


def chance_share(groups: Iterable[Sequence[float]]) -> float:
    """Share of the variance that lies within the groups (the seeds of one configuration); NaN without repeats."""
    kept = [values for values in groups if values]
    total = _sum_of_squares([value for values in kept for value in values])
    if not any(len(values) > 1 for values in kept) or total == 0:
        return math.nan
    return sum(_sum_of_squares(values) for values in kept) / total


def _span(effect: Effect) -> float:
    return max(effect.means.values()) - min(effect.means.values())


def _split_levels(pairs: list[tuple[Any, float]]) -> dict[str, list[float]]:
    """Group (value, result) by value in ascending order; many different numbers are grouped by quarters."""
    numeric = all(is_number(value) for value, _ in pairs)
    pairs = sorted(pairs, key=lambda pair: pair[0]) if numeric else pairs
    if numeric and len({value for value, _ in pairs}) > MOST_VALUES:
        cuts = [round(len(pairs) * quarter / 4) for quarter in range(5)]
        parts = [pairs[a:b] for a, b in itertools.pairwise(cuts)]
        return {f"{part[0][0]:.3g} to {part[-1][0]:.3g}": [result for _, result in part] for part in parts}
    levels: dict[str, list[float]] = {}
    for value, result in pairs:
        levels.setdefault(show(value), []).append(result)
    return levels


def _error_between_seeds(kept: Sequence[tuple[Mapping[str, Any], float]], names: Sequence[str]) -> float | None:
    """Variance of the seeds of one configuration; None unless the runs are a full grid, each cell equally often."""
    cells: dict[tuple[str, ...], list[float]] = {}
    for config, result in kept:
        cells.setdefault(tuple(repr(config.get(name)) for name in names), []).append(result)
    whole = math.prod(len(values) for values in map(set, zip(*cells, strict=True)))
    sizes = {len(values) for values in cells.values()}
    if len(cells) != whole or len(sizes) != 1 or sizes == {1}:
        return None
    return sum(_sum_of_squares(values) for values in cells.values()) / (len(kept) - len(cells))


def _explained_share(groups: Sequence[Sequence[float]], error: float | None) -> float:
    """Epsilon squared, at least 0; NaN if it cannot be told. error: variance by chance; None: within the groups."""
    everything = [value for group in groups for value in group]
    total = _sum_of_squares(everything)
    if len(everything) <= len(groups) or total == 0:
        return math.nan
    within = sum(_sum_of_squares(group) for group in groups)
    error = within / (len(everything) - len(groups)) if error is None else error
    return max(0.0, (total - within - (len(groups) - 1) * error) / total)


def _sum_of_squares(values: Sequence[float]) -> float:
    """Squared distances from the mean, summed."""
    mean = statistics.fmean(values) if values else 0.0
    return sum((value - mean) ** 2 for value in values)
