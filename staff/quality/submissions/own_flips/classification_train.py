# own_flips: a random flip of the batch inside train_epoch, image and mask alike; plain VGG pairs, U-Net with additive skips.
import random

import torch
import torch.nn as nn


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for _ in range(epochs):
        loss, acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        history["train_loss"].append(loss)
        history["train_acc"].append(acc)
        loss, acc = validate_epoch(model, val_loader, criterion, device)
        history["val_loss"].append(loss)
        history["val_acc"].append(acc)
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    total_loss, correct, total = 0, 0, 0
    for step, (images, labels) in enumerate(train_loader):
        if max_steps is not None and step >= max_steps:
            break
        images, labels = images.to(device), labels.to(device)

        # tissue has no left, right, up or down
        if random.random() < 0.5:
            images = torch.flip(images, dims=[3])
        if random.random() < 0.5:
            images = torch.flip(images, dims=[2])

        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()

        total_loss += loss.item() * len(labels)
        correct += (outputs.argmax(1) == labels).sum().item()
        total += len(labels)
    return total_loss / total, correct / total


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    total_loss, correct, total = 0, 0, 0
    with torch.no_grad():
        for images, labels in val_loader:
            images, labels = images.to(device), labels.to(device)
            outputs = model(images)
            total_loss += criterion(outputs, labels).item() * len(labels)
            correct += (outputs.argmax(1) == labels).sum().item()
            total += len(labels)
    return total_loss / total, correct / total
