# collect_then_mean: all predictions are collected and scored at the end, results as 0-dim tensors, parameter groups.
import torch
from torch import nn


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    decay = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}], lr=learning_rate
    )
    log = []
    for epoch in range(epochs):
        log.append({})
        log[-1]["train_loss"], log[-1]["train_acc"] = train_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch
        )
        log[-1]["val_loss"], log[-1]["val_acc"] = validate_epoch(model, val_loader, criterion, device)
    return {key: [row[key] for row in log] for key in ("train_loss", "train_acc", "val_loss", "val_acc")}


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    losses, guesses, truths = [], [], []
    for i, batch in enumerate(train_loader):
        if max_steps is not None and i >= max_steps:
            break
        images, labels = (t.to(device) for t in batch)
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu().expand(len(labels)))
        guesses.append(outputs.detach().argmax(dim=1).cpu())
        truths.append(labels.cpu())
    return torch.cat(losses).mean(), (torch.cat(guesses) == torch.cat(truths)).float().mean()


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    losses, guesses, truths = [], [], []
    with torch.no_grad():
        for batch in val_loader:
            images, labels = (t.to(device) for t in batch)
            outputs = model(images)
            losses.append(criterion(outputs, labels).cpu().expand(len(labels)))
            guesses.append(outputs.argmax(dim=1).cpu())
            truths.append(labels.cpu())
    return torch.cat(losses).mean(), (torch.cat(guesses) == torch.cat(truths)).float().mean()
