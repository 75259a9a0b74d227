"""A submission as an earlier term asked for it."""

import torch
import torch.optim as optim

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = CombinedLoss()
    optimizer = optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_iou": [], "val_loss": [], "val_iou": []}
    for epoch in range(epochs):
        train_loss, train_iou = train_segmentation_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch
        )
        val_loss, val_iou = validate_segmentation_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_iou"].append(train_iou)
        history["val_loss"].append(val_loss)
        history["val_iou"].append(val_iou)
        print(f"Epoch {epoch + 1}/{epochs}: train IoU {train_iou:.4f}, val IoU {val_iou:.4f}")
    return history


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    total_loss, total_iou, steps = 0.0, 0.0, 0
    for step, batch in enumerate(train_loader):
        if max_steps is not None and step >= max_steps:
            break
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, masks)
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        total_iou += calculate_iou(outputs.detach().cpu(), masks.cpu())
        steps += 1
    return total_loss / steps, total_iou / steps


def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    total_loss, total_iou, steps = 0.0, 0.0, 0
    with torch.no_grad():
        for batch in val_loader:
            images, masks = batch["image"].to(device), batch["mask"].to(device)
            outputs = model(images)
            total_loss += criterion(outputs, masks).item()
            total_iou += calculate_iou(outputs.cpu(), masks.cpu())
            steps += 1
    return total_loss / steps, total_iou / steps


def evaluate_segmentation_model(model, test_loader, dataset_name="Test"):
    raise NotImplementedError


def visualize_predictions(model, dataset, num_samples=6, save_path=None):
    raise NotImplementedError
