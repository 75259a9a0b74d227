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
    header = ("model", "test accuracy", "AUC", "precision", "recall", "F1")
    body = []
    for name, metrics_or_text in rows.items():
        if isinstance(metrics_or_text, Mapping):
            line = [name]
            for key in ("accuracy", "auc", "precision", "recall", "f1"):
                mean, sd = metrics_or_text[key]
                line.append("%.3f" % mean if sd is None else "%.3f ± %.3f" % (mean, sd))
        else:
            line = [name] + [metrics_or_text] * 5
        body.append(line)
    widths = [max(len(row[i]) for row in [header, *body]) for i in range(len(header))]
    text = "| " + " | ".join(h.ljust(w) for h, w in zip(header, widths)) + " |\n"
    text += "|" + "|".join("-" * (w + 2) for w in widths) + "|\n"
    for line in body:
        text += "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |\n"
    return text


# ---- Part 4: evaluation ----------------------------------------------------------------------------------------------


# ANSWER 4.1: Sensitivity matters most since a missed pneumonia can kill a child, but specificity decides how
# many healthy children are treated or examined without need.
def evaluate(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return accuracy, auc, precision, recall (= sensitivity), f1 and specificity as fractions, and the counts
    tn, fp, fn, tp of the confusion matrix.

    ANSWER 4.1: which of these matters clinically?
    """
    called = probabilities >= threshold
    tp = int(np.count_nonzero(called & (labels == 1)))
    fp = int(np.count_nonzero(called & (labels == 0)))
    fn = int(np.count_nonzero(~called & (labels == 1)))
    tn = int(np.count_nonzero(~called & (labels == 0)))

    def ratio(a, b):
        return a / b if b else 0.0

    return {
        "accuracy": ratio(tp + tn, len(labels)),
        "auc": metrics.roc_auc_score(labels, probabilities),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "specificity": ratio(tn, tn + fp),
        "tn": tn,
        "fp": fp,
        "fn": fn,
        "tp": tp,
    }


def plot_roc_and_pr(
    probabilities: Mapping[str, np.ndarray], labels: np.ndarray, thresholds: Mapping[str, float], path: Path
) -> dict[str, tuple[float, float]]:
    """Draw ROC and precision-recall curves of several models side by side, each with its operating point marked.

    probabilities, thresholds: one entry per model. Returns (AUC, average precision) of each model.
    """
    fig = new_figure(10, 4.5)
    ax_roc, ax_pr = fig.subplots(1, 2)
    areas = {}
    for name in probabilities:
        p, t = probabilities[name], thresholds[name]
        metrics.RocCurveDisplay.from_predictions(labels, p, name=name, ax=ax_roc)
        metrics.PrecisionRecallDisplay.from_predictions(labels, p, name=name, ax=ax_pr)
        e = evaluate(p, labels, t)
        ax_roc.scatter(1 - e["specificity"], e["recall"], zorder=3, label=f"threshold {t:.2f}")
        ax_pr.scatter(e["recall"], e["precision"], zorder=3, label=f"threshold {t:.2f}")
        areas[name] = (float(metrics.roc_auc_score(labels, p)), float(metrics.average_precision_score(labels, p)))
    ax_roc.legend()
    ax_pr.legend()
    save_figure(fig, path)
    return areas


# ANSWER 4.3: False positives are often blurred or dark images with high diaphragms, false negatives show
# faint haze in one lung only, and both lie near the threshold.
def sort_cases(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the indices of the images under "TP", "TN", "FP", "FN", those farthest from the threshold first.

    ANSWER 4.3: look at 4_cases.png; which patterns do the errors have?
    """
    called = probabilities >= threshold
    kinds = {"TP": (True, 1), "TN": (False, 0), "FP": (True, 0), "FN": (False, 1)}
    found = {}
    for kind, (is_called, label) in kinds.items():
        indices = np.flatnonzero((called == is_called) & (labels == label))
        found[kind] = np.array(sorted(indices, key=lambda i: -abs(probabilities[i] - threshold)), dtype=np.int64)
    return found


# ---- Part 5: interpretability ----------------------------------------------------------------------------------------


# ANSWER 5.1: Several filters look like edges in different directions and some like blobs or brightness
# averages, others look like noise since there are few training images.
def plot_filters(model: nn.Module, path: Path) -> torch.Tensor:
    """Draw the filters of the first convolution and return its weights, (O, 1, k, k), detached and on the CPU.

    ANSWER 5.1: what do the filters detect?
    """
    first = None
    for m in model.modules():
        if type(m) is nn.Conv2d:
            first = m
            break
    kernels = first.weight.detach().to("cpu")
    v = kernels.abs().max().item()
    side = int(np.ceil(np.sqrt(kernels.shape[0])))
    fig = new_figure(side * 0.9, side * 0.9 + 0.4)
    grid = fig.subplots(side, side, squeeze=False).flatten()
    for i, ax in enumerate(grid):
        ax.set_axis_off()
        if i < len(kernels):
            im = ax.imshow(kernels[i].mean(0).numpy(), cmap="coolwarm", vmin=-v, vmax=v)
    fig.colorbar(im, ax=list(grid))
    save_figure(fig, path)
    return kernels


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? Grad-CAM (Selvaraju et al. 2017), written by hand.

    images: float32 (B, 1, H, W). targets: int64 (B,). Returns float32 (B, H, W) in [0, 1]: each map is divided by its
    largest value; a map without any positive value stays 0. `model` keeps its mode and its gradients. It may come in
    training mode, and frozen (no parameter requires a gradient); its maps are those of evaluation mode.
    """
    store = {}

    def keep(_module, _inputs, output):
        store["activation"] = output
        output.register_hook(lambda gradient: store.__setitem__("gradient", gradient))

    handle = layer.register_forward_hook(keep)
    mode = model.training
    model.eval()
    parameters = list(model.parameters())
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        with torch.enable_grad():
            x = images.detach().clone().requires_grad_(True)
            logits = model(x)
            one_hot = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
            logits.backward(gradient=one_hot)
    finally:
        handle.remove()
        for p, flag in zip(parameters, before):
            p.requires_grad_(flag)
        model.train(mode)
    a, g = store["activation"].detach(), store["gradient"]
    w = g.mean(dim=(-2, -1))[:, :, None, None]
    cam = (w * a).sum(1).clamp_min(0)
    cam = F.interpolate(cam.unsqueeze(1), images.shape[-2:], mode="bilinear").squeeze(1)
    peak = cam.flatten(1).max(dim=1).values
    peak[peak == 0] = 1
    return cam / peak[:, None, None]


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
    cases = sort_cases(probabilities, labels, threshold)
    pick = [*cases["TP"][:2], *cases["TN"][:1], *cases["FP"][:2], *cases["FN"][:1]]
    pick = [int(i) for i in pick]
    called = torch.tensor([int(probabilities[i] >= threshold) for i in pick])
    x = images[torch.tensor(pick)]
    maps = grad_cam(model, layer, x, called.to(x.device))
    titles = [f"#{i}: {'pneumonia' if c else 'normal'} ({probabilities[i]:.2f})" for i, c in zip(pick, called.tolist())]
    figures.overlays(x, maps, titles, "Grad-CAM", path)
    return pick


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
