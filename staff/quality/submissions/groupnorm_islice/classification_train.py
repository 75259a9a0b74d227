# groupnorm_islice: GroupNorm, itertools.islice for max_steps, inference_mode, weighted numpy averages.
import itertools

import numpy as np
import torch
from torch import nn


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    rows = []
    for _ in range(epochs):
        rows.append(
            train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
            + validate_epoch(model, val_loader, criterion, device)
        )
    names = ["train_loss", "train_acc", "val_loss", "val_acc"]
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(names)}


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    losses, accuracies, sizes = [], [], []
    for images, labels in itertools.islice(train_loader, max_steps):
        images = images.to(device)
        labels = labels.to(device)
        logits = model(images)
        loss = criterion(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        accuracies.append((logits.argmax(dim=-1) == labels).float().mean().item())
        sizes.append(len(images))
    return np.average(losses, weights=sizes), np.average(accuracies, weights=sizes)


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    losses, accuracies, sizes = [], [], []
    with torch.inference_mode():
        for images, labels in val_loader:
            images = images.to(device)
            labels = labels.to(device)
            logits = model(images)
            losses.append(criterion(logits, labels).item())
            accuracies.append((logits.argmax(dim=-1) == labels).float().mean().item())
            sizes.append(len(images))
    return np.average(losses, weights=sizes), np.average(accuracies, weights=sizes)
