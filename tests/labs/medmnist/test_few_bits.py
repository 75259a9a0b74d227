"""Weights of few bits: what rounding gives, that training passes it, and how far weights are said to have moved."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from labs.medmnist_experiments import few_bits
from tests.labs.medmnist.small_sets import small_set, words

pytestmark = pytest.mark.provided


def test_weights_are_whole_steps_and_the_gradient_passes() -> None:
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[0.9, -0.3, 0.1], [0.44, -0.46, 0.0]])
    few_bits.rounded(layer, bits=3)  # steps of 0.3: -3 .. 3
    expected = torch.tensor([[0.9, -0.3, 0.0], [0.3, -0.6, 0.0]])
    assert torch.allclose(layer.weight, expected, atol=1e-6)
    inputs = torch.tensor([[1.0, 2.0, 4.0]])
    layer(inputs).sum().backward()
    assert torch.equal(layer.parametrizations.weight.original.grad, inputs.expand(2, 3))


def test_how_far_weights_moved() -> None:
    before = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    before[0].weight.data = torch.tensor([[3.0, 1.0], [0.0, -2.0]])  # 3 bits: steps of 1
    before[2].weight.data = torch.tensor([[6.0, 2.0]])  # steps of 2
    after = few_bits.rounded(copy.deepcopy(before), bits=3)
    with torch.no_grad():
        after[0].parametrizations.weight.original += torch.tensor([[0.0, 0.75], [0.25, 0.0]])
        after[2].parametrizations.weight.original -= torch.tensor([[0.0, 3.0]])  # 1.5 steps
    found = few_bits.steps_moved(before, after)
    assert found["mean"] == pytest.approx((0.75 + 0.25 + 1.5) / 6)
    assert found["largest"] == pytest.approx(1.5)
    assert found["changed"] == pytest.approx(2 / 6)  # 1 → 1.75 rounds to 2, 2 → -1 to another; 0.25 stays 0


@pytest.mark.parametrize("flag", ["retinamnist", "nodulemnist3d"])
def test_the_script_runs_and_says_what_moved(flag: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MEDMNIST_VERIFY", "0")
    small_set(flag, tmp_path)
    few_bits.main(words(flag, tmp_path, "--quick", "--width", 2))
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [row["title"] for row in results["rows"]] == [
        "float32",
        "float32, as many more epochs",
        "3 bits, rounded afterwards",
        "3 bits, trained while rounded",
    ]
    assert results["steps_moved"][0]["mean"] > 0
    assert "steps on average" in capsys.readouterr().out
