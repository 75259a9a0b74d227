"""Homework 5, from the comparison on: evaluate the models, and look at what they look at.

GRADED: TODO 3.3 ... 5.2 and the questions 6.1 ... 6.3.

Probabilities are those of pneumonia, float (N,); labels int (N,), 0 normal and 1 pneumonia. An image is called
pneumonia if its probability is at least the threshold, which was chosen on validation data. Sensitivity (recall) is the
share of the ill who are called so, specificity the share of the healthy who are not; the operating point of a model is
the pair of them at the threshold in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import metrics
from torch import nn
from torch.nn import functional as F

from labs.hw5_pneumonia import figures
from toolkit.plots import new_figure, save_figure

# ---- Part 3: comparison ----------------------------------------------------------------------------------------------


# ANSWER 3.3: The pretrained network is best by about one point of AUC, which is hardly more than the spread
# over seeds, so the ranking is not certain.
def comparison_table(rows: Mapping[str, Mapping[str, Any] | str]) -> str:
    """Markdown table with one row per model: test accuracy, AUC, precision, recall, F1.

    rows: name → {"accuracy": (mean, sd), "auc": (mean, sd), "precision": ..., "recall": ..., "f1": ...}, where sd is
        the standard deviation over seeds, or None if there is one seed. Or name → a text such as "not run: no
        weights", which is then shown instead of numbers.
    ANSWER 3.3: which model is best, by how much compared with the spread over seeds, and why?
    """
    keys = "accuracy", "auc", "precision", "recall", "f1"

    def cells(row):
        return [row, *[""] * 4] if isinstance(row, str) else [f"{m:.3f}" if s is None else f"{m:.3f}±{s:.3f}" for m, s in map(row.get, keys)]

    lines = [["Model", *map(str.upper, keys)], ["---"] * 6, *([name, *cells(row)] for name, row in rows.items())]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


# ---- Part 4: evaluation ----------------------------------------------------------------------------------------------


# ANSWER 4.1: Sensitivity matters most since a missed pneumonia can kill a child, but specificity decides how
# many healthy children are treated or examined without need.
def evaluate(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return accuracy, auc, precision, recall (= sensitivity), f1 and specificity as fractions, and the counts
    tn, fp, fn, tp of the confusion matrix.

    ANSWER 4.1: which of these matters clinically?
    """
    y, yhat = labels.astype(bool), probabilities >= threshold
    tn, fp, fn, tp = (int((a & b).sum()) for a, b in ((~y, ~yhat), (~y, yhat), (y, ~yhat), (y, yhat)))
    return {
        "accuracy": float(np.mean(y == yhat)),
        "auc": float(metrics.roc_auc_score(y, probabilities)),
        "precision": float(metrics.precision_score(y, yhat, zero_division=0)),
        "recall": float(metrics.recall_score(y, yhat, zero_division=0)),
        "f1": float(metrics.f1_score(y, yhat, zero_division=0)),
        "specificity": float(metrics.recall_score(~y, ~yhat, zero_division=0)),
        **dict(tn=tn, fp=fp, fn=fn, tp=tp),
    }


def plot_roc_and_pr(
    probabilities: Mapping[str, np.ndarray], labels: np.ndarray, thresholds: Mapping[str, float], path: Path
) -> dict[str, tuple[float, float]]:
    """Draw ROC and precision-recall curves of several models side by side, each with its operating point marked.

    probabilities, thresholds: one entry per model. Returns (AUC, average precision) of each model.
    """
    fig = new_figure(10, 5)
    left, right = fig.subplots(1, 2)
    for name, p in probabilities.items():
        left.plot(*metrics.roc_curve(labels, p)[:2], label=name)
        right.plot(*metrics.precision_recall_curve(labels, p)[1::-1], label=name)
        e = evaluate(p, labels, thresholds[name])
        left.plot(1 - e["specificity"], e["recall"], "ko", markersize=5)
        right.plot(e["recall"], e["precision"], "ko", markersize=5)
    left.legend()
    right.legend()
    save_figure(fig, path)
    return {n: (metrics.roc_auc_score(labels, p), metrics.average_precision_score(labels, p)) for n, p in probabilities.items()}


