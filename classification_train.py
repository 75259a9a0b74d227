"""Part 1: training and validation of the classifiers. The loop of `train_model` is the one that every lab runs on.

GRADED: TODO 1.3 (loss), 1.4 (train_epoch), 1.5 (validate_epoch), 1.6 (results).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from toolkit.devices import autocast, pick_device
from toolkit.errors import UserError
from toolkit.runs import RunFolder
from toolkit.training import TrainingSession, check_loss, limited

METRICS = ("train_loss", "train_acc", "val_loss", "val_acc")


def train_model(
    model: nn.Module,
    train_loader: Any,
    val_loader: Any,
    epochs: int = 25,
    learning_rate: float = 0.001,
    weight_decay: float = 0.0,
    max_steps_per_epoch: int | None = 100,
    *,
    criterion: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    device: torch.device | str | None = None,
    precision: str = "float32",
    ema_decay: float = 0.0,
    patience: int | None = None,
    run: RunFolder | None = None,
    best_extra: dict[str, Any] | None = None,
) -> dict[str, list[float]]:
    """Train `model` and return its history: lists train_loss, train_acc, val_loss, val_acc with one value an epoch.

    Losses are means of the criterion in nats, accuracies are fractions in [0, 1].
    max_steps_per_epoch: batches an epoch; 0 or None means all of them. criterion: cross-entropy unless given.
    optimizer: Adam unless given, else a ready one over model.parameters(). scheduler: stepped after every batch.
    precision: float32, bfloat16 or float16. ema_decay: above 0, validation uses averaged weights, and `model` ends
    with them. patience: stop after so many epochs without a better val_acc. run: folder for history and checkpoints;
    if it has a last.pt, training goes on from there. best_extra: facts to keep in best.pt.
    Raises UserError (a ValueError) for arguments out of range and DivergedError for a NaN or infinite loss.
    """
    check_schedule(epochs, learning_rate, weight_decay)
    device = pick_device("auto") if device is None else torch.device(device)
    model.to(device)

    if criterion is None:
        # Hint: the models return logits, and the labels are class numbers.
        # BEGIN SOLUTION 1.3: choose the loss for nine classes -> criterion = None
        criterion = nn.CrossEntropyLoss()
        # END SOLUTION 1.3
    if criterion is None:
        raise NotImplementedError("TODO 1.3: choose the loss for nine classes")
    if optimizer is None:
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)

    session = TrainingSession(
        model,
        optimizer,
        METRICS,
        loaders=(train_loader, val_loader),
        scheduler=scheduler,
        ema_decay=ema_decay,
        patience=patience,
        run=run,
        best_extra=best_extra,
    )
    history = session.history
    for _epoch in session.epochs(epochs):
        train_loss, train_acc = train_epoch(
            model,
            train_loader,
            optimizer,
            criterion,
            device,
            max_steps_per_epoch,
            precision=precision,
            after_step=session.after_step,
        )
        val_loss, val_acc = validate_epoch(
            session.evaluation_model(), val_loader, criterion, device, precision=precision
        )
        # Hint: `history` has one list for each of the four figures of this epoch.
        # BEGIN SOLUTION 1.6: record the results of this epoch in history
        for name, value in zip(METRICS, (train_loss, train_acc, val_loss, val_acc), strict=True):
            history[name].append(value)
        # END SOLUTION 1.6
    session.finish()
    return history


def train_epoch(
    model: nn.Module,
    train_loader: Any,
    optimizer: torch.optim.Optimizer,
    criterion: nn.Module,
    device: torch.device | str,
    max_steps: int | None = None,
    *,
    precision: str = "float32",
    after_step: Any = None,
) -> tuple[float, float]:
    """Train for one epoch and return (average_loss, accuracy) over the samples that were seen.

    train_loader: batches (images, labels), labels int64 (B,) or (B, 1). max_steps: stop after so many batches; the
    averages are over those. after_step: called without arguments after each optimizer step.
    """
    device = torch.device(device)
    # Hint: training mode; for each batch zero the gradients, forward, loss, backward, step; sum up loss and hits.
    # limited(train_loader, max_steps) yields (step, batch) for the batches of this epoch, with a progress bar.
    # When it works: `with autocast(device, precision):` around forward and loss is faster, check_loss() stops at NaN.
    # BEGIN SOLUTION 1.4: train for one epoch
    model.train()
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    total_loss, hits, seen = 0.0, 0, 0
    for step, (images, labels) in limited(train_loader, max_steps):
        images, labels = to_device(images, labels, device)
        optimizer.zero_grad()
        with autocast(device, precision):
            logits = model(images)
            loss = criterion(logits, labels)
        batch_loss = loss.item()
        check_loss(batch_loss, step, optimizer)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if after_step is not None:
            after_step()
        total_loss += batch_loss * len(labels)
        hits += (logits.argmax(dim=1) == labels).sum().item()
        seen += len(labels)
    return total_loss / seen, hits / seen
    # END SOLUTION 1.4


@torch.no_grad()
def validate_epoch(
    model: nn.Module,
    val_loader: Any,
    criterion: nn.Module,
    device: torch.device | str,
    *,
    precision: str = "float32",
) -> tuple[float, float]:
    """Evaluate on the whole of val_loader and return (average_loss, accuracy); nothing in the model changes."""
    device = torch.device(device)
    # Hint: evaluation mode, no gradients, no optimizer; otherwise as in training.
    # BEGIN SOLUTION 1.5: validate on the whole loader
    model.eval()
    total_loss, hits, seen = 0.0, 0, 0
    for _step, (images, labels) in limited(val_loader, None, "validate"):
        images, labels = to_device(images, labels, device)
        with autocast(device, precision):
            logits = model(images)
            loss = criterion(logits, labels)
        total_loss += loss.item() * len(labels)
        hits += (logits.argmax(dim=1) == labels).sum().item()
        seen += len(labels)
    return total_loss / seen, hits / seen
    # END SOLUTION 1.5


def to_device(images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Move a batch; labels (B, 1), as older loaders give them, become (B,)."""
    labels = labels.squeeze(1) if labels.dim() == 2 and labels.shape[1] == 1 else labels
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def check_schedule(epochs: int, learning_rate: float, weight_decay: float) -> None:
    """Raise UserError for a schedule that cannot be trained."""
    if epochs < 1:
        raise UserError(f"epochs is {epochs}; allowed: 1 or more")
    if not 0 < learning_rate < float("inf"):
        raise UserError(f"learning_rate is {learning_rate}; allowed: above 0")
    if not 0 <= weight_decay < float("inf"):
        raise UserError(f"weight_decay is {weight_decay}; allowed: 0 or above")
