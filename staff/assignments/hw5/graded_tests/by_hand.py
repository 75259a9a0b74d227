"""What Homework 5's functions must give, computed here in plain PyTorch and NumPy."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch.nn import functional as F

from staff.grader import oracle

Arrays = dict[str, np.ndarray]
METRICS = ("accuracy", "auc", "precision", "recall", "f1", "specificity", "tn", "fp", "fn", "tp")


def train(layers, state, arrays: Arrays, epochs: int, learning_rate: float, patience: int = 10**6, only: str = ""):
    """Adam on cross-entropy in batches of 8 in their order: (history, weights of the epoch with the lowest val_loss).

    only: train the parameters whose names start so.
    """
    model = oracle.build(layers, state)
    weights = [weight for name, weight in model.named_parameters() if name.startswith(only)]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    history: dict[str, list[float]] = {name: [] for name in ("train_loss", "train_acc", "val_loss", "val_acc")}
    best = copy.deepcopy(model.state_dict())
    for epoch in range(epochs):
        for part in ("train", "val"):
            losses = hits = 0.0
            images, labels = (torch.from_numpy(arrays[f"{part}_{kind}"]) for kind in ("images", "targets"))
            for inputs, wanted in zip(images.split(8), labels.split(8), strict=True):
                logits = model(inputs)
                loss = F.cross_entropy(logits, wanted)
                if part == "train":
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                losses += loss.item() * len(wanted)
                hits += (logits.argmax(1) == wanted).sum().item()
            history[f"{part}_loss"].append(losses / len(labels))
            history[f"{part}_acc"].append(hits / len(labels))
        lowest = int(np.argmin(history["val_loss"]))
        if lowest == epoch:
            best = copy.deepcopy(model.state_dict())
        if epoch - lowest >= patience:
            break
    return history, {name: value.numpy().copy() for name, value in best.items()}


def metrics(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> list[float]:
    """METRICS by counting."""
    called, ill = probabilities >= threshold, labels == 1
    tp, fp = int((called & ill).sum()), int((called & ~ill).sum())
    fn, tn = int((~called & ill).sum()), int((~called & ~ill).sum())
    return [
        (tp + tn) / len(labels),
        auc(probabilities, labels),
        tp / max(tp + fp, 1),
        tp / max(tp + fn, 1),
        2 * tp / max(2 * tp + fp + fn, 1),
        tn / max(tn + fp, 1),
        *(tn, fp, fn, tp),
    ]


def auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of pairs (ill, healthy) in the right order; ties count half (Mann and Whitney)."""
    ill, healthy = probabilities[labels == 1][:, None], probabilities[labels == 0]
    return float(((ill > healthy) + 0.5 * (ill == healthy)).mean())


def average_precision(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the ill of the precision at their rank; for probabilities without ties."""
    ranked = labels[np.argsort(-probabilities)]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked == 1].mean())


def grad_cam(layers, state, layer: int, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Maps (B, H, W): the plain model cut in two behind `layer`."""
    model = oracle.build(layers, state).eval()
    with torch.no_grad():
        features = model[: layer + 1](torch.from_numpy(images))
    features.requires_grad_()
    chosen = model[layer + 1 :](features)[torch.arange(len(images)), torch.from_numpy(targets)]
    chosen.sum().backward()
    weights = features.grad.mean(dim=(2, 3), keepdim=True)
    maps = torch.relu((weights * features).sum(dim=1, keepdim=True)).detach()
    maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)).numpy()
