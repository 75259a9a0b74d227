"""Training functions of earlier terms: base arguments, their own optimizer, and no idea of sessions or run folders."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from toolkit.training import TrainingSession

History = dict[str, list[float]]
METRICS = {
    "classification": ("train_loss", "train_acc", "val_loss", "val_acc"),
    "segmentation": ("train_loss", "train_iou", "val_loss", "val_iou"),
}


def accepting_options(train_function: Callable[..., History], task: str) -> Callable[..., History]:
    """`train_function` itself, or for one with the base arguments alone a stand-in that takes the session's options.

    The stand-in watches the module's own train and validation functions while the training runs, so that averaged
    weights, schedule, precision, history.csv and checkpoints work without the training function doing anything.

    Args:
        train_function: train_model or train_segmentation_model of a submission.
        task: classification or segmentation; it says which names the epoch functions and the history's lists have.
    """
    metrics = METRICS[task]
    parameters = inspect.signature(train_function).parameters
    if "run" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return train_function

    def train(
        model: nn.Module,
        train_loader: Any,
        val_loader: Any,
        epochs: int,
        learning_rate: float,
        weight_decay: float,
        max_steps_per_epoch: int | None,
        criterion: nn.Module | None = None,
        **options: Any,
    ) -> History:
        if criterion is not None or options.get("optimizer", "adam") != "adam":
            print(f"note: {train_function.__name__} chooses its own loss and optimizer; those flags stay unused")
        max_steps = max_steps_per_epoch or len(train_loader)  # these functions know no 0
        schedule = (epochs, learning_rate, weight_decay, max_steps)
        session = TrainingSession(model, None, metrics, (train_loader, val_loader), *schedule, **options)
        remaining = epochs - len(session.history[metrics[-1]])
        if remaining > 0:
            with session.watching(), _Watched(train_function, task, session):
                history = train_function(
                    model, train_loader, val_loader, remaining, learning_rate, weight_decay, max_steps
                )
            session.finish(history)
        return session.history

    return train


class _Watched:
    """While it is open, the epoch functions of a training function's module report to the session."""

    def __init__(self, train_function: Callable, task: str, session: TrainingSession) -> None:
        kind = "segmentation_" if task == "segmentation" else ""
        self._names = f"train_{kind}epoch", f"validate_{kind}epoch"
        self._module: dict[str, Any] = inspect.unwrap(train_function).__globals__
        self._session, self._trained = session, None

    def __enter__(self) -> None:
        self._original = {name: self._module.get(name) for name in self._names}
        wrappers = self._train_epoch, self._validate_epoch
        if all(self._original.values()):  # otherwise the loops stand inside the function: it is seen at its end
            self._module.update(zip(self._names, wrappers, strict=True))

    def __exit__(self, *_: Any) -> None:
        if all(self._original.values()):
            self._module.update(self._original)

    def _train_epoch(self, *arguments: Any, **named: Any) -> Any:
        criterion = named.get("criterion", arguments[3] if len(arguments) > 3 else None)
        self._session.start_epoch(criterion)
        self._trained = self._original[self._names[0]](*arguments, **named)
        return self._trained

    def _validate_epoch(self, model: nn.Module, *arguments: Any, **named: Any) -> Any:
        session, trained = self._session, self._trained
        if model is session.model:
            model = session.evaluation_model()
        validated = self._original[self._names[1]](model, *arguments, **named)
        if trained is not None:  # a validation before the first epoch belongs to none
            self._trained = None
            for values, value in zip(session.history.values(), (*trained, *validated), strict=True):
                values.append(value)
            session.end_epoch()
        return validated
