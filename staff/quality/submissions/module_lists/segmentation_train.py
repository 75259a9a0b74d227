# module_lists: nn.ModuleList loops everywhere; a U-Net of three levels (28, 14, 7, 3); average kept in a running-mean style.
import matplotlib.pyplot as plt
import numpy as np
from itertools import islice

import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    names = "train_loss", "train_iou", "val_loss", "val_iou"
    history = {name: [] for name in names}
    for _ in range(epochs):
        train = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val = validate_segmentation_epoch(model, val_loader, criterion, device)
        for name, value in zip(names, [*train, *val]):
            history[name].append(value)
    return history


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    mean_loss, mean_iou, seen = 0.0, 0.0, 0
    for batch in islice(train_loader, max_steps):
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        probs = model(images)
        loss = criterion(probs, masks)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        n = len(images)
        seen += n
        mean_loss += (loss.item() - mean_loss) * n / seen
        mean_iou += (calculate_iou(probs.detach(), masks) - mean_iou) * n / seen
    return mean_loss, mean_iou


def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    mean_loss, mean_iou, seen = 0.0, 0.0, 0
    with torch.no_grad():
        for batch in val_loader:
            images, masks = batch["image"].to(device), batch["mask"].to(device)
            probs = model(images)
            n = len(images)
            seen += n
            mean_loss += (criterion(probs, masks).item() - mean_loss) * n / seen
            mean_iou += (calculate_iou(probs, masks) - mean_iou) * n / seen
    return mean_loss, mean_iou


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
