# augment_flips: own horizontal flips in training (image and mask together), a slowly decaying rate, zip over range for max_steps.
import torch
from torch import nn


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay, foreach=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.97**epoch)
    history = {}
    for _ in range(epochs):
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        schedule.step()
        for key, value in dict(train_loss=train_loss, train_acc=train_acc, val_loss=val_loss, val_acc=val_acc).items():
            history.setdefault(key, []).append(value)
    for key in ("train_loss", "train_acc", "val_loss", "val_acc"):
        history.setdefault(key, [])
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    sums = torch.zeros(3, dtype=torch.float64)
    for step, (images, labels) in zip(range(len(train_loader) if max_steps is None else max_steps), train_loader):
        images, labels = images.to(device), labels.to(device)
        flip = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
        optimizer.zero_grad()
        logits = model(images)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        n = len(labels)
        right = (logits.detach().argmax(1) == labels).sum().item()
        sums += torch.tensor([loss.item() * n, right, n], dtype=torch.float64)
    loss_sum, score_sum, n = sums.tolist()
    return loss_sum / n, score_sum / n


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for images, labels in val_loader:
            images, labels = images.to(device), labels.to(device)
            logits = model(images)
            loss = criterion(logits, labels)
            n = len(labels)
            right = (logits.argmax(1) == labels).sum().item()
            sums += torch.tensor([loss.item() * n, right, n], dtype=torch.float64)
    loss_sum, score_sum, n = sums.tolist()
    return loss_sum / n, score_sum / n
