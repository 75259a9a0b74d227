# onecycle: own AdamW and OneCycleLR stepped after each batch through an optional argument of train_epoch; ConvNeXt-like patches and 7x7 depthwise convolutions.
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    steps = min(len(train_loader), max_steps_per_epoch) if max_steps_per_epoch else len(train_loader)
    scheduler = OneCycleLR(optimizer, max_lr=3 * learning_rate, total_steps=epochs * steps + 1)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in range(epochs):
        train_loss, train_acc = train_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch, scheduler=scheduler
        )
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        history["train_loss"] += [train_loss]
        history["train_acc"] += [train_acc]
        history["val_loss"] += [val_loss]
        history["val_acc"] += [val_acc]
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None, scheduler=None):
    model.train()
    losses, right, seen = 0.0, 0, 0
    for step, (x, y) in enumerate(train_loader, start=1):
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        logits = model(x)
        loss = criterion(logits, y)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses += loss.item() * y.numel()
        right += logits.argmax(dim=1).eq(y).sum().item()
        seen += y.numel()
        if max_steps is not None and step >= max_steps:
            break
    return losses / seen, right / seen


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    losses, right, seen = 0.0, 0, 0
    with torch.no_grad():
        for x, y in val_loader:
            x, y = x.to(device), y.to(device)
            logits = model(x)
            losses += criterion(logits, y).item() * y.numel()
            right += logits.argmax(dim=1).eq(y).sum().item()
            seen += y.numel()
    return losses / seen, right / seen
