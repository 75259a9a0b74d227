# collect_then_mean: all predictions are collected and scored at the end, results as 0-dim tensors, parameter groups.
import matplotlib.pyplot as plt
import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    criterion = CombinedLoss()
    decay = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}], lr=learning_rate
    )
    log = []
    for epoch in range(epochs):
        log.append({})
        log[-1]["train_loss"], log[-1]["train_iou"] = train_segmentation_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch
        )
        log[-1]["val_loss"], log[-1]["val_iou"] = validate_segmentation_epoch(model, val_loader, criterion, device)
    return {key: [row[key] for row in log] for key in ("train_loss", "train_iou", "val_loss", "val_iou")}


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    losses, guesses, truths = [], [], []
    for i, batch in enumerate(train_loader):
        if max_steps is not None and i >= max_steps:
            break
        images, masks = (batch[k].to(device) for k in ("image", "mask"))
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, masks)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu().expand(len(masks)))
        guesses.append(outputs.detach().cpu())
        truths.append(masks.cpu())
    return torch.cat(losses).mean(), torch.tensor(calculate_iou(torch.cat(guesses), torch.cat(truths)))


def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    losses, guesses, truths = [], [], []
    with torch.no_grad():
        for batch in val_loader:
            images, masks = (batch[k].to(device) for k in ("image", "mask"))
            outputs = model(images)
            losses.append(criterion(outputs, masks).cpu().expand(len(masks)))
            guesses.append(outputs.cpu())
            truths.append(masks.cpu())
    return torch.cat(losses).mean(), torch.tensor(calculate_iou(torch.cat(guesses), torch.cat(truths)))


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
