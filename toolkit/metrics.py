"""Figures for classifiers. scikit-learn computes them; this file says which, from which inputs, and when they exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.devices import autocast, evaluating


def predict(
    model: nn.Module, loader: Any, device: torch.device, precision: str = "float32"
) -> tuple[np.ndarray, np.ndarray]:
    """Run `model` over batches (images, labels) → probabilities float32 (N, num_classes), labels int64 (N,)."""
    probabilities, labels = [], []
    with evaluating(model):
        for images, targets in loader:
            with autocast(device, precision):
                logits = model(images.to(device))
            probabilities.append(logits.float().softmax(dim=1).cpu())
            labels.append(targets.view(len(targets), -1)[:, 0].cpu())
    return torch.cat(probabilities).numpy(), torch.cat(labels).numpy()


def classification_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy, balanced accuracy, macro F1, macro one-vs-rest AUC and average precision, all fractions.

    probabilities float (N, num_classes), rows sum to 1; labels int (N,). AUC and average precision are means over the
    classes that occur and do not fill the whole set (elsewhere they are undefined); None if there is no such class.
    """
    from sklearn import metrics

    predicted = probabilities.argmax(axis=1)
    one_hot = np.eye(probabilities.shape[1], dtype=int)[labels]  # (N, num_classes)
    defined = [c for c in range(one_hot.shape[1]) if 0 < one_hot[:, c].sum() < len(labels)]
    auc = [metrics.roc_auc_score(one_hot[:, c], probabilities[:, c]) for c in defined]
    precision = [metrics.average_precision_score(one_hot[:, c], probabilities[:, c]) for c in defined]
    return {
        "accuracy": float((predicted == labels).mean()),
        # The mean recall of the classes that occur; scikit-learn's balanced_accuracy_score warns where one is missing.
        "balanced_accuracy": float(np.mean([(predicted == labels)[labels == c].mean() for c in np.unique(labels)])),
        "macro_f1": float(metrics.f1_score(labels, predicted, average="macro", zero_division=0)),
        "macro_auc": float(np.mean(auc)) if auc else None,
        "macro_average_precision": float(np.mean(precision)) if precision else None,
    }


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts int (num_classes, num_classes): row = true class, column = class with the highest probability."""
    from sklearn import metrics

    return metrics.confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(probabilities.shape[1]))


def bootstrap_intervals(
    measure: Callable[[np.ndarray], Mapping[str, float | None]],
    units: np.ndarray,
    replicates: int,
    seed: int,
    strata: np.ndarray | None = None,
) -> dict[str, list[float]]:
    """95 % percentile intervals [low, high] of each metric, from samples drawn with replacement.

    measure: int rows (n,) → metrics of these images; None (undefined) is left out.
    units: (N,) what is drawn, patients for instance: images of one patient are not independent, and intervals that
        treat them as independent are too narrow.
    strata: (N,) classes that are each drawn separately, so that every sample has as many of each; None: all together.
    """
    generator = np.random.default_rng(seed)
    _, unit_of = np.unique(units, return_inverse=True)
    order = np.argsort(unit_of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(unit_of))[:-1])  # the rows of each unit
    parts = [members]
    if strata is not None:
        parts = [[rows for rows in members if strata[rows[0]] == value] for value in np.unique(strata)]
    drawn: dict[str, list[float]] = {}
    for _ in range(replicates):
        rows = np.concatenate([part[i] for part in parts for i in generator.integers(len(part), size=len(part))])
        for name, value in measure(rows).items():
            if value is not None:
                drawn.setdefault(name, []).append(value)
    return {name: [float(v) for v in np.percentile(values, (2.5, 97.5))] for name, values in drawn.items()}
