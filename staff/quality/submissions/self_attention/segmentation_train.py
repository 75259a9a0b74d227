# self_attention: self-attention over the 7x7 map in the CNN and in the middle of the U-Net; best epoch printed; generator expressions.
import matplotlib.pyplot as plt
import numpy as np
import torch

from segmentation_models import CombinedLoss, calculate_iou


def update(total, loss, probs, masks):
    total["n"] += len(masks)
    total["loss"] += loss.item() * len(masks)
    total["iou"] += calculate_iou(probs.detach(), masks) * len(masks)


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    total = {"loss": 0.0, "iou": 0.0, "n": 0}
    for step, batch in enumerate(train_loader):
        if max_steps is not None and step >= max_steps:
            break
        images, masks = (batch[key].to(device) for key in ("image", "mask"))
        optimizer.zero_grad()
        probs = model(images)
        loss = criterion(probs, masks)
        loss.backward()
        optimizer.step()
        update(total, loss, probs, masks)
    return total["loss"] / total["n"], total["iou"] / total["n"]


def validate_segmentation_epoch(model, val_loader, criterion, device):
    was_training = model.training
    model.eval()
    total = {"loss": 0.0, "iou": 0.0, "n": 0}
    with torch.inference_mode():
        for batch in val_loader:
            images, masks = (batch[key].to(device) for key in ("image", "mask"))
            probs = model(images)
            update(total, criterion(probs, masks), probs, masks)
    model.train(was_training)
    return total["loss"] / total["n"], total["iou"] / total["n"]


def train_segmentation_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = next(model.parameters()).device
    criterion = CombinedLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_iou": [], "val_loss": [], "val_iou": []}
    for epoch in range(epochs):
        train_loss, train_iou = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_iou = validate_segmentation_epoch(model, val_loader, criterion, device)
        for key, value in zip(history, (train_loss, train_iou, val_loss, val_iou)):
            history[key].append(value)
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
