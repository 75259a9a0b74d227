"""Every figure of a classifier, multi-class or multi-label. scikit-learn computes; this file says of what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from toolkit.bootstrap import bootstrap_intervals

BINS = 10  # of the calibration
HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "macro_average_precision")


def decisions(probabilities: np.ndarray, multi_label: bool) -> np.ndarray:
    """0 or 1 (N, K): the most probable class, or for multi-label data every label of at least 0.5."""
    if multi_label:
        return (probabilities >= 0.5).astype(np.int64)
    return np.eye(probabilities.shape[1], dtype=np.int64)[probabilities.argmax(axis=1)]


def truth_table(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels (N,) or (N, K) → 0 or 1 (N, K)."""
    return labels if labels.ndim == 2 else np.eye(num_classes, dtype=np.int64)[labels]


def per_class(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """For each class precision, recall, F1, AUC (one against the rest), average precision, and how many have it.

    AUC and average precision are None for a class that none or all of the images have.
    """
    from sklearn import metrics

    truth = truth_table(labels, probabilities.shape[1])
    predicted = decisions(probabilities, labels.ndim == 2)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, predicted, average=None, zero_division=0
    )
    rows = []
    for k in range(truth.shape[1]):
        is_defined = 0 < truth[:, k].sum() < len(truth)
        ranked = (truth[:, k], probabilities[:, k])
        rows.append(
            {
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "auc": float(metrics.roc_auc_score(*ranked)) if is_defined else None,
                "average_precision": float(metrics.average_precision_score(*ranked)) if is_defined else None,
                "support": int(support[k]),
            }
        )
    return rows


def headline(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy, and macro means over the classes that occur. All are fractions; None where undefined.

    accuracy: share of images with the right class; for multi-label data, of right answers to all N * K questions, and
    exact_match is the share of images without a wrong one. balanced_accuracy: mean recall; for multi-label data the
    mean over labels of (recall + specificity) / 2.
    """
    rows = per_class(probabilities, labels)
    truth = truth_table(labels, probabilities.shape[1])
    predicted = decisions(probabilities, labels.ndim == 2)
    occurring = [row for row in rows if row["support"]]
    figures: dict[str, Any] = {"accuracy": float((predicted == truth).mean())}
    if labels.ndim == 2:
        figures["exact_match"] = float((predicted == truth).all(axis=1).mean())
        absent = truth == 0
        specificity = [(predicted[absent[:, k], k] == 0).mean() for k in range(truth.shape[1]) if absent[:, k].any()]
        recalls = [row["recall"] for row in occurring]
        figures["balanced_accuracy"] = float((np.mean(specificity or [0]) + np.mean(recalls or [0])) / 2)
    else:
        figures["accuracy"] = float((probabilities.argmax(axis=1) == labels).mean())
        figures["balanced_accuracy"] = float(np.mean([row["recall"] for row in occurring]))
    for name, key in (("macro_precision", "precision"), ("macro_recall", "recall"), ("macro_f1", "f1")):
        figures[name] = float(np.mean([row[key] for row in occurring])) if occurring else None
    for key in ("auc", "average_precision"):
        values = [row[key] for row in rows if row[key] is not None]
        figures[f"macro_{key}"] = float(np.mean(values)) if values else None
    return figures


DIAGNOSTIC = ("sensitivity", "specificity", "ppv", "npv")


def diagnostic(probabilities: np.ndarray, labels: np.ndarray, positive: int) -> dict[str, float | None]:
    """Sensitivity, specificity, and predictive values for one class as the finding that is looked for.

    The decision is the most probable class (for multi-label data a probability of at least 0.5). Fractions; None where
    there is nothing to divide by. Predictive values hold for the share of positives among these images.
    """
    truth = truth_table(labels, probabilities.shape[1])[:, positive].astype(bool)
    predicted = decisions(probabilities, labels.ndim == 2)[:, positive].astype(bool)
    pairs = {
        "sensitivity": (truth & predicted, truth),
        "specificity": (~truth & ~predicted, ~truth),
        "ppv": (truth & predicted, predicted),
        "npv": (~truth & ~predicted, ~predicted),
    }
    return {name: float(hit.sum() / of.sum()) if of.any() else None for name, (hit, of) in pairs.items()}


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Do confidences mean what they say? Expected calibration error over BINS equal bins, Brier score, and the bins.

    Multi-class: the confidence of the predicted class against how often it is right. Multi-label: the probability of
    every label against how often it is there. Brier: mean squared error, summed over classes (0..2), a label's 0..1.
    """
    truth = truth_table(labels, probabilities.shape[1])
    if labels.ndim == 2:
        confidence, hit = probabilities.ravel(), truth.ravel()
        brier = float(((probabilities - truth) ** 2).mean())
    else:
        confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        brier = float(((probabilities - truth) ** 2).sum(axis=1).mean())
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [
        {"confidence": float(confidence[inside].mean()), "accuracy": float(hit[inside].mean()), "n": int(inside.sum())}
        for inside in (bin_of == number for number in range(BINS))
        if inside.any()
    ]
    error = sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / len(confidence)
    return {"expected_calibration_error": float(error), "brier": brier, "bins": bins}


def bootstrap(
    probabilities: np.ndarray,
    labels: np.ndarray,
    units: np.ndarray,
    repeats: int,
    seed: int,
    measure: Callable[[np.ndarray, np.ndarray], Mapping[str, float | None]] = headline,
) -> dict[str, list[float]]:
    """95 % percentile intervals of the metrics of `measure`, from `repeats` samples drawn with replacement.

    measure: (probabilities, labels) of the images drawn → metrics.
    units (N,): what is drawn, patients for instance: images of one patient are not independent, and intervals that
    take them for independent are too narrow.
    """
    return bootstrap_intervals(lambda rows: measure(probabilities[rows], labels[rows]), units, repeats, seed)


def mistakes(probabilities: np.ndarray, labels: np.ndarray) -> list[tuple[int, int, int, float]]:
    """The worst first: (image, class said, true class, its probability).

    For multi-label data (image, label, 1 if it is there, its probability) for every wrong answer.
    """
    if labels.ndim == 1:
        said, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        wrong = np.flatnonzero(said != labels)
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
        return [(int(i), int(said[i]), int(labels[i]), float(confidence[i])) for i in wrong]
    images, columns = np.nonzero(decisions(probabilities, True) != labels)
    error = np.abs(probabilities - labels)[images, columns]
    order = np.argsort(-error, kind="stable")
    return [
        (int(i), int(k), int(labels[i, k]), float(probabilities[i, k]))
        for i, k in zip(images[order], columns[order], strict=True)
    ]
