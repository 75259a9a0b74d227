"""From a JSON file to a list of configurations: products of lists, lists of grids, seeds, ranges for a search."""

from __future__ import annotations

import glob
import itertools
import math
import os
from typing import Any

from toolkit import json_file
from toolkit.errors import UserError

Config = dict[str, Any]
RANGE_KEYS = {"low", "high", "log", "step"}


def load_config(path: str) -> Config | list[Config]:
    """Read a grid file: one JSON object or a list of objects. Keys that begin with '_' are notes and are dropped.

    Raises UserError for a missing file, JSON that does not parse (with line and column), NaN and Infinity, a key that
    is given twice, and a top level that is neither an object nor a list of objects.
    """
    if not os.path.exists(path):
        ready = ", ".join(sorted(glob.glob("configs/grid_*.json")))
        raise UserError(f"config_path is {path!r}, which does not exist; there is: {ready or 'no grid'}")
    hooks = {"object_pairs_hook": _refuse_twice, "parse_constant": _refuse_constant, "parse_float": _finite}
    config = json_file.read_json(path, **hooks)
    grids = config if isinstance(config, list) else [config]
    if not all(isinstance(grid, dict) for grid in grids):
        raise UserError(f"{path} must hold one JSON object or a list of objects, like {{'learning_rate': [0.1, 0.01]}}")
    return config


def get_experiment_list(config: Config | list[Config]) -> list[Config]:
    """Every combination of the values in `config`, as a list of dicts in the order of its keys.

    A value that is no list is a list of one. A list of such objects is a conditional grid: the combinations of its
    first object, then of the second, and so on. Raises UserError for an empty grid, an empty list and a range.
    """
    points: list[Config] = []
    for grid in split_grids(config):
        for name, value in grid.items():
            if is_range(value):
                raise UserError(f"{name} is the range {value}; a grid needs a list of values (or --search random|tpe)")
        names = list(grid)
        choices = [as_choices(name, value) for name, value in grid.items()]
        points += [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]
    return points


def count_experiments(config: Config | list[Config]) -> int:
    """How many points `get_experiment_list` would return, without building them."""
    return sum(math.prod(len(as_choices(k, v)) for k, v in grid.items()) for grid in split_grids(config))


def split_grids(config: Config | list[Config]) -> list[Config]:
    """The objects of a conditional grid without their notes; a single object is a list of one."""
    several = config if isinstance(config, list) else [config]
    grids = [{name: value for name, value in grid.items() if not name.startswith("_")} for grid in several]
    if not any(grids):
        raise UserError("the grid is empty; it needs at least one flag, like {'learning_rate': [0.1, 0.01]}")
    return grids


def is_range(value: Any) -> bool:
    """True for {"low": ..., "high": ...}; another object is one value, for a flag that takes JSON."""
    return isinstance(value, dict) and bool(RANGE_KEYS & set(value))


def as_choices(name: str, value: Any) -> list[Any]:
    """The values that `name` takes; UserError if there is none."""
    if not isinstance(value, list):
        return [value]
    if not value:
        raise UserError(f"{name} is an empty list; give at least one value, or null to leave the flag out")
    return value


def add_seeds(points: list[Config], number_of_seeds: int) -> list[Config]:
    """Repeat each point with seed 0 .. number_of_seeds - 1; 0 leaves the points as they are."""
    if number_of_seeds == 0:
        return points
    if any("seed" in point for point in points):
        raise UserError(f"seeds is {number_of_seeds}, but the grid has its own 'seed'; use one of the two")
    return [{**point, "seed": seed} for point in points for seed in range(number_of_seeds)]


def _refuse_twice(pairs: list[tuple[str, Any]]) -> Config:
    """json keeps the last of two equal keys silently; half of the grid would be lost."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{', '.join(twice)} is given twice in one object; put all its values in one list")
    return dict(pairs)


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _refuse_constant(text)


def _refuse_constant(text: str) -> float:
    raise UserError(f"{text} is no JSON number; allowed: finite numbers, strings, true, false, null, lists")
