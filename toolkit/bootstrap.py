"""Bootstrap intervals of metrics: how much a result depends on which images happened to be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def bootstrap_intervals(
    measure: Callable[[np.ndarray], Mapping[str, float | None]],
    units: np.ndarray,
    replicates: int,
    seed: int,
    strata: np.ndarray | None = None,
) -> dict[str, list[float]]:
    """95 % percentile intervals [low, high] of each metric, from samples drawn with replacement.

    measure: int rows (n,) → metrics of these images; None (undefined) is left out.
    units: (N,) what is drawn, patients for instance: images of one patient are not independent, and intervals that
        treat them as independent are too narrow.
    strata: (N,) classes that are each drawn separately, so that every sample has as many of each; None: all together.
    """
    generator = np.random.default_rng(seed)
    _, unit_of = np.unique(units, return_inverse=True)
    order = np.argsort(unit_of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(unit_of))[:-1])  # the rows of each unit
    parts = [members]
    if strata is not None:
        parts = [[rows for rows in members if strata[rows[0]] == value] for value in np.unique(strata)]
    drawn: dict[str, list[float]] = {}
    for _ in range(replicates):
        rows = np.concatenate([part[i] for part in parts for i in generator.integers(len(part), size=len(part))])
        for name, value in measure(rows).items():
            if value is not None:
                drawn.setdefault(name, []).append(value)
    return {name: [float(v) for v in np.percentile(values, (2.5, 97.5))] for name, values in drawn.items()}
