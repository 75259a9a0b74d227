"""Choices made on validation data, and checks of the splits. Provided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_curve

from toolkit.errors import UserError
from toolkit.medmnist_data import Source, Split


def check_classes(labels: torch.Tensor, split: str, class_names: tuple[str, ...]) -> None:
    """Raise UserError if a split lacks a class: its threshold and AUC would be undefined."""
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


def choose_threshold(probabilities: np.ndarray, labels: np.ndarray, replicates: int = 200, seed: int = 0) -> float:
    """The threshold with the highest sensitivity + specificity (Youden 1950), made stable by the bootstrap.

    524 images have 135 normal ones, and their best threshold jumps with every image left out. So it is chosen on
    `replicates` samples drawn with replacement from these images, and the median is returned.
    """
    generator = np.random.default_rng(seed)
    thresholds = []
    for _ in range(replicates):
        rows = generator.integers(0, len(labels), len(labels))
        if 0 < labels[rows].sum() < len(labels):
            thresholds.append(_youden(probabilities[rows], labels[rows]))
    if not thresholds:
        raise UserError("no threshold can be chosen: the validation images are all of one class")
    return float(np.median(thresholds))


def threshold_for_sensitivity(probabilities: np.ndarray, labels: np.ndarray, wanted: float) -> float:
    """The highest threshold at which at least the share `wanted` of the ill are found (probability >= threshold)."""
    ill = np.sort(probabilities[labels == 1])[::-1]
    if not len(ill):
        raise UserError("no threshold can be chosen: no validation image shows pneumonia")
    return float(ill[max(1, int(np.ceil(wanted * len(ill) - 1e-9))) - 1])


def _youden(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Midway between the two probabilities that the best cut separates; the middle of several equally good cuts."""
    false_positive_rate, sensitivity, thresholds = roc_curve(labels, probabilities, drop_intermediate=False)
    gain = sensitivity - false_positive_rate
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    best = best[len(best) // 2]
    above, below = thresholds[best], probabilities[probabilities < thresholds[best]]
    return float((min(above, 1.0) + below.max()) / 2) if len(below) else float(above)
