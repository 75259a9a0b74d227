# onecycle: own AdamW and OneCycleLR stepped after each batch through an optional argument of train_epoch; ConvNeXt-like patches and 7x7 depthwise convolutions.
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.optim.lr_scheduler import OneCycleLR

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    steps = min(len(train_loader), max_steps_per_epoch) if max_steps_per_epoch else len(train_loader)
    scheduler = OneCycleLR(optimizer, max_lr=3 * learning_rate, total_steps=epochs * steps + 1)
    history = {"train_loss": [], "train_iou": [], "val_loss": [], "val_iou": []}
    for epoch in range(epochs):
        train_loss, train_iou = train_segmentation_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch, scheduler=scheduler
        )
        val_loss, val_iou = validate_segmentation_epoch(model, val_loader, criterion, device)
        history["train_loss"] += [train_loss]
        history["train_iou"] += [train_iou]
        history["val_loss"] += [val_loss]
        history["val_iou"] += [val_iou]
    return history


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None, scheduler=None):
    model.train()
    losses, ious, seen = 0.0, 0.0, 0
    for step, batch in enumerate(train_loader, start=1):
        x, y = batch["image"].to(device), batch["mask"].to(device)
        optimizer.zero_grad()
        p = model(x)
        loss = criterion(p, y)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses += loss.item() * len(x)
        ious += calculate_iou(p.detach(), y) * len(x)
        seen += len(x)
        if max_steps is not None and step >= max_steps:
            break
    return losses / seen, ious / seen


def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    losses, ious, seen = 0.0, 0.0, 0
    with torch.no_grad():
        for batch in val_loader:
            x, y = batch["image"].to(device), batch["mask"].to(device)
            p = model(x)
            losses += criterion(p, y).item() * len(x)
            ious += calculate_iou(p, y) * len(x)
            seen += len(x)
    return losses / seen, ious / seen


def evaluate_segmentation_model(model, test_loader, dataset_name="Test"):
    device = next(model.parameters()).device
    model.eval()
    ious, with_box = [], 0
    with torch.no_grad():
        for batch in test_loader:
            preds = model(batch["image"].to(device)).cpu()
            for pred, mask in zip(preds, batch["mask"].cpu()):
                ious.append(calculate_iou(pred.unsqueeze(0), mask.unsqueeze(0)))
            with_box += int(batch["has_box"].sum())
    ious = np.array(ious)
    counts, edges = np.histogram(ious, bins=[0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0])
    results = {
        "mean_iou": float(ious.mean()),
        "std_iou": float(ious.std()),
        "samples_with_boxes": with_box,
        "total_samples": len(ious),
        "box_ratio": with_box / len(ious),
        "iou_distribution": {f"{a:.2f}-{b:.2f}": int(c) for a, b, c in zip(edges, edges[1:], counts)},
    }
    print(f"{dataset_name} IoU: {results['mean_iou']:.4f} +- {results['std_iou']:.4f}")
    return results


def visualize_predictions(model, dataset, num_samples=6, save_path=None):
    device = next(model.parameters()).device
    model.eval()
    num_samples = min(num_samples, len(dataset))
    fig, axes = plt.subplots(num_samples, 3, figsize=(8, 2.5 * num_samples), squeeze=False)
    for row in range(num_samples):
        sample = dataset[row]
        with torch.no_grad():
            pred = model(sample["image"].unsqueeze(0).to(device)).squeeze().cpu().numpy()
        axes[row][0].imshow((sample["image"].permute(1, 2, 0).cpu().numpy() * 0.5 + 0.5).clip(0, 1))
        axes[row][1].imshow(sample["mask"].squeeze().cpu().numpy(), cmap="gray")
        axes[row][2].imshow(pred > 0.5, cmap="gray")
        for ax in axes[row]:
            ax.axis("off")
    if save_path:
        fig.savefig(save_path)
    return fig
