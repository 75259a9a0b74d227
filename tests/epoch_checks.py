"""Checks of a training and a validation epoch that Part 1 and Part 2 have in common.

`Epochs` says what differs: batches, model, loss and score. The expected results come from a loop in plain torch below,
and wrong ones are compared with the usual mistakes, so that the first line of a failing test names the cause.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests import helpers
from tests.traffic import Traffic, WatchedLoss

LEARNING_RATE, MOMENTUM = 0.1, 0.9
# Two float32 runs of a few steps differ by about 1e-7 if sums are ordered differently; usual mistakes (gradients not
# zeroed, no training mode, a step too many) by more than 1e-3.
WEIGHT_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-5
BATCHES = -(-helpers.COUNT // 4)  # enough that two or three are not all


@dataclass(frozen=True)
class Epochs:
    """A pair of epoch functions and what to call them with.

    Args:
        unpack: batch → (inputs, targets).
        score: (outputs, targets) → one value per image.
        score_name: accuracy or IoU.
    """

    train_epoch: Callable[..., Any]
    validate_epoch: Callable[..., Any]
    loader: Callable[..., Any]
    model: Callable[[], nn.Module]
    criterion: nn.Module
    unpack: Callable[[Any], tuple[torch.Tensor, torch.Tensor]]
    score: Callable[[torch.Tensor, torch.Tensor], list[float]]
    score_name: str

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """All (inputs, targets) of the loader."""
        return [self.unpack(batch) for batch in self.loader()]


@dataclass
class Seen:
    """Loss, scores and size of each batch that the oracle saw."""

    losses: list[float] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def note(self, epochs: Epochs, loss: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch."""
        self.losses.append(loss.item())
        self.scores.append(epochs.score(outputs.detach(), targets))
        self.sizes.append(len(outputs))

    def batch_scores(self) -> list[float]:
        """The mean score of each batch."""
        return [sum(batch) / len(batch) for batch in self.scores]

    def right(self, values: list[float]) -> dict[str, float]:
        """Both ways to average over batches of unequal size; either is accepted."""
        return {"mean over images": self._weighted(values) / sum(self.sizes), "mean over batches": fmean(values)}

    def wrong(self, values: list[float]) -> dict[str, float]:
        """What the usual mistakes make of the same values."""
        images, weighted = sum(self.sizes), self._weighted(values)
        return {
            "the sum over the batches: divide by their number": sum(values),
            "the sum over the images: divide by their number": weighted,
            "the sum of the batch means divided by the number of images": sum(values) / images,
            "weighted by batch size and then divided by the number of batches": weighted / len(values),
            "divided by the batches of the whole loader, although max_steps ended it": sum(values) / BATCHES,
            "divided by the images of the whole loader, although max_steps ended it": weighted / helpers.COUNT,
            **{
                f"each batch counted as {size} images: divide by the sum of len(targets)": weighted / len(values) / size
                for size in (4, 16, 32, 64, 128)
            },
            "weighted by len(batch), which counts the keys of a dict": 4 * sum(values) / images,
            "the value of the last batch alone": values[-1],
            "the value of the first batch alone": values[0],
            "0 for every batch: what is compared with what?": 0.0,
            "in percent: return a fraction between 0 and 1": 100 * weighted / images,
            "in percent: return a fraction between 0 and 1 ": 100 * fmean(values),
        }

    def _weighted(self, values: list[float]) -> float:
        return sum(value * size for value, size in zip(values, self.sizes, strict=True))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of these checks; its momentum shows gradients that were left over."""
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def oracle_epoch(epochs: Epochs, model: nn.Module, max_steps: int | None = None, *, zero: bool = True) -> Seen:
    """Train by hand: v = momentum v + g, w = w - lr v. `zero` False is the classical mistake."""
    model.train()
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    seen = Seen()
    for step, batch in enumerate(epochs.loader()):
        if max_steps is not None and step == max_steps:
            break
        inputs, targets = epochs.unpack(batch)
        outputs = model(inputs)
        loss = epochs.criterion(outputs, targets)
        fresh = torch.autograd.grad(loss, parameters)
        gradients = [new if zero else old + new for old, new in zip(gradients, fresh, strict=True)]
        with torch.no_grad():
            for index, parameter in enumerate(parameters):
                velocity[index] = MOMENTUM * velocity[index] + gradients[index]
                parameter -= LEARNING_RATE * velocity[index]
        seen.note(epochs, loss, outputs, targets)
    return seen


@torch.no_grad()
def oracle_validation(epochs: Epochs, model: nn.Module, *, training: bool = False) -> Seen:
    """Evaluate by hand on a copy of `model`; `training` is the mistake of leaving dropout and BatchNorm on."""
    model = copy.deepcopy(model).train(training)
    seen = Seen()
    for batch in epochs.loader():
        inputs, targets = epochs.unpack(batch)
        outputs = model(inputs)
        seen.note(epochs, epochs.criterion(outputs, targets), outputs, targets)
    return seen


@dataclass
class Training:
    """One call of the student's training epoch, as seen from outside."""

    model: nn.Module
    result: Any = None
    modes: list[bool] = field(default_factory=list)  # model.training at each forward pass
    steps: int = 0  # of the optimizer that was handed in
    other_steps: int = 0
    without_gradient: int = 0  # steps for which no gradient had reached the weights; a closure brings them in the step
    difference: str = ""  # from a plain loop, see Traffic


