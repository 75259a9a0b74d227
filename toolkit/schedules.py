"""How a training ends: a learning rate that falls, weights that are averaged; and the settings that it may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from toolkit.errors import UserError


def make_scheduler(name: str, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """The schedule of the learning rate over `steps` optimizer steps: 'constant' (None), 'cosine' or 'onecycle'."""
    if name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if name == "onecycle":
        highest = optimizer.param_groups[0]["lr"]
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=max(steps, 2))
    return None


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` that holds the exponential moving average of its weights and BatchNorm statistics.

    Args:
        decay: in (0, 1). At step t it is min(decay, (1 + t) / (10 + t)), so that the random start is soon forgotten
            (the rule of TensorFlow's ExponentialMovingAverage). With 0.95 the average spans about 20 steps: most of
            what a falling learning rate gives, without knowing beforehand how long the training will be.
    """
    if not 0 < decay < 1:
        raise UserError(f"ema_decay is {decay}; allowed: above 0 and below 1 (or 0 for no averaging)")

    def update(averages: list[torch.Tensor], currents: list[torch.Tensor], _steps: Any) -> None:
        steps = int(averaged.n_averaged)  # torch's own argument lies on the GPU, where reading it would wait
        now = min(decay, (1 + steps) / (10 + steps))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - now)
            else:  # BatchNorm's count of batches
                average.copy_(current)

    averaged = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return averaged.requires_grad_(False)


def check_settings(
    epochs: int, learning_rate: float, weight_decay: float, max_steps: int | None, loaders: Sequence[Any]
) -> None:
    """Raise UserError for a training that cannot be done."""
    if epochs < 1:
        raise UserError(f"epochs is {epochs}; allowed: 1 or more")
    if not 0 < learning_rate < float("inf"):
        raise UserError(f"learning_rate is {learning_rate}; allowed: above 0")
    if not 0 <= weight_decay < float("inf"):
        raise UserError(f"weight_decay is {weight_decay}; allowed: 0 or above")
    if max_steps is not None and max_steps < 0:
        raise UserError(f"max_steps_per_epoch is {max_steps}; allowed: 0 or None (all batches), or 1 and more")
    if any(hasattr(loader, "__len__") and len(loader) == 0 for loader in loaders):
        raise UserError("a loader has no batch; is the set empty, or smaller than one batch with drop_last?")
