"""What the tests of the training session share: a small model, their own loop, and whole trainings with it."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import nn

from classification_dataset import create_pathmnist_dataloaders
from toolkit.runs import RunFolder
from toolkit.training import TrainingSession

METRICS = ("train_loss", "val_acc")
STEPS_PER_EPOCH = 4


def small_model() -> nn.Module:
    """With BatchNorm and Dropout, so that statistics and random numbers must be restored too."""
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4 * 13 * 13, 9))


def train(
    source: Any, epochs: int, run: RunFolder | None = None, *, seed: int = 0, model: nn.Module | None = None, **more
) -> tuple[dict[str, list[float]], nn.Module]:
    """A whole training with augmentation, dropout and a falling learning rate, as a new process would run it."""
    torch.manual_seed(seed)
    train_loader, val_loader, _ = create_pathmnist_dataloaders(8, source=source, seed=seed, augment="strong")
    model = small_model() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    criterion = nn.CrossEntropyLoss()
    options = {"optimizer": optimizer, "scheduler": schedule, "device": "cpu", "run": run, **more}
    session = TrainingSession(model, criterion, METRICS, (train_loader, val_loader), epochs, **options)
    for _epoch in session.epochs():
        loss = train_one_epoch(model, train_loader, session.optimizer, criterion)
        session.history["train_loss"].append(loss)
        session.history["val_acc"].append(accuracy(session.evaluation_model(), val_loader))
    return session.history, model


def train_one_epoch(model: nn.Module, loader: Any, optimizer: Any, criterion: nn.Module) -> float:
    """A loop that knows nothing of sessions."""
    model.train()
    total = 0.0
    for images, labels in islice(loader, STEPS_PER_EPOCH):
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / STEPS_PER_EPOCH


def toy_session(model: nn.Module | None = None, epochs: int = 1, lr: float = 0.5, **options: Any) -> TrainingSession:
    """A session over a model of one weight, for tests that do its training by hand."""
    model = nn.Linear(1, 1, bias=False) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    options = {"optimizer": optimizer, "device": "cpu", **options}
    return TrainingSession(model, nn.MSELoss(), ("val_acc",), (), epochs, **options)


@torch.no_grad()
def accuracy(model: nn.Module, loader: Any) -> float:
    model.eval()
    hits = [(model(images).argmax(dim=1) == labels).float().sum().item() for images, labels in loader]
    return sum(hits) / len(loader.dataset)


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
