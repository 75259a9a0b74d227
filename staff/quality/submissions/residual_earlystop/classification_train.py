# residual_earlystop: residual blocks, ReduceLROnPlateau and early stopping (patience 10, best weights restored), gradient clipping.
import copy
from collections import defaultdict

import torch
from torch import nn


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=3)
    history = defaultdict(list)
    best_score, best_state, waited, patience = -1.0, None, 0, 10
    for epoch in range(epochs):
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        plateau.step(val_acc)
        if val_acc > best_score:
            best_score, waited = val_acc, 0
            best_state = copy.deepcopy(model.state_dict())
        else:
            waited += 1
            if waited >= patience:
                print(f"no gain for {patience} epochs, stopping after epoch {epoch + 1}")
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    return dict(history)


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    total_loss = 0.0
    total_right = 0
    total_images = 0
    step = 0
    for images, labels in train_loader:
        if step == max_steps:
            break
        step += 1
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        scores = model(images)
        loss = criterion(scores, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)
        optimizer.step()
        total_loss += loss.item() * images.shape[0]
        total_right += (scores.detach().argmax(1) == labels).sum().item()
        total_images += images.shape[0]
    return total_loss / total_images, total_right / total_images


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    total_loss = 0.0
    total_right = 0
    total_images = 0
    for images, labels in val_loader:
        images, labels = images.to(device), labels.to(device)
        with torch.no_grad():
            scores = model(images)
            loss = criterion(scores, labels)
        total_loss += loss.item() * images.shape[0]
        total_right += (scores.argmax(1) == labels).sum().item()
        total_images += images.shape[0]
    return total_loss / total_images, total_right / total_images
