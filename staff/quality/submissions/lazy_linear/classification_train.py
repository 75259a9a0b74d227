# lazy_linear: nn.LazyLinear and nn.LazyConv2d, made real by one dry run in the constructor.
import torch
from torch import nn


class Accumulator:
    """sums over n variables"""

    def __init__(self, n):
        self.data = [0.0] * n

    def add(self, *args):
        self.data = [a + float(b) for a, b in zip(self.data, args)]

    def __getitem__(self, idx):
        return self.data[idx]


def accuracy(y_hat, y):
    """number of correct predictions"""
    return float((y_hat.argmax(axis=1).type(y.dtype) == y).sum())


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    metric = Accumulator(3)
    for i, (X, y) in enumerate(train_loader):
        if max_steps is not None and i >= max_steps:
            break
        optimizer.zero_grad()
        X, y = X.to(device), y.to(device)
        y_hat = model(X)
        l = criterion(y_hat, y)
        l.backward()
        optimizer.step()
        with torch.no_grad():
            metric.add(l * X.shape[0], accuracy(y_hat, y), X.shape[0])
    return metric[0] / metric[2], metric[1] / metric[2]


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    metric = Accumulator(3)
    with torch.no_grad():
        for X, y in val_loader:
            X, y = X.to(device), y.to(device)
            y_hat = model(X)
            metric.add(criterion(y_hat, y) * X.shape[0], accuracy(y_hat, y), y.numel())
    return metric[0] / metric[2], metric[1] / metric[2]


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    print("training on", device)
    model.to(device)
    loss = nn.CrossEntropyLoss()
    trainer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in range(epochs):
        train_l, train_acc = train_epoch(model, train_loader, trainer, loss, device, max_steps_per_epoch)
        val_l, val_acc = validate_epoch(model, val_loader, loss, device)
        for key, value in (("train_loss", train_l), ("train_acc", train_acc), ("val_loss", val_l), ("val_acc", val_acc)):
            history[key].append(value)
    return history
