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
    columns = {"accuracy": "test accuracy", "auc": "AUC", "precision": "precision", "recall": "recall", "f1": "F1"}
    lines = ["| model | " + " | ".join(columns.values()) + " |", "|" + " --- |" * (len(columns) + 1)]
    for model_name, values in rows.items():
        if isinstance(values, str):
            cells = [values] + ["-"] * (len(columns) - 1)
        else:
            cells = []
            for column in columns:
                m, s = values[column]
                cells.append(f"{m:.4f} ± {s:.4f}" if s is not None else f"{m:.4f}")
        lines.append("| " + " | ".join([model_name, *cells]) + " |")
    return "\n".join(lines)


# ---- Part 4: evaluation ----------------------------------------------------------------------------------------------


# ANSWER 4.1: Sensitivity matters most since a missed pneumonia can kill a child, but specificity decides how
# many healthy children are treated or examined without need.
def evaluate(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return accuracy, auc, precision, recall (= sensitivity), f1 and specificity as fractions, and the counts
    tn, fp, fn, tp of the confusion matrix.

    ANSWER 4.1: which of these matters clinically?
    """
    y_pred = np.where(probabilities >= threshold, 1, 0)
    matrix = metrics.confusion_matrix(labels, y_pred, labels=[0, 1])
    tn, fp, fn, tp = (int(value) for value in matrix.flatten())
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, y_pred, average="binary", pos_label=1, zero_division=0
    )
    return {
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "auc": float(metrics.roc_auc_score(labels, probabilities)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "specificity": tn / (tn + fp) if tn + fp > 0 else 0.0,
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
    figure = new_figure(12, 5)
    roc_ax, pr_ax = figure.subplots(ncols=2)
    areas = {}
    for i, model_name in enumerate(probabilities):
        scores = probabilities[model_name]
        fpr, tpr, _ = metrics.roc_curve(labels, scores)
        prec, rec, _ = metrics.precision_recall_curve(labels, scores)
        areas[model_name] = (metrics.auc(fpr, tpr), metrics.average_precision_score(labels, scores))
        color = f"C{i}"
        roc_ax.plot(fpr, tpr, color=color, label=f"{model_name}: AUC {areas[model_name][0]:.3f}")
        pr_ax.plot(rec, prec, color=color, label=f"{model_name}: AP {areas[model_name][1]:.3f}")
        called = scores >= thresholds[model_name]
        tp = np.sum(called & (labels == 1))
        fp = np.sum(called & (labels == 0))
        sens = tp / np.sum(labels == 1)
        one_minus_spec = fp / np.sum(labels == 0)
        roc_ax.scatter([one_minus_spec], [sens], color=color, marker="x", s=80)
        if tp + fp > 0:
            pr_ax.scatter([sens], [tp / (tp + fp)], color=color, marker="x", s=80)
    roc_ax.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    pr_ax.set(xlabel="recall", ylabel="precision", title="PR")
    roc_ax.legend(loc="lower right")
    pr_ax.legend(loc="lower left")
    save_figure(figure, path)
    return areas


# ANSWER 4.3: False positives are often blurred or dark images with high diaphragms, false negatives show
# faint haze in one lung only, and both lie near the threshold.
def sort_cases(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the indices of the images under "TP", "TN", "FP", "FN", those farthest from the threshold first.

    ANSWER 4.3: look at 4_cases.png; which patterns do the errors have?
    """
    called = (probabilities >= threshold).astype(int)
    order = np.argsort(-np.abs(probabilities - threshold), kind="stable")
    result = {"TP": [], "TN": [], "FP": [], "FN": []}
    for i in order:
        kind = ("T" if called[i] == labels[i] else "F") + ("P" if called[i] == 1 else "N")
        result[kind].append(i)
    return {kind: np.array(indices, dtype=int) for kind, indices in result.items()}


# ---- Part 5: interpretability ----------------------------------------------------------------------------------------


# ANSWER 5.1: Several filters look like edges in different directions and some like blobs or brightness
# averages, others look like noise since there are few training images.
def plot_filters(model: nn.Module, path: Path) -> torch.Tensor:
    """Draw the filters of the first convolution and return its weights, (O, 1, k, k), detached and on the CPU.

    ANSWER 5.1: what do the filters detect?
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            first = module
            break
    w = first.weight.detach().cpu().clone()
    figures_per_row = 8
    rows = -(-w.shape[0] // figures_per_row)
    figure = new_figure(8, 1.1 * rows)
    for i in range(w.shape[0]):
        ax = figure.add_subplot(rows, figures_per_row, i + 1)
        m = float(w[i].abs().max())
        ax.imshow(w[i, 0], cmap="seismic", vmin=-m, vmax=m)
        ax.set_xticks([])
        ax.set_yticks([])
    save_figure(figure, path)
    return w


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? Grad-CAM (Selvaraju et al. 2017), written by hand.

    images: float32 (B, 1, H, W). targets: int64 (B,). Returns float32 (B, H, W) in [0, 1]: each map is divided by its
    largest value; a map without any positive value stays 0. `model` keeps its mode and its gradients. It may come in
    training mode, and frozen (no parameter requires a gradient); its maps are those of evaluation mode.
    """
    saved = {}

    def hook(module, inputs, output):
        output.retain_grad()
        saved["A"] = output

    mode = model.training
    old_grads = [p.grad for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    model.eval()
    handle = layer.register_forward_hook(hook)
    x = images.detach().clone()
    x.requires_grad = True
    with torch.enable_grad():
        out = model(x)
        out[torch.arange(len(x)), targets].sum().backward()
    handle.remove()
    model.train(mode)
    for p, g in zip(model.parameters(), old_grads):
        p.grad = g
    A = saved["A"]
    alpha = A.grad.mean(dim=[2, 3])
    cam = F.relu(torch.einsum("bc,bchw->bhw", alpha, A)).detach()
    cam = F.interpolate(cam[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    for i in range(len(cam)):
        if cam[i].max() > 0:
            cam[i] = cam[i] / cam[i].max()
    return cam


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
    kinds = sort_cases(probabilities, labels, threshold)
    right = list(kinds["TP"]) + list(kinds["TN"])
    wrong = list(kinds["FP"]) + list(kinds["FN"])
    chosen = [int(i) for i in right[:3] + wrong[:3]]
    predicted = [int(probabilities[i] >= threshold) for i in chosen]
    maps = grad_cam(model, layer, images[chosen], torch.tensor(predicted).to(images.device))
    titles = []
    for i, called in zip(chosen, predicted):
        titles.append(("right" if called == labels[i] else "wrong") + f", p = {probabilities[i]:.2f}")
    figures.overlays(images[chosen], maps, titles, "Grad-CAM of the called class", path)
    return chosen


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
