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
    lines = ["model | accuracy | AUC | precision | recall | F1", "--- | --- | --- | --- | --- | ---"]
    for name, row in rows.items():
        if isinstance(row, str):
            lines.append(f"{name} | {row} | | | |")
            continue
        values = [row[k] for k in ("accuracy", "auc", "precision", "recall", "f1")]
        lines.append(" | ".join([name] + [f"{m:.3f}" if s is None else f"{m:.3f} ± {s:.3f}" for m, s in values]))
    return "\n".join(f"| {line} |" for line in lines)


# ---- Part 4: evaluation ----------------------------------------------------------------------------------------------


def roc_points(probabilities, labels):
    """False and true positive rates for each threshold, from (0, 0) to (1, 1)."""
    cuts = np.concatenate([[np.inf], np.unique(probabilities)[::-1]])
    tpr = np.array([np.mean(probabilities[labels == 1] >= t) for t in cuts])
    fpr = np.array([np.mean(probabilities[labels == 0] >= t) for t in cuts])
    return fpr, tpr


def area_under(x, y):
    """Trapezoids."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


# ANSWER 4.1: Sensitivity matters most since a missed pneumonia can kill a child, but specificity decides how
# many healthy children are treated or examined without need.
def evaluate(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return accuracy, auc, precision, recall (= sensitivity), f1 and specificity as fractions, and the counts
    tn, fp, fn, tp of the confusion matrix.

    ANSWER 4.1: which of these matters clinically?
    """
    called = (probabilities >= threshold).astype(int)
    tp = int(((called == 1) & (labels == 1)).sum())
    tn = int(((called == 0) & (labels == 0)).sum())
    fp = int(((called == 1) & (labels == 0)).sum())
    fn = int(((called == 0) & (labels == 1)).sum())
    precision = tp / max(tp + fp, 1)
    recall = tp / max(tp + fn, 1)
    out = {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    out["accuracy"] = (called == labels).mean()
    out["precision"] = precision
    out["recall"] = recall
    out["f1"] = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    out["specificity"] = tn / max(tn + fp, 1)
    out["auc"] = area_under(*roc_points(probabilities, labels))
    return out


def plot_roc_and_pr(
    probabilities: Mapping[str, np.ndarray], labels: np.ndarray, thresholds: Mapping[str, float], path: Path
) -> dict[str, tuple[float, float]]:
    """Draw ROC and precision-recall curves of several models side by side, each with its operating point marked.

    probabilities, thresholds: one entry per model. Returns (AUC, average precision) of each model.
    """
    fig = new_figure(10, 5)
    axes = fig.subplots(1, 2)
    out = {}
    for (name, p), color in zip(probabilities.items(), figures.COLORS * 5):
        fpr, tpr = roc_points(p, labels)
        cuts = np.unique(p)[::-1]
        recall = np.array([np.mean(p[labels == 1] >= t) for t in cuts])
        precision = np.array([np.mean(labels[p >= t] == 1) for t in cuts])
        ap = float(np.sum(np.diff(np.concatenate([[0], recall])) * precision))
        auc = area_under(fpr, tpr)
        axes[0].plot(fpr, tpr, color=color, label=f"{name}, AUC {auc:.3f}")
        axes[1].step(recall, precision, color=color, where="post", label=f"{name}, AP {ap:.3f}")
        called = p >= thresholds[name]
        sensitivity, fall_out = called[labels == 1].mean(), called[labels == 0].mean()
        axes[0].plot(fall_out, sensitivity, "s", color=color, markeredgecolor="black")
        if called.any():
            axes[1].plot(sensitivity, (labels[called] == 1).mean(), "s", color=color, markeredgecolor="black")
        out[name] = (auc, ap)
    for ax, x, y in ((axes[0], "FPR", "TPR"), (axes[1], "recall", "precision")):
        ax.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        ax.legend()
    save_figure(fig, path)
    return out


# ANSWER 4.3: False positives are often blurred or dark images with high diaphragms, false negatives show
# faint haze in one lung only, and both lie near the threshold.
def sort_cases(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the indices of the images under "TP", "TN", "FP", "FN", those farthest from the threshold first.

    ANSWER 4.3: look at 4_cases.png; which patterns do the errors have?
    """
    called = np.where(probabilities >= threshold, 1, 0)
    by_distance = np.argsort(np.abs(probabilities - threshold), kind="stable")[::-1]
    c, y = called[by_distance], labels[by_distance]
    return {
        "TP": by_distance[(c == 1) & (y == 1)],
        "TN": by_distance[(c == 0) & (y == 0)],
        "FP": by_distance[(c == 1) & (y == 0)],
        "FN": by_distance[(c == 0) & (y == 1)],
    }


# ---- Part 5: interpretability ----------------------------------------------------------------------------------------


# ANSWER 5.1: Several filters look like edges in different directions and some like blobs or brightness
# averages, others look like noise since there are few training images.
def plot_filters(model: nn.Module, path: Path) -> torch.Tensor:
    """Draw the filters of the first convolution and return its weights, (O, 1, k, k), detached and on the CPU.

    ANSWER 5.1: what do the filters detect?
    """
    conv = [m for m in model.modules() if isinstance(m, nn.Conv2d)][0]
    weights = conv.weight.detach().cpu()
    array = weights.numpy()[:, 0]
    array = np.pad(array, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    cols = 8
    missing = -len(array) % cols
    array = np.concatenate([array, np.full((missing, *array.shape[1:]), np.nan)])
    mosaic = np.concatenate([np.concatenate(list(array[i : i + cols]), axis=1) for i in range(0, len(array), cols)])
    limit = np.nanmax(np.abs(mosaic))
    fig = new_figure(7, 5)
    ax = fig.subplots()
    image = ax.imshow(mosaic, cmap="PuOr", vmin=-limit, vmax=limit)
    ax.axis("off")
    fig.colorbar(image)
    save_figure(fig, path)
    return weights


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? Grad-CAM (Selvaraju et al. 2017), written by hand.

    images: float32 (B, 1, H, W). targets: int64 (B,). Returns float32 (B, H, W) in [0, 1]: each map is divided by its
    largest value; a map without any positive value stays 0. `model` keeps its mode and its gradients. It may come in
    training mode, and frozen (no parameter requires a gradient); its maps are those of evaluation mode.
    """
    acts = []
    hook = layer.register_forward_hook(lambda mod, inp, out: acts.append(out))
    before = model.training
    model.eval()
    with torch.enable_grad():
        logits = model(images.clone().requires_grad_(True))
        score = sum(logits[i, int(t)] for i, t in enumerate(targets))
        gradient = torch.autograd.grad(score, acts[0])[0]
    hook.remove()
    model.train(before)
    A = acts[0].detach().cpu().numpy()
    G = gradient.cpu().numpy()
    alpha = G.mean(axis=(2, 3))
    maps = np.maximum(np.einsum("bc,bcij->bij", alpha, A), 0)
    maps = F.interpolate(
        torch.from_numpy(maps)[:, None], size=tuple(images.shape[-2:]), mode="bilinear", align_corners=False
    )[:, 0]
    top = maps.amax((1, 2), keepdim=True)
    return (maps / torch.where(top > 0, top, torch.ones_like(top))).float().to(images.device)


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
    right = np.flatnonzero(called == labels)
    wrong = np.flatnonzero(called != labels)
    right = right[np.argsort(-np.abs(probabilities[right] - threshold))][:3]
    wrong = wrong[np.argsort(-np.abs(probabilities[wrong] - threshold))][:3]
    indices = np.concatenate([right, wrong])
    maps = grad_cam(model, layer, images[indices], torch.from_numpy(called[indices]).to(images.device))
    titles = [f"{'right' if called[i] == labels[i] else 'WRONG'}\np={probabilities[i]:.2f}" for i in indices]
    figures.overlays(images[indices], maps, titles, "Grad-CAM", path)
    return indices.tolist()


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
