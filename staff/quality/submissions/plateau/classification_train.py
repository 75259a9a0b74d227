# plateau: base signatures only, own AdamW and own ReduceLROnPlateau; squeeze-excitation CNN, attention-gated U-Net.
import torch
import torch.nn as nn
from torch.optim.lr_scheduler import ReduceLROnPlateau


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0,
                max_steps_per_epoch=100):
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    model = model.to(device)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    scheduler = ReduceLROnPlateau(optimizer, mode="min", factor=0.5, patience=2)

    history = dict(train_loss=[], train_acc=[], val_loss=[], val_acc=[])
    for epoch in range(epochs):
        tr_loss, tr_acc = train_epoch(model, train_loader, optimizer, loss_fn, device, max_steps=max_steps_per_epoch)
        va_loss, va_acc = validate_epoch(model, val_loader, loss_fn, device)
        scheduler.step(va_loss)
        for k, v in dict(train_loss=tr_loss, train_acc=tr_acc, val_loss=va_loss, val_acc=va_acc).items():
            history[k].append(v)
        lr = optimizer.param_groups[0]["lr"]
        print(f"epoch {epoch + 1:2d} | lr {lr:.2e} | train {tr_loss:.4f} / {tr_acc:.2%} | val {va_loss:.4f} / {va_acc:.2%}")
    return history


def _run(model, loader, criterion, device, optimizer=None, max_steps=None):
    """one pass, trains if there is an optimizer"""
    training = optimizer is not None
    model.train(training)
    loss_sum = hits = count = 0
    with torch.set_grad_enabled(training):
        for i, (x, y) in enumerate(loader):
            if max_steps is not None and i >= max_steps:
                break
            x, y = x.to(device), y.to(device)
            out = model(x)
            loss = criterion(out, y)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss_sum += loss.item() * len(y)
            hits += (out.argmax(1) == y).sum().item()
            count += len(y)
    return loss_sum / count, hits / count


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    return _run(model, train_loader, criterion, device, optimizer, max_steps)


def validate_epoch(model, val_loader, criterion, device):
    return _run(model, val_loader, criterion, device)
