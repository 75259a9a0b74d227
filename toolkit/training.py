"""What surrounds the epochs of a training: optimizer, precision, averaged weights, schedule, history, checkpoints.

The loops themselves are in classification_train.py and segmentation_train.py and know nothing of all this. The session
reaches them from outside: hooks of PyTorch tell it of every forward pass, every loss and every optimizer step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from tqdm import tqdm

from toolkit.batches import generators_of
from toolkit.cli import noticing_ctrl_c
from toolkit.devices import pick_device, shape_lazy_layers
from toolkit.errors import UserError
from toolkit.precision import LossScale, compute_in
from toolkit.runs import RunFolder, best_epoch_of, load_checkpoint, save_checkpoint
from toolkit.schedules import average_weights, check_settings, make_scheduler
from toolkit.step_log import StepLog

CURES = "likely cures: a learning rate ten times smaller, --precision float32, no log(0) or division by 0 in the loss"


class DivergedError(UserError):
    """The loss became NaN or infinite; the message names step, learning rate and likely cures."""


def make_optimizer(
    name: str, model: nn.Module, learning_rate: float = 0.001, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """The optimizer called 'adam' (the default of the course), 'adamw' or 'sgd' (Nesterov momentum 0.9)."""
    settings = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **settings)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](model.parameters(), **settings)


class TrainingSession:
    """One training, seen from outside the loop that does it.

    Args:
        model: trained in place; at the end it holds the weights that were validated last.
        criterion: the loss. It is watched: a NaN stops the training, and steps.csv records it.
        metrics: names of the history's lists; the last one (val_acc, val_iou) is watched, and higher is better.
        loaders: training and validation batches; their random generators are part of a checkpoint.
        epochs, learning_rate, weight_decay, max_steps_per_epoch: as for classification_train.train_model.
        optimizer: adam, adamw, sgd, or a ready one. A loop that steps its own optimizer is followed all the same.
        scheduler: of the learning rate: constant, cosine, onecycle, or a ready scheduler, stepped after every batch.
        device: picked if None.
        precision: float32, bfloat16 or float16, of the forward pass.
        ema_decay: above 0, validation uses averaged weights, see average_weights.
        patience: stop after this many epochs without a better value of the watched metric.
        run: folder for history.csv, steps.csv, best.pt and last.pt; a run that has a last.pt is continued.
        best_extra: facts that best.pt holds next to the weights.

    Raises UserError for values out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Any,
        metrics: Sequence[str],
        loaders: Sequence[Any] = (),
        epochs: int = 1,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        max_steps_per_epoch: int | None = None,
        *,
        optimizer: str | torch.optim.Optimizer = "adam",
        scheduler: Any = "constant",
        device: torch.device | str | None = None,
        precision: str = "float32",
        ema_decay: float = 0.0,
        patience: int | None = None,
        run: RunFolder | None = None,
        best_extra: Mapping[str, Any] | None = None,
    ) -> None:
        check_settings(epochs, learning_rate, weight_decay, max_steps_per_epoch, loaders)
        self.device = pick_device("auto") if device is None else torch.device(device)
        self.model, self.criterion, self.run = model.to(self.device), criterion, run
        shape_lazy_layers(model, chain.from_iterable(loaders[:1]), self.device)  # before the optimizer sees weights
        self.steps_per_epoch = _steps_per_epoch(loaders, max_steps_per_epoch)
        if isinstance(optimizer, str):
            optimizer = make_optimizer(optimizer, model, learning_rate, weight_decay)
        self.optimizer, self._wanted_scheduler, self.scheduler = optimizer, scheduler, None
        self._last_epoch, self.patience = epochs, patience
        self.history: dict[str, list[float]] = {name: [] for name in metrics}
        self.monitor, self.best_extra = metrics[-1], dict(best_extra or {})
        # Shuffling and augmentation continue where they were, so that a resumed run equals one that was not stopped.
        self._generators = [generator for loader in loaders for generator in generators_of(loader)]
        self._timing: dict[str, list[float]] = {"learning_rate": [], "seconds": []}
        self._hooks = compute_in(precision, model, self.device)
        self._ema_decay, self.averaged = ema_decay, average_weights(model, ema_decay) if ema_decay else None
        self._loss_scale = LossScale(model) if precision == "float16" else None
        self._listen(optimizer)
        if run is not None and run.file("last.pt").exists():
            self._restore(load_checkpoint(run.file("last.pt"), device="cpu"))

    # --- the loop's side ---------------------------------------------------------------------------------------------

    @property
    def best_epoch(self) -> int:
        """The number of the best epoch so far, see best_epoch_of."""
        return best_epoch_of(self.history, self.monitor)

    def epochs(self) -> Iterator[int]:
        """Yield the numbers of the epochs that are still to do; save after each; stop early.

        The body of the caller's loop must append one value to each list of `history`.
        """
        with self.watching():
            for epoch in range(len(self.history[self.monitor]) + 1, self._last_epoch + 1):
                if self._is_out_of_patience():
                    break
                self.start_epoch()
                yield epoch
                self.end_epoch()
        self.finish(self.history)

    def evaluation_model(self) -> nn.Module:
        """The model to validate with: the one with averaged weights, if there is one."""
        return self.model if self.averaged is None else self.averaged.module

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the session is told of every loss, every optimizer step and every Ctrl-C."""
        if self.run is not None:
            decay = f"averaged weights (--ema_decay {self._ema_decay:g})"
            tqdm.write(f"validation and best.pt use {decay if self._ema_decay else 'the weights of the last step'}")
        with self._hooks as hooks, noticing_ctrl_c(self._note_ctrl_c):
            hooks.callback(register_optimizer_step_pre_hook(self._before_step).remove)
            self._watch(self.criterion)
            if self._loss_scale is not None:
                hooks.callback(self._loss_scale.remove)
            yield

    def start_epoch(self, criterion: Any = None) -> None:
        """Begin an epoch: clock, learning rate, progress bar. `criterion`: if it was not known before."""
        self._watch(criterion)
        self._started, self._rate = time.perf_counter(), self.optimizer.param_groups[0]["lr"]
        self.log.start_epoch()
        self._bar = tqdm(desc="train", total=self.steps_per_epoch, unit="step", leave=False, disable=None)

    def end_epoch(self) -> None:
        """Check the newest results in `history`, report them, and save."""
        self._bar.close()
        self._raise_swallowed_ctrl_c()
        epoch = 1 + len(self._timing["seconds"])
        self._check_history(epoch)
        self._timing["learning_rate"].append(self._rate)
        self._timing["seconds"].append(round(time.perf_counter() - self._started, 3))
        row = "  ".join(f"{name} {values[-1]:.4f}" for name, values in self.history.items())
        mark = "  (best)" if self.best_epoch == epoch else ""
        tqdm.write(f"epoch {epoch}/{self._last_epoch}  {row}  {self._timing['seconds'][-1]:.1f} s{mark}")
        self.log.warn_if_far_above_guessing(self.history, self._rate)
        if self.run is not None:
            self._save(epoch)

    def finish(self, history: Mapping[str, Sequence[float]]) -> None:
        """Leave the model with the weights that were validated last; keep them if no epoch was seen.

        history: what a training function returned whose loops call neither of the two epoch functions.
        """
        if self.averaged is not None:
            self.model.load_state_dict(self.averaged.module.state_dict())
        if self.history[self.monitor]:
            return
        for name, values in self.history.items():
            values.extend(self._as_float(value, name) for value in history[name])
        if self.run is not None:
            self.run.write_history(self.history)
            self._save_best(len(self.history[self.monitor]))
            tqdm.write("note: the training function validates by itself; best.pt holds the weights of its last epoch")

    # --- what the hooks call -----------------------------------------------------------------------------------------

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Before a step of any optimizer of this process: one that trains this model is followed from now on."""
        if not any(id(weight) in self._weights for group in optimizer.param_groups for weight in group["params"]):
            return
        if optimizer is not self.optimizer:
            self._follow(optimizer)
            optimizer._opt_called = True  # by this step; PyTorch's schedulers count only the later ones, and warn
        if self._loss_scale is not None:
            self._loss_scale.before_step(optimizer)

    def _follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Hear of the steps of `optimizer`, and let the schedule drive its learning rate."""
        self.optimizer = optimizer
        self._hooks.callback(optimizer.register_step_post_hook(self._end_step).remove)
        if self._saved_optimizer is not None:  # a resumed run whose loop has just made its own optimizer
            with contextlib.suppress(ValueError, KeyError):  # another kind of optimizer starts without its memory
                optimizer.load_state_dict(self._saved_optimizer)
        if isinstance(self._wanted_scheduler, str):
            steps = self._last_epoch * (self.steps_per_epoch or 1)
            state = None if self.scheduler is None else self.scheduler.state_dict()
            self.scheduler = make_scheduler(self._wanted_scheduler, optimizer, steps)
            if state is not None and self._saved_optimizer is not None:
                self.scheduler.load_state_dict(state)
        else:
            self.scheduler = self._wanted_scheduler

    def _end_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """After every step: the schedule, the averaged weights, the log, the bar."""
        # Schedule and average change per step, not per epoch: the course's quick run is a single epoch of 100 steps.
        loss = self.log.end_step(optimizer.param_groups[0]["lr"])
        if loss is not None and not math.isfinite(loss):
            rate = optimizer.param_groups[0]["lr"]
            raise DivergedError(f"the loss is {loss} at step {self.log.step} with learning rate {rate:g}; {CURES}")
        if self.scheduler is not None:
            self.scheduler.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        if self._bar is not None:
            self._bar.update()
        self._raise_swallowed_ctrl_c()

    def _listen(self, optimizer: torch.optim.Optimizer) -> None:
        """Begin to follow steps: nothing is watched yet, and no optimizer has been restored."""
        self.log, self._bar, self._interrupted = StepLog(), None, False
        self._watched: list[nn.Module] = []
        self._weights = {id(weight) for weight in self.model.parameters()}
        self._saved_optimizer: dict[str, Any] | None = None
        self._follow(optimizer)

    def _watch(self, criterion: Any) -> None:
        """Hear of every loss that `criterion` computes, if it is a module and not watched already."""
        if isinstance(criterion, nn.Module) and criterion not in self._watched:
            self._watched.append(criterion)
            self._hooks.callback(criterion.register_forward_hook(self.log.note_loss).remove)

    def _note_ctrl_c(self) -> None:
        self._interrupted = True

    def _raise_swallowed_ctrl_c(self) -> None:
        """PyTorch ends its loader processes in __del__, where Python drops a Ctrl-C, and training would continue."""
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    # --- bookkeeping -------------------------------------------------------------------------------------------------

    def _is_out_of_patience(self) -> bool:
        done = len(self.history[self.monitor])
        if self.patience is None or not done or done - self.best_epoch < self.patience:
            return False
        tqdm.write(f"stopped early: no better {self.monitor} for {self.patience} epochs")
        return True

    def _check_history(self, epoch: int) -> None:
        """The newest row must be there, be numbers (which become floats here) and be finite."""
        for name, values in self.history.items():
            count = len(values) if hasattr(values, "__len__") else "no list of"
            if count != epoch:
                problem = f"history[{name!r}] has {count} values after {epoch} epochs"
                raise UserError(f"{problem}; append one value per epoch to the list that is there")
            values[-1] = self._as_float(values[-1], name)
            if not math.isfinite(values[-1]):
                rate = self.optimizer.param_groups[0]["lr"]
                raise DivergedError(f"{name} is {values[-1]} after epoch {epoch} with learning rate {rate:g}; {CURES}")

    def _as_float(self, value: Any, name: str) -> float:
        """A number, NumPy number or tensor with one value as a float; UserError names the function it came from."""
        try:
            if isinstance(value, str):
                raise TypeError
            return float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, RuntimeError):
            kind = "train" if name.startswith("train") else "validate"
            function = f"{kind}_segmentation_epoch" if self.monitor.endswith("iou") else f"{kind}_epoch"
            what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:60]
            raise UserError(
                f"history[{name!r}] got {what}, which is not a number; {function} must return two numbers, "
                f"(average_loss, {'average_iou' if self.monitor.endswith('iou') else 'accuracy'})"
            ) from None

    def _save(self, epoch: int) -> None:
        row = {**self.history, **self._timing}
        self.run.append_history(epoch, {name: values[-1] for name, values in row.items()})
        self.log.write(self.run)
        if self.best_epoch == epoch:
            self._save_best(epoch)
        save_checkpoint(self.run.file("last.pt"), self._state())

    def _save_best(self, epoch: int) -> None:
        best = {"epoch": epoch, self.monitor: self.history[self.monitor][-1]}
        weights = self.evaluation_model().state_dict()
        save_checkpoint(self.run.file("best.pt"), {**self.best_extra, **best, "state_dict": weights})

    def _state(self) -> dict[str, Any]:
        """Everything that decides how training continues, in types that load with weights_only=True."""
        averaged = self.averaged
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "averaged": averaged and [int(averaged.n_averaged), averaged.module.state_dict()],
            "history": self.history,
            "timing": self._timing,
            "steps": [self.log.step, self.log.rows],
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "generators": [generator.get_state() for generator in self._generators],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self._saved_optimizer = state["optimizer"]
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            if self.averaged is not None:
                steps, weights = state["averaged"]
                self.averaged.n_averaged.fill_(steps)
                self.averaged.module.load_state_dict(weights)
            for name, values in state["history"].items():
                self.history[name][:] = values
            self._timing = state["timing"]
            self.log.step, self.log.rows = state["steps"]
            torch.set_rng_state(state["rng"])
            if torch.cuda.is_available() and len(state["cuda_rng"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda_rng"])
            for generator, saved in zip(self._generators, state["generators"], strict=True):
                generator.set_state(saved)
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0].rstrip(":")
            raise UserError(
                f"cannot resume from {self.run.file('last.pt')}: {reason}; if the model was changed since, start a new "
                "run without --resume"
            ) from None
        # A run that was stopped between its two files may have a row more than its checkpoint.
        self.run.write_history({**self.history, **self._timing})


def _steps_per_epoch(loaders: Sequence[Any], max_steps: int | None) -> int | None:
    """Training steps per epoch; None if neither the loader nor the caller says how many."""
    length = len(loaders[0]) if loaders and hasattr(loaders[0], "__len__") else None
    return min(filter(None, (length, max_steps)), default=None)
