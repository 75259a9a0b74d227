"""Part 2: the CNN, its training, the verdict on its curves."""

from __future__ import annotations

import numpy as np
import pytest
from torch.nn import functional as F

from staff.assignments.hw5.graded_tests import by_hand
from staff.grader import fresh_data
from staff.grader.client import expect, expect_close
from staff.grader.model import plain_model, student_model
from staff.grader.oracle import new_state

MODULE = "labs.hw5_pneumonia.hw5_dl"
HISTORY = ["train_loss", "train_acc", "val_loss", "val_acc"]
LAYERS = [["flatten"], ["linear", 36, 10], ["relu"], ["linear", 10, 2]]
# BatchNorm is not behind a bias: the gradient of that would be rounding alone, and Adam would make steps of it.
WITH_STATISTICS = [["flatten"], ["batchnorm1d", 36], *LAYERS[1:]]
LOSSES = (F.cross_entropy, by_hand.one_hot_bce)


def test_cnn_shapes(student, rng):
    for classes, batch in ((2, 1), (2, 7), (3, 2)):
        model = student_model(student, MODULE, "PneumoniaCNN", num_classes=classes)
        model(fresh_data.noise(rng, batch, channels=1), classes)


def stripes(rng, count) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images with stripes of a random phase: lying (0) or standing (1)."""
    labels = rng.integers(0, 2, count)
    waves = np.sign(np.sin(2 * np.pi * (np.arange(28) / 4 + rng.random((count, 1))))) * 0.5  # (B, 28)
    standing = labels[:, None, None] == 1
    images = np.where(standing, waves[:, None, :], waves[:, :, None]) + 0.4 * rng.standard_normal((count, 28, 28))
    return images[:, None].clip(-1, 1).astype(np.float32), labels.astype(np.int64)


def test_cnn_learns(student, rng):
    model = student_model(student, MODULE, "PneumoniaCNN")
    images, labels = stripes(rng, 512)
    model.fit(images, labels, fresh_data.batches(rng, 512, 60, 32), "cross_entropy", 2e-3, seed=1)
    images, labels = stripes(rng, 400)
    reached = float((model(images, 2).argmax(axis=1) == labels).mean())
    expect(reached >= 0.85, f"60 steps on stripes reach accuracy {reached:.2f}, expected at least 0.85")


def test_cnn_layers(student, rng):
    model = student_model(student, MODULE, "PneumoniaCNN")
    found = student.ask("hw5.layers", {"object": model.number}, {"images": fresh_data.noise(rng, 2, channels=1)}).result
    names, calls = (found[key] if isinstance(found.get(key), list) else [] for key in ("names", "calls"))
    convolutions, dense = names.count("Conv2d"), names.count("Linear")
    expect(convolutions in (2, 3), f"{convolutions} convolutions, expected two or three")
    expect(dense in (1, 2), f"{dense} dense layers, expected one or two")
    pooled = calls.count("max_pool2d")
    expect(pooled == convolutions, f"{pooled} max poolings for {convolutions} convolutions, expected one behind each")
    behind = " ".join(calls).split("conv2d")[1:]  # what runs between a convolution and the next one
    bare = [number for number, names in enumerate(behind, 1) if "relu" not in names.partition("linear")[0].split()]
    expect(not bare, f"no ReLU runs behind convolution {bare[:1]}, expected one behind each")


def test_cnn_evaluation(student, rng):
    model = student_model(student, MODULE, "PneumoniaCNN")
    images = fresh_data.noise(rng, 6, channels=1)
    first, again, alone = model(images, 2, seed=1), model(images, 2, seed=2), model(images[2:3], 2)
    expect(np.abs(first - again).max() < 1e-5, "in evaluation mode the same images give other logits: is dropout on?")
    expect(np.abs(first[2:3] - alone).max() < 1e-4, "in evaluation mode an image alone gives other logits")
    probabilities = first.min() >= 0 and np.abs(first.sum(axis=1) - 1).max() < 1e-3
    expect(not probabilities, "the network returns probabilities, expected logits: the loss has a softmax of its own")


def test_cnn_gradients(student, rng):
    model = student_model(student, MODULE, "PneumoniaCNN")
    dead = model.dead_parameters(fresh_data.noise(rng, 16, channels=1), rng.standard_normal((16, 2)).astype(np.float32))
    expect(not dead, f"no gradient reaches {', '.join(dead[:3])}")


def new_data(rng, contradict: bool) -> dict[str, np.ndarray]:
    """Two classes of 6 x 6 images; with `contradict` validation labels are the wrong way round."""
    arrays = {}
    direction = rng.standard_normal((6, 6))
    for part, count in (("train", 44), ("val", 21)):
        labels = rng.integers(0, 2, count)
        signal = (2 * labels - 1)[:, None, None] * direction
        images = 0.6 * signal + rng.standard_normal((count, 6, 6))
        arrays[f"{part}_images"] = images[:, None].astype(np.float32)
        arrays[f"{part}_targets"] = (1 - labels if contradict and part == "val" else labels).astype(np.int64)
    return arrays


def run_train(student, rng, arrays, function="train", **keywords):
    """(history, trained model, initial weights) of the student's training of a plain model."""
    state = new_state(LAYERS, int(rng.integers(2**31)))
    model = plain_model(student, LAYERS, state)
    args = {"object": model.number, "module": MODULE, "function": function, "keywords": keywords, "keys": HISTORY}
    reply = student.ask("train_model", {**args, "batch_size": 8, "seed": 0}, arrays)
    return reply.arrays, model, state


