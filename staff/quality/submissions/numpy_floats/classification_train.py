# numpy_floats: results are numpy floats (np.average of lists); three input channels written as 3; Dice over the whole batch; small functions.
import numpy as np
import torch
from torch import nn


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    losses, accs, sizes = [], [], []
    for step, (images, labels) in enumerate(train_loader, 1):
        images, labels = images.to(device), labels.to(device)
        preds = model(images)
        loss = criterion(preds, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu().numpy())
        accs.append(accuracy(preds, labels))
        sizes.append(len(labels))
        if step == max_steps:
            break
    return np.average(losses, weights=sizes), np.average(accs, weights=sizes)


def accuracy(preds, labels):
    return np.mean(preds.detach().cpu().numpy().argmax(axis=1) == labels.cpu().numpy())


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    losses, accs, sizes = [], [], []
    with torch.no_grad():
        for images, labels in val_loader:
            images, labels = images.to(device), labels.to(device)
            preds = model(images)
            losses.append(criterion(preds, labels).cpu().numpy())
            accs.append(accuracy(preds, labels))
            sizes.append(len(labels))
    return np.average(losses, weights=sizes).astype(np.float32), np.average(accs, weights=sizes).astype(np.float32)


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    results = []
    for epoch in range(epochs):
        train = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val = validate_epoch(model, val_loader, criterion, device)
        results.append((*train, *val))
    train_loss, train_acc, val_loss, val_acc = zip(*results)
    return {
        "train_loss": list(train_loss),
        "train_acc": list(train_acc),
        "val_loss": list(val_loss),
        "val_acc": list(val_acc),
    }
