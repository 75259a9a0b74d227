"""Checks of `train_model` and `train_segmentation_model` that do without the epochs of the student's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

TRAIN_PIXEL, VAL_PIXEL, WEIGHT_DECAY, MAX_STEPS = 1.0, 2.0, 0.125, 7


@dataclass
class GivenEpochs:
    """A training and a validation epoch that return given results, and note what they are called with.

    Args:
        model: the one that the caller hands in.
        results: of training, of validation.
        signatures: of the student's own two functions, because arguments may be named.
    """

    model: nn.Module
    results: tuple[Iterator[tuple[float, float]], Iterator[tuple[float, float]]]
    signatures: tuple[inspect.Signature, inspect.Signature]
    optimizers: list[Any] = field(default_factory=list)
    got_max_steps: list[bool] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    trained_on: list[float] = field(default_factory=list)  # the first value of the first batch
    validated_on: list[float] = field(default_factory=list)

    def train_epoch(self, *arguments: Any, **named: Any) -> tuple[float, float]:
        """Adds 1 to each weight."""
        trained, loader, optimizer, *rest = self.signatures[0].bind(*arguments, **named).arguments.values()
        self.order.append("train")
        self.got_max_steps.append(MAX_STEPS in [value for value in rest if isinstance(value, int)])
        self.optimizers.append(optimizer)
        self.trained_on.append(_first_pixel(loader))
        _check_weights(optimizer, self.model, trained)
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(1.0)
        return self._next(0, "training")

    def validate_epoch(self, *arguments: Any, **named: Any) -> tuple[float, float]:
        """Changes nothing."""
        _model, loader, *_rest = self.signatures[1].bind(*arguments, **named).arguments.values()
        self.order.append("val")
        self.validated_on.append(_first_pixel(loader))
        return self._next(1, "validation")

    def _next(self, part: int, what: str) -> tuple[float, float]:
        result = next(self.results[part], None)
        assert result is not None, f"the {what} epoch is called more than once per epoch"
        return result

    def check(self) -> None:
        """Fail with the cause if the epochs got the wrong data or optimizer."""
        assert set(self.trained_on) == {TRAIN_PIXEL}, (
            "the training epoch got another loader than train_loader; only training data may change the weights"
        )
        assert set(self.validated_on) == {VAL_PIXEL}, "the validation epoch got another loader than val_loader"
        assert len({id(optimizer) for optimizer in self.optimizers}) == 1, (
            "a new optimizer is made for each epoch; make it once, before the loop: it remembers its earlier steps"
        )
        assert self.order == ["train", "val"] * (len(self.order) // 2), (
            f"the epochs run in the order {', '.join(self.order)}; train first, then validate what was trained"
        )
        assert all(self.got_max_steps), f"max_steps_per_epoch={MAX_STEPS} does not reach the training epoch; hand it on"
        decays = [group["weight_decay"] for group in self.optimizers[0].param_groups]
        assert max(decays) == WEIGHT_DECAY, (
            f"weight_decay={WEIGHT_DECAY} was asked for, the optimizer has {max(decays):g}; hand it on"
        )


def _check_weights(optimizer: Any, model: nn.Module, trained: nn.Module) -> None:
    """The optimizer has all weights of the model that the caller handed in, and that one is trained."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, parameter in trained.named_parameters() if id(parameter) not in held]
    assert not missing, f"the optimizer does not have {', '.join(missing)}; give it all of model.parameters()"
    assert {id(parameter) for parameter in model.parameters()} <= held, (
        "another model is trained than the one handed in, a copy perhaps; the caller's stays as it was"
    )


