"""Choices made on validation data, and the lock that keeps test images out of them. Provided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.devices import autocast, evaluating
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, Split
from toolkit.runs import write_json


def check_classes(labels: torch.Tensor, split: str, class_names: tuple[str, ...]) -> None:
    """Raise UserError if a split lacks a class: its loss weight, threshold and AUC would be undefined."""
    counts = torch.bincount(labels, minlength=len(class_names)).tolist()
    missing = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if missing:
        raise UserError(
            f"the {split} split has no image of: {', '.join(missing)}; use more --train_images or another file"
        )


@dataclass(frozen=True)
class FewerImages:
    """A source whose training split has `count` images drawn at random; the other splits stay whole."""

    source: Source
    count: int

    def read(self, split: str) -> Split:
        """Like Source.read."""
        whole = self.source.read(split)
        if split != "train" or self.count >= len(whole):
            return whole
        chosen = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[: self.count]
        return Split(whole.images[chosen], whole.labels[chosen])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def balanced_weights(labels: torch.Tensor) -> torch.Tensor:
    """Weights for the loss, float32 (2,), with which both classes count the same: N / (2 * count)."""
    counts = torch.bincount(labels, minlength=2).float()
    return len(labels) / (2 * counts)


def predict(model: nn.Module, images: torch.Tensor, precision: str = "float32", batch_size: int = 512) -> np.ndarray:
    """Probability of pneumonia, float64 (N,), for images (N, 1, H, W) in [-1, 1]."""
    device = next(model.parameters()).device
    parts = []
    with evaluating(model):
        for batch in images.split(batch_size):
            with autocast(device, precision):
                logits = model(batch.to(device))
            parts.append(logits.double().softmax(dim=1)[:, 1].cpu())
    return torch.cat(parts).numpy()


def choose_threshold(probabilities: np.ndarray, labels: np.ndarray, replicates: int = 200, seed: int = 0) -> float:
    """The threshold with the highest sensitivity + specificity (Youden 1950), steadied by the bootstrap.

    524 images have 135 normal ones, and their best threshold jumps with every image left out. So it is chosen on
    `replicates` samples drawn with replacement from these images, and the median is returned.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(replicates):
        drawn = generator.integers(0, len(labels), len(labels))
        if 0 < labels[drawn].sum() < len(labels):
            found.append(_youden(probabilities[drawn], labels[drawn]))
    if not found:
        raise UserError("no threshold can be chosen: the validation images are all of one class")
    return float(np.median(found))


def _youden(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Midway between the two probabilities that the best cut separates; the middle of several equally good cuts."""
    from sklearn.metrics import roc_curve

    false_positive_rate, sensitivity, thresholds = roc_curve(labels, probabilities, drop_intermediate=False)
    gain = sensitivity - false_positive_rate
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    best = best[len(best) // 2]
    above, below = thresholds[best], probabilities[probabilities < thresholds[best]]
    return float((min(above, 1.0) + below.max()) / 2) if len(below) else float(above)


def bootstrap_intervals(
    probabilities: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    evaluate: Callable[..., Mapping[str, float]],
    names: tuple[str, ...],
    replicates: int = 500,
    seed: int = 0,
) -> dict[str, list[float]]:
    """95% percentile intervals of `evaluate` over images drawn with replacement, each class on its own."""
    generator = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == c) for c in (0, 1)]
    rows = []
    for _ in range(replicates):
        drawn = np.concatenate([generator.choice(indices, len(indices)) for indices in classes])
        figures = evaluate(probabilities[drawn], labels[drawn], threshold)
        rows.append([figures[name] for name in names])
    low, high = np.percentile(rows, [2.5, 97.5], axis=0)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(names)}


class SealedTest:
    """Test images that come out once, after every choice is on paper.

    `open(choices, path)` writes the choices (thresholds, epochs, settings) to `path` and then hands images and labels
    out; a second call raises. So no choice can have seen a test image.
    """

    def __init__(self, loader: Any) -> None:
        self._loader: Any | None = loader

    def open(self, choices: Mapping[str, Any], path: Path) -> tuple[torch.Tensor, np.ndarray]:
        """Images float32 (N, 1, H, W) in [-1, 1] and labels int64 (N,) of the whole test split."""
        if self._loader is None:
            raise RuntimeError("the test split was read before; it is read once, for the final figures")
        if not choices:
            raise RuntimeError("the test split stays closed until thresholds and settings are chosen")
        write_json(path, dict(choices))
        batches = list(self._loader)
        self._loader = None
        return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches]).numpy()