def watch_training(epochs: Epochs, model: nn.Module, max_steps: int | None = None) -> Training:
    """Call the student's training epoch and note what it does to model and optimizer."""
    seen, optimizer = Training(model), sgd(model)

    def step(stepped: torch.optim.Optimizer, *_: Any) -> None:
        seen.steps += stepped is optimizer
        seen.other_steps += stepped is not optimizer
        seen.without_gradient += all(parameter.grad is None for parameter in model.parameters())

    traffic, criterion = Traffic(), WatchedLoss(epochs.criterion)
    hooks = [
        register_optimizer_step_post_hook(step),
        model.register_forward_hook(traffic.note),
        model.register_forward_pre_hook(lambda module, _inputs: seen.modes.append(module.training)),
    ]
    options = [] if max_steps is None else [max_steps]
    try:
        seen.result = epochs.train_epoch(model, epochs.loader(), optimizer, criterion, helpers.CPU, *options)
    finally:
        for hook in hooks:
            hook.remove()
    seen.difference = traffic.difference(epochs.batches(), criterion.calls)
    return seen


def check_course_of_training(training: Training, batches: int) -> None:
    """Fail with the cause if the epoch did not go through its batches as a training does."""
    calls, steps = len(training.modes), training.steps
    assert calls, "expected the model to be called for each batch, but it was never called"
    assert any(training.modes), "the model is in evaluation mode while it is trained; model.train() is missing"
    assert all(training.modes), (
        f"{calls - sum(training.modes)} of {calls} calls of the model are in evaluation mode; take loss and score from "
        "the outputs that the step was computed from, without another pass"
    )
    assert steps or not training.other_steps, (
        "the steps were made by an optimizer that the function made itself; use the one that it is given, which "
        "remembers the steps of earlier epochs"
    )
    assert steps, "optimizer.step() was never called, so the weights stay as they are"
    assert not training.without_gradient, (
        "optimizer.step() found no gradient; is loss.backward() missing or below it, or zero_grad() between the two?"
    )
    assert calls >= batches or calls != steps, (
        f"the model saw {calls} of {batches} batches; does `return` or `break` stand inside the loop, or is a batch "
        "(the last one is smaller) left out?"
    )
    assert steps == batches, (
        f"expected {batches} optimizer steps, one per batch, got {steps}; is "
        "optimizer.step() called once in the loop, without a condition?"
    )


