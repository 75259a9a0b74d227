# strided_leaky: strided convolutions, LeakyReLU, bilinear upsampling, one function for both kinds of epoch, NAdam.
import torch
from torch import nn


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = next(model.parameters()).device
    if torch.cuda.is_available():
        device = torch.device("cuda")
        model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.NAdam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in range(1, epochs + 1):
        tl, ta = train_epoch(model, train_loader, optimizer, criterion, device, max_steps=max_steps_per_epoch)
        vl, va = validate_epoch(model, val_loader, criterion, device)
        history["train_loss"] += [tl]
        history["train_acc"] += [ta]
        history["val_loss"] += [vl]
        history["val_acc"] += [va]
        print("epoch %d/%d: %.4f %.4f %.4f %.4f" % (epoch, epochs, tl, ta, vl, va))
    return history


def run_epoch(model, loader, criterion, device, optimizer=None, max_steps=None):
    """One pass; with an optimizer it trains."""
    training = optimizer is not None
    model.train(training)
    loss_sum, good, count = 0.0, 0, 0
    with torch.set_grad_enabled(training):
        for step, (x, y) in enumerate(loader):
            if max_steps is not None and step == max_steps:
                break
            x, y = x.to(device), y.to(device)
            out = model(x)
            loss = criterion(out, y)
            if training:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            loss_sum += loss.item() * y.shape[0]
            good += int(out.argmax(1).eq(y).sum())
            count += y.shape[0]
    return loss_sum / count, good / count


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    optimizer.zero_grad()
    return run_epoch(model, train_loader, criterion, device, optimizer, max_steps)


def validate_epoch(model, val_loader, criterion, device):
    return run_epoch(model, val_loader, criterion, device)
