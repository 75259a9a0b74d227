"""What quantization and the residual networks share: loaders and figures for 2D sets with one label an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from classification_dataset import ImageDataset
from toolkit.augment import Augmentation
from toolkit.batches import make_loader
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, Split
from toolkit.metrics import classification_metrics, predict

# X-rays and ultrasound have an up and a left: they are shifted by up to two pixels and never mirrored.
SHIFTS = Augmentation(flips=False, crop_padding=2)


def check_single_label(source: Source, name: str) -> None:
    """UserError for a set with several labels an image: accuracy by argmax would mean nothing there."""
    if source.multi_label:
        raise UserError(
            f"--flag is {source.flag!r}, which has several labels an image; {name} takes sets with one, "
            "such as breastmnist or pneumoniamnist (labs.medmnist_experiments.augmentation takes all)"
        )


def make_loaders(
    source: Source, batch_size: int, seed: int, device: torch.device, *, augmentation: Augmentation = SHIFTS
) -> tuple[DataLoader, DataLoader]:
    """Training batches, shuffled and augmented, and validation batches; images float32 (B, C, H, W) in [-1, 1]."""
    train = ImageDataset(source.read("train"), augmentation=augmentation, seed=seed, device=device)
    val = ImageDataset(source.read("val"), device=device)
    return make_loader(train, batch_size, shuffle=True, seed=seed), make_loader(val, 256, shuffle=False)


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """AUC (mean over classes, one against the rest) and accuracy; fractions. NaN for an AUC that is undefined."""
    found = classification_metrics(probabilities, labels)
    auc = found["macro_auc"]
    return {"auc": float("nan") if auc is None else auc, "accuracy": found["accuracy"]}


def evaluate(model: nn.Module, split: Split, device: torch.device, precision: str = "float32") -> dict[str, float]:
    """AUC and accuracy of `model` on a split."""
    loader = make_loader(ImageDataset(split, device=device), 256, shuffle=False)
    return scores(*predict(model, loader, device, precision))


def per_seed(results: list[Mapping[str, Any]]) -> dict[str, list[float]]:
    """[{auc: .9}, {auc: .8}] → {auc: [.9, .8]}, as a row of the table wants it."""
    return {name: [one[name] for one in results] for name in results[0]}
