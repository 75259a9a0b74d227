# meters_separable: AverageMeter class, depthwise separable convolutions, PixelShuffle decoder, AdamW with amsgrad.
import matplotlib.pyplot as plt
import torch

from segmentation_models import CombinedLoss, calculate_iou


class AverageMeter:
    def __init__(self):
        self.total, self.count = 0.0, 0

    def update(self, value, n=1):
        self.total += value * n
        self.count += n

    @property
    def average(self):
        return self.total / max(self.count, 1)


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    criterion = CombinedLoss().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay, amsgrad=True)
    history = {f"{part}_{what}": [] for part in ("train", "val") for what in ("loss", "iou")}
    for epoch in range(epochs):
        results = {}
        results["train_loss"], results["train_iou"] = train_segmentation_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch
        )
        results["val_loss"], results["val_iou"] = validate_segmentation_epoch(model, val_loader, criterion, device)
        for name, value in results.items():
            history[name].append(value)
        print(f"[{epoch + 1:3d}/{epochs}] " + " ".join(f"{k}={v:.3f}" for k, v in results.items()))
    return history


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    loss_meter, iou_meter = AverageMeter(), AverageMeter()
    model.train()
    for step, batch in enumerate(train_loader):
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        probs = model(images)
        loss = criterion(probs, masks)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        loss_meter.update(loss.item(), masks.size(0))
        iou_meter.update(calculate_iou(probs.detach(), masks), masks.size(0))
        if max_steps is not None and step + 1 >= max_steps:
            break
    return loss_meter.average, iou_meter.average


@torch.inference_mode()
def validate_segmentation_epoch(model, val_loader, criterion, device):
    loss_meter, iou_meter = AverageMeter(), AverageMeter()
    model.train(False)
    for batch in val_loader:
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        probs = model(images)
        loss_meter.update(criterion(probs, masks).item(), masks.size(0))
        iou_meter.update(calculate_iou(probs, masks), masks.size(0))
    return loss_meter.average, iou_meter.average


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
