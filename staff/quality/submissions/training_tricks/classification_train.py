# training_tricks: own optional smoothing, warmup, EMA and SWA; weight decay by groups, clipping, squeeze-excitation, attention gates.
"""Part 1: training and validation of the classifiers.

GRADED: TODO 1.3 (loss), 1.4 (train_epoch), 1.5 (validate_epoch), 1.6 (results).

The two loops are the ones of every PyTorch tutorial. Precision, averaged weights, learning-rate schedules, checkpoints
and the progress bar belong to the session (toolkit/training.py), which works around the loops.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import copy

import torch
from torch import nn

from toolkit.training import TrainingSession

METRICS = ("train_loss", "train_acc", "val_loss", "val_acc")


def grouped_optimizer(name: str, model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Weight decay for matrices and kernels only: biases and the scales of BatchNorm should not shrink."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, alpha=0.9)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=lr)


class HandMadeAverage:
    """EMA (decay < 1) or SWA (decay None: plain mean) of the weights after every step."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, decay: float | None) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self.shadow = copy.deepcopy(model).requires_grad_(False)
        optimizer.register_step_post_hook(self.update)

    @torch.no_grad()
    def update(self, *_):
        self.steps += 1
        new = 1 / self.steps if self.decay is None else 1 - min(self.decay, self.steps / (self.steps + 10))
        current = self.model.state_dict()
        for name, average in self.shadow.state_dict().items():
            if average.is_floating_point():
                average.mul_(1 - new).add_(current[name], alpha=new)
            else:
                average.copy_(current[name])


def train_model(
    model: nn.Module,
    train_loader: Iterable,
    val_loader: Iterable,
    epochs: int = 25,
    learning_rate: float = 0.001,
    weight_decay: float = 0.0,
    max_steps_per_epoch: int | None = 100,
    *,
    criterion: nn.Module | None = None,
    **options: Any,
) -> dict[str, list[float]]:
    """Train `model` and return its history.

    Args:
        train_loader, val_loader: batches (images, labels), see train_epoch.
        epochs: how often to train and validate.
        learning_rate, weight_decay: of the optimizer, Adam unless `options` name another.
        max_steps_per_epoch: an epoch ends after this many batches; None or 0: after all of them.
        criterion: the loss; cross-entropy if left out.
        options: optimizer, scheduler, device, precision, ... as they are listed in toolkit.training.TrainingSession.
            Mine, all off unless given: label_smoothing, warmup_steps, hand_ema (decay), hand_swa (True),
            optimizer="rmsprop".

    Returns:
        Lists train_loss, train_acc, val_loss, val_acc with one value per epoch; accuracies are fractions in [0, 1].
    """
    label_smoothing = options.pop("label_smoothing", 0.0)
    warmup_steps = options.pop("warmup_steps", 0)
    hand_ema, hand_swa = options.pop("hand_ema", None), options.pop("hand_swa", False)
    if criterion is None:
        # Hint: the models return logits, and the labels are class numbers.
        criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    if criterion is None:
        raise NotImplementedError("TODO 1.3: choose the loss for nine classes")
    name = options.get("optimizer", "adam")
    if isinstance(name, str) and (weight_decay > 0 or name == "rmsprop" or warmup_steps):
        options["optimizer"] = grouped_optimizer(name, model, learning_rate, weight_decay)
    if warmup_steps:
        options["scheduler"] = torch.optim.lr_scheduler.LambdaLR(
            options["optimizer"], lambda step: min(1.0, (step + 1) / warmup_steps)
        )
    schedule = (epochs, learning_rate, weight_decay, max_steps_per_epoch)
    session = TrainingSession(model, criterion, METRICS, (train_loader, val_loader), *schedule, **options)
    history, optimizer, device = session.history, session.optimizer, session.device
    average = HandMadeAverage(model, optimizer, hand_ema) if hand_ema or hand_swa else None
    for _epoch in session.epochs():
        train_loss, train_acc = train_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch or None
        )
        judged = session.evaluation_model() if average is None else average.shadow
        val_loss, val_acc = validate_epoch(judged, val_loader, criterion, device)
        # Hint: `history` has a list for each of the four results of this epoch.
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
    return history


def train_epoch(
    model: nn.Module,
    train_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    criterion: nn.Module,
    device: torch.device | str,
    max_steps: int | None = None,
) -> tuple[float, float]:
    """Train for one epoch and return (average_loss, accuracy) over the images that were seen.

    Args:
        train_loader: batches of images float32 (B, 3, H, W) and labels int64 (B,).
        criterion: (logits, labels) → mean loss of the batch.
        max_steps: stop after this many batches; None: go through the whole loader.
    """
    model.train()
    loss_sum, hits, images_seen = 0.0, 0, 0
    for number, (images, labels) in enumerate(train_loader, 1):
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad(set_to_none=True)
        logits = model(images)
        loss = criterion(logits, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)  # one bad batch must not throw the weights away
        optimizer.step()
        loss_sum += loss.item() * labels.size(0)
        hits += (logits.argmax(dim=-1) == labels).sum().item()
        images_seen += labels.size(0)
        if number == max_steps:
            break
    return loss_sum / images_seen, hits / images_seen


@torch.no_grad()  # no graph: less memory, and nothing that could be trained on
def validate_epoch(
    model: nn.Module, val_loader: Iterable, criterion: nn.Module, device: torch.device | str
) -> tuple[float, float]:
    """Evaluate on the whole of val_loader and return (average_loss, accuracy). Nothing in the model changes."""
    model.eval()
    loss_sum, hits, images_seen = 0.0, 0, 0
    for images, labels in val_loader:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss_sum += criterion(logits, labels).item() * labels.size(0)
        hits += (logits.argmax(dim=-1) == labels).sum().item()
        images_seen += labels.size(0)
    return loss_sum / images_seen, hits / images_seen
