"""How much of the differences between runs each setting explains."""

from __future__ import annotations

import itertools

import pytest

from toolkit.effects import main_effects

pytestmark = pytest.mark.provided
GRID = [{"a": a, "b": b, "seed": seed} for a, b, seed in itertools.product((0, 1), (0, 1, 2), (0, 1))]
# Sums of squares by hand: a 12 * 5^2 = 300, b 4 * (1 + 0 + 1) = 8, seeds 12 * 0.1^2 = 0.12 (6 degrees of freedom).
RESULTS = [10 * one["a"] + one["b"] + 0.2 * one["seed"] for one in GRID]


def test_in_a_grid_with_seeds_a_small_effect_beside_a_large_one_is_seen():
    shares = {effect.setting: effect.share for effect in main_effects(GRID, RESULTS)}
    assert shares == pytest.approx({"a": (300 - 0.02) / 308.12, "b": (8 - 2 * 0.02) / 308.12})


@pytest.mark.parametrize(
    "kept", [[one["seed"] == 0 for one in GRID], [True] * 11 + [False]], ids=["one seed", "a hole in the grid"]
)
def test_elsewhere_other_settings_count_as_chance(kept):
    configs, results = list(itertools.compress(GRID, kept)), list(itertools.compress(RESULTS, kept))
    shares = {effect.setting: effect.share for effect in main_effects(configs, results)}
    assert shares["a"] > 0.9
    assert shares["b"] == 0


def test_a_difference_that_the_seeds_make_too_is_none():
    noisy = [{"b": b, "seed": seed} for b, seed in itertools.product((0, 1), (0, 1))]
    assert main_effects(noisy, [0.0, 1.0, 0.1, 1.1])[0].share == 0
