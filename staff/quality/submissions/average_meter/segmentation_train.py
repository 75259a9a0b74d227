# average_meter: AverageMeter of the ImageNet example; SGD with momentum at 30 times the learning rate; dense (DenseNet-like) CNN; own LeakyReLU U-Net.
import matplotlib.pyplot as plt
import numpy as np
import torch

from classification_train import AverageMeter
from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    losses, ious = AverageMeter(), AverageMeter()
    model.train()
    for i, batch in enumerate(train_loader):
        if i == max_steps:
            break
        images = batch["image"].to(device, non_blocking=True)
        target = batch["mask"].to(device, non_blocking=True)
        output = model(images)
        loss = criterion(output, target)
        losses.update(loss.item(), images.size(0))
        ious.update(calculate_iou(output, target), images.size(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses.avg, ious.avg


def validate_segmentation_epoch(model, val_loader, criterion, device):
    losses, ious = AverageMeter(), AverageMeter()
    model.eval()
    with torch.no_grad():
        for i, batch in enumerate(val_loader):
            images = batch["image"].to(device, non_blocking=True)
            target = batch["mask"].to(device, non_blocking=True)
            output = model(images)
            losses.update(criterion(output, target).item(), images.size(0))
            ious.update(calculate_iou(output, target), images.size(0))
    return losses.avg, ious.avg


def train_segmentation_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = CombinedLoss().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 100 * learning_rate, momentum=0.9, weight_decay=weight_decay)
    history = {"train_loss": [], "train_iou": [], "val_loss": [], "val_iou": []}
    for epoch in range(epochs):
        train_loss, train_iou = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_iou = validate_segmentation_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_iou"].append(train_iou)
        history["val_loss"].append(val_loss)
        history["val_iou"].append(val_iou)
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
