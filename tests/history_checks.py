"""Checks of `train_model` and `train_segmentation_model` that do without the epochs of the student's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn


def history_of_given_epochs(
    module: ModuleType,
    train_function: str,
    epoch_functions: tuple[str, str],
    results: tuple[list[tuple[float, float]], list[tuple[float, float]]],
    model: nn.Module | None = None,
) -> dict[str, list[float]]:
    """Run the training function with epochs that return `results` (of training, of validation) and do nothing else.

    The loss is given too, so that only the recording of the results is at work.
    """
    train_results, val_results = (iter(pairs) for pairs in results)
    function: Callable[..., Any] = getattr(module, train_function)
    takes_criterion = "criterion" in inspect.signature(function).parameters  # those of earlier terms do not
    extras = {"criterion": nn.MSELoss()} if takes_criterion else {}
    batch = [(torch.zeros(2, 3, 28, 28), torch.zeros(2, dtype=torch.long))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, epoch_functions[0], lambda *_args, **_options: next(train_results))
        patch.setattr(module, epoch_functions[1], lambda *_args, **_options: next(val_results))
        return function(model or nn.Linear(2, 2), batch, batch, epochs=len(results[0]), **extras)


def check_history(history: Any, expected: dict[str, list[float]]) -> None:
    """Fail unless `history` is the dict of lists that was expected."""
    assert isinstance(history, dict), f"expected the history as a dict of lists, got a {type(history).__name__}"
    missing = [name for name in expected if name not in history]
    assert not missing, f"expected the keys {', '.join(expected)}, got {', '.join(history)}"
    for name, values in expected.items():
        got = list(history[name])
        inside = "; is the dict made, or does `return` stand, inside the loop?" if len(got) == 1 else ""
        assert len(got) == len(values), (
            f"expected {len(values)} values in {name}, one per epoch, got {len(got)}{inside or '; see range(epochs)'}"
        )
        cause = next((f"; {text}" for text, wrong in _usual_mistakes(name, expected) if got == wrong), "")
        assert got == pytest.approx(values), f"expected {name} {values}, got {got}{cause}"


def _usual_mistakes(name: str, expected: dict[str, list[float]]) -> list[tuple[str, list[float]]]:
    """What a wrong history looks like, with its cause."""
    values = expected[name]
    best = min if name.endswith("loss") else max
    so_far = [best(values[: epoch + 1]) for epoch in range(len(values))]
    others = [
        (f"these are 1 minus {other}; append what each epoch returned", [1 - value for value in wrong])
        for other, wrong in expected.items()
    ]
    others += [(f"these are the values of {other}", wrong) for other, wrong in expected.items() if other != name]
    return [
        *others,
        ("these are the best values so far; append what each epoch returned", so_far),
        ("these are percent; append fractions", [100 * value for value in values]),
        ("this is the last value alone", [values[-1]] * len(values)),
    ]


def check_fractions(history: dict[str, list[float]], names: tuple[str, ...]) -> None:
    """Fail unless these values lie in [0, 1]."""
    for name in names:
        assert all(0 <= value <= 1 for value in history[name]), (
            f"expected {name} as fractions between 0 and 1, got {history[name]}; not percent"
        )
