"""Metrics for classifiers. scikit-learn computes them; this file says which, from which inputs, and when they exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn import metrics
from torch import nn

from toolkit.bootstrap import bootstrap_intervals
from toolkit.devices import autocast, evaluating

HEADLINE = ("accuracy", "balanced_accuracy", "macro_auc")  # of a test report, in this order
REPLICATES = 500  # bootstrap samples of its intervals


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
    return metrics.confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(probabilities.shape[1]))


def final_report(
    probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str], validation: Mapping[str, Any]
) -> dict[str, Any]:
    """What `--evaluate_test` reports of a classifier: metrics, 95 % intervals, each class, the gap to validation.

    Args:
        probabilities: float (N, K), rows sum to 1.
        labels: int (N,).
        class_names: K names.
        validation: classification_metrics of the validation images, for the gap.

    Returns:
        classification_metrics, and n, intervals (bootstrap over images), recall of each class with its count, and gap:
        validation minus test of the headline metrics.
    """
    found = classification_metrics(probabilities, labels)
    recall = metrics.recall_score(labels, probabilities.argmax(axis=1), labels=range(len(class_names)), average=None)
    counts = np.bincount(labels, minlength=len(class_names))

    return {
        **found,
        "n": len(labels),
        "intervals": bootstrap_intervals(
            lambda rows: _headline(probabilities[rows], labels[rows]), np.arange(len(labels)), REPLICATES, seed=0
        ),
        "recall_of_each_class": dict(zip(class_names, recall.tolist(), strict=True)),
        "images_of_each_class": dict(zip(class_names, counts.tolist(), strict=True)),
        "gap": {name: validation[name] - found[name] for name in HEADLINE if found[name] is not None},
    }


def _headline(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """The HEADLINE metrics as classification_metrics gives them, a hundred times as fast: the bootstrap calls it often.

    AUC from ranks: the share of pairs (an image of the class, another image) that are in the right order, with the
    mean rank for equal probabilities (Mann and Whitney 1947).
    """
    N, K = probabilities.shape
    right = labels[probabilities.argmax(axis=1) == labels]
    counts, hits = np.bincount(labels, minlength=K), np.bincount(right, minlength=K)
    defined = (counts > 0) & (counts < N)
    ranks = (rankdata(probabilities, axis=0) * np.eye(K)[labels]).sum(axis=0)  # of the images of each class, (K,)
    pairs = ((ranks - counts * (counts + 1) / 2) / np.maximum(counts * (N - counts), 1))[defined]
    recalls = (hits / np.maximum(counts, 1))[counts > 0]
    return {
        "accuracy": len(right) / N,
        "balanced_accuracy": float(recalls.mean()),
        "macro_auc": float(pairs.mean()) if len(pairs) else None,
    }


def final_box_report(
    model: nn.Module, loader: Any, device: torch.device, class_names: Sequence[str], validation_iou: float
) -> dict[str, Any]:
    """What `--evaluate_test` reports of a network that finds boxes: IoU on each class, 95 % interval, gap.

    The IoU of an image is that of its mask at 0.5 with the true one; two empty masks count as 1.
    """
    scores, labels = [], []
    with evaluating(model):
        for batch in loader:
            predicted, true = model(batch["image"].to(device)).float() > 0.5, batch["mask"].to(device) > 0.5
            both, either = ((predicted & true).sum((1, 2, 3)), (predicted | true).sum((1, 2, 3)))  # (B,)
            scores.append(torch.where(either > 0, both / either.clamp(min=1), 1.0).cpu())
            labels.append(batch["pathmnist_label"].cpu())
    iou, label = torch.cat(scores).double().numpy(), torch.cat(labels).numpy()
    intervals = bootstrap_intervals(lambda rows: {"mean_iou": iou[rows].mean()}, np.arange(len(iou)), REPLICATES, 0)
    known = [(name, iou[label == number]) for number, name in enumerate(class_names)]
    return {
        "intervals": intervals,
        "mean_iou_of_each_class": {name: float(values.mean()) for name, values in known if len(values)},
        "gap": {"mean_iou": validation_iou - float(iou.mean())},
    }


def describe_final(report: Mapping[str, Any], where: str) -> str:
    """Lines for the end of a run: each headline metric of final_report or final_box_report with interval and gap."""
    lines = [f"test, {where}:"]
    for name, gap in report["gap"].items():
        low, high = report["intervals"][name]
        words = name.replace("_", " ").replace("auc", "AUC").replace("iou", "IoU")
        values = f"{report[name]:.4f} (95 % interval {low:.3f} to {high:.3f})"
        lines.append(f"  {words} {values}; validation {report[name] + gap:.4f}, a gap of {100 * gap:+.1f} points")
    each = report.get("recall_of_each_class") or report["mean_iou_of_each_class"]
    kind = "recall" if "recall_of_each_class" in report else "IoU"
    lines.append(f"  {kind} of each class: " + ", ".join(f"{name} {value:.2f}" for name, value in each.items()))
    return "\n".join(lines)
