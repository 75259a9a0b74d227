# tqdm_postfix: tqdm with set_postfix, total=len(loader), loop variables named pbar; SGD-free Adam, global average pool.
import torch
import torch.nn as nn
from tqdm.auto import tqdm


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in tqdm(range(epochs), desc="epochs"):
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        tqdm.write(f"epoch {epoch + 1}: val_loss={val_loss:.4f} val_acc={val_acc:.4f}")
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    loss_sum, correct, count = 0.0, 0, 0
    total = len(train_loader) if max_steps is None else min(max_steps, len(train_loader))
    pbar = tqdm(train_loader, total=total, desc="train", leave=False)
    for step, (x, y) in enumerate(pbar):
        if step >= total:
            break
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        y_hat = model(x)
        loss = criterion(y_hat, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * x.size(0)
        correct += (y_hat.argmax(dim=1) == y).sum().item()
        count += x.size(0)
        pbar.set_postfix(loss=f"{loss_sum / count:.3f}", acc=f"{correct / count:.3f}")
    return loss_sum / count, correct / count


@torch.no_grad()
def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    loss_sum, correct, count = 0.0, 0, 0
    pbar = tqdm(val_loader, desc="val", leave=False)
    for x, y in pbar:
        x, y = x.to(device), y.to(device)
        y_hat = model(x)
        loss_sum += criterion(y_hat, y).item() * x.size(0)
        correct += (y_hat.argmax(dim=1) == y).sum().item()
        count += x.size(0)
        pbar.set_postfix({"loss": loss_sum / count, "acc": correct / count})
    return loss_sum / count, correct / count
