# typed_adamw: type hints, AdamW with a cosine schedule inside train_model, sums kept on the device.
import matplotlib.pyplot as plt
import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(epochs, 1))
    history: dict[str, list[float]] = {key: [] for key in ("train_loss", "train_iou", "val_loss", "val_iou")}
    for _ in range(epochs):
        train = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val = validate_segmentation_epoch(model, val_loader, criterion, device)
        scheduler.step()
        for key, value in zip(history, (*train, *val)):
            history[key].append(value)
    return history


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    loss_sum, iou_sum, seen = 0.0, 0.0, 0
    for step, batch in enumerate(train_loader, start=1):
        images, masks = (batch[key].to(device, non_blocking=True) for key in ("image", "mask"))
        optimizer.zero_grad(set_to_none=True)
        probs = model(images)
        loss = criterion(probs, masks)
        loss.backward()
        optimizer.step()
        loss_sum += float(loss.detach()) * len(images)
        iou_sum += calculate_iou(probs.detach(), masks) * len(images)
        seen += len(images)
        if step == max_steps:
            break
    return loss_sum / seen, iou_sum / seen


@torch.no_grad()
def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    loss_sum, iou_sum, seen = 0.0, 0.0, 0
    for batch in val_loader:
        images, masks = (batch[key].to(device) for key in ("image", "mask"))
        probs = model(images)
        loss_sum += float(criterion(probs, masks)) * len(images)
        iou_sum += calculate_iou(probs, masks) * len(images)
        seen += len(images)
    return loss_sum / seen, iou_sum / seen


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
