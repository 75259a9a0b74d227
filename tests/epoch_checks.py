"""Checks of a training and a validation epoch that Part 1 and Part 2 have in common.

A `Task` says what differs: batches, model, loss and score. The oracle is a training loop written out here with nothing
but torch, on a small model of the tests' own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests import helpers

LEARNING_RATE, MOMENTUM = 0.1, 0.9
# Two float32 runs of three steps differ by about 1e-7 if sums are ordered differently; the plausible mistakes below
# (gradients not zeroed, no training mode, a step too many) by more than 1e-3.
WEIGHT_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Task:
    """What the checks need to know. unpack: batch → (inputs, targets). score: (outputs, targets) → one a sample."""

    train_epoch: Callable[..., tuple[float, float]]
    validate_epoch: Callable[..., tuple[float, float]]
    loader: Callable[..., Any]
    model: Callable[[], nn.Module]
    criterion: nn.Module
    unpack: Callable[[Any], tuple[torch.Tensor, torch.Tensor]]
    score: Callable[[torch.Tensor, torch.Tensor], list[float]]
    score_name: str


@dataclass
class Seen:
    """Loss, scores and size of each batch that the oracle saw."""

    losses: list[float]
    scores: list[list[float]]
    sizes: list[int]

    def average_losses(self) -> dict[str, float]:
        """Both ways to average over batches of unequal size; either is accepted."""
        return self._averages(self.losses)

    def average_scores(self) -> dict[str, float]:
        """As average_losses, for the score."""
        return self._averages([sum(batch) / len(batch) for batch in self.scores])

    def _averages(self, values: list[float]) -> dict[str, float]:
        weighted = sum(value * size for value, size in zip(values, self.sizes, strict=True)) / sum(self.sizes)
        return {"mean over samples": weighted, "mean over batches": sum(values) / len(values)}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of these checks; its momentum shows gradients that were left over."""
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def oracle_epoch(task: Task, model: nn.Module, max_steps: int | None = None, *, zero: bool = True) -> Seen:
    """Train by hand: v = momentum v + g, w = w - lr v. `zero` False is the classical mistake."""
    model.train()
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    seen = Seen([], [], [])
    for step, batch in enumerate(task.loader()):
        if max_steps is not None and step == max_steps:
            break
        inputs, targets = task.unpack(batch)
        outputs = model(inputs)
        loss = task.criterion(outputs, targets)
        fresh = torch.autograd.grad(loss, parameters)
        gradients = [new if zero else old + new for old, new in zip(gradients, fresh, strict=True)]
        with torch.no_grad():
            for index, parameter in enumerate(parameters):
                velocity[index] = MOMENTUM * velocity[index] + gradients[index]
                parameter -= LEARNING_RATE * velocity[index]
        _note(seen, task, loss, outputs, targets)
    return seen


@torch.no_grad()
def oracle_validation(task: Task, model: nn.Module) -> Seen:
    """Evaluate by hand on a copy of `model`."""
    model = copy.deepcopy(model).eval()
    seen = Seen([], [], [])
    for batch in task.loader():
        inputs, targets = task.unpack(batch)
        outputs = model(inputs)
        _note(seen, task, task.criterion(outputs, targets), outputs, targets)
    return seen


