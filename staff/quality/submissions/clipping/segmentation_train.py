# clipping: gradient clipping in both training loops; AlexNet-like CNN with a global pool, GroupNorm.
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from segmentation_models import CombinedLoss, calculate_iou

MAX_NORM = 5.0


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    running_loss, running_iou, seen = 0.0, 0.0, 0
    for i, data in enumerate(train_loader):
        if max_steps is not None and i >= max_steps:
            break
        inputs, masks = data["image"].to(device), data["mask"].to(device).float()
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, masks)
        loss.backward()
        clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        running_loss += loss.item() * inputs.size(0)
        running_iou += calculate_iou(outputs.detach().cpu().numpy(), masks.cpu().numpy()) * inputs.size(0)
        seen += inputs.size(0)
    return running_loss / seen, running_iou / seen


def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    running_loss, running_iou, seen = 0.0, 0.0, 0
    for data in val_loader:
        inputs, masks = data["image"].to(device), data["mask"].to(device).float()
        with torch.set_grad_enabled(False):
            outputs = model(inputs)
            loss = criterion(outputs, masks)
        running_loss += loss.item() * inputs.size(0)
        running_iou += calculate_iou(outputs.cpu().numpy(), masks.cpu().numpy()) * inputs.size(0)
        seen += inputs.size(0)
    return running_loss / seen, running_iou / seen


def train_segmentation_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {}
    for epoch in range(epochs):
        for phase in ["train", "val"]:
            if phase == "train":
                loss, iou = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
            else:
                loss, iou = validate_segmentation_epoch(model, val_loader, criterion, device)
            history.setdefault(phase + "_loss", []).append(loss)
            history.setdefault(phase + "_iou", []).append(iou)
    return history


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
