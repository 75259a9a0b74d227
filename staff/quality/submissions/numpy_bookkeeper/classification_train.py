# numpy_bookkeeper: numpy and sklearn for the averages, one loss over the whole validation set, xlogy, unpadded CNN.
"""Part 1: training and validation of the classifiers.

GRADED: TODO 1.3 (loss), 1.4 (train_epoch), 1.5 (validate_epoch), 1.6 (results).

The two loops are the ones of every PyTorch tutorial. Precision, averaged weights, learning-rate schedules, checkpoints
and the progress bar belong to the session (toolkit/training.py), which works around the loops.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score
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
        criterion = nn.CrossEntropyLoss()
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
        results = np.array([train_loss, train_acc, val_loss, val_acc])
        for name, result in zip(METRICS, results):
            history[name].append(result)
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
    losses, sizes, y_true, y_pred = [], [], [], []
    for images, labels in islice(train_loader, max_steps):
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        logits = model(images)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu().numpy())
        sizes.append(len(labels))
        y_true.append(labels.cpu().numpy())
        y_pred.append(logits.detach().cpu().numpy().argmax(axis=1))
    average_loss = np.average(losses, weights=sizes)
    return average_loss, accuracy_score(np.concatenate(y_true), np.concatenate(y_pred))


@torch.no_grad()  # no graph: less memory, and nothing that could be trained on
def validate_epoch(
    model: nn.Module, val_loader: Iterable, criterion: nn.Module, device: torch.device | str
) -> tuple[float, float]:
    """Evaluate on the whole of val_loader and return (average_loss, accuracy). Nothing in the model changes."""
    model.eval()
    all_logits, all_labels = [], []
    for images, labels in val_loader:
        all_logits.append(model(images.to(device)).cpu())
        all_labels.append(labels.cpu())
    # one loss over everything: the mean over all images, however they were cut into batches
    logits, labels = torch.cat(all_logits), torch.cat(all_labels)
    average_loss = criterion(logits.to(device), labels.to(device)).item()
    return average_loss, accuracy_score(labels.numpy(), logits.numpy().argmax(axis=1))
