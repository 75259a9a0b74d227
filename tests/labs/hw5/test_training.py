"""TODO 2.1 to 2.3, 3.1 and 3.2: the CNN, its training, and transfer."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from labs.hw5_pneumonia import hw5_dl
from tests.labs.hw5 import helpers

pytestmark = pytest.mark.filterwarnings("default")


class Seen(torch.overrides.TorchFunctionMode):
    """Notes the names of torch's functions that run, whether modules or a forward call them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(getattr(function, "__name__", "").rstrip("_"))
        return function(*args, **(kwargs or {}))


@pytest.mark.hw5_2_1
def test_cnn_returns_logits():
    model = hw5_dl.PneumoniaCNN().eval()
    images = torch.rand(5, 1, 28, 28) * 2 - 1
    assert model(images).shape == (5, 2)
    assert model(images[:1]).shape == (1, 2)
    assert hw5_dl.PneumoniaCNN(num_classes=3).eval()(images).shape == (5, 3)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), atol=1e-5, rtol=1e-4)
    assert model(images).min() < 0 or (model(images).sum(dim=1) - 1).abs().max() > 1e-3, "logits, not probabilities"


@pytest.mark.hw5_2_1
def test_cnn_has_the_layers_that_are_asked_for():
    model = hw5_dl.PneumoniaCNN().eval()
    kinds = [type(module) for module in model.modules()]
    convolutions, dense = kinds.count(nn.Conv2d), kinds.count(nn.Linear)
    assert convolutions in (2, 3), f"{convolutions} convolutions; two or three are asked for"
    assert dense in (1, 2), f"{dense} dense layers; one or two are asked for"
    with Seen() as seen:
        model(torch.zeros(1, 1, 28, 28))
    pooled = seen.names.count("max_pool2d")
    assert pooled == convolutions, f"{pooled} max poolings after {convolutions} convolutions"
    assert seen.names.count("relu") >= convolutions, "a ReLU belongs behind each convolution"


@pytest.mark.hw5_2_1
def test_every_weight_of_the_cnn_learns():
    model = hw5_dl.PneumoniaCNN()
    (model(torch.rand(8, 1, 28, 28)) * torch.randn(8, 2)).sum().backward()
    dead = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not dead, f"no gradient reaches {', '.join(dead)}"