def history_of_given_epochs(
    module: ModuleType,
    train_function: str,
    epoch_functions: tuple[str, str],
    results: tuple[list[tuple[float, float]], list[tuple[float, float]]],
    model: nn.Module | None = None,
) -> dict[str, list[float]]:
    """Run the training function with epochs that return `results` (of training, of validation).

    The loss is given too, so that only what the function itself does is at work: which loader and which optimizer it
    hands to the epochs, and what it records.
    """
    model = model or nn.Linear(2, 2)
    first = [parameter.detach().clone() for parameter in model.parameters()]
    signatures = tuple(inspect.signature(getattr(module, name)) for name in epoch_functions)
    given = GivenEpochs(model, (iter(results[0]), iter(results[1])), signatures)
    function: Callable[..., Any] = getattr(module, train_function)
    takes_criterion = "criterion" in inspect.signature(function).parameters  # those of earlier terms do not
    extras = {"criterion": nn.MSELoss()} if takes_criterion else {}
    loaders = [[(torch.full((2, 3, 28, 28), value), torch.zeros(2).long())] for value in (TRAIN_PIXEL, VAL_PIXEL)]
    settings = {"epochs": len(results[0]), "weight_decay": WEIGHT_DECAY, "max_steps_per_epoch": MAX_STEPS, **extras}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, epoch_functions[0], given.train_epoch)
        patch.setattr(module, epoch_functions[1], given.validate_epoch)
        history = function(model, *loaders, **settings)
    given.check()
    moved = any((now - then).abs().max() > 1e-3 for now, then in zip(model.parameters(), first, strict=True))
    assert moved, "after training the model has its first weights again"
    return history


def _first_pixel(loader: Any) -> float:
    images, *_ = next(iter(loader))
    return images.flatten()[0].item()


def check_history(history: Any, expected: dict[str, list[float]]) -> None:
    """Fail unless `history` is the dict of lists that was expected."""
    assert isinstance(history, dict), f"expected the history as a dict of lists, got a {type(history).__name__}"
    missing = [name for name in expected if name not in history]
    assert not missing, f"expected the keys {', '.join(expected)}, got {', '.join(history)}"
    for name, values in expected.items():
        got = list(history[name])
        causes = {
            0: "; is nothing appended to it?",
            1: "; is the dict made, or does `return` stand, inside the loop?",
            len(expected) * len(values): "; have all lists the same name (a = b = [] is one list)?",
        }
        cause = causes.get(len(got), "; see range(epochs)")
        assert len(got) == len(values), f"expected {len(values)} values in {name}, one per epoch, got {len(got)}{cause}"
        cause = next((f"; {text}" for text, wrong in _usual_mistakes(name, expected) if got == wrong), "")
        assert got == pytest.approx(values), f"expected {name} {values}, got {got}{cause}"


def _usual_mistakes(name: str, expected: dict[str, list[float]]) -> list[tuple[str, list[float]]]:
    """What a wrong history looks like, with its cause."""
    values = expected[name]
    best = min if name.endswith("loss") else max
    so_far = [best(values[: epoch + 1]) for epoch in range(len(values))]
    means = [sum(values[: epoch + 1]) / (epoch + 1) for epoch in range(len(values))]
    others = [
        (f"these are 1 minus {other}; append what each epoch returned", [1 - value for value in wrong])
        for other, wrong in expected.items()
    ]
    others += [(f"these are the values of {other}", wrong) for other, wrong in expected.items() if other != name]
    return [
        *others,
        ("these are the best values so far; append what each epoch returned", so_far),
        ("these are means over the epochs so far; append what each epoch returned", means),
        ("these are rounded to whole numbers; append what each epoch returned", [round(value) for value in values]),
        ("these are percent; append fractions", [100 * value for value in values]),
        ("this is the last value alone", [values[-1]] * len(values)),
    ]


def check_fractions(history: dict[str, list[float]], names: tuple[str, ...]) -> None:
    """Fail unless these values lie in [0, 1]."""
    for name in names:
        assert all(0 <= value <= 1 for value in history[name]), (
            f"expected {name} as fractions between 0 and 1, got {history[name]}; not percent"
        )
