# early_stopping: early stopping that restores the best weights; residual CNN and residual U-Net.
import matplotlib.pyplot as plt
import numpy as np
import copy

import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {key: [] for key in ("train_loss", "train_iou", "val_loss", "val_iou")}
    best_iou, best_state, bad_epochs, patience = -1.0, None, 0, 5

    for epoch in range(1, epochs + 1):
        train_loss, train_iou = train_segmentation_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch
        )
        val_loss, val_iou = validate_segmentation_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_iou"].append(train_iou)
        history["val_loss"].append(val_loss)
        history["val_iou"].append(val_iou)
        if val_iou > best_iou:
            best_iou, best_state, bad_epochs = val_iou, copy.deepcopy(model.state_dict()), 0
        else:
            bad_epochs += 1
            if bad_epochs == patience:
                print(f"Early stopping at epoch {epoch}")
                break

    model.load_state_dict(best_state)
    return history


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    epoch_loss, epoch_iou, n_samples = 0.0, 0.0, 0
    for step, batch in enumerate(train_loader):
        if max_steps is not None and step == max_steps:
            break
        inputs, targets = batch["image"].to(device), batch["mask"].to(device)
        optimizer.zero_grad()
        probs = model(inputs)
        loss = criterion(probs, targets)
        loss.backward()
        optimizer.step()
        batch_size = inputs.shape[0]
        epoch_loss += loss.item() * batch_size
        with torch.no_grad():
            epoch_iou += calculate_iou(probs, targets) * batch_size
        n_samples += batch_size
    return epoch_loss / n_samples, epoch_iou / n_samples


@torch.inference_mode()
def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    epoch_loss, epoch_iou, n_samples = 0.0, 0.0, 0
    for batch in val_loader:
        inputs, targets = batch["image"].to(device), batch["mask"].to(device)
        probs = model(inputs)
        batch_size = inputs.shape[0]
        epoch_loss += criterion(probs, targets).item() * batch_size
        epoch_iou += calculate_iou(probs, targets) * batch_size
        n_samples += batch_size
    return epoch_loss / n_samples, epoch_iou / n_samples


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
