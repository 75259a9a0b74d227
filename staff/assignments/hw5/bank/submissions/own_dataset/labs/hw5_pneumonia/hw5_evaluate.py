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
    NAMES = {"accuracy": "Accuracy", "auc": "AUC", "precision": "Precision", "recall": "Recall", "f1": "F1"}
    table = ["| Model | " + " | ".join(NAMES.values()) + " |", "|---" * 6 + "|"]
    for name, row in rows.items():
        match row:
            case str():
                table.append(f"| {name} | {row} |||||")
            case _:
                formatted = []
                for key in NAMES:
                    mean, deviation = row[key]
                    text = f"{mean:.3f}"
                    if deviation is not None:
                        text += f" (± {deviation:.3f})"
                    formatted.append(text)
                table.append(f"| {name} | {' | '.join(formatted)} |")
    return "\n".join(table)


# ---- Part 4: evaluation ----------------------------------------------------------------------------------------------


# ANSWER 4.1: Sensitivity matters most since a missed pneumonia can kill a child, but specificity decides how
# many healthy children are treated or examined without need.
def evaluate(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return accuracy, auc, precision, recall (= sensitivity), f1 and specificity as fractions, and the counts
    tn, fp, fn, tp of the confusion matrix.

    ANSWER 4.1: which of these matters clinically?
    """
    predicted = np.greater_equal(probabilities, threshold).astype(int)
    result = dict(zip(("tn", "fp", "fn", "tp"), metrics.confusion_matrix(labels, predicted, labels=[0, 1]).ravel().tolist()))
    result["accuracy"] = (result["tp"] + result["tn"]) / sum(result.values())
    result["precision"] = result["tp"] / (result["tp"] + result["fp"]) if result["tp"] + result["fp"] else 0.0
    result["recall"] = result["tp"] / (result["tp"] + result["fn"]) if result["tp"] + result["fn"] else 0.0
    result["specificity"] = result["tn"] / (result["tn"] + result["fp"]) if result["tn"] + result["fp"] else 0.0
    result["f1"] = metrics.f1_score(labels, predicted, zero_division=0)
    fpr, tpr, _ = metrics.roc_curve(labels, probabilities)
    result["auc"] = metrics.auc(fpr, tpr)
    return result


def plot_roc_and_pr(
    probabilities: Mapping[str, np.ndarray], labels: np.ndarray, thresholds: Mapping[str, float], path: Path
) -> dict[str, tuple[float, float]]:
    """Draw ROC and precision-recall curves of several models side by side, each with its operating point marked.

    probabilities, thresholds: one entry per model. Returns (AUC, average precision) of each model.
    """
    figure = new_figure(12, 5)
    roc, pr = figure.subplots(1, 2)
    result = {}
    for name, p in probabilities.items():
        fpr, tpr, cuts = metrics.roc_curve(labels, p, drop_intermediate=False)
        precision, recall, pr_cuts = metrics.precision_recall_curve(labels, p)
        result[name] = metrics.auc(fpr, tpr), metrics.average_precision_score(labels, p)
        roc.plot(fpr, tpr, label=f"{name} ({result[name][0]:.3f})")
        pr.plot(recall, precision, label=f"{name} ({result[name][1]:.3f})")
        at = np.flatnonzero(cuts >= thresholds[name])[-1]
        roc.plot(fpr[at], tpr[at], "r^")
        at = np.searchsorted(pr_cuts, thresholds[name])
        pr.plot(recall[at], precision[at], "r^")
    for axes, x, y in ((roc, "1 - specificity", "sensitivity"), (pr, "recall", "precision")):
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend()
    save_figure(figure, path)
    return result


# ANSWER 4.3: False positives are often blurred or dark images with high diaphragms, false negatives show
# faint haze in one lung only, and both lie near the threshold.
def sort_cases(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the indices of the images under "TP", "TN", "FP", "FN", those farthest from the threshold first.

    ANSWER 4.3: look at 4_cases.png; which patterns do the errors have?
    """
    called = (probabilities >= threshold).astype(int)
    distance = np.abs(probabilities - threshold)
    cases = {}
    for kind, call, truth in (("TP", 1, 1), ("TN", 0, 0), ("FP", 1, 0), ("FN", 0, 1)):
        indices = np.flatnonzero((called == call) & (labels == truth))
        cases[kind] = indices[np.argsort(distance[indices], kind="stable")][::-1].copy()
    return cases


# ---- Part 5: interpretability ----------------------------------------------------------------------------------------


# ANSWER 5.1: Several filters look like edges in different directions and some like blobs or brightness
# averages, others look like noise since there are few training images.
def plot_filters(model: nn.Module, path: Path) -> torch.Tensor:
    """Draw the filters of the first convolution and return its weights, (O, 1, k, k), detached and on the CPU.

    ANSWER 5.1: what do the filters detect?
    """
    def find(module):
        for child in module.modules():
            if isinstance(child, nn.Conv2d):
                return child
        raise ValueError("no convolution")

    weights = find(model).weight.detach().cpu()
    rows = torch.chunk(weights, 4) if len(weights) >= 4 else (weights,)
    limit = float(weights.abs().max())
    figure = new_figure(9, 4)
    grid = figure.subplots(len(rows), max(len(r) for r in rows), squeeze=False)
    for axes_row, row in zip(grid, rows):
        for axes in axes_row:
            axes.axis("off")
        for axes, kernel in zip(axes_row, row):
            axes.imshow(kernel.squeeze(0), cmap="gray", vmin=-limit, vmax=limit)
    save_figure(figure, path)
    return weights


class ActivationRecorder:
    """Context manager that keeps what a layer returned last."""

    def __init__(self, layer):
        self.layer = layer

    def __enter__(self):
        self.handle = self.layer.register_forward_hook(self._record)
        return self

    def _record(self, module, inputs, output):
        self.value = output

    def __exit__(self, *error):
        self.handle.remove()


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? Grad-CAM (Selvaraju et al. 2017), written by hand.

    images: float32 (B, 1, H, W). targets: int64 (B,). Returns float32 (B, H, W) in [0, 1]: each map is divided by its
    largest value; a map without any positive value stays 0. `model` keeps its mode and its gradients. It may come in
    training mode, and frozen (no parameter requires a gradient); its maps are those of evaluation mode.
    """
    modes = {m: m.training for m in model.modules()}
    model.eval()
    with ActivationRecorder(layer) as recorder, torch.enable_grad():
        x = images.detach().clone().requires_grad_(True)
        logits = model(x)
        chosen = logits.gather(1, targets[:, None]).sum()
        (gradients,) = torch.autograd.grad(chosen, recorder.value)
    for m, flag in modes.items():
        m.training = flag
    with torch.no_grad():
        weights = F.adaptive_avg_pool2d(gradients, 1)
        maps = F.relu((weights * recorder.value).sum(dim=1, keepdim=True))
        maps = F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)
        highest = maps.amax(dim=(-2, -1), keepdim=True)
        return torch.nan_to_num(maps / highest)


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
    called = (probabilities >= threshold).astype(int)

    def strongest(kinds):
        both = np.concatenate([cases[kind] for kind in kinds])
        return both[np.argsort(-np.abs(probabilities[both] - threshold), kind="stable")][:3].tolist()

    right, wrong = strongest(("TP", "TN")), strongest(("FP", "FN"))
    indices = right + wrong
    device = next(model.parameters()).device
    maps = grad_cam(model, layer, images[indices].to(device), torch.as_tensor(called[indices]).to(device))
    titles = [f"image {i}\n{'right' if i in right else 'wrong'}" for i in indices]
    figures.overlays(images[indices], maps, titles, "where the network looked", path)
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