# ANSWER 4.3: False positives are often blurred or dark images with high diaphragms, false negatives show
# faint haze in one lung only, and both lie near the threshold.
def sort_cases(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the indices of the images under "TP", "TN", "FP", "FN", those farthest from the threshold first.

    ANSWER 4.3: look at 4_cases.png; which patterns do the errors have?
    """
    order = np.argsort(-np.abs(probabilities - threshold), kind="stable")
    positive, ill = (probabilities >= threshold)[order], (labels == 1)[order]
    return {
        "TP": order[positive & ill],
        "TN": order[~positive & ~ill],
        "FP": order[positive & ~ill],
        "FN": order[~positive & ill],
    }


# ---- Part 5: interpretability ----------------------------------------------------------------------------------------


# ANSWER 5.1: Several filters look like edges in different directions and some like blobs or brightness
# averages, others look like noise since there are few training images.
def plot_filters(model: nn.Module, path: Path) -> torch.Tensor:
    """Draw the filters of the first convolution and return its weights, (O, 1, k, k), detached and on the CPU.

    ANSWER 5.1: what do the filters detect?
    """
    weights = next(m.weight for m in model.modules() if isinstance(m, nn.Conv2d)).detach().cpu()
    limit = weights.abs().max()
    fig = new_figure(8, 4)
    for ax, kernel in zip(fig.subplots(-(-len(weights) // 12), 12, squeeze=False).flat, weights):
        ax.imshow(kernel[0], cmap="bwr", vmin=-limit, vmax=limit)
        ax.set(xticks=[], yticks=[])
    save_figure(fig, path)
    return weights


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? Grad-CAM (Selvaraju et al. 2017), written by hand.

    images: float32 (B, 1, H, W). targets: int64 (B,). Returns float32 (B, H, W) in [0, 1]: each map is divided by its
    largest value; a map without any positive value stays 0. `model` keeps its mode and its gradients. It may come in
    training mode, and frozen (no parameter requires a gradient); its maps are those of evaluation mode.
    """
    kept, training = [], model.training
    with layer.register_forward_hook(lambda *a: kept.append(a[2])), torch.enable_grad():
        logits = model.eval()(images.clone().requires_grad_())
        gradient = torch.autograd.grad(logits.take_along_dim(targets[:, None], 1).sum(), kept)[0]
    model.train(training)
    cam = torch.einsum("bchw,bc->bhw", kept[0], gradient.mean((2, 3))).relu().detach()
    cam = F.interpolate(cam[:, None], images.shape[2:], mode="bilinear", align_corners=True)[:, 0]
    return cam / cam.amax((1, 2), keepdim=True).clamp(min=1e-20)


# ANSWER 5.2: In most right images the map lies over the lungs, yet in some wrong ones it lies at the border
# or shoulders, which is not clinically relevant.
def plot_grad_cam(
    model: nn.Module,
    layer: nn.Module,
    images: torch.Tensor,
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    path: Path,
) -> list[int]:
    """Lay the maps of the class that was called over up to three right and three wrong images; return their indices.

    ANSWER 5.2: are these regions clinically relevant, also in the images that were called wrongly?
    """
    called = (probabilities >= threshold).astype(int)
    indices = [int(i) for hit in (True, False) for i in np.flatnonzero((called == labels) == hit)[:3]]
    maps = grad_cam(model, layer, images[indices], torch.tensor(called[indices]).to(images.device))
    figures.overlays(images[indices], maps, [f"{called[i]} / {labels[i]}" for i in indices], "called / true", path)
    return indices


# ---- Reflection ------------------------------------------------------------------------------------------------------


def reflection() -> None:
    """Three questions; answer each in a few sentences, as comments. A line `pass` may stay.

    6.1 Which threshold would you use for screening, and what do false positives and false negatives cost?
    6.2 Name three limits of images of 28 x 28 pixels.
    6.3 What would you do with images in full resolution and a cluster of GPUs?
    """
    # ANSWER 6.1: For screening I would choose a low threshold with sensitivity of ninety eight percent,
    # because a false negative costs a life and a false positive costs an examination.
    # ANSWER 6.2: Small nodules vanish, fine interstitial patterns cannot be resolved, and text markers or
    # tubes are not recognisable, so the network sees only coarse brightness distributions of lungs.
    # ANSWER 6.3: I would train larger pretrained networks at full resolution on several hospitals, with
    # patient level splits, external validation, uncertainty estimates and a study with radiologists.
    pass
