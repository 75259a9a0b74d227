# typed_adamw: type hints, AdamW with a cosine schedule inside train_model, sums kept on the device.
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader


def train_model(
    model: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader,
    epochs: int = 25,
    learning_rate: float = 0.001,
    weight_decay: float = 0.0,
    max_steps_per_epoch: int | None = 100,
) -> dict[str, list[float]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(epochs, 1))
    history: dict[str, list[float]] = {key: [] for key in ("train_loss", "train_acc", "val_loss", "val_acc")}
    for _ in range(epochs):
        train = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val = validate_epoch(model, val_loader, criterion, device)
        scheduler.step()
        for key, value in zip(history, (*train, *val)):
            history[key].append(value)
    return history


def train_epoch(
    model: nn.Module,
    train_loader: DataLoader,
    optimizer: Optimizer,
    criterion: nn.Module,
    device: torch.device,
    max_steps: int | None = None,
) -> tuple[float, float]:
    model.train()
    loss_sum: Tensor = torch.zeros((), device=device)
    hits: Tensor = torch.zeros((), device=device)
    seen: int = 0
    for step, (images, labels) in enumerate(train_loader, start=1):
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        logits: Tensor = model(images)
        loss: Tensor = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(labels)
        hits += (logits.argmax(dim=1) == labels).sum()
        seen += len(labels)
        if step == max_steps:
            break
    return (loss_sum / seen).item(), (hits / seen).item()


@torch.no_grad()
def validate_epoch(
    model: nn.Module, val_loader: DataLoader, criterion: nn.Module, device: torch.device
) -> tuple[float, float]:
    model.eval()
    loss_sum: Tensor = torch.zeros((), device=device)
    hits: Tensor = torch.zeros((), device=device)
    seen: int = 0
    for images, labels in val_loader:
        images, labels = images.to(device), labels.to(device)
        logits: Tensor = model(images)
        loss_sum += criterion(logits, labels) * len(labels)
        hits += (logits.argmax(dim=1) == labels).sum()
        seen += len(labels)
    return (loss_sum / seen).item(), (hits / seen).item()
