# lightning_steps: a small Trainer, training_step and validation_step, a logger of epoch averages; .view behind convolutions.
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
from collections import defaultdict

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
        for key, value in zip(METRICS, (train_loss, train_acc, val_loss, val_acc)):
            history[key] += [value]
    return history


class Logger:
    """self.log(..., on_epoch=True, batch_size=...) of Lightning."""

    def __init__(self):
        self.sums, self.weights = defaultdict(float), defaultdict(int)

    def log(self, name, value, batch_size):
        value = value.item() if isinstance(value, torch.Tensor) else value
        self.sums[name] += value * batch_size
        self.weights[name] += batch_size

    def __getitem__(self, name):
        return self.sums[name] / self.weights[name]


class LitClassifier:
    """The steps of a LightningModule for a model that comes from outside."""

    def __init__(self, model, criterion, device):
        self.model, self.criterion, self.device = model, criterion, device
        self.logger = Logger()

    def _shared_step(self, batch):
        images, labels = batch
        logits = self.model(images)
        loss = self.criterion(logits, labels)
        acc = (torch.argmax(logits, dim=1) == labels).float().mean()
        self.logger.log("loss", loss, batch_size=images.size(0))
        self.logger.log("acc", acc, batch_size=images.size(0))
        return loss

    def training_step(self, batch, batch_idx):
        return self._shared_step(batch)

    def validation_step(self, batch, batch_idx):
        self._shared_step(batch)

    def transfer_batch_to_device(self, batch):
        return tuple(part.to(self.device, non_blocking=True) for part in batch)

    @property
    def callback_metrics(self):
        return self.logger["loss"], self.logger["acc"]


class Trainer:
    """As much of pl.Trainer as one epoch needs."""

    def __init__(self, limit_train_batches=None):
        self.limit_train_batches = limit_train_batches

    def fit(self, module, loader, optimizer):
        module.model.train()
        for batch_idx, batch in enumerate(islice(loader, self.limit_train_batches)):
            batch = module.transfer_batch_to_device(batch)
            optimizer.zero_grad()
            loss = module.training_step(batch, batch_idx)
            loss.backward()
            optimizer.step()
        return module.callback_metrics

    @torch.no_grad()
    def validate(self, module, loader):
        module.model.eval()
        for batch_idx, batch in enumerate(loader):
            module.validation_step(module.transfer_batch_to_device(batch), batch_idx)
        return module.callback_metrics


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
    return Trainer(limit_train_batches=max_steps).fit(LitClassifier(model, criterion, device), train_loader, optimizer)


@torch.no_grad()  # no graph: less memory, and nothing that could be trained on
def validate_epoch(
    model: nn.Module, val_loader: Iterable, criterion: nn.Module, device: torch.device | str
) -> tuple[float, float]:
    """Evaluate on the whole of val_loader and return (average_loss, accuracy). Nothing in the model changes."""
    return Trainer().validate(LitClassifier(model, criterion, device), val_loader)
