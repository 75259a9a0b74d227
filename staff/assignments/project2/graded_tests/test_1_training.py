"""Part 1: loss, training epoch and validation epoch, against the same arithmetic done here.

The models of these checks look at pixels one by one and then average, and their gradients are small. So what a right
loop may do of its own changes nothing: turning, mirroring or shifting its batches, clipping gradients to a norm of 0.1
or more, zeroing gradients before or after the step, averaging over samples or over batches, returning floats, NumPy
numbers or tensors. Augmentation that changes colours (noise, mixup, erased patches) belongs in the data set: in
train_epoch it costs the checks that compare weights, but not the TODO.
"""

from __future__ import annotations

import numpy as np

from staff.grader import fresh_data, oracle
from staff.grader.client import expect, expect_close
from staff.grader.model import plain_model
from staff.grader.oracle import new_state
from staff.grader.training_checks import Problem, expect_state

MODULE = "classification_train"
HEAD = [["pool"], ["flatten"], ["linear", 8, 9]]
PLAIN = [["conv", 3, 8, 1], ["relu"], *HEAD]
NORMALIZED = [["conv", 3, 8, 1], ["batchnorm2d", 8], ["relu"], *HEAD]
DROPPING = [["conv", 3, 8, 1], ["batchnorm2d", 8], ["relu"], ["pool"], ["flatten"], ["dropout", 0.5], HEAD[-1]]
SMALL = 0.05  # weight of the loss: gradients have norms of about 0.03


def new_task(rng, layers=PLAIN, count=44, batch_size=8, **settings) -> Problem:
    """Images and labels of which the model gets about half right: no answer is 0, 1 or chance.

    The criterion is an unusual one, so the one that was passed has to be used.
    """
    settings = {"criterion": ("scaled_cross_entropy", (float(rng.uniform(0.4, 0.9)), SMALL)), **settings}
    settings = {"optimizer": ("sgd", {"lr": 2.0}), **settings}
    while True:
        state = new_state(layers, int(rng.integers(2**31)))
        images = fresh_data.tinted(rng, count)
        guessed = oracle.outputs(layers, state, images).argmax(axis=1)
        labels = fresh_data.partly(rng, 0.4, guessed, fresh_data.labels(rng, count))
        task = Problem(layers, state, images, labels, batch_size, **settings)
        if all(0.2 < task.expected(train).averages()["metric"][0] < 0.8 for train in (True, False)):
            return task


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
    logits, labels = (3 * rng.standard_normal((9, 9))).astype(np.float32), rng.permutation(9)  # none may be left out
    wanted = {"value": ("float64", ()), "gradient": ("float32", (9, 9))}
    reply = student.ask("loss", {"object": found["object"]}, {"pred": logits, "target": labels}, wanted)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    value = -np.log(probabilities[np.arange(9), labels]).mean()
    expect_close(float(reply.arrays["value"]), float(value), 1e-4, "the loss of random logits")
    gradient = (probabilities - np.eye(9)[labels]) / 9
    expect(np.abs(reply.arrays["gradient"] - gradient).max() < 1e-5, "the loss's gradient is not that of cross-entropy")


def test_trains(student, rng):
    """10 small steps lower the loss at least a third as far as with the plain loop, whatever else a loop does.

    Small, so that a loop without zero_grad passes here: its one mistake has a check of its own.
    """
    task = new_task(rng, count=80, optimizer=("sgd", {"lr": 4.0}))
    task.targets = task.images.mean(axis=(2, 3)).argmax(axis=1)  # the strongest colour
    _, _, model = train(student, task)
    before, ours, theirs = (task.loss_of(state) for state in (task.state, task.expected(True).state, model.state()[1]))
    expect(
        before - theirs >= (before - ours) / 3,
        "train_epoch does not train: for each batch come zero_grad, forward, loss, backward and step\n"
        f"the loss goes from {before:.4f} to {theirs:.4f} in 10 steps, with the plain loop to {ours:.4f}",
    )


def test_one_step(student, rng):
    task = new_task(rng, count=8)
    task.expect_weights(train(student, task)[2], "weights after one SGD step")


def test_many_steps(student, rng):
    """Two epochs of three steps, with momentum and weight decay: what an optimizer remembers must last."""
    task = new_task(rng, count=24, optimizer=("sgd", {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.01}), epochs=2)
    task.expect_weights(train(student, task)[2], "weights after two epochs of SGD with momentum", atol=5e-5)


def test_train_mode(student, rng):
    task = new_task(rng, NORMALIZED, count=24)
    _, _, model = train(student, task, start_in_train_mode=False)
    task.expect_weights(model, "a model with BatchNorm, handed over in evaluation mode", atol=2e-4)


def test_max_steps(student, rng):
    task = new_task(rng, max_steps=3)
    averages, reported, model = train(student, task)
    task.expect_weights(model, "weights after max_steps=3 of 6 batches")
    task.expect_averages(averages, True, "over max_steps=3 of 6 batches")
    drawn_batches = reported.get("drawn")
    expect(type(drawn_batches) is int and drawn_batches <= 4, "more batches were drawn than max_steps=3 needs")


def test_train_averages(student, rng):
    task = new_task(rng)  # 44 images in batches of 8: the last one has 4
    task.expect_averages(train(student, task)[0], True, "of training (the last batch is smaller)")


def test_validation_figures(student, rng):
    task = new_task(rng)
    task.expect_averages(validate(student, task)[0], False, "of validation (the last batch is smaller)")


def test_validation_mode(student, rng):
    task = new_task(rng, DROPPING)
    what = "of a model with BatchNorm and dropout that was in training mode"
    task.expect_averages(validate(student, task, start_in_train_mode=True)[0], False, what)


def test_validation_changes_nothing(student, rng):
    task = new_task(rng, DROPPING)
    model = validate(student, task, start_in_train_mode=True)[2]
    expect_state(model, task.state, "validation changed the model", atol=0.0)
    reported, _ = model.state()
    expect(not reported.get("gradients"), "validation leaves gradients in the model: it calls backward()")


def test_validation_without_gradients(student, rng):
    reported = validate(student, new_task(rng))[1]
    expect(reported.get("grad_enabled") is False, "validation runs with gradients on (torch.no_grad is missing)")
