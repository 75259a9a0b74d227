"""toolkit.inspect: the table up to the layer that fails, and what training on one batch says."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import classification_models
import segmentation_models
from toolkit import inspect
from toolkit.errors import UserError


class Reshaped(nn.Module):
    """Fails between two layers, in forward itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4 * 26 * 26, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).view(len(x), 5, -1))


def layers(*rest: nn.Module, width: int = 9) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, width), *rest)


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class OnlyInTraining(nn.Module):
    """As a BatchNorm whose running statistics are of something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training else -x


@pytest.fixture
def inspected(monkeypatch, capsys):
    """Run the script on a model; what it printed. The batch is random: nothing is read."""

    def run(model: nn.Module, *arguments: str, task: str = "classification") -> str:
        monkeypatch.setattr(classification_models, "get_model", lambda name: model)
        monkeypatch.setattr(segmentation_models, "get_segmentation_model", lambda name: model)
        masks = (torch.rand(8, 1, 28, 28) > 0.5).float()
        batch = (torch.rand(8, 3, 28, 28) - 0.5, torch.arange(8) if task == "classification" else masks, 9)
        monkeypatch.setattr(inspect, "load_batch", lambda task, count: batch)
        monkeypatch.setattr("sys.argv", ["inspect", "cnn", "--task", task, *arguments])
        inspect.main()
        return capsys.readouterr().out

    return run


def test_each_layer_has_its_shape_and_parameters(inspected):
    printed = inspected(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 9)))
    rows = [re.split(r"\s{2,}", line) for line in printed.splitlines()[2:5]]
    assert rows == [
        ["0", "Conv2d", "(8, 4, 26, 26)", "112"],
        ["1", "Flatten", "(8, 2704)", "-"],
        ["2", "Linear", "(8, 9)", "24,345"],
    ]


def test_the_table_ends_at_the_layer_that_fails_and_names_it(inspected, capsys):
    with pytest.raises(UserError, match=r"FAILS in 1 \(Conv2d\), which got \(8, 4, 26, 26\) -> .*channels"):
        inspected(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 6, 3), nn.Flatten()))
    assert capsys.readouterr().out.splitlines()[-1].startswith("0  ")


def test_a_failure_between_two_layers_names_the_one_before(inspected):
    with pytest.raises(UserError, match=r"FAILS after first \(Conv2d\), which got \(8, 3, 28, 28\).*invalid for input"):
        inspected(Reshaped())


@pytest.mark.parametrize(
    ("model", "task", "words"),
    [
        (layers(nn.Softmax(dim=1)), "classification", "return logits"),
        (layers(width=10), "classification", r"returned \(8, 10\); expected \(8, 9\)"),
        (nn.Sequential(nn.Conv2d(3, 1, 1), Scaled(100.0)), "segmentation", "it must be probabilities"),
        (nn.Conv2d(3, 2, 1), "segmentation", r"expected \(8, 1, 28, 28\)"),
    ],
)
def test_a_result_that_the_loss_cannot_use_is_named(inspected, model, task, words):
    with pytest.raises(UserError, match=words):
        inspected(model, task=task)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (layers(), "learned by heart: the model can learn"),
        (layers(Scaled(0.0)), "the model has learned nothing (guessing costs 2.20)"),
        (layers(Scaled(float("nan"))), "the loss is not finite"),
        (layers(Scaled(0.05)), "the loss falls and is not near 0 yet"),
        (layers(OnlyInTraining()), "in evaluation mode the loss is"),
    ],
)
def test_training_on_one_batch_says_what_it_means(inspected, model, words):
    assert words in inspected(model, "--overfit", "--steps", "100").splitlines()[-1]


def test_histograms_for_tensorboard_hold_gradients_and_activations(inspected, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    inspected(layers(), "--overfit", "--steps", "2", "--tensorboard", str(tmp_path))
    found = events.EventAccumulator(str(tmp_path))
    found.Reload()
    assert {"gradient/1.weight", "activation/1"} <= set(found.Tags()["histograms"])
