"""TODO 2.1 to 2.3: the CNN, its training, its curves."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from labs.hw5_pneumonia import hw5_dl
from tests import checks
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
    checks.check_shape(model(images), (5, 2), "the logits of 5 images")
    checks.check_shape(model(images[:1]), (1, 2), "the logits of one image")
    three = hw5_dl.PneumoniaCNN(num_classes=3).eval()
    checks.check_shape(three(images), (5, 3), "the logits of 5 images with num_classes=3")
    together, alone = model(images)[2:3], model(images[2:3])
    assert (together - alone).abs().max() < 1e-4, (
        "in evaluation mode an image gets other logits alone than in a batch of 5; does a reshape mix the images, or "
        "is dropout always on?"
    )
    assert model(images).min() < 0 or (model(images).sum(dim=1) - 1).abs().max() > 1e-3, (
        "expected logits, got probabilities that add up to 1; leave out the softmax, the loss has one"
    )


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
    assert pooled == convolutions, f"{pooled} max poolings for {convolutions} convolutions; one is asked for after each"
    behind = " ".join(seen.names).split("conv2d")[1:]  # what runs between a convolution and the next one
    bare = [number for number, names in enumerate(behind, 1) if "relu" not in names.partition("linear")[0].split()]
    assert not bare, f"no ReLU runs behind convolution {bare[0]} of {convolutions}; one is asked for after each"


@pytest.mark.hw5_2_1
def test_every_weight_of_the_cnn_learns():
    model = hw5_dl.PneumoniaCNN()
    (model(torch.rand(8, 1, 28, 28)) * torch.randn(8, 2)).sum().backward()
    dead = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not dead, f"no gradient reaches {', '.join(dead)}; does forward use them, and is nothing detached?"


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
    assert accuracy > 0.9, (
        f"after 25 steps the CNN tells {accuracy:.0%} of two kinds of stripes apart, expected over 90%; do the "
        "convolutions come first, each with a ReLU, and only then the dense layers?"
    )


@dataclass
class ByHand:
    """The same training in plain PyTorch.

    history: per image, as it is asked for. batchwise: the same averaged over the batches, which differ in size.
    states: the weights after each epoch.
    """

    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in hw5_dl.HISTORY})
    batchwise: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in hw5_dl.HISTORY})
    states: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def note(self, part: str, losses: list[float], hits: list[int], sizes: list[int]) -> None:
        """Add the epoch of a part: mean loss, hits and size of each batch."""
        for name, values in (("loss", losses), ("acc", [hit / size for hit, size in zip(hits, sizes, strict=True)])):
            weighted = sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)
            self.history[f"{part}_{name}"].append(weighted)
            self.batchwise[f"{part}_{name}"].append(sum(values) / len(values))

    @property
    def best(self) -> int:
        """The index of the epoch with the lowest val_loss."""
        return self.history["val_loss"].index(min(self.history["val_loss"]))


class OneHotBCE(nn.BCEWithLogitsLoss):
    """Binary cross-entropy of both logits, which the handout allows too. (Of one logit it is cross-entropy.)"""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return super().forward(logits, nn.functional.one_hot(labels, logits.shape[1]).float())


def loss_of(history, train, learning_rate) -> nn.Module:
    """The loss that gives the first train_loss of the history best: cross-entropy, or one BCE for each logit."""
    first = float(history["train_loss"][0]) if history and history.get("train_loss") else 0.0

    def off(criterion: nn.Module) -> float:
        loop = by_hand(helpers.small_model(), train, train, 1, learning_rate, criterion=criterion)
        return abs(loop.history["train_loss"][0] - first)

    return min((nn.CrossEntropyLoss(), OneHotBCE()), key=off)


def by_hand(model, train, val, epochs, learning_rate, zero=True, criterion=None) -> ByHand:
    """Train in plain PyTorch; `zero` False is the mistake of adding up gradients."""
    criterion, found = criterion or nn.CrossEntropyLoss(), ByHand()
    optimizer = torch.optim.Adam(list(model.parameters()), learning_rate)
    for _ in range(epochs):
        for part, batches in (("train", train), ("val", val)):
            model.train(part == "train")
            losses, hits, sizes = [], [], []
            for images, labels in batches:
                logits = model(images)
                loss = criterion(logits, labels)
                if part == "train":
                    if zero:
                        optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                losses.append(loss.item())
                hits.append(int((logits.argmax(1) == labels).sum()))
                sizes.append(len(labels))
            found.note(part, losses, hits, sizes)
        found.states.append(copy.deepcopy(model.state_dict()))
    return found


def flat(state) -> torch.Tensor:
    """All values of a state dict in one row."""
    return torch.cat([value.detach().double().flatten() for value in state.values()])


def check_weights(model, expected: ByHand, epochs: int) -> None:
    """Fail unless the model has the weights of the best of `epochs` epochs; say of which epoch they are otherwise."""
    best = f"of epoch {expected.best + 1}, which had the lowest val_loss"
    mistakes = {
        f"they are those after epoch {number}, and not {best}": flat(state)
        for number, state in enumerate(expected.states[:epochs], 1)
    }
    last = f"they are those of the last epoch, and not {best} (load_state_dict at the end; state_dict() itself follows "
    mistakes = {last + "every later step, so keep a copy.deepcopy of it)": flat(expected.states[epochs - 1])} | mistakes
    what = "the weights that train leaves"
    helpers.check_values(flat(model.state_dict()), flat(expected.states[expected.best]), what, mistakes, 1e-4)


def check_history(history, expected: ByHand, unzeroed: ByHand) -> None:
    """Fail unless the four lists are what the loop by hand gives."""
    helpers.check_keys(history, hw5_dl.HISTORY, "the history")
    for name, values in expected.history.items():
        mistakes = {
            "gradients of earlier batches are added up, zero_grad is missing": unzeroed.history[name],
            "batches are averaged although the last one is smaller: weigh each by its images": expected.batchwise[name],
            "in percent, return fractions": [100 * value for value in values],
        }
        swapped = {"train": "val", "val": "train"}[name.split("_")[0]] + name[name.index("_") :]
        mistakes |= {f"these are the values of {swapped}": expected.history[swapped]}
        helpers.check_values(history[name], values, f"{name} of each epoch", mistakes)


@pytest.mark.hw5_2_2
def test_training_is_adam_on_cross_entropy():
    train, val = helpers.small_batches(), helpers.small_batches(20, seed=4)
    model = helpers.small_model()
    history = hw5_dl.train(model, train, val, epochs=3, learning_rate=0.02, patience=9)
    helpers.check_keys(history, hw5_dl.HISTORY, "the history")
    criterion = loss_of(history, train, 0.02)
    expected, unzeroed = (
        by_hand(helpers.small_model(), train, val, 3, 0.02, zero, criterion) for zero in (True, False)
    )
    check_history(history, expected, unzeroed)
    check_weights(model, expected, 3)


@pytest.mark.hw5_2_2
def test_training_stops_early_with_the_best_weights():
    train = helpers.small_batches()
    wrong = [(images, 1 - labels) for images, labels in helpers.small_batches(20, seed=4)]  # gets worse and worse
    model = helpers.small_model()
    history = hw5_dl.train(model, train, wrong, epochs=20, learning_rate=0.05, patience=3)
    helpers.check_keys(history, hw5_dl.HISTORY, "the history")
    expected = by_hand(helpers.small_model(), train, wrong, 20, 0.05, criterion=loss_of(history, train, 0.05))
    epochs, best = len(history["val_loss"]), expected.best + 1
    assert epochs == best + 3, (
        f"training ended after {epochs} epochs, expected {best + 3}: val_loss was lowest in epoch {best}, and "
        "patience=3 is how many epochs without a new minimum follow it"
    )
    check_weights(model, expected, epochs)


class LabelsOfEpochs:
    """Validation batches whose labels are right or wrong from epoch to epoch: the loss goes up and down."""

    def __init__(self, batches: list, wrong: list[float]) -> None:
        self.batches, self.wrong, self.epoch, self.trained = batches, wrong, 0, False

    def count_epochs(self, batches: list):
        """The training batches; validation that comes after them is that of a new epoch."""
        loader = self

        class Train(list):
            def __iter__(self):
                loader.trained = True
                return super().__iter__()

        return Train(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        self.epoch, self.trained = self.epoch + self.trained, False
        share = self.wrong[min(self.epoch, len(self.wrong)) - 1]
        for images, labels in self.batches:
            count = round(share * len(labels))
            yield images, torch.cat([1 - labels[:count], labels[count:]])


@pytest.mark.hw5_2_2
def test_patience_counts_epochs_since_the_lowest_loss():
    train, val = helpers.small_batches(), helpers.small_batches(20, seed=4)
    shares = [1.0, 0.5, 1.0, 0.75, 0.25, 1.0, 0.75, 0.5, 0.0, 0.0]
    labels, again = LabelsOfEpochs(val, shares), LabelsOfEpochs(val, shares)
    model = helpers.small_model()
    history = hw5_dl.train(model, labels.count_epochs(train), labels, epochs=10, learning_rate=0.05, patience=3)
    helpers.check_keys(history, hw5_dl.HISTORY, "the history")
    criterion = loss_of(history, train, 0.05)
    expected = by_hand(helpers.small_model(), again.count_epochs(train), again, 8, 0.05, criterion=criterion)
    assert expected.best == 4, "this test's losses are not those that it was made for"
    causes = {
        6: "the counter is not set to 0 at a new minimum",
        10: "an epoch that is better than the one before is no new minimum, compare with the lowest so far",
    }
    epochs = len(history["val_loss"])
    cause = causes.get(epochs, "patience=3 is how many epochs without a new minimum follow the lowest")
    losses = ", ".join(f"{float(value):.2f}" for value in history["val_loss"])
    assert epochs == 8, f"val_loss was {losses}: training ended after {epochs} epochs, expected 8; {cause}"
    check_weights(model, expected, epochs)


@pytest.mark.hw5_2_2
def test_what_is_returned_is_what_was_validated():
    train, val = helpers.small_batches(signal=0.5), helpers.small_batches(20, seed=4, signal=0.5)
    model = helpers.noisy_model()
    history = hw5_dl.train(model, train, val, 6, 0.02)
    helpers.check_keys(history, hw5_dl.HISTORY, "the history")
    model.eval()
    with torch.no_grad():
        found = [
            sum(criterion(model(images), labels).item() * len(labels) for images, labels in val) / 20
            for criterion in (nn.CrossEntropyLoss(), OneHotBCE())
        ]
    lowest, last = float(min(history["val_loss"])), float(history["val_loss"][-1])
    loss = min(found, key=lambda value: abs(value - lowest))
    cause = (
        "was dropout on or BatchNorm in training mode (model.eval() is missing), or are the weights of another epoch?"
    )
    if lowest != last and abs(loss - last) <= 1e-5:
        cause = "these are the weights of the last epoch: copy the best ones (copy.deepcopy) and load them at the end"
    assert abs(loss - lowest) <= 1e-5, (
        f"the weights that train leaves have val_loss {loss:.4f}, the lowest in the history is {lowest:.4f}; {cause}"
    )


@pytest.mark.hw5_2_2
def test_frozen_weights_stay():
    model = helpers.noisy_model()
    model.requires_grad_(False)
    model[-1].requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    hw5_dl.train(model, helpers.small_batches(), helpers.small_batches(20, seed=4), 2, 0.05)
    after = model.state_dict()
    assert torch.equal(after["1.weight"], before["1.weight"]), (
        "train changed a layer with requires_grad=False; does it call requires_grad_(True)?"
    )
    assert not torch.equal(after["5.weight"], before["5.weight"]), (
        "only the last layer was to be trained, and it did not change; which parameters does the optimizer get?"
    )


@pytest.mark.hw5_2_3
def test_curves_and_verdict(tmp_path):
    history = {
        "train_loss": [0.7, 0.5, 0.4, 0.2],
        "train_acc": [0.6, 0.7, 0.8, 0.9],
        "val_loss": [0.6, 0.45, 0.55, 0.65],
        "val_acc": [0.6, 0.7, 0.8, 0.7],
    }
    verdict = hw5_dl.plot_training(history, "a title", tmp_path / "curves.png")
    mistakes = {
        "best_epoch is counted from 0, the first epoch is 1": {"best_epoch": 1},
        "best_epoch is that of val_acc, the lowest val_loss is asked for": {"best_epoch": 3},
        "best_epoch is the last epoch": {"best_epoch": 4},
        "loss_gap has the wrong sign, it is val_loss - train_loss": {"loss_gap": -0.45},
        "loss_gap is that of the best epoch, the last one is asked for": {"loss_gap": -0.05},
        "loss_rise has the wrong sign, it is the last val_loss minus the lowest": {"loss_rise": -0.2},
    }
    helpers.check_numbers(verdict, {"best_epoch": 2, "loss_gap": 0.45, "loss_rise": 0.2}, "the verdict", mistakes)
    helpers.check_picture(tmp_path / "curves.png")


@helpers.answers("2.3")
def test_answer(number):
    helpers.check_answer(hw5_dl, number)
