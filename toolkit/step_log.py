"""The loss of every few training steps, for steps.csv and the learning curves: an epoch of 100 steps is one dot."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from toolkit.runs import RunFolder, write_bytes

COLUMNS = ("step", "loss", "learning_rate", "milliseconds")
EVERY_STEP_UNTIL, THEN_EVERY = 100, 10  # the first steps change most; a long run would otherwise fill the disk


class StepLog:
    """Listens to the criterion and to the optimizer; `rows` has one row per recorded step, in the order of COLUMNS."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []
        self.guessing: float | None = None  # nats: the loss of equal logits
        self.step = 0
        self._loss: torch.Tensor | None = None
        self._latest: list[float] | None = None
        self._step_ended = time.perf_counter()

    def start_epoch(self) -> None:
        """Time between two epochs, spent on validation, belongs to no step."""
        self._step_ended = time.perf_counter()

    def note_loss(self, criterion: nn.Module, inputs: Sequence[Any], loss: Any) -> None:
        """Forward hook of the criterion. In validation there is no graph, and nothing is noted."""
        if isinstance(loss, torch.Tensor) and loss.requires_grad and loss.numel() == 1:
            self._loss = loss.detach()
            if isinstance(criterion, nn.CrossEntropyLoss) and isinstance(inputs[0], torch.Tensor):
                self.guessing = math.log(inputs[0].shape[1])

    def end_step(self, learning_rate: float) -> float | None:
        """The loss of the step that has just ended, or None if the criterion was not heard."""
        self.step += 1
        now = time.perf_counter()
        milliseconds, self._step_ended = 1000 * (now - self._step_ended), now
        if self._loss is None:
            return None
        loss, self._loss = self._loss.item(), None
        if self.step == 1 and self.guessing is not None and math.isfinite(loss) and loss > 2 * self.guessing:
            tqdm.write(
                f"note: the loss at step 1 is {loss:.1f}, and guessing costs {self._guessing_in_words()}: an untrained "
                "model should be close to that; are the images normalised, and are the model's outputs plain logits?"
            )
        self._latest = [self.step, loss, learning_rate, round(milliseconds, 3)]
        if math.isfinite(loss) and (self.step <= EVERY_STEP_UNTIL or self.step % THEN_EVERY == 0):
            self.rows.append(self._latest)
        return loss

    def warn_if_far_above_guessing(self, history: Mapping[str, Sequence[float]], learning_rate: float) -> None:
        """Say so if an epoch has made the model worse than a guess."""
        loss = history["train_loss"][-1] if history.get("train_loss") else 0.0
        if self.guessing is not None and loss > 1.5 * self.guessing:
            tqdm.write(
                f"note: the training loss {loss:.4g} is far above {self._guessing_in_words()}, what guessing costs; "
                f"the learning rate {learning_rate:g} is probably too large"
            )

    def write(self, run: RunFolder) -> None:
        """Write steps.csv, whole or not at all; its last row is the latest step."""
        if self._latest is not None and self._latest not in self.rows[-1:]:
            self.rows.append(self._latest)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *self.rows])
        write_bytes(run.file("steps.csv"), text.getvalue().encode())

    def _guessing_in_words(self) -> str:
        return f"ln {math.exp(self.guessing or 0):.0f} = {self.guessing:.2f}"


def read_steps(run: RunFolder) -> dict[str, list[float]]:
    """The columns of steps.csv; empty if the run has none."""
    if not run.file("steps.csv").exists():
        return {}
    with open(run.file("steps.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in COLUMNS}
