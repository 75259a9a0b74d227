"""attention.py: randomisation, deletion and pointing game against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from labs.medmnist_experiments import attention
from labs.medmnist_experiments.attention import FRACTIONS, Explained

pytest.importorskip("captum", reason="captum is not installed (requirements-dev.txt)")


class Sum(nn.Module):
    """Logit of class 1: a weighted sum over the places; of class 0: nothing."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        z = (samples * self.weights).flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(z), z], dim=1)


def test_deletion_in_closed_form():
    """Of 100 places of weight 1 and value 1/10 the first k in the order are blanked: logit (100 - k) / 10."""
    samples = torch.full((3, 1, 10, 10), 0.1)
    explained = Explained(Sum(torch.ones(10, 10)), "", samples, torch.ones(3, dtype=torch.int64), True)
    order = torch.stack([torch.randperm(100) for _ in range(3)])
    curves = attention.deletion(explained, order, blank=0.0)
    expected = 1 / (1 + np.exp(-(100 - np.array([round(share * 100) for share in FRACTIONS])) / 10))
    np.testing.assert_allclose(curves, np.tile(expected, (3, 1)), rtol=1e-6)


@pytest.mark.parametrize("by_class", [True, False])
def test_the_right_order_has_the_smaller_area(by_class):
    weights = torch.zeros(8, 8)
    weights[2:4, 2:4] = 2.0  # only these places matter
    explained = Explained(Sum(weights), "", torch.ones(2, 1, 8, 8), torch.ones(2, dtype=torch.int64), by_class)
    generator = torch.Generator().manual_seed(0)
    maps = {"right": weights, "none": torch.zeros(8, 8), "wrong": -weights}
    areas = {}
    for name, values in maps.items():
        order = attention.order_of(values.expand(2, 8, 8), generator)
        areas[name] = attention.area(attention.deletion(explained, order, blank=0.0)).mean()
    assert areas["right"] < areas["none"] - 0.05 < areas["wrong"] - 0.1


def test_area_is_that_of_the_trapezoids():
    curves = np.random.default_rng(0).random((4, len(FRACTIONS)))
    np.testing.assert_allclose(attention.area(curves), [np.trapezoid(curve, FRACTIONS) for curve in curves])
    np.testing.assert_allclose(attention.area(np.ones((1, len(FRACTIONS)))), [1.0])


def test_order_is_by_height_and_random_among_equals():
    maps = torch.tensor([[[0.1, 0.9], [0.5, 0.0]]])
    assert attention.order_of(maps, torch.Generator().manual_seed(0)).tolist() == [[1, 2, 0, 3]]
    orders = attention.order_of(torch.zeros(200, 2, 2), torch.Generator().manual_seed(0))
    assert torch.bincount(orders[:, 0], minlength=4).min() > 25


def test_similarity_is_spearmans():
    first, second = torch.rand(5, 6, 7), torch.rand(5, 6, 7)
    second[4] = 1.0  # constant: there is no rank
    found = attention.similarity(first, second)
    each = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first[:4], second[:4], strict=True)]
    np.testing.assert_allclose(found[:4], each, atol=1e-12)
    assert np.isnan(found[4])
    assert attention.mean_of(found) == pytest.approx(np.mean(each))
    assert attention.mean_of(np.array([np.nan])) is None


@pytest.mark.parametrize("shape", [(9, 9), (9, 9, 9)])
def test_pointing_game_and_its_chance(shape):
    truth = torch.zeros(2, *shape, dtype=torch.bool)
    middle = (4,) * len(shape)
    truth[(slice(None), *middle)] = True
    maps = torch.zeros(2, *shape)
    maps[(0, *middle[:-1], 6)] = 1.0  # two places away from it
    maps[(1, *middle[:-1], 7)] = 1.0  # three
    hits, chance = attention.pointing_game(maps, truth, tolerance=2)
    assert hits.tolist() == [1, 0]
    np.testing.assert_allclose(chance, (5 / 9) ** len(shape))


def network() -> nn.Sequential:
    """Two convolutions with BatchNorm, the mean over places, a head."""
    first, second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
    body = [first, nn.BatchNorm2d(6), nn.ReLU(), second, nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))


def test_randomisation_goes_from_the_output_to_the_input():
    net = network()
    names = [name for name, _modules in attention.stages_from_output(net)]
    assert names == ["8", "3", "0"]
    assert [len(modules) for _name, modules in attention.stages_from_output(net)] == [1, 2, 2]
    explained = Explained(net, "5", torch.randn(12, 1, 10, 10), torch.arange(12) % 2, True)
    before, state = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    found = attention.randomisation(explained)
    assert list(found) == ["as trained", "8", "3", "0"]
    np.testing.assert_allclose(found["as trained"][~np.isnan(found["as trained"])], 1)
    assert attention.mean_of(found["0"]) < 0.9
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_maps_that_ignore_the_network_are_found_out():
    """A map of edges alone keeps its correlation of 1 when the weights become random: that is what the test is for."""

    class Edges(Explained):
        def maps(self, network=None):
            return self.samples[:, 0].diff(dim=1, prepend=self.samples[:, 0, :1]).abs()

    net = network()
    explained = Edges(net, "5", torch.randn(6, 1, 10, 10), torch.zeros(6, dtype=torch.int64), True)
    steps = attention.randomisation(explained)
    assert all(attention.mean_of(values) == pytest.approx(1) for values in steps.values())
