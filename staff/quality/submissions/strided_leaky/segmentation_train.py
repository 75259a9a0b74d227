# strided_leaky: strided convolutions, LeakyReLU, bilinear upsampling, one function for both kinds of epoch, NAdam.
import matplotlib.pyplot as plt
import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = next(model.parameters()).device
    if torch.cuda.is_available():
        device = torch.device("cuda")
        model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.NAdam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_iou": [], "val_loss": [], "val_iou": []}
    for epoch in range(1, epochs + 1):
        tl, ta = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=max_steps_per_epoch)
        vl, va = validate_segmentation_epoch(model, val_loader, criterion, device)
        history["train_loss"] += [tl]
        history["train_iou"] += [ta]
        history["val_loss"] += [vl]
        history["val_iou"] += [va]
        print("epoch %d/%d: %.4f %.4f %.4f %.4f" % (epoch, epochs, tl, ta, vl, va))
    return history


def run_epoch(model, loader, criterion, device, optimizer=None, max_steps=None):
    """One pass; with an optimizer it trains."""
    training = optimizer is not None
    model.train(training)
    loss_sum, iou_sum, count = 0.0, 0.0, 0
    with torch.set_grad_enabled(training):
        for step, batch in enumerate(loader):
            if max_steps is not None and step == max_steps:
                break
            x, y = batch["image"].to(device), batch["mask"].to(device)
            out = model(x)
            loss = criterion(out, y)
            if training:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            loss_sum += loss.item() * y.shape[0]
            iou_sum += y.shape[0] * calculate_iou(out.detach(), y)
            count += y.shape[0]
    return loss_sum / count, iou_sum / count


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    optimizer.zero_grad()
    return run_epoch(model, train_loader, criterion, device, optimizer, max_steps)


def validate_segmentation_epoch(model, val_loader, criterion, device):
    return run_epoch(model, val_loader, criterion, device)


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
