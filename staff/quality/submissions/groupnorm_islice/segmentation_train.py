# groupnorm_islice: GroupNorm, itertools.islice for max_steps, inference_mode, weighted numpy averages.
import itertools

import matplotlib.pyplot as plt
import numpy as np
import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    rows = []
    for _ in range(epochs):
        rows.append(
            train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
            + validate_segmentation_epoch(model, val_loader, criterion, device)
        )
    names = ["train_loss", "train_iou", "val_loss", "val_iou"]
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(names)}


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    losses, ious, sizes = [], [], []
    for batch in itertools.islice(train_loader, max_steps):
        images = batch["image"].to(device)
        masks = batch["mask"].to(device)
        probs = model(images)
        loss = criterion(probs, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        ious.append(calculate_iou(probs.detach(), masks))
        sizes.append(len(images))
    return np.average(losses, weights=sizes), np.average(ious, weights=sizes)


def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    losses, ious, sizes = [], [], []
    with torch.inference_mode():
        for batch in val_loader:
            images = batch["image"].to(device)
            masks = batch["mask"].to(device)
            probs = model(images)
            losses.append(criterion(probs, masks).item())
            ious.append(calculate_iou(probs.detach(), masks))
            sizes.append(len(images))
    return np.average(losses, weights=sizes), np.average(ious, weights=sizes)


def evaluate_segmentation_model(model, test_loader, dataset_name="Test"):
    device = next(model.parameters()).device
    model.eval()
    ious = []
    boxes = 0
    with torch.no_grad():
        for batch in test_loader:
            outputs = model(batch["image"].to(device)).cpu()
            masks = batch["mask"].cpu()
            for output, mask in zip(outputs, masks):
                ious.append(calculate_iou(output[None], mask[None]))
            boxes += int(batch["has_box"].sum())
    scores = torch.tensor(ious)
    edges = [0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]
    distribution = {}
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (scores >= low) & ((scores < high) | (high == 1.0))
        distribution[f"{low:.2f}-{high:.2f}"] = int(inside.sum())
    results = {
        "mean_iou": scores.mean().item(),
        "std_iou": scores.std(unbiased=False).item(),
        "samples_with_boxes": boxes,
        "total_samples": len(ious),
        "box_ratio": boxes / len(ious),
        "iou_distribution": distribution,
    }
    print(f"{dataset_name}: mean IoU {results['mean_iou']:.4f} +- {results['std_iou']:.4f}")
    return results


def visualize_predictions(model, dataset, num_samples=6, save_path=None):
    device = next(model.parameters()).device
    model.eval()
    n = min(num_samples, len(dataset))
    fig, axes = plt.subplots(n, 3, figsize=(7, 2.3 * n), squeeze=False)
    for i in range(n):
        item = dataset[i]
        with torch.no_grad():
            pred = model(item["image"][None].to(device))[0, 0].cpu()
        axes[i, 0].imshow((item["image"] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0))
        axes[i, 1].imshow(item["mask"][0], cmap="gray")
        axes[i, 2].imshow(pred, cmap="gray", vmin=0, vmax=1)
        for ax, title in zip(axes[i], ("image", "true mask", "prediction")):
            ax.set_title(title)
            ax.axis("off")
    fig.tight_layout()
    if save_path is not None:
        fig.savefig(save_path)
    return fig
