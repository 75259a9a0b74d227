"""What commonly goes wrong in a training or validation epoch, recognised by its effect on weights and averages.

"Off by 0.0123" tells a student nothing. So the grader makes the usual mistakes itself and compares: the one that gives
the student's numbers is the cause that is named.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from staff.grader import oracle

# Name of a fault that oracle.run_epoch can make -> what a student reads.
TRAINING = {
    "no step": "the weights did not change; loss.backward() comes first, then optimizer.step(), nothing in between",
    "no zero_grad": "the gradients of earlier batches were added up; call optimizer.zero_grad() for each batch",
    "first batch only": "only the first batch was trained on; is the return statement inside the loop?",
    "wrong mode": "the model was trained in evaluation mode; call model.train() at the start",
    "max_steps ignored": "the epoch continued after max_steps batches",
    "one step more": "the epoch trained on one batch more than max_steps",
    "one step less": "the epoch trained on one batch less than max_steps",
    "two steps": "each batch was used for two steps; call optimizer.step() once",
    "new optimizer": "a new optimizer was made for each batch, without momentum; use the one that is passed",
    "new optimizer per epoch": "a new optimizer was made in each epoch, without momentum; use the one that is passed",
}
OTHER_CRITERION = "the loss is not that of the criterion that was passed to the function"


def cause_of_weights(expected: dict, got: dict[str, np.ndarray], atol: float) -> str:
    """The mistake that leads to these weights, in words, or the empty string. expected: arguments of run_epoch."""
    for fault, sentence in TRAINING.items():
        if (fault == "wrong mode" and not any("running" in name for name in got)) or (
            expected["max_steps"] is None and fault in ("max_steps ignored", "one step more", "one step less")
        ):
            continue
        state = oracle.run_epoch(**expected, fault=fault).state
        weights = [name for name in state if "running" not in name and "num_batches" not in name]
        if all(np.abs(got[name] - state[name]).max() <= atol for name in weights):
            return sentence
    plain = ("cross_entropy",) if expected["targets"].ndim == 1 else ("bce",)
    state = oracle.run_epoch(**{**expected, "criterion": plain}).state
    return OTHER_CRITERION if all(np.abs(got[name] - state[name]).max() <= atol for name in state) else ""


def cause_of_average(index: int, averages: np.ndarray, expected: dict) -> str:
    """The mistake that leads to this average (0: the loss, 1: the metric), in words, or the empty string."""
    got, tolerance = float(averages[index]), 1e-4
    batches = -(-len(expected["images"]) // expected["batch_size"])
    for value, sentence in _wrong_averages(index, averages, expected, batches):
        if abs(got - value) <= tolerance * max(1.0, abs(value)):
            return sentence
    return ""


def _wrong_averages(index: int, averages: np.ndarray, expected: dict, batches: int) -> Iterator[tuple[float, str]]:
    """(value, cause) of the usual mistakes, the likeliest first."""
    epoch = oracle.run_epoch(**expected)
    names = ("loss", "accuracy" if expected["targets"].ndim == 1 else "IoU")
    right = [epoch.averages()[key][0] for key in ("loss", "metric")]
    if np.abs(averages - right[::-1]).max() < 1e-4:
        yield float(averages[index]), f"the two results are in the wrong order; return (loss, {names[1]})"
    if expected["optimizer"] is None:
        for value in oracle.run_epoch(**expected, fault="wrong mode").averages()[("loss", "metric")[index]]:
            yield value, "the model was in training mode during validation; call model.eval() first"
    yield 100 * right[index], f"the {names[index]} is in percent; return a fraction between 0 and 1"
    values = [epoch.losses, [float(np.mean(metric)) for metric in epoch.metrics]][index]
    yield from _wrong_sums(np.array(values), [len(m) for m in epoch.metrics], f"the {names[index]}", expected, batches)
    if index == 0:
        plain = ("cross_entropy",) if expected["targets"].ndim == 1 else ("bce",)
        for value in oracle.run_epoch(**{**expected, "criterion": plain}).averages()["loss"]:
            yield value, OTHER_CRITERION
    elif names[1] == "IoU":
        for value in oracle.run_epoch(**expected, fault="IoU over the batch").averages()["metric"]:
            yield value, "the IoU counts all pixels of a batch together; use calculate_iou, a mean over the images"


def _wrong_sums(values: np.ndarray, sizes: list[int], what: str, expected: dict, batches: int):
    """values: one for each batch, a mean over its `sizes` images."""
    weighted, plain = float(values @ np.array(sizes)), float(values.sum())
    yield float(values[-1]), f"{what} is that of the last batch; return an average over all batches"
    yield float(values[0]), f"{what} is that of the first batch; is the return statement inside the loop?"
    yield plain, f"{what} is a sum over the batches; divide it by their number"
    yield weighted, f"{what} is a sum over the images; divide it by their number"
    yield weighted / len(sizes), f"{what} is a sum over the images, divided by the number of batches"
    yield plain / sum(sizes), f"{what} adds up averages of batches, but divides by the number of images"
    if len(sizes) < batches:
        yield plain / batches, f"{what} is divided by len(train_loader), not by the batches seen until max_steps"
        all_images = len(expected["images"])
        yield (
            weighted / all_images,
            f"{what} is divided by the size of the data set, not by what was seen until max_steps",
        )
