# clipping: gradient clipping in both training loops; AlexNet-like CNN with a global pool, GroupNorm.
import torch
import torch.nn as nn
from torch.nn.utils import clip_grad_norm_

MAX_NORM = 5.0


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    running_loss, running_corrects, seen = 0.0, 0, 0
    for i, data in enumerate(train_loader):
        if max_steps is not None and i >= max_steps:
            break
        inputs, labels = data
        inputs = inputs.to(device)
        labels = labels.to(device).long()
        optimizer.zero_grad()
        with torch.set_grad_enabled(True):
            outputs = model(inputs)
            _, preds = torch.max(outputs, 1)
            loss = criterion(outputs, labels)
            loss.backward()
            clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
        running_loss += loss.item() * inputs.size(0)
        running_corrects += torch.sum(preds == labels.data).item()
        seen += inputs.size(0)
    return running_loss / seen, running_corrects / seen


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    running_loss, running_corrects, seen = 0.0, 0, 0
    for inputs, labels in val_loader:
        inputs = inputs.to(device)
        labels = labels.to(device).long()
        with torch.set_grad_enabled(False):
            outputs = model(inputs)
            _, preds = torch.max(outputs, 1)
            loss = criterion(outputs, labels)
        running_loss += loss.item() * inputs.size(0)
        running_corrects += torch.sum(preds == labels.data).item()
        seen += inputs.size(0)
    return running_loss / seen, running_corrects / seen


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {}
    for epoch in range(epochs):
        print("Epoch {}/{}".format(epoch, epochs - 1))
        for phase in ["train", "val"]:
            if phase == "train":
                epoch_loss, epoch_acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
            else:
                epoch_loss, epoch_acc = validate_epoch(model, val_loader, criterion, device)
            history.setdefault(phase + "_loss", []).append(epoch_loss)
            history.setdefault(phase + "_acc", []).append(epoch_acc)
            print("{} Loss: {:.4f} Acc: {:.4f}".format(phase, epoch_loss, epoch_acc))
    return history
