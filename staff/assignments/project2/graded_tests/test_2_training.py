"""Part 2: training epoch and validation epoch of the segmentation, against the same arithmetic done here."""

from __future__ import annotations

from staff.grader import fresh_data
from staff.grader.client import expect, expect_close
from staff.grader.oracle import new_state
from staff.grader.training_checks import Problem, expect_state

MODULE = "segmentation_train"
PLAIN = [["conv", 3, 4, 3], ["relu"], ["conv", 4, 1, 3], ["sigmoid"]]
NORMALIZED = [["conv", 3, 4, 3], ["batchnorm2d", 4], ["relu"], ["conv", 4, 1, 3], ["sigmoid"]]
DROPPING = [["conv", 3, 4, 3], ["batchnorm2d", 4], ["relu"], ["dropout", 0.5], ["conv", 4, 1, 3], ["sigmoid"]]
IOU_TOLERANCE = 5e-4  # one pixel in one image of eight is about 3e-4; a pooled IoU is off by 0.01 and more


def new_task(rng, layers=PLAIN, count=20, batch_size=8, **settings) -> Problem:
    """Noise and rectangles; a criterion that is nobody's default."""
    state = new_state(layers, int(rng.integers(2**31)))
    criterion = ("powered_error", (float(rng.uniform(1.2, 1.8)), float(rng.uniform(0.5, 1.5))))
    settings = {"criterion": criterion, "optimizer": ("sgd", {"lr": 0.5}), **settings}
    return Problem(
        layers, state, fresh_data.noise(rng, count), fresh_data.rectangles(rng, count), batch_size, **settings
    )


def train(student, task, start_in_train_mode=True):
    return task.ask(student, MODULE, "train_segmentation_epoch", True, start_in_train_mode)


def test_one_step(student, rng):
    task = new_task(rng, count=8)
    _, _, model = train(student, task)
    expect_state(model, task.expected(True).state, "weights after one SGD step")


def test_many_steps(student, rng):
    task = new_task(rng, count=40, optimizer=("sgd", {"lr": 0.2, "momentum": 0.9}))
    _, _, model = train(student, task)
    expect_state(model, task.expected(True).state, "weights after five steps of SGD with momentum", atol=1e-4)


def test_train_mode(student, rng):
    task = new_task(rng, NORMALIZED, count=16)
    _, _, model = train(student, task, start_in_train_mode=False)
    what = "a model with BatchNorm, handed over in evaluation mode"
    expect_state(model, task.expected(True).state, what, atol=2e-4)


def check_averages(averages, wanted, what):
    expect_close(averages[0], wanted["loss"], 1e-4, f"the average loss {what}")
    expect_close(averages[1], wanted["metric"], IOU_TOLERANCE, f"the average IoU {what}")


def test_max_steps(student, rng):
    task = new_task(rng, count=28, max_steps=2)
    averages, reported, model = train(student, task)
    expect_state(model, task.expected(True).state, "weights after max_steps=2 of 4 batches")
    check_averages(averages, task.expected(True).averages(), "over max_steps=2 of 4 batches")
    drawn_batches = reported.get("drawn")
    expect(type(drawn_batches) is int and drawn_batches <= 3, "more batches were drawn than max_steps=2 needs")


def test_train_averages(student, rng):
    task = new_task(rng)  # 20 images in batches of 8: the last one has 4
    averages, _, _ = train(student, task)
    check_averages(averages, task.expected(True).averages(), "of training (last batch smaller)")


def check_validation(student, task, start_in_train_mode, what):
    averages, reported, model = task.ask(student, MODULE, "validate_segmentation_epoch", False, start_in_train_mode)
    check_averages(averages, task.expected(False).averages(), what)
    return reported, model


def test_validation_figures(student, rng):
    check_validation(student, new_task(rng), False, "of validation (last batch smaller)")


def test_validation_mode(student, rng):
    what = "of a model with BatchNorm and dropout that was in training mode"
    check_validation(student, new_task(rng, DROPPING), True, what)


def test_validation_changes_nothing(student, rng):
    task = new_task(rng, DROPPING)
    _, model = check_validation(student, task, True, "of validation")
    expect_state(model, task.state, "after validation", atol=0.0)
    reported, _ = model.state()
    expect(not reported.get("gradients"), "validation leaves gradients in the model")


def test_validation_without_gradients(student, rng):
    reported, _ = check_validation(student, new_task(rng), False, "of validation")
    expect(reported.get("grad_enabled") is False, "validation runs with gradients on (torch.no_grad is missing)")
