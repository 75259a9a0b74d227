"""A submission as an earlier term asked for it: labels squeezed, device chosen here, nothing optional."""

import torch
import torch.nn as nn
import torch.optim as optim


def train_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in range(epochs):
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        print(f"Epoch {epoch + 1}/{epochs}: train {train_loss:.4f} {train_acc:.4f}, val {val_loss:.4f} {val_acc:.4f}")
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    total_loss, correct, total = 0.0, 0, 0
    for step, (images, labels) in enumerate(train_loader):
        if max_steps is not None and step >= max_steps:
            break
        images, labels = images.to(device), labels.to(device)
        if labels.dim() > 1:
            labels = labels.squeeze(1)
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * images.size(0)
        correct += (outputs.argmax(dim=1) == labels).sum().item()
        total += images.size(0)
    return total_loss / total, correct / total


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    total_loss, correct, total = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in val_loader:
            images, labels = images.to(device), labels.to(device)
            if labels.dim() > 1:
                labels = labels.squeeze(1)
            outputs = model(images)
            total_loss += criterion(outputs, labels).item() * images.size(0)
            correct += (outputs.argmax(dim=1) == labels).sum().item()
            total += images.size(0)
    return total_loss / total, correct / total
