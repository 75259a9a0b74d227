"""Part 2: training epoch and validation epoch of the segmentation, against the same arithmetic done here.

As in Part 1, the models look at pixels one by one and gradients are small: turning, mirroring or shifting images and
masks together changes nothing, nor does clipping. An augmentation that moves the image and not its mask does.
"""

from __future__ import annotations

from staff.grader import fresh_data, oracle
from staff.grader.client import expect
from staff.grader.oracle import new_state
from staff.grader.training_checks import Problem, expect_state

MODULE = "segmentation_train"
PLAIN = [["conv", 3, 6, 1], ["relu"], ["conv", 6, 1, 1], ["sigmoid"]]
NORMALIZED = [["conv", 3, 6, 1], ["batchnorm2d", 6], ["relu"], ["conv", 6, 1, 1], ["sigmoid"]]
DROPPING = [["conv", 3, 6, 1], ["batchnorm2d", 6], ["relu"], ["dropout", 0.5], ["conv", 6, 1, 1], ["sigmoid"]]
IOU_TOLERANCE = 5e-4  # one pixel in one image of eight is about 3e-4; a pooled IoU is off by 0.005 and more
SMALL = 0.1  # weight of the loss: gradients have norms of about 0.02


def new_task(rng, layers=PLAIN, count=20, batch_size=8, **settings) -> Problem:
    """Noise, and masks of which the model marks a part, in the second batch none; pooled pixels give another IoU."""
    criterion = ("powered_error", (float(rng.uniform(1.2, 1.8)), float(rng.uniform(0.5, 1.5)), SMALL))
    settings = {"criterion": criterion, "optimizer": ("sgd", {"lr": 5.0}), **settings}
    while True:
        state = new_state(layers, int(rng.integers(2**31)))
        images = fresh_data.tinted(rng, count)
        marked = oracle.outputs(layers, state, images) > 0.5
        if not 0.2 < marked.mean() < 0.8:
            continue
        masks = fresh_data.partly(rng, 0.5, marked, fresh_data.rectangles(rng, count))
        masks[batch_size : 2 * batch_size] = ~marked[batch_size : 2 * batch_size]
        task = Problem(layers, state, images, masks, batch_size, **settings)
        ious = [task.expected(train).averages()["metric"] for train in (True, False)]
        pooled = oracle.run_epoch(**task.settings(False), fault="IoU over the batch").averages()["metric"]
        apart = min(abs(one - other) for one in pooled for other in ious[1])
        if all(0.1 < iou[0] < 0.9 for iou in ious) and apart > 10 * IOU_TOLERANCE:
            return task


def train(student, task, start_in_train_mode=True):
    return task.ask(student, MODULE, "train_segmentation_epoch", True, start_in_train_mode)


def validate(student, task, start_in_train_mode=False):
    return task.ask(student, MODULE, "validate_segmentation_epoch", False, start_in_train_mode)


def test_trains(student, rng):
    """As in Part 1: after 10 small steps the loss has fallen at least a third as far as with the plain loop."""
    task = new_task(rng, count=80, optimizer=("sgd", {"lr": 5.0}))
    task.targets = (task.images[:, :1] > 0).astype("float32")
    _, _, model = train(student, task)
    before, ours, theirs = (task.loss_of(state) for state in (task.state, task.expected(True).state, model.state()[1]))
    expect(
        before - theirs >= (before - ours) / 3,
        "train_segmentation_epoch does not train: for each batch come zero_grad, forward, loss, backward and step\n"
        f"the loss goes from {before:.4f} to {theirs:.4f} in 10 steps, with the plain loop to {ours:.4f}",
    )


def test_one_step(student, rng):
    task = new_task(rng, count=8)
    task.expect_weights(train(student, task)[2], "weights after one SGD step")


def test_many_steps(student, rng):
    """Two epochs of three steps, with momentum and weight decay: what an optimizer remembers must last."""
    task = new_task(rng, count=24, optimizer=("sgd", {"lr": 2.0, "momentum": 0.9, "weight_decay": 0.005}), epochs=2)
    task.expect_weights(train(student, task)[2], "weights after two epochs of SGD with momentum", atol=5e-5)


def test_train_mode(student, rng):
    task = new_task(rng, NORMALIZED, count=16)
    _, _, model = train(student, task, start_in_train_mode=False)
    task.expect_weights(model, "a model with BatchNorm, handed over in evaluation mode", atol=2e-4)


def test_max_steps(student, rng):
    task = new_task(rng, count=28, max_steps=2)
    averages, reported, model = train(student, task)
    task.expect_weights(model, "weights after max_steps=2 of 4 batches")
    task.expect_averages(averages, True, "over max_steps=2 of 4 batches", IOU_TOLERANCE)
    drawn_batches = reported.get("drawn")
    expect(type(drawn_batches) is int and drawn_batches <= 3, "more batches were drawn than max_steps=2 needs")


def test_train_averages(student, rng):
    task = new_task(rng)  # 20 images in batches of 8: the last one has 4
    task.expect_averages(train(student, task)[0], True, "of training (the last batch is smaller)", IOU_TOLERANCE)


def test_validation_figures(student, rng):
    task = new_task(rng)
    what = "of validation (the last batch is smaller)"
    task.expect_averages(validate(student, task)[0], False, what, IOU_TOLERANCE)


def test_validation_mode(student, rng):
    task = new_task(rng, DROPPING)
    what = "of a model with BatchNorm and dropout that was in training mode"
    task.expect_averages(validate(student, task, start_in_train_mode=True)[0], False, what, IOU_TOLERANCE)


def test_validation_changes_nothing(student, rng):
    task = new_task(rng, DROPPING)
    model = validate(student, task, start_in_train_mode=True)[2]
    expect_state(model, task.state, "validation changed the model", atol=0.0)
    reported, _ = model.state()
    expect(not reported.get("gradients"), "validation leaves gradients in the model: it calls backward()")


def test_validation_without_gradients(student, rng):
    reported = validate(student, new_task(rng))[1]
    expect(reported.get("grad_enabled") is False, "validation runs with gradients on (torch.no_grad is missing)")
