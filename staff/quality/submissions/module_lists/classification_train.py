# module_lists: nn.ModuleList loops everywhere; a U-Net of three levels (28, 14, 7, 3); average kept in a running-mean style.
from itertools import islice

import torch
from torch import nn


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    names = "train_loss", "train_acc", "val_loss", "val_acc"
    history = {name: [] for name in names}
    for _ in range(epochs):
        train = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val = validate_epoch(model, val_loader, criterion, device)
        for name, value in zip(names, [*train, *val]):
            history[name].append(value)
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    mean_loss, mean_acc, seen = 0.0, 0.0, 0
    for images, labels in islice(train_loader, max_steps):
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss = criterion(logits, labels)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        # running means, so that no big sums are needed
        n = len(labels)
        seen += n
        mean_loss += (loss.item() - mean_loss) * n / seen
        mean_acc += ((logits.argmax(-1) == labels).float().mean().item() - mean_acc) * n / seen
    return mean_loss, mean_acc


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    mean_loss, mean_acc, seen = 0.0, 0.0, 0
    with torch.no_grad():
        for images, labels in val_loader:
            images, labels = images.to(device), labels.to(device)
            logits = model(images)
            n = len(labels)
            seen += n
            mean_loss += (criterion(logits, labels).item() - mean_loss) * n / seen
            mean_acc += ((logits.argmax(-1) == labels).float().mean().item() - mean_acc) * n / seen
    return mean_loss, mean_acc
