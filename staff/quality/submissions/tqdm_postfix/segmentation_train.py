# tqdm_postfix: tqdm with set_postfix, total=len(loader), loop variables named pbar; SGD-free Adam, global average pool.
import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm.auto import tqdm

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_iou": [], "val_loss": [], "val_iou": []}
    for epoch in tqdm(range(epochs), desc="epochs"):
        train_loss, train_iou = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_iou = validate_segmentation_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_iou"].append(train_iou)
        history["val_loss"].append(val_loss)
        history["val_iou"].append(val_iou)
        tqdm.write(f"epoch {epoch + 1}: val_loss={val_loss:.4f} val_iou={val_iou:.4f}")
    return history


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    loss_sum, iou_sum, count = 0.0, 0.0, 0
    total = len(train_loader) if max_steps is None else min(max_steps, len(train_loader))
    pbar = tqdm(train_loader, total=total, desc="train", leave=False)
    for step, batch in enumerate(pbar):
        if step >= total:
            break
        x, y = batch["image"].to(device), batch["mask"].to(device)
        optimizer.zero_grad()
        y_hat = model(x)
        loss = criterion(y_hat, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * x.size(0)
        iou_sum += calculate_iou(y_hat.detach(), y) * x.size(0)
        count += x.size(0)
        pbar.set_postfix(loss=f"{loss_sum / count:.3f}", iou=f"{iou_sum / count:.3f}")
    return loss_sum / count, iou_sum / count


@torch.no_grad()
def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    loss_sum, iou_sum, count = 0.0, 0.0, 0
    pbar = tqdm(val_loader, desc="val", leave=False)
    for batch in pbar:
        x, y = batch["image"].to(device), batch["mask"].to(device)
        y_hat = model(x)
        loss_sum += criterion(y_hat, y).item() * x.size(0)
        iou_sum += calculate_iou(y_hat, y) * x.size(0)
        count += x.size(0)
        pbar.set_postfix({"loss": loss_sum / count, "iou": iou_sum / count})
    return loss_sum / count, iou_sum / count


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