def check_pair(
    result: Any, epochs: Epochs, seen: Seen, other: dict[str, Seen] | None = None, difference: str = ""
) -> None:
    """Fail unless `result` is (average_loss, average_score) of what was seen; name the usual mistake if it is one.

    other: explanation → what would have been seen with another mistake.
    difference: what a plain loop does differently; said if the value alone tells nothing.
    """
    shape = f"two numbers, (average_loss, average_{epochs.score_name})"
    assert result is not None, f"expected {shape}, got None; is the `return` missing?"
    assert isinstance(result, (tuple, list)), f"expected {shape}, got a {type(result).__name__}"
    assert len(result) == 2, f"expected {shape}, got {len(result)} values"
    loss, score = map(helpers.number, result, ("the average loss", "the average score"))
    losses, scores = seen.right(seen.losses), seen.right(seen.batch_scores())
    assert 0.05 < min(scores.values()) <= max(scores.values()) < 0.95, f"this check is degenerate: {scores}"
    swapped = helpers.is_one_of(loss, scores, LOSS_TOLERANCE) and helpers.is_one_of(score, losses, LOSS_TOLERANCE)
    assert not swapped, f"the two values are swapped: return the average loss first, then the {epochs.score_name}"
    for name, value, right, mine in (
        ("loss", loss, losses, lambda seen: seen.losses),
        (epochs.score_name, score, scores, lambda seen: seen.batch_scores()),
    ):
        if helpers.is_one_of(value, right, LOSS_TOLERANCE):
            continue
        wrong = dict(seen.wrong(mine(seen)))
        for explanation, others in (other or {}).items():
            wrong |= dict.fromkeys([explanation], others.right(mine(others))["mean over images"])
            wrong |= {explanation + " ": others.right(mine(others))["mean over batches"]}
        cause = next((f"; this is {text}" for text, w in wrong.items() if abs(value - w) < LOSS_TOLERANCE), difference)
        listed = " or ".join(f"{number:.6f} ({kind})" for kind, number in right.items())
        raise AssertionError(f"expected an average {name} of {listed}, got {value:.6f}{cause.rstrip()}")


def check_training(epochs: Epochs) -> None:
    """One whole epoch, its last batch smaller: steps, weights, averages."""
    model, expected, wrong = (epochs.model() for _ in range(3))
    training = watch_training(epochs, model)
    check_course_of_training(training, BATCHES)
    seen = oracle_epoch(epochs, expected)
    oracle_epoch(epochs, wrong, zero=False)
    assert helpers.largest_difference(expected, wrong) > 1e-3, "this check could not tell a missing zero_grad"
    assert helpers.largest_difference(model, wrong) > WEIGHT_TOLERANCE, (
        "the gradients of earlier batches are added to those of later ones; optimizer.zero_grad() is missing"
    )
    difference = helpers.largest_difference(model, expected)
    assert difference < WEIGHT_TOLERANCE, (
        f"{training.difference}; after {BATCHES} steps the weights are off by up to {difference:.4f}; a loop computes "
        "the loss with the given criterion, calls backward() and step() once per batch and changes nothing else"
    ).lstrip("; ")
    check_pair(training.result, epochs, seen, difference=training.difference)


def check_stops_at_max_steps(epochs: Epochs) -> None:
    """Two of three steps: weights and averages are those of two; more steps than batches are the whole epoch."""
    for max_steps, steps in ((2, 2), (1, 1), (50, BATCHES)):
        model, expected = epochs.model(), epochs.model()
        seen = oracle_epoch(epochs, expected, max_steps)
        training = watch_training(epochs, model, max_steps)
        assert training.steps == steps, (
            f"expected {steps} optimizer steps for max_steps={max_steps} and {BATCHES} batches, got {training.steps}"
        )
        check_pair(training.result, epochs, seen)
        assert helpers.largest_difference(model, expected) < WEIGHT_TOLERANCE, (
            f"expected the weights of a hand-written loop after {steps} steps, got others"
        )


