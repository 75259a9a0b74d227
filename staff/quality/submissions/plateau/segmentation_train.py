# plateau: base signatures only, own AdamW and own ReduceLROnPlateau; squeeze-excitation CNN, attention-gated U-Net.
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0,
                             max_steps_per_epoch=100):
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    model = model.to(device)
    loss_fn = CombinedLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    scheduler = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=2)
    history = dict(train_loss=[], train_iou=[], val_loss=[], val_iou=[])
    for epoch in range(epochs):
        tr_loss, tr_iou = train_segmentation_epoch(model, train_loader, optimizer, loss_fn, device, max_steps=max_steps_per_epoch)
        va_loss, va_iou = validate_segmentation_epoch(model, val_loader, loss_fn, device)
        scheduler.step(va_iou)
        for k, v in dict(train_loss=tr_loss, train_iou=tr_iou, val_loss=va_loss, val_iou=va_iou).items():
            history[k].append(v)
    return history


def _run(model, loader, criterion, device, optimizer=None, max_steps=None):
    training = optimizer is not None
    model.train(training)
    loss_sum = iou_sum = count = 0
    with torch.set_grad_enabled(training):
        for i, batch in enumerate(loader):
            if max_steps is not None and i >= max_steps:
                break
            x, y = batch["image"].to(device), batch["mask"].to(device)
            out = model(x)
            loss = criterion(out, y)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss_sum += loss.item() * len(x)
            iou_sum += calculate_iou(out.detach(), y) * len(x)
            count += len(x)
    return loss_sum / count, iou_sum / count


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    return _run(model, train_loader, criterion, device, optimizer, max_steps)


def validate_segmentation_epoch(model, val_loader, criterion, device):
    return _run(model, val_loader, criterion, device)


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
