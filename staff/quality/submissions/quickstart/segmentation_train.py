# quickstart: after the PyTorch quickstart: zero_grad after the step, (X, y), .type(torch.float).sum().item().
import matplotlib.pyplot as plt
import numpy as np
import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    model = model.to(device)
    loss_fn = CombinedLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_iou": [], "val_loss": [], "val_iou": []}
    for t in range(epochs):
        print(f"Epoch {t+1}\n-------------------------------")
        train_loss, train_iou = train_segmentation_epoch(model, train_loader, optimizer, loss_fn, device, max_steps_per_epoch)
        test_loss, test_iou = validate_segmentation_epoch(model, val_loader, loss_fn, device)
        history["train_loss"].append(train_loss)
        history["train_iou"].append(train_iou)
        history["val_loss"].append(test_loss)
        history["val_iou"].append(test_iou)
    print("Done!")
    return history


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    size, train_loss, train_iou = 0, 0, 0
    model.train()
    for batch, data in enumerate(train_loader):
        X, y = data["image"].to(device), data["mask"].to(device)

        # Compute prediction error
        pred = model(X)
        loss = criterion(pred, y)

        # Backpropagation
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

        train_loss += loss.item() * len(X)
        train_iou += calculate_iou(pred.detach(), y) * len(X)
        size += len(X)
        if max_steps is not None and batch + 1 >= max_steps:
            break
    return train_loss / size, train_iou / size


def validate_segmentation_epoch(model, val_loader, criterion, device):
    size, test_loss, test_iou = 0, 0, 0
    model.eval()
    with torch.no_grad():
        for data in val_loader:
            X, y = data["image"].to(device), data["mask"].to(device)
            pred = model(X)
            test_loss += criterion(pred, y).item() * len(X)
            test_iou += calculate_iou(pred, y) * len(X)
            size += len(X)
    return test_loss / size, test_iou / size


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
