# trainer_class: a Trainer class behind the functions, own cosine schedule by epoch, autocast on the GPU only, parallel (Inception-like) kernels.
import math

import torch
import torch.nn as nn


class Trainer:
    """One epoch of training or evaluation"""

    def __init__(self, model, criterion, device, optimizer=None):
        self.model = model
        self.criterion = criterion
        self.device = torch.device(device)
        self.optimizer = optimizer
        self.reset()

    def reset(self):
        self.loss, self.correct, self.count = 0.0, 0, 0

    def forward(self, images, labels):
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda", dtype=torch.bfloat16):
            logits = self.model(images)
        logits = logits.float()
        loss = self.criterion(logits, labels)
        self.loss += loss.detach().item() * images.shape[0]
        self.correct += int((logits.argmax(dim=1) == labels).sum())
        self.count += images.shape[0]
        return loss

    def train(self, loader, max_steps=None):
        self.reset()
        self.model.train()
        for step, (images, labels) in enumerate(loader):
            if max_steps is not None and step >= max_steps:
                break
            loss = self.forward(images.to(self.device), labels.to(self.device))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return self.result()

    @torch.no_grad()
    def evaluate(self, loader):
        self.reset()
        self.model.eval()
        for images, labels in loader:
            self.forward(images.to(self.device), labels.to(self.device))
        return self.result()

    def result(self):
        return self.loss / self.count, self.correct / self.count


def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    return Trainer(model, criterion, device, optimizer).train(train_loader, max_steps)


def validate_epoch(model, val_loader, criterion, device):
    return Trainer(model, criterion, device).evaluate(val_loader)


def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.NAdam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_acc = validate_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
    return history