@pytest.mark.hw5_2_1
def test_cnn_can_tell_stripes_apart():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(32) % 2
    stripes = (torch.arange(28) // 2 % 2).float() * 2 - 1
    images = torch.where(labels.view(-1, 1, 1, 1) == 1, stripes.view(1, 1, 28, 1), stripes.view(1, 1, 1, 28))
    images = (images + 0.5 * torch.randn(32, 1, 28, 28, generator=generator)).clamp(-1, 1)
    model = hw5_dl.PneumoniaCNN()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    accuracy = (model.eval()(images).argmax(1) == labels).float().mean()
    assert accuracy > 0.9, f"after 25 steps {accuracy:.0%} of two kinds of stripes are told apart"


def by_hand(model, train, val, epochs, learning_rate):
    """The same training in plain PyTorch: history and the weights after each epoch."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(list(model.parameters()), learning_rate)
    history = {name: [] for name in ("train_loss", "train_acc", "val_loss", "val_acc")}
    states = []
    for _ in range(epochs):
        for part, batches in (("train", train), ("val", val)):
            model.train(part == "train")
            loss_sum = hits = seen = 0
            for images, labels in batches:
                logits = model(images)
                loss = criterion(logits, labels)
                if part == "train":
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                loss_sum += loss.item() * len(labels)
                hits += int((logits.argmax(1) == labels).sum())
                seen += len(labels)
            history[f"{part}_loss"].append(loss_sum / seen)
            history[f"{part}_acc"].append(hits / seen)
        states.append(copy.deepcopy(model.state_dict()))
    return history, states


def close(got, expected) -> None:
    """Two state dicts are the same."""
    assert set(got) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.hw5_2_2
def test_training_is_adam_on_cross_entropy():
    train, val = helpers.small_batches(), helpers.small_batches(20, seed=4)
    model = helpers.small_model()
    history = hw5_dl.train(model, train, val, epochs=3, learning_rate=0.02, patience=9)
    expected, states = by_hand(helpers.small_model(), train, val, 3, 0.02)
    assert set(history) == set(expected)
    for name in expected:
        got = [float(value) for value in history[name]]
        assert got == pytest.approx(expected[name], abs=1e-5), f"{name}, an average over all images seen"
    best = expected["val_loss"].index(min(expected["val_loss"]))
    close(model.state_dict(), states[best])


@pytest.mark.hw5_2_2
def test_training_stops_early_with_the_best_weights():
    train = helpers.small_batches()
    wrong = [(images, 1 - labels) for images, labels in helpers.small_batches(20, seed=4)]  # gets worse and worse
    model = helpers.small_model()
    history = hw5_dl.train(model, train, wrong, epochs=20, learning_rate=0.05, patience=3)
    expected, states = by_hand(helpers.small_model(), train, wrong, 20, 0.05)
    best = expected["val_loss"].index(min(expected["val_loss"]))
    assert len(history["val_loss"]) == best + 1 + 3, "training ends after `patience` epochs without a lower val_loss"
    close(model.state_dict(), states[best])


@pytest.mark.hw5_2_2
def test_what_is_returned_is_what_was_validated():
    train, val = helpers.small_batches(signal=0.5), helpers.small_batches(20, seed=4, signal=0.5)
    model = helpers.noisy_model()
    history = hw5_dl.train(model, train, val, 6, 0.02)
    model.eval()
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(model(images), labels).item() * len(labels) for images, labels in val]
    assert sum(losses) / 20 == pytest.approx(float(min(history["val_loss"])), abs=1e-5), (
        "dropout off, best epoch's weights"
    )


@pytest.mark.hw5_2_2
def test_frozen_weights_stay():
    model = helpers.noisy_model()
    model.requires_grad_(False)
    model[-1].requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    hw5_dl.train(model, helpers.small_batches(), helpers.small_batches(20, seed=4), 2, 0.05)
    after = model.state_dict()
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert not torch.equal(after["5.weight"], before["5.weight"])


@pytest.mark.hw5_2_3
def test_curves_and_verdict(tmp_path):
    history = {
        "train_loss": [0.7, 0.5, 0.4, 0.2],
        "train_acc": [0.6, 0.7, 0.8, 0.9],
        "val_loss": [0.6, 0.45, 0.55, 0.65],
        "val_acc": [0.6, 0.8, 0.8, 0.7],
    }
    verdict = hw5_dl.plot_training(history, "a title", tmp_path / "curves.png")
    assert verdict == pytest.approx({"best_epoch": 2, "loss_gap": 0.45, "loss_rise": 0.2})
    helpers.check_picture(tmp_path / "curves.png")


@pytest.mark.hw5_2_3
def test_answer_on_overfitting():
    helpers.check_answer(hw5_dl.plot_training, "2.3")


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
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    logits = adapted(images)
    assert logits.shape == (2, 2)
    features = []
    for network in (original, adapted):
        head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        head.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        original(images.expand(-1, 3, -1, -1))
        adapted(images)
    torch.testing.assert_close(features[1], features[0], atol=1e-4, rtol=1e-3)


@pytest.mark.hw5_3_1
def test_the_head_is_new_and_the_change_is_in_place():
    network = with_bias()
    adapted = hw5_dl.adapt_backbone(network, num_classes=5)
    assert adapted is network
    assert adapted[-1].out_features == 5
    assert adapted[0].in_channels == 1
    assert all(weight.requires_grad for weight in adapted.parameters())


@pytest.mark.hw5_3_2
def test_first_the_head_then_everything(monkeypatch):
    calls = []

    def spy(model, train_loader, val_loader, epochs=30, learning_rate=1e-3, *_rest, **_options):
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        calls.append((trained, epochs, learning_rate))
        return {name: [float(len(calls))] * epochs for name in hw5_dl.HISTORY}

    monkeypatch.setattr(hw5_dl, "train", spy)
    model = helpers.noisy_model()
    history = hw5_dl.fine_tune(model, [], [], head_epochs=2, epochs=3, learning_rate=0.01)
    everything = {name for name, _ in model.named_parameters()}
    assert len(calls) == 2, f"train was called {len(calls)} times; two phases are asked for"
    assert calls[0][0] == {"5.weight", "5.bias"}, "in the first phase only the head is trained"
    assert calls[0][1:3] == (2, pytest.approx(0.01))
    assert calls[1][0] == everything, "in the second phase everything is trained"
    assert calls[1][1:3] == (3, pytest.approx(0.001)), "at a tenth of the rate"
    assert all(weight.requires_grad for weight in model.parameters())
    assert history["val_loss"] == [1.0, 1.0, 2.0, 2.0, 2.0], "one history of both phases"
