# meters_separable: AverageMeter class, depthwise separable convolutions, PixelShuffle decoder, AdamW with amsgrad.
import torch
import torch.nn.functional as F
from torch import nn


class AverageMeter:
    def __init__(self):
        self.total, self.count = 0.0, 0

    def update(self, value, n=1):
        self.total += value * n
        self.count += n

    @property
    def average(self):
        return self.total / max(self.count, 1)


def accuracy(logits, labels):
    return (F.softmax(logits, dim=1).argmax(dim=1) == labels).double().mean().item()


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay, amsgrad=True)
    history = {f"{part}_{what}": [] for part in ("train", "val") for what in ("loss", "acc")}
    for epoch in range(epochs):
        results = {}
        results["train_loss"], results["train_acc"] = train_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch
        )
        results["val_loss"], results["val_acc"] = validate_epoch(model, val_loader, criterion, device)
        for name, value in results.items():
            history[name].append(value)
        print(f"[{epoch + 1:3d}/{epochs}] " + " ".join(f"{k}={v:.3f}" for k, v in results.items()))
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    loss_meter, acc_meter = AverageMeter(), AverageMeter()
    model.train()
    for step, (images, labels) in enumerate(train_loader):
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss = criterion(logits, labels)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        loss_meter.update(loss.item(), labels.size(0))
        acc_meter.update(accuracy(logits.detach(), labels), labels.size(0))
        if max_steps is not None and step + 1 >= max_steps:
            break
    return loss_meter.average, acc_meter.average


@torch.inference_mode()
def validate_epoch(model, val_loader, criterion, device):
    loss_meter, acc_meter = AverageMeter(), AverageMeter()
    model.train(False)
    for images, labels in val_loader:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss_meter.update(criterion(logits, labels).item(), labels.size(0))
        acc_meter.update(accuracy(logits, labels), labels.size(0))
    return loss_meter.average, acc_meter.average
