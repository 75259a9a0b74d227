# self_attention: self-attention over the 7x7 map in the CNN and in the middle of the U-Net; best epoch printed; generator expressions.
from __future__ import annotations

import torch
from torch import nn


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    total = {"loss": 0.0, "correct": 0.0, "n": 0}
    for step, batch in enumerate(train_loader):
        if max_steps is not None and step >= max_steps:
            break
        images, labels = (t.to(device) for t in batch)
        optimizer.zero_grad()
        logits = model(images)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        update(total, loss, logits, labels)
    return total["loss"] / total["n"], total["correct"] / total["n"]


def update(total, loss, logits, labels):
    total["n"] += len(labels)
    total["loss"] += loss.item() * len(labels)
    total["correct"] += torch.eq(logits.softmax(dim=1).argmax(dim=1), labels).sum().item()


def validate_epoch(model, val_loader, criterion, device):
    was_training = model.training
    model.eval()
    total = {"loss": 0.0, "correct": 0.0, "n": 0}
    with torch.inference_mode():
        for batch in val_loader:
            images, labels = (t.to(device) for t in batch)
            logits = model(images)
            update(total, criterion(logits, labels), logits, labels)
    model.train(was_training)
    return total["loss"] / total["n"], total["correct"] / total["n"]


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = next(model.parameters()).device
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history: dict[str, list[float]] = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in range(epochs):
        history["train_loss"].append(0.0)
        history["train_acc"].append(0.0)
        history["train_loss"][epoch], history["train_acc"][epoch] = train_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch
        )
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
    best = max(range(epochs), key=lambda e: history["val_acc"][e])
    print(f"best epoch {best + 1} with {history['val_acc'][best]:.4f}")
    return history
