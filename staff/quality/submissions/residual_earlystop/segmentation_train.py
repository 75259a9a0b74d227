# residual_earlystop: residual blocks, ReduceLROnPlateau and early stopping (patience 10, best weights restored), gradient clipping.
import copy
from collections import defaultdict

import matplotlib.pyplot as plt
import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=3)
    history = defaultdict(list)
    best_score, best_state, waited, patience = -1.0, None, 0, 10
    for epoch in range(epochs):
        train_loss, train_iou = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_iou = validate_segmentation_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_iou"].append(train_iou)
        history["val_loss"].append(val_loss)
        history["val_iou"].append(val_iou)
        plateau.step(val_iou)
        if val_iou > best_score:
            best_score, waited = val_iou, 0
            best_state = copy.deepcopy(model.state_dict())
        else:
            waited += 1
            if waited >= patience:
                print(f"no gain for {patience} epochs, stopping after epoch {epoch + 1}")
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    return dict(history)


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    total_loss = 0.0
    total_iou = 0.0
    total_images = 0
    step = 0
    for batch in train_loader:
        if step == max_steps:
            break
        step += 1
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        optimizer.zero_grad()
        probs = model(images)
        loss = criterion(probs, masks)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)
        optimizer.step()
        total_loss += loss.item() * images.shape[0]
        total_iou += calculate_iou(probs.detach(), masks) * images.shape[0]
        total_images += images.shape[0]
    return total_loss / total_images, total_iou / total_images


def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    total_loss = 0.0
    total_iou = 0.0
    total_images = 0
    for batch in val_loader:
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        with torch.no_grad():
            probs = model(images)
            loss = criterion(probs, masks)
        total_loss += loss.item() * images.shape[0]
        total_iou += calculate_iou(probs, masks) * images.shape[0]
        total_images += images.shape[0]
    return total_loss / total_images, total_iou / total_images


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
