# lenet_batch_means: LeNet without padding; averages of the batches' means, divided by the number of batches seen.
import torch
import torch.nn as nn
import torch.optim as optim


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    total_loss, total_acc, num_batches = 0.0, 0.0, 0
    for inputs, labels in train_loader:
        if num_batches == max_steps:
            break
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        total_acc += (outputs.argmax(dim=1) == labels).float().mean().item()
        num_batches += 1
    return total_loss / num_batches, total_acc / num_batches


def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    total_loss, total_acc = 0.0, 0.0
    with torch.no_grad():
        for inputs, labels in val_loader:
            inputs, labels = inputs.to(device), labels.to(device)
            outputs = model(inputs)
            total_loss += criterion(outputs, labels).item()
            total_acc += (outputs.argmax(dim=1) == labels).float().mean().item()
    return total_loss / len(val_loader), total_acc / len(val_loader)


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0,
                max_steps_per_epoch=100):
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    train_losses, train_accs, val_losses, val_accs = [], [], [], []
    for epoch in range(epochs):
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        train_losses.append(train_loss)
        train_accs.append(train_acc)
        val_losses.append(val_loss)
        val_accs.append(val_acc)
        print('Epoch [%d/%d] loss: %.3f acc: %.3f' % (epoch + 1, epochs, val_loss, val_acc))
    return {'train_loss': train_losses, 'train_acc': train_accs, 'val_loss': val_losses, 'val_acc': val_accs}
