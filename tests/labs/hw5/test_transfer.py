"""TODO 3.1 to 3.3: a backbone for one channel, its training in two phases, the table."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torchvision
from torch import nn

from labs.hw5_pneumonia import hw5_dl, hw5_evaluate
from tests import checks
from tests.labs.hw5 import helpers

pytestmark = pytest.mark.filterwarnings("default")


def with_bias() -> nn.Module:
    """A small network whose first convolution has a bias, a stride and no square kernel."""
    return nn.Sequential(
        nn.Conv2d(3, 4, (3, 5), stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@pytest.mark.hw5_3_1
@pytest.mark.parametrize(
    "make",
    [torchvision.models.resnet18, torchvision.models.mobilenet_v2, with_bias],
    ids=["resnet18", "mobile", "bias"],
)
def test_a_grey_image_gives_what_three_equal_channels_gave(make):
    torch.manual_seed(1)
    original = make().eval()
    adapted = hw5_dl.adapt_backbone(copy.deepcopy(original)).eval()
    old, new = (next(m for m in network.modules() if isinstance(m, nn.Conv2d)) for network in (original, adapted))
    assert new.in_channels == 1, f"the first convolution takes {new.in_channels} channels, expected 1"
    for name in ("out_channels", "kernel_size", "stride", "padding", "dilation"):
        was, now = getattr(old, name), getattr(new, name)
        assert was == now, f"{name} of the first convolution was {was} and is {now} now; take it over from the old one"
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    checks.check_shape(adapted(images), (2, 2), "the logits of 2 images")
    grey = images.expand(-1, 3, -1, -1)
    mistakes = {
        text: features_of(changed(original, change), grey)
        for text, change in FIRST_LAYER_MISTAKES.items()
        if old.bias is not None or "bias" not in text
    }
    what = "the features of a grey image"
    right = features_of(original, grey)
    helpers.check_values(features_of(adapted, images), right, what, mistakes, 1e-3 * right.abs().max().item())


FIRST_LAYER_MISTAKES = {
    "the weights of the three channels are averaged, their sum is asked for": lambda c: c.weight.div_(3),
    "only the first channel's weights are taken, the sum over all three is asked for": lambda c: c.weight[
        :, 1:
    ].zero_(),
    "only the last channel's weights are taken, the sum over all three is asked for": lambda c: c.weight[:, :2].zero_(),
    "the bias of the old convolution is not taken over": lambda c: c.bias.zero_(),
}


@torch.no_grad()
def changed(network, change):
    """A copy of the network with its first convolution changed."""
    network = copy.deepcopy(network)
    change(next(module for module in network.modules() if isinstance(module, nn.Conv2d)))
    return network


@torch.no_grad()
def features_of(network, images) -> torch.Tensor:
    """What the last linear layer receives."""
    features = []
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    hook = head.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
    network(images)
    hook.remove()
    return features[0]


@pytest.mark.hw5_3_1
def test_the_head_is_new_and_the_change_is_in_place():
    network = with_bias()
    adapted = hw5_dl.adapt_backbone(network, num_classes=5)
    assert adapted is network, (
        f"expected the backbone itself, changed in place, got {'None' if adapted is None else 'another object'}"
    )
    assert adapted[-1].out_features == 5, f"the head gives {adapted[-1].out_features} logits, expected num_classes=5"
    assert adapted[0].in_channels == 1, f"the first convolution takes {adapted[0].in_channels} channels, expected 1"
    frozen = [name for name, weight in adapted.named_parameters() if not weight.requires_grad]
    assert not frozen, f"requires_grad is off for {', '.join(frozen)}; fine_tune freezes, adapt_backbone does not"


@pytest.mark.hw5_3_2
def test_first_the_head_then_everything(monkeypatch):
    calls, patiences = [], []

    def spy(model, train_loader, val_loader, epochs=30, learning_rate=1e-3, patience=8):
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        calls.append((trained, epochs, learning_rate))
        patiences.append(patience)
        return {name: [float(len(calls))] * epochs for name in hw5_dl.HISTORY}

    monkeypatch.setattr(hw5_dl, "train", spy)
    model = helpers.noisy_model()
    history = hw5_dl.fine_tune(model, [], [], head_epochs=2, epochs=3, learning_rate=0.01, patience=4)
    everything = {name for name, _ in model.named_parameters()}
    assert len(calls) == 2, f"train was called {len(calls)} times; two phases are asked for"
    (first, *first_numbers), (second, *second_numbers) = calls
    assert first == {"5.weight", "5.bias"}, (
        f"in the first phase only the head, 5.weight and 5.bias, is trained; requires_grad was on for {listed(first)}"
    )
    assert second == everything, (
        "in the second phase everything is trained, but requires_grad was still off for "
        f"{listed(everything - second)}; switch it on for all parameters before the second call of train"
    )
    for phase, got, wanted in (("first", first_numbers, (2, 0.01)), ("second", second_numbers, (3, 0.001))):
        assert got == [wanted[0], pytest.approx(wanted[1])], (
            f"the {phase} phase got epochs={got[0]} and learning_rate={got[1]:g}, expected {wanted[0]} and "
            f"{wanted[1]:g} (head_epochs at the whole rate, then epochs at a tenth of it)"
        )
    assert patiences == [4, 4], f"fine_tune got patience=4, and train got {patiences}; hand it on in both phases"
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert not frozen, f"requires_grad is off afterwards for {listed(frozen)}"
    mistakes = {
        "this is the second phase alone, put the first one in front": [2.0] * 3,
        "this is the first phase alone, add the second one": [1.0] * 2,
        "the second phase comes first": [2.0] * 3 + [1.0] * 2,
    }
    helpers.check_keys(history, hw5_dl.HISTORY, "the history of both phases")
    for name in hw5_dl.HISTORY:
        what = f"{name} of both phases (the first gave [1, 1], the second [2, 2, 2])"
        helpers.check_values(history[name], [1.0] * 2 + [2.0] * 3, what, mistakes)


def listed(names: set[str]) -> str:
    """The names of some parameters."""
    return ", ".join(sorted(names)) or "none"


@pytest.mark.hw5_3_3
def test_the_table():
    names = ("accuracy", "auc", "precision", "recall", "f1")
    measured = {name: (0.9 + i / 1000, 0.01) for i, name in enumerate(names)}
    single = dict.fromkeys(names, (0.8125, None))
    text = hw5_evaluate.comparison_table({"CNN": measured, "ResNet": single, "pretrained": "not run: no weights"})
    assert isinstance(text, str), f"expected the table as text, got a {type(text).__name__}; is the `return` missing?"
    rows = [cells_of(line) for line in text.strip().splitlines()]
    sizes = [len(row) for row in rows]
    assert sizes == [6] * 5, (
        f"expected head, rule and three rows, each with a cell for the model and five for metrics, got {sizes}"
    )
    named = all(name in cell.lower() for name, cell in zip(names, rows[0][1:], strict=True))
    assert named, f"expected the columns {', '.join(names)} after that of the model, got {rows[0][1:]}"
    models = [row[0] for row in rows[2:]]
    assert models == ["CNN", "ResNet", "pretrained"], (
        f"expected a rule of dashes and then the rows CNN, ResNet, pretrained, got {models}"
    )
    for name, cell, head in zip(names, rows[2][1:], rows[0][1:], strict=True):
        scale = 100 if "%" in cell + head else 1
        found = [number / scale for number in numbers_in(cell)]
        mean = measured[name][0]
        assert found[:1] == [pytest.approx(mean, abs=6e-4)], f"{name} of CNN has the mean {mean:.3f}, got {cell!r}"
        assert found[1:] == [pytest.approx(0.01, abs=6e-4)], (
            f"expected mean and standard deviation of {name}, {mean:.3f} ± 0.010, got {cell!r}"
        )
    single_cell = [number / (100 if "%" in rows[3][1] + rows[0][1] else 1) for number in numbers_in(rows[3][1])]
    assert single_cell == [pytest.approx(0.8125, abs=6e-4)], (
        f"with one seed the standard deviation is None, expected the mean 0.812 alone, got {rows[3][1]!r}"
    )
    assert "not run: no weights" in rows[4], f"expected the text 'not run: no weights' in a cell, got {rows[4]}"
    digits = any(character.isdigit() for cell in rows[4] for character in cell)
    assert not digits, f"a model that was not run shows its text and no numbers, got {rows[4]}"


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table, with or without bars at its ends."""
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def numbers_in(cell: str) -> list[float]:
    """The numbers of a cell: of "0.851±0.012", "85.1 (1.2)" or "**0.851** +/- 0.012" both."""
    return [float(number) for number in re.findall(r"\d*\.?\d+", cell)]


@helpers.answers("3.1", "3.2", "3.3")
def test_answer(number):
    helpers.check_answer(hw5_evaluate if number == "3.3" else hw5_dl, number)
