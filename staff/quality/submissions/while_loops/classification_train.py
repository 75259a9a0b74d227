# while_loops: explicit iterators and while loops, zero_grad after the step, linear layers by hand or as a full-size convolution.
import torch
import torch.nn as nn


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = model.to(device)
    loss_fn = nn.CrossEntropyLoss()
    opt = torch.optim.Adam(net.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98), eps=1e-7)
    train_losses, train_scores, val_losses, val_scores = [], [], [], []
    epoch = 0
    while epoch < epochs:
        a, b = train_epoch(net, train_loader, opt, loss_fn, device, max_steps=max_steps_per_epoch)
        c, d = validate_epoch(net, val_loader, loss_fn, device)
        train_losses.append(a)
        train_scores.append(b)
        val_losses.append(c)
        val_scores.append(d)
        epoch += 1
    return dict(train_loss=train_losses, train_acc=train_scores, val_loss=val_losses, val_acc=val_scores)


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    optimizer.zero_grad()
    batches = iter(train_loader)
    limit = len(train_loader) if max_steps is None else min(max_steps, len(train_loader))
    sum_loss = sum_right = seen = done = 0
    while done < limit:
        x, y = next(batches)
        x, y = x.to(device), y.to(device)
        logits = model(x)
        loss = criterion(logits, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            sum_loss += loss.item() * len(y)
            sum_right += torch.count_nonzero(logits.max(dim=1).indices == y).item()
        seen += len(y)
        done += 1
    return sum_loss / seen, sum_right / seen


def validate_epoch(model, val_loader, criterion, device):
    was_training = model.training
    model.eval()
    sum_loss = sum_right = seen = 0
    with torch.no_grad():
        for x, y in iter(val_loader):
            x, y = x.to(device), y.to(device)
            logits = model(x)
            sum_loss += criterion(logits, y).item() * len(y)
            sum_right += torch.count_nonzero(logits.max(dim=1).indices == y).item()
            seen += len(y)
    model.train(was_training)
    return sum_loss / seen, sum_right / seen
