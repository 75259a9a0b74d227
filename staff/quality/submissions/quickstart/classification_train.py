# quickstart: after the PyTorch quickstart: zero_grad after the step, (X, y), .type(torch.float).sum().item().
import torch
from torch import nn


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    print(f"Using {device} device")
    model = model.to(device)

    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for t in range(epochs):
        print(f"Epoch {t+1}\n-------------------------------")
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, loss_fn, device, max_steps_per_epoch)
        test_loss, test_acc = validate_epoch(model, val_loader, loss_fn, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(test_loss)
        history["val_acc"].append(test_acc)
    print("Done!")
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    size, train_loss, correct = 0, 0, 0
    model.train()
    for batch, (X, y) in enumerate(train_loader):
        X, y = X.to(device), y.to(device)

        # Compute prediction error
        pred = model(X)
        loss = criterion(pred, y)

        # Backpropagation
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

        train_loss += loss.item() * len(X)
        correct += (pred.argmax(1) == y).type(torch.float).sum().item()
        size += len(X)

        if batch % 100 == 0:
            print(f"loss: {loss.item():>7f}")
        if max_steps is not None and batch + 1 >= max_steps:
            break
    return train_loss / size, correct / size


def validate_epoch(model, val_loader, criterion, device):
    size = 0
    model.eval()
    test_loss, correct = 0, 0
    with torch.no_grad():
        for X, y in val_loader:
            X, y = X.to(device), y.to(device)
            pred = model(X)
            test_loss += criterion(pred, y).item() * len(X)
            correct += (pred.argmax(1) == y).type(torch.float).sum().item()
            size += len(X)
    test_loss /= size
    correct /= size
    print(f"Test Error: \n Accuracy: {(100*correct):>0.1f}%, Avg loss: {test_loss:>8f} \n")
    return test_loss, correct
