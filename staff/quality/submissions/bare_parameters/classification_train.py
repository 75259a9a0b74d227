# bare_parameters: weights as bare nn.Parameter, products with @ and einsum, functional convolutions; cross-entropy object from functional code.
import torch
import torch.nn.functional as F


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = F.cross_entropy
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    train_loss, train_acc = [], []
    val_loss, val_acc = [], []
    for epoch in range(epochs):
        loss, acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        train_loss.append(loss)
        train_acc.append(acc)
        loss, acc = validate_epoch(model, val_loader, criterion, device)
        val_loss.append(loss)
        val_acc.append(acc)
    return dict(train_loss=train_loss, train_acc=train_acc, val_loss=val_loss, val_acc=val_acc)


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    losses, hits, n = 0.0, 0.0, 0
    batches = iter(train_loader)
    step = 0
    while max_steps is None or step < max_steps:
        try:
            x, y = next(batches)
        except StopIteration:
            break
        x, y = x.to(device), y.to(device)
        for p in model.parameters():
            p.grad = None
        logits = model(x)
        loss = criterion(logits, y)
        loss.backward()
        optimizer.step()
        losses += float(loss) * len(x)
        hits += float((logits.argmax(1) == y).sum())
        n += len(x)
        step += 1
    return losses / n, hits / n


@torch.no_grad()
def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    losses, hits, n = 0.0, 0.0, 0
    for x, y in val_loader:
        x, y = x.to(device), y.to(device)
        logits = model(x)
        losses += float(criterion(logits, y)) * len(x)
        hits += float((logits.argmax(1) == y).sum())
        n += len(x)
    return losses / n, hits / n
