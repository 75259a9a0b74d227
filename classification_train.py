"""Part 1: training and validation of the classifiers.

GRADED: TODO 1.3 (loss), 1.4 (train_epoch), 1.5 (validate_epoch), 1.6 (results).

The two loops are the ones of every PyTorch tutorial. Precision, averaged weights, learning-rate schedules, checkpoints
and the progress bar belong to the session (toolkit/training.py), which works around the loops.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn

from toolkit.training import TrainingSession

METRICS = ("train_loss", "train_acc", "val_loss", "val_acc")


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

    Returns:
        Lists train_loss, train_acc, val_loss, val_acc with one value per epoch; accuracies are fractions in [0, 1].
    """
    if criterion is None:
        # Hint: the models return logits, and the labels are class numbers.
        # BEGIN SOLUTION 1.3: choose the loss for nine classes -> criterion = None
        criterion = nn.CrossEntropyLoss()
        # END SOLUTION 1.3
    if criterion is None:
        raise NotImplementedError("TODO 1.3: choose the loss for nine classes")
    schedule = (epochs, learning_rate, weight_decay, max_steps_per_epoch)
    session = TrainingSession(model, criterion, METRICS, (train_loader, val_loader), *schedule, **options)
    history, optimizer, device = session.history, session.optimizer, session.device
    for _epoch in session.epochs():
        train_loss, train_acc = train_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch or None
        )
        val_loss, val_acc = validate_epoch(session.evaluation_model(), val_loader, criterion, device)
        # Hint: `history` has a list for each of the four results of this epoch.
        # BEGIN SOLUTION 1.6: append the results of this epoch to the lists of history
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        # END SOLUTION 1.6
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
    # Hint: training mode; for each batch zero_grad, forward, loss, backward, step; add up loss and correct predictions.
    # BEGIN SOLUTION 1.4: train for one epoch
    model.train()  # dropout is on, BatchNorm uses the statistics of the batch
    total_loss, correct, seen = 0.0, 0, 0
    for images, labels in islice(train_loader, max_steps):
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()  # backward() adds to what is there
        logits = model(images)  # (B, num_classes)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        # The criterion averages over its batch. The last batch may be smaller, so each counts with its size.
        # item() gives a plain number: adding up tensors would keep the graph of every batch in memory.
        total_loss += loss.item() * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum().item()
        seen += len(labels)  # not len(train_loader.dataset): max_steps may end the epoch early
    return total_loss / seen, correct / seen
    # END SOLUTION 1.4


@torch.no_grad()  # keeps no gradients: faster, less memory
def validate_epoch(
    model: nn.Module, val_loader: Iterable, criterion: nn.Module, device: torch.device | str
) -> tuple[float, float]:
    """Evaluate on the whole of val_loader and return (average_loss, accuracy). Nothing in the model changes."""
    # Hint: evaluation mode, no backward, no optimizer; otherwise as in training.
    # BEGIN SOLUTION 1.5: validate on the whole loader
    model.eval()  # dropout is off, BatchNorm uses its running statistics: a prediction depends on its image alone
    total_loss, correct, seen = 0.0, 0, 0
    for images, labels in val_loader:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        total_loss += criterion(logits, labels).item() * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum().item()
        seen += len(labels)
    return total_loss / seen, correct / seen
    # END SOLUTION 1.5
