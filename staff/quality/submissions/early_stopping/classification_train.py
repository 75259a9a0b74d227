# early_stopping: early stopping that restores the best weights; residual CNN and residual U-Net.
import copy

import torch
import torch.nn as nn


class EarlyStopping:
    def __init__(self, patience=5, min_delta=0.0):
        self.patience = patience
        self.min_delta = min_delta
        self.best = float("inf")
        self.counter = 0
        self.best_state = None

    def __call__(self, val_loss, model):
        if val_loss < self.best - self.min_delta:
            self.best = val_loss
            self.counter = 0
            self.best_state = copy.deepcopy(model.state_dict())
        else:
            self.counter += 1
        return self.counter >= self.patience


def train_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = next(model.parameters()).device
    if torch.cuda.is_available():
        device = torch.device("cuda")
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    stopper = EarlyStopping(patience=5)
    history = {key: [] for key in ("train_loss", "train_acc", "val_loss", "val_acc")}

    for epoch in range(1, epochs + 1):
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        if stopper(val_loss, model):
            print(f"Early stopping at epoch {epoch}")
            break

    if stopper.best_state is not None:
        model.load_state_dict(stopper.best_state)
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    epoch_loss, n_correct, n_samples = 0.0, 0, 0
    for step, (inputs, targets) in enumerate(train_loader):
        if max_steps is not None and step == max_steps:
            break
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        logits = model(inputs)
        loss = criterion(logits, targets)
        loss.backward()
        optimizer.step()
        batch_size = targets.shape[0]
        epoch_loss += loss.item() * batch_size
        n_correct += torch.sum(torch.argmax(logits, dim=-1) == targets).item()
        n_samples += batch_size
    return epoch_loss / n_samples, n_correct / n_samples


@torch.inference_mode()
def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    epoch_loss, n_correct, n_samples = 0.0, 0, 0
    for inputs, targets in val_loader:
        inputs, targets = inputs.to(device), targets.to(device)
        logits = model(inputs)
        loss = criterion(logits, targets)
        batch_size = targets.shape[0]
        epoch_loss += loss.item() * batch_size
        n_correct += torch.sum(torch.argmax(logits, dim=-1) == targets).item()
        n_samples += batch_size
    return epoch_loss / n_samples, n_correct / n_samples