def _note(seen: Seen, task: Task, loss: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    seen.losses.append(loss.item())
    seen.scores.append(task.score(outputs.detach(), targets))
    seen.sizes.append(len(outputs))


def check_pair(result: Any, task: Task, seen: Seen) -> None:
    """Fail unless `result` is (average_loss, average_score) of what was seen."""
    shape = f"a pair (average_loss, average_{task.score_name})"
    assert isinstance(result, tuple), f"expected {shape}, got a {type(result).__name__}"
    assert len(result) == 2, f"expected {shape}, got {len(result)} values"
    helpers.check_one_of(result[0], seen.average_losses(), "an average loss of", LOSS_TOLERANCE)
    helpers.check_one_of(result[1], seen.average_scores(), f"an average {task.score_name} of", LOSS_TOLERANCE)


def check_weights_follow_the_oracle(task: Task) -> None:
    """One whole epoch of three batches, the last one smaller."""
    model, expected, wrong = (task.model() for _ in range(3))
    task.train_epoch(model, task.loader(), sgd(model), task.criterion, helpers.CPU)
    oracle_epoch(task, expected)
    oracle_epoch(task, wrong, zero=False)
    assert helpers.largest_difference(expected, wrong) > 1e-3, "this check could not tell a missing zero_grad"
    difference = helpers.largest_difference(model, expected)
    hint = " (they equal those of gradients that were never zeroed)" * (
        helpers.largest_difference(model, wrong) < WEIGHT_TOLERANCE
    )
    assert difference < WEIGHT_TOLERANCE, (
        f"expected the weights of a hand-written training loop after 3 steps, got weights that differ by up to "
        f"{difference:.4f}{hint}"
    )


def check_averages(task: Task) -> None:
    """The figures of a whole epoch whose last batch is smaller."""
    model = task.model()
    result = task.train_epoch(model, task.loader(), sgd(model), task.criterion, helpers.CPU)
    check_pair(result, task, oracle_epoch(task, task.model()))


def check_stops_at_max_steps(task: Task) -> None:
    """Two of three steps: weights and averages are those of two; more steps than batches are the whole epoch."""
    for max_steps, steps in ((2, 2), (1, 1), (50, 3)):
        model, expected = task.model(), task.model()
        seen = oracle_epoch(task, expected, max_steps)
        optimizer = sgd(model)
        done = []
        optimizer.register_step_post_hook(lambda *_, done=done: done.append(1))
        result = task.train_epoch(model, task.loader(), optimizer, task.criterion, helpers.CPU, max_steps)
        assert len(done) == steps, f"expected {steps} optimizer steps for max_steps={max_steps}, got {len(done)}"
        assert helpers.largest_difference(model, expected) < WEIGHT_TOLERANCE, (
            f"expected the weights of a hand-written loop after {steps} steps, got others"
        )
        check_pair(result, task, seen)


def check_switches_to_training_mode(task: Task) -> None:
    """The model comes in evaluation mode and is trained in training mode."""
    model, modes = task.model().eval(), []
    model.register_forward_pre_hook(lambda module, _inputs: modes.append(module.training))
    task.train_epoch(model, task.loader(), sgd(model), task.criterion, helpers.CPU)
    assert modes, "expected the model to be called, got no call"
    assert all(modes), "expected the model in training mode (model.train()), got it in evaluation mode"


def check_validation_figures(task: Task) -> None:
    """Exact figures over the whole loader, for a model that comes in training mode."""
    model = _trained_a_little(task)
    seen = oracle_validation(task, model)
    check_pair(task.validate_epoch(model, task.loader(), task.criterion, helpers.CPU), task, seen)


def check_validation_changes_nothing(task: Task) -> None:
    """Weights, BatchNorm statistics and gradients stay; the model is in evaluation mode and no graph is built."""
    model, calls = _trained_a_little(task), []
    model.register_forward_hook(lambda module, _in, output: calls.append((module.training, output.requires_grad)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    task.validate_epoch(model, task.loader(), task.criterion, helpers.CPU)
    assert len(calls) == 3, f"expected the model to be called for each of 3 batches, got {len(calls)} calls"
    assert not any(training for training, _ in calls), "expected evaluation mode (model.eval()), got training mode"
    assert not any(graph for _, graph in calls), "expected no gradients in validation, got a graph; use torch.no_grad"
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert not changed, f"expected validation to change nothing, but it changed: {', '.join(changed)}"
    for name, parameter in model.named_parameters():
        same = parameter.grad is not None and torch.equal(parameter.grad, gradients[name])
        assert same, f"expected validation to leave gradients alone, but it changed that of {name}"


def _trained_a_little(task: Task) -> nn.Module:
    """A model in training mode with gradients, and BatchNorm statistics that differ from those of a batch."""
    model = task.model()
    optimizer = sgd(model)
    model.train()
    inputs, targets = task.unpack(next(iter(task.loader())))
    task.criterion(model(inputs), targets).backward()
    optimizer.step()
    return model
