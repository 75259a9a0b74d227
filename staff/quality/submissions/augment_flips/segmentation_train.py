# augment_flips: own horizontal flips in training (image and mask together), a slowly decaying rate, zip over range for max_steps.
import matplotlib.pyplot as plt
import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay, foreach=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.97**epoch)
    history = {}
    for _ in range(epochs):
        train_loss, train_iou = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_iou = validate_segmentation_epoch(model, val_loader, criterion, device)
        schedule.step()
        for key, value in dict(train_loss=train_loss, train_iou=train_iou, val_loss=val_loss, val_iou=val_iou).items():
            history.setdefault(key, []).append(value)
    for key in ("train_loss", "train_iou", "val_loss", "val_iou"):
        history.setdefault(key, [])
    return history


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    sums = torch.zeros(3, dtype=torch.float64)
    for step, batch in zip(range(len(train_loader) if max_steps is None else max_steps), train_loader):
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        flip = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
        masks = torch.where(flip[:, None, None, None], masks.flip(3), masks)
        optimizer.zero_grad()
        probs = model(images)
        loss = criterion(probs, masks)
        loss.backward()
        optimizer.step()
        n = len(masks)
        score = calculate_iou(probs.detach(), masks) * n
        sums += torch.tensor([loss.item() * n, score, n], dtype=torch.float64)
    loss_sum, score_sum, n = sums.tolist()
    return loss_sum / n, score_sum / n


def validate_segmentation_epoch(model, val_loader, criterion, device):
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for batch in val_loader:
            images, masks = batch["image"].to(device), batch["mask"].to(device)
            probs = model(images)
            loss = criterion(probs, masks)
            n = len(masks)
            score = calculate_iou(probs, masks) * n
            sums += torch.tensor([loss.item() * n, score, n], dtype=torch.float64)
    loss_sum, score_sum, n = sums.tolist()
    return loss_sum / n, score_sum / n


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