def check_switches_to_training_mode(epochs: Epochs) -> None:
    """The model arrives in evaluation mode and is trained in training mode."""
    check_course_of_training(watch_training(epochs, epochs.model().eval()), BATCHES)


def watch_validation(epochs: Epochs, model: nn.Module) -> tuple[Any, list[tuple[bool, bool, int]], str]:
    """Validate → result, each forward pass (training mode, graph built, images), what a plain loop does differently."""
    traffic, criterion = Traffic(), WatchedLoss(epochs.criterion)
    calls: list[tuple[bool, bool, int]] = []
    noting = model.register_forward_hook(traffic.note)
    hook = model.register_forward_hook(lambda m, _in, out: calls.append((m.training, out.requires_grad, len(out))))
    try:
        result = epochs.validate_epoch(model, epochs.loader(), criterion, helpers.CPU)
    finally:
        hook.remove()
        noting.remove()
        left_off = not torch.is_grad_enabled()
        torch.set_grad_enabled(True)
    assert not left_off, (
        "gradients are still off after validation, so training would stop there; use `with torch.no_grad():`, not "
        "torch.set_grad_enabled(False)"
    )
    return result, calls, traffic.difference(epochs.batches(), criterion.calls)


def check_validation_results(epochs: Epochs) -> None:
    """Exact results over the whole loader, for a model that arrives in training mode."""
    model = _trained_a_little(epochs)
    seen, training = oracle_validation(epochs, model), oracle_validation(epochs, model, training=True)
    gap = abs(fmean(seen.losses) - fmean(training.losses))
    assert gap > 10 * LOSS_TOLERANCE, f"this check could not tell a missing eval(): {gap:.6f}"
    before = copy.deepcopy(model)
    result, calls, difference = watch_validation(epochs, model)
    _check_course_of_validation(calls, helpers.largest_difference(model, before))
    other = {"what dropout and BatchNorm give in training mode; model.eval() is missing": training}
    check_pair(result, epochs, seen, other, difference)


def _check_course_of_validation(calls: list[tuple[bool, bool, int]], moved: float) -> None:
    assert calls, "expected the model to be called for each batch, but it was never called"
    assert not any(training for training, *_ in calls), (
        "the model is in training mode while it is validated; model.eval() is missing or undone"
    )
    assert moved == 0, "validation changed the weights; no backward() and no step() belong here"
    seen = sum(images for *_, images in calls)  # in batches of any size: several may be put together, or one twice
    assert seen >= helpers.COUNT, (
        f"expected all {helpers.COUNT} images to be validated, got {seen}; is there a `return` or `break` in the loop?"
    )


def check_validation_changes_nothing(epochs: Epochs) -> None:
    """Weights, BatchNorm statistics and gradients stay; the model is in evaluation mode and no graph is built."""
    model = _trained_a_little(epochs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    _result, calls, _difference = watch_validation(epochs, model)
    _check_course_of_validation(calls, 0)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert not frozen, f"requires_grad is off after validation for {', '.join(frozen)}, so they no longer learn"
    assert not any(graph for _, graph, _ in calls), (
        "a graph for gradients is built in validation, which costs memory for nothing; torch.no_grad() is missing"
    )
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert not changed, f"expected validation to change nothing, but it changed: {', '.join(changed)}"
    for name, parameter in model.named_parameters():
        same = parameter.grad is not None and torch.equal(parameter.grad, gradients[name])
        assert same, f"expected validation to leave gradients alone, but it changed that of {name}"


def _trained_a_little(epochs: Epochs) -> nn.Module:
    """A model in training mode with gradients, and BatchNorm statistics that differ from those of a batch."""
    model = epochs.model()
    optimizer = sgd(model)
    model.train()
    inputs, targets = epochs.batches()[0]
    epochs.criterion(model(inputs), targets).backward()
    optimizer.step()
    return model
