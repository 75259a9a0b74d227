# squeezed_labels: after the MedMNIST notebook: labels.squeeze().long(), as their loaders give (B, 1); Net with layer1 to layer5.
import torch
import torch.nn as nn
import torch.optim as optim


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = model.to(device)

    # define loss function and optimizer
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)

    history = {'train_loss': [], 'train_acc': [], 'val_loss': [], 'val_acc': []}
    for epoch in range(epochs):
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        history['train_loss'].append(train_loss)
        history['train_acc'].append(train_acc)
        history['val_loss'].append(val_loss)
        history['val_acc'].append(val_acc)
        print('%s  acc: %.3f' % ('val', val_acc))
    return history


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    train_correct = 0
    train_total = 0
    train_loss = 0

    model.train()
    step = 0
    for inputs, targets in train_loader:
        if max_steps is not None and step >= max_steps:
            break
        step += 1
        inputs = inputs.to(device)
        targets = targets.to(device)

        # forward + backward + optimize
        optimizer.zero_grad()
        outputs = model(inputs)
        targets = targets.squeeze().long()
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()

        train_loss += loss.item() * len(inputs)
        train_correct += (outputs.argmax(dim=-1) == targets).sum().item()
        train_total += len(inputs)

    return train_loss / train_total, train_correct / train_total


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    y_true = torch.tensor([])
    y_score = torch.tensor([])
    with torch.no_grad():
        for inputs, targets in val_loader:
            outputs = model(inputs.to(device)).cpu()
            targets = targets.cpu().view(-1).long()
            y_true = torch.cat((y_true, targets), 0)
            y_score = torch.cat((y_score, outputs), 0)
    y_true = y_true.long()
    loss = criterion(y_score.to(device), y_true.to(device)).item()
    acc = (y_score.argmax(dim=-1) == y_true).float().mean().item()
    return loss, acc
