# tensor_results: losses, accuracies and IoUs returned as 0-dim tensors; the commonest CNN: three conv-BatchNorm-ReLU blocks, Flatten, Dropout 0.3, two dense layers.
import torch
import torch.nn as nn


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    # sums are kept on the device so that the GPU need not wait for the CPU
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    n = 0
    for i, (x, y) in enumerate(train_loader):
        if max_steps is not None and i >= max_steps:
            break
        x = x.to(device, non_blocking=True)
        y = y.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        out = model(x)
        loss = criterion(out, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * y.size(0)
        correct += (out.argmax(1) == y).sum()
        n += y.size(0)
    return loss_sum / n, correct / n


@torch.no_grad()
def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    n = 0
    for x, y in val_loader:
        x, y = x.to(device), y.to(device)
        out = model(x)
        loss_sum += criterion(out, y) * y.size(0)
        correct += (out.argmax(1) == y).sum()
        n += y.size(0)
    return loss_sum / n, correct / n


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0,
                max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in range(epochs):
        tl, ta = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        vl, va = validate_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(tl)
        history["train_acc"].append(ta)
        history["val_loss"].append(vl)
        history["val_acc"].append(va)
        print(f"{epoch}: {tl:.3f} {ta:.3f} {vl:.3f} {va:.3f}")
    return history