def with_their_loss(history, by_loss):
    """What `by_loss(loss)` gives for that of LOSSES whose first training loss is nearest to the history's."""
    found = [by_loss(loss) for loss in LOSSES]
    first = history.get("train_loss", np.zeros(1))[:1]
    return min(found, key=lambda one: float(np.abs(first - one[0]["train_loss"][0]).sum()))


def expect_history(history, wanted, what, atol=2e-4) -> None:
    for name, values in wanted.items():
        got = history.get(name)
        expect(got is not None, f"{what}: the history has no {name}")
        expect(len(got) == len(values), f"{what}: {name} has {len(got)} values, expected {len(values)}")
        off = float(np.abs(got - np.array(values)).max())
        expect(off <= atol, f"{what}: {name} is off by up to {off:.2g}; it is an average over all images seen")


def expect_weights(got, wanted, what, atol=2e-4) -> None:
    for name, array in wanted.items():
        off = float(np.abs(got[name] - array).max()) if name in got and got[name].shape == array.shape else np.inf
        expect(off <= atol, f"{what}: {name} is off by {off:.2g}")


@pytest.mark.parametrize("case", ["history", "early_stopping"])
def test_train(student, rng, case):
    stop_early = case == "early_stopping"
    arrays = new_data(rng, contradict=stop_early)
    epochs, patience = (30, 2) if stop_early else (4, 9)
    keywords = {"epochs": epochs, "learning_rate": 0.01, "patience": patience}
    history, model, state = run_train(student, rng, arrays, **keywords)
    wanted, best = with_their_loss(
        history, lambda loss: by_hand.train(LAYERS, state, arrays, epochs, 0.01, patience, loss_of=loss)
    )
    expect_history(history, wanted, "validation gets worse and worse" if stop_early else "four epochs")
    expect_weights(model.state()[1], best, "the weights of the epoch with the lowest val_loss")


def test_train_up_and_down(student, rng):
    arrays, state = new_data(rng, contradict=False), new_state(WITH_STATISTICS, int(rng.integers(2**31)))
    arrays["val_targets"] = by_hand.script(rng, WITH_STATISTICS, state, arrays, 14, 0.01, 3)
    model = plain_model(student, WITH_STATISTICS, state)
    keywords = {"epochs": 14, "learning_rate": 0.01, "patience": 3}
    args = {"object": model.number, "keywords": keywords, "keys": HISTORY}
    history = student.ask("hw5.train_by_script", args, arrays, dict.fromkeys(HISTORY, ("float64", (None,)))).arrays
    wanted, best = with_their_loss(
        history, lambda loss: by_hand.train(WITH_STATISTICS, state, arrays, 14, 0.01, 3, loss_of=loss)
    )
    expect_history(history, wanted, "val_loss goes up and down, patience=3")
    expect_weights(model.state()[1], best, "the weights of the epoch with the lowest val_loss")


def test_verdict(student, rng):
    epochs = int(rng.integers(5, 9))
    history = {name: rng.uniform(0.2, 0.9, epochs) for name in ("train_loss", "train_acc", "val_loss", "val_acc")}
    values = student.ask("hw5.plot_training", {}, history, {"values": ("float64", (3,))}).arrays["values"]
    train, val = history["train_loss"], history["val_loss"]
    expect_close(values[0], float(1 + val.argmin()), 0, "best_epoch")
    expect_close(values[1], float(val[-1] - train[-1]), 1e-6, "loss_gap")
    expect_close(values[2], float(val[-1] - val.min()), 1e-6, "loss_rise")
