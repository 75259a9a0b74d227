"""What surrounds the epochs of a training: history, early stopping, averaged weights, checkpoints, resuming.

The loops themselves are in classification_train.py and segmentation_train.py, where they can be read and graded.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from toolkit.batches import generators_of
from toolkit.errors import UserError
from toolkit.runs import RunFolder, load_checkpoint, save_checkpoint


class DivergedError(UserError):
    """The loss became NaN or infinite; the message names step, learning rate and likely cures."""


def check_loss(loss: float, step: int, optimizer: torch.optim.Optimizer) -> None:
    """Raise DivergedError if `loss` is NaN or infinite."""
    if not math.isfinite(loss):
        rate = optimizer.param_groups[0]["lr"]
        raise DivergedError(
            f"the loss is {loss} at step {step} with learning rate {rate:g}; likely cures: a learning rate ten times "
            "smaller, --precision float32, inputs without NaN, no division by zero or log(0) in the loss"
        )


def limited(loader: Iterable, max_steps: int | None, description: str = "train") -> Iterator[tuple[int, Any]]:
    """Yield (step, batch) for the first `max_steps` batches (None or 0: all), steps counted from 1, with a bar.

    The bar is quiet when stderr is not a terminal. Raises UserError if there is no batch at all.
    """
    if max_steps is not None and max_steps < 0:
        raise UserError(f"max_steps is {max_steps}; allowed: 0 or None (the whole epoch), or 1 and more")
    batches = iter(loader)
    total = len(loader) if hasattr(loader, "__len__") else None
    if max_steps:
        total = min(total, max_steps) if total is not None else max_steps
    step, limit = 0, min(max_steps, sys.maxsize) if max_steps else None
    bar = tqdm(islice(batches, limit), desc=description, total=total, unit="step", leave=False, disable=None)
    try:
        for step, batch in enumerate(bar, start=1):
            yield step, batch
    finally:
        # torch ends its loader processes in __del__, where Python swallows a Ctrl-C, and training would go on.
        getattr(batches, "_shutdown_workers", lambda: None)()
    if step == 0:
        raise UserError("the loader has no batch; is the set empty, or smaller than one batch with drop_last?")


class AveragedWeights:
    """Exponential moving average of all weights and BatchNorm statistics, for evaluation.

    The decay is min(decay, (1 + t) / (10 + t)) at step t, so that the random start is forgotten (the rule of
    TensorFlow's ExponentialMovingAverage with num_updates). With decay 0.95 an average spans about 20 steps: one gets
    most of what a falling learning rate gives, without fixing the number of epochs beforehand.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise UserError(f"ema_decay is {decay}; allowed: above 0 and below 1 (or 0 for no averaging)")
        self.decay, self.steps = decay, 0
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step of `model` into the average."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)


class TrainingSession:
    """Bookkeeping for one training.

    metrics: names of the history's lists; the last one (`val_acc`, `val_iou`) is watched, and higher is better.
    run: folder for history.csv, best.pt and last.pt; a run that has a last.pt is continued. patience: epochs without
    improvement after which training ends. best_extra: what best.pt says beside the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        metrics: Sequence[str],
        *,
        loaders: Sequence[Any] = (),
        scheduler: Any = None,
        ema_decay: float = 0.0,
        patience: int | None = None,
        run: RunFolder | None = None,
        best_extra: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.optimizer, self.scheduler, self.run = model, optimizer, scheduler, run
        self.history: dict[str, list[float]] = {name: [] for name in metrics}
        self.monitor = metrics[-1]
        self.patience = patience
        self.best_extra = best_extra or {}
        self.averaged = AveragedWeights(model, ema_decay) if ema_decay else None
        self._generators = [generator for loader in loaders for generator in generators_of(loader)]
        self._timing: dict[str, list[float]] = {"learning_rate": [], "seconds": []}
        self._live_weights: dict[str, torch.Tensor] | None = None
        if run is not None and run.file("last.pt").exists():
            self._restore(load_checkpoint(run.file("last.pt"), device="cpu"))

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) with the highest watched value, the first of equals; 0 before the first epoch."""
        values = self.history[self.monitor]
        return 1 + max(range(len(values)), key=values.__getitem__) if values else 0

    def epochs(self, last_epoch: int) -> Iterator[int]:
        """Yield the numbers of the epochs that are still to do, up to `last_epoch`; save after each; stop early.

        The body of the caller's loop must append one value to each list of `history`.
        """
        if last_epoch < 1:
            raise UserError(f"epochs is {last_epoch}; allowed: 1 or more")
        done = len(self.history[self.monitor])
        if done < last_epoch and self._is_out_of_patience():  # a resumed run ends where it would have ended
            return
        for epoch in range(done + 1, last_epoch + 1):
            started = time.perf_counter()
            rate = self.optimizer.param_groups[0]["lr"]
            yield epoch
            self._check_history(epoch)
            best_weights = self._leave_evaluation(keep=self.run is not None and self.best_epoch == epoch)
            self._timing["learning_rate"].append(rate)
            self._timing["seconds"].append(round(time.perf_counter() - started, 3))
            self._report(epoch, last_epoch)
            if self.run is not None:
                self._save(epoch, best_weights)
            if self._is_out_of_patience():
                return

    def _is_out_of_patience(self) -> bool:
        """True, and a line that says so, if the last `patience` epochs brought nothing better."""
        done = len(self.history[self.monitor])
        if self.patience is None or not done or done - self.best_epoch < self.patience:
            return False
        tqdm.write(f"stopped early: no better {self.monitor} for {self.patience} epochs")
        return True

    def after_step(self) -> None:
        """Call after every optimizer step: the schedule goes on and the average takes the new weights in."""
        if self.scheduler is not None:
            self.scheduler.step()
        if self.averaged is not None:
            self.averaged.update(self.model)

    def evaluation_model(self) -> nn.Module:
        """The model to validate with: averaged weights, if there are any, until the epoch ends."""
        if self.averaged is not None and self._live_weights is None:
            self._live_weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.model.load_state_dict(self.averaged.values)
        return self.model

    def finish(self) -> None:
        """Leave the model with the weights that were validated last: the averaged ones, if there are any."""
        if self.averaged is not None:
            self.model.load_state_dict(self.averaged.values)

    def _leave_evaluation(self, keep: bool) -> dict[str, torch.Tensor]:
        """Put the weights that are being trained back; return a copy of the validated ones if they are to be kept."""
        state = self.model.state_dict()
        validated = {name: value.detach().clone() for name, value in state.items()} if keep else {}
        if self._live_weights is not None:
            self.model.load_state_dict(self._live_weights)
            self._live_weights = None
        return validated

    def _check_history(self, epoch: int) -> None:
        """The newest row must be there and finite."""
        for name, values in self.history.items():
            if len(values) != epoch:
                raise ValueError(
                    f"history[{name!r}] has {len(values)} values after {epoch} epochs; append one an epoch"
                )
            if not math.isfinite(values[-1]):
                rate = self.optimizer.param_groups[0]["lr"]
                raise DivergedError(
                    f"{name} is {values[-1]} after epoch {epoch} with learning rate {rate:g}; "
                    "likely cures: a learning rate ten times smaller, --precision float32"
                )

    def _report(self, epoch: int, last_epoch: int) -> None:
        row = "  ".join(f"{name} {values[-1]:.4f}" for name, values in self.history.items())
        mark = "  (best)" if self.best_epoch == epoch else ""
        tqdm.write(f"epoch {epoch}/{last_epoch}  {row}  {self._timing['seconds'][-1]:.1f} s{mark}")

    def _save(self, epoch: int, best_weights: dict[str, torch.Tensor]) -> None:
        row = {**self.history, **self._timing}
        self.run.append_history(epoch, {name: values[-1] for name, values in row.items()})
        if best_weights:
            best = {"epoch": epoch, self.monitor: self.history[self.monitor][-1], "state_dict": best_weights}
            save_checkpoint(self.run.file("best.pt"), {**self.best_extra, **best})
        save_checkpoint(self.run.file("last.pt"), self._state())

    def _state(self) -> dict[str, Any]:
        """Everything that decides how training goes on, in types that load with weights_only=True."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "averaged": None if self.averaged is None else [self.averaged.steps, self.averaged.values],
            "history": self.history,
            "timing": self._timing,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "generators": [generator.get_state() for generator in self._generators],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            if self.averaged is not None:
                self.averaged.steps, values = state["averaged"]
                for name, value in values.items():
                    self.averaged.values[name].copy_(value)
            self.history, self._timing = state["history"], state["timing"]
            torch.set_rng_state(state["rng"])
            if torch.cuda.is_available() and len(state["cuda_rng"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda_rng"])
            for generator, saved in zip(self._generators, state["generators"], strict=True):
                generator.set_state(saved)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0].rstrip(":")
            raise UserError(
                f"cannot resume from {self.run.file('last.pt')}: {reason}; was the model changed since? then start anew"
            ) from None
        # A run that was stopped between its two files may have a row more than its checkpoint.
        self.run.write_history({**self.history, **self._timing})
