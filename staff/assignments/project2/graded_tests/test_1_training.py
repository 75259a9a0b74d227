"""Part 1: loss, training epoch and validation epoch, against the same arithmetic done here."""

from __future__ import annotations

import numpy as np

from staff.grader import fresh_data
from staff.grader.client import expect, expect_close, plain_model
from staff.grader.oracle import new_state
from staff.grader.training_checks import Problem, expect_state

MODULE = "classification_train"
PLAIN = [["flatten"], ["linear", 2352, 12], ["relu"], ["linear", 12, 9]]
NORMALIZED = [["flatten"], ["linear", 2352, 12], ["batchnorm1d", 12], ["relu"], ["linear", 12, 9]]
DROPPING = [["flatten"], ["linear", 2352, 12], ["batchnorm1d", 12], ["dropout", 0.5], ["relu"], ["linear", 12, 9]]


def new_task(rng, layers=PLAIN, count=44, batch_size=8, **settings) -> Problem:
    """Random images and labels; the criterion is nobody's default, so the one that was passed has to be used."""
    state = new_state(layers, int(rng.integers(2**31)))
    images, labels = fresh_data.noise(rng, count), fresh_data.labels(rng, count)
    settings = {"criterion": ("scaled_cross_entropy", (float(rng.uniform(0.4, 0.9)),)), **settings}
    return Problem(layers, state, images, labels, batch_size, **settings)


def train(student, task, start_in_train_mode=True):
    return task.ask(student, MODULE, "train_epoch", True, start_in_train_mode)


def validate(student, task, start_in_train_mode=False):
    return task.ask(student, MODULE, "validate_epoch", False, start_in_train_mode)


def test_loss(student, rng):
    layers = [["flatten"], ["linear", 2352, 9]]
    model = plain_model(student, layers, new_state(layers, 1))
    images, labels = fresh_data.noise(rng, 8), fresh_data.labels(rng, 8)
    arrays = {f"{part}_{name}": a for part in ("train", "val") for name, a in (("images", images), ("targets", labels))}
    args = {"object": model.number, "module": MODULE, "function": "train_model", "epoch_function": "train_epoch"}
    found = student.ask("capture_criterion", {**args, "batch_size": 4}, arrays).result
    expect(found.get("called"), "train_model never calls train_epoch, so its loss cannot be seen")
    expect(found.get("type") != "NoneType", "the loss is None")
    logits, labels = (3 * rng.standard_normal((6, 9))).astype(np.float32), fresh_data.labels(rng, 6)
    wanted = {"value": ("float64", ()), "gradient": ("float32", (6, 9))}
    reply = student.ask("loss", {"object": found["object"]}, {"pred": logits, "target": labels}, wanted)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    value = -np.log(probabilities[np.arange(6), labels]).mean()
    expect_close(float(reply.arrays["value"]), float(value), 1e-4, "the loss of random logits")
    gradient = (probabilities - np.eye(9)[labels]) / 6
    expect(np.abs(reply.arrays["gradient"] - gradient).max() < 1e-5, "the loss's gradient is not that of cross-entropy")


def test_one_step(student, rng):
    task = new_task(rng, count=8)
    _, _, model = train(student, task)
    expect_state(model, task.expected(True).state, "weights after one SGD step")


def test_many_steps(student, rng):
    task = new_task(rng, count=40, optimizer=("sgd", {"lr": 0.05, "momentum": 0.9}))
    _, _, model = train(student, task)
    expect_state(model, task.expected(True).state, "weights after five steps of SGD with momentum", atol=1e-4)


def test_train_mode(student, rng):
    task = new_task(rng, NORMALIZED, count=24)
    _, _, model = train(student, task, start_in_train_mode=False)
    what = "a model with BatchNorm, handed over in evaluation mode"
    expect_state(model, task.expected(True).state, what, atol=2e-4)


def test_max_steps(student, rng):
    task = new_task(rng, max_steps=3)
    averages, reported, model = train(student, task)
    expect_state(model, task.expected(True).state, "weights after max_steps=3 of 6 batches")
    wanted = task.expected(True).averages()
    expect_close(averages[0], wanted["loss"], 1e-4, "the average loss over max_steps=3 of 6 batches")
    expect_close(averages[1], wanted["metric"], 1e-6, "the accuracy over max_steps=3 of 6 batches")
    drawn_batches = reported.get("drawn")
    expect(type(drawn_batches) is int and drawn_batches <= 4, "more batches were drawn than max_steps=3 needs")


def test_train_averages(student, rng):
    task = new_task(rng)  # 44 images in batches of 8: the last one has 4
    averages, _, _ = train(student, task)
    wanted = task.expected(True).averages()
    expect_close(averages[0], wanted["loss"], 1e-4, "the average training loss (last batch smaller)")
    expect_close(averages[1], wanted["metric"], 1e-6, "the training accuracy, a fraction (last batch smaller)")


def check_validation(student, task, start_in_train_mode, what):
    averages, reported, model = validate(student, task, start_in_train_mode)
    wanted = task.expected(False).averages()
    expect_close(averages[0], wanted["loss"], 1e-4, f"the validation loss {what}")
    expect_close(averages[1], wanted["metric"], 1e-6, f"the validation accuracy {what}")
    return reported, model


def test_validation_figures(student, rng):
    check_validation(student, new_task(rng), False, "(last batch smaller)")


def test_validation_mode(student, rng):
    what = "of a model with BatchNorm and dropout that was in training mode"
    check_validation(student, new_task(rng, DROPPING), True, what)


def test_validation_changes_nothing(student, rng):
    task = new_task(rng, DROPPING)
    _, model = check_validation(student, task, True, "")
    expect_state(model, task.state, "after validation", atol=0.0)
    reported, _ = model.state()
    expect(not reported.get("gradients"), "validation leaves gradients in the model")


def test_validation_without_gradients(student, rng):
    reported, _ = check_validation(student, new_task(rng), False, "")
    expect(reported.get("grad_enabled") is False, "validation runs with gradients on (torch.no_grad is missing)")
