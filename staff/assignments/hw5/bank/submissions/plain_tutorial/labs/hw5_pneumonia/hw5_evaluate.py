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
    keys = ["accuracy", "auc", "precision", "recall", "f1"]
    table = "| Model | Accuracy | AUC | Precision | Recall | F1 |\n"
    table += "|---|---|---|---|---|---|\n"
    for name, row in rows.items():
        if isinstance(row, str):
            table += f"| {name} | {row} | | | | |\n"
            continue
        cells = []
        for key in keys:
            mean, sd = row[key]
            cells.append(f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}")
        table += f"| {name} | " + " | ".join(cells) + " |\n"
    return table


# ---- Part 4: evaluation ----------------------------------------------------------------------------------------------


# ANSWER 4.1: Sensitivity matters most since a missed pneumonia can kill a child, but specificity decides how
# many healthy children are treated or examined without need.
def evaluate(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return accuracy, auc, precision, recall (= sensitivity), f1 and specificity as fractions, and the counts
    tn, fp, fn, tp of the confusion matrix.

    ANSWER 4.1: which of these matters clinically?
    """
    # Hint: sklearn.metrics has all but specificity, which is the recall of the normal class.
    predictions = (probabilities >= threshold).astype(int)
    tn, fp, fn, tp = metrics.confusion_matrix(labels, predictions, labels=[0, 1]).ravel()
    return {
        "accuracy": metrics.accuracy_score(labels, predictions),
        "auc": metrics.roc_auc_score(labels, probabilities),
        "precision": metrics.precision_score(labels, predictions, zero_division=0),
        "recall": metrics.recall_score(labels, predictions, zero_division=0),
        "f1": metrics.f1_score(labels, predictions, zero_division=0),
        "specificity": metrics.recall_score(labels, predictions, pos_label=0, zero_division=0),
        "tn": int(tn),
        "fp": int(fp),
        "fn": int(fn),
        "tp": int(tp),
    }


def plot_roc_and_pr(
    probabilities: Mapping[str, np.ndarray], labels: np.ndarray, thresholds: Mapping[str, float], path: Path
) -> dict[str, tuple[float, float]]:
    """Draw ROC and precision-recall curves of several models side by side, each with its operating point marked.

    probabilities, thresholds: one entry per model. Returns (AUC, average precision) of each model.
    """
    # Hint: metrics.roc_curve, metrics.precision_recall_curve; the operating point is where the threshold leads.
    fig = new_figure(11, 5)
    ax1, ax2 = fig.subplots(1, 2)
    result = {}
    for name, p in probabilities.items():
        auc = metrics.roc_auc_score(labels, p)
        ap = metrics.average_precision_score(labels, p)
        fpr, tpr, _ = metrics.roc_curve(labels, p)
        precision, recall, _ = metrics.precision_recall_curve(labels, p)
        (line,) = ax1.plot(fpr, tpr, label=f"{name} (AUC = {auc:.3f})")
        ax2.plot(recall, precision, color=line.get_color(), label=f"{name} (AP = {ap:.3f})")
        point = evaluate(p, labels, thresholds[name])
        ax1.plot(1 - point["specificity"], point["recall"], "o", color=line.get_color())
        ax2.plot(point["recall"], point["precision"], "o", color=line.get_color())
        result[name] = (auc, ap)
    ax1.plot([0, 1], [0, 1], "k--")
    ax1.set_xlabel("False positive rate")
    ax1.set_ylabel("True positive rate")
    ax1.legend()
    ax2.set_xlabel("Recall")
    ax2.set_ylabel("Precision")
    ax2.legend()
    save_figure(fig, path)
    return result


# ANSWER 4.3: False positives are often blurred or dark images with high diaphragms, false negatives show
# faint haze in one lung only, and both lie near the threshold.
def sort_cases(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the indices of the images under "TP", "TN", "FP", "FN", those farthest from the threshold first.

    ANSWER 4.3: look at 4_cases.png; which patterns do the errors have?
    """
    # Hint: np.flatnonzero, and np.argsort of the distance to the threshold (kind="stable").
    predicted = probabilities >= threshold
    truth = labels == 1
    masks = {
        "TP": predicted & truth,
        "TN": ~predicted & ~truth,
        "FP": predicted & ~truth,
        "FN": ~predicted & truth,
    }
    cases = {}
    for kind, mask in masks.items():
        index = np.flatnonzero(mask)
        distance = np.abs(probabilities[index] - threshold)
        cases[kind] = index[np.argsort(-distance, kind="stable")]
    return cases


# ---- Part 5: interpretability ----------------------------------------------------------------------------------------


# ANSWER 5.1: Several filters look like edges in different directions and some like blobs or brightness
# averages, others look like noise since there are few training images.
def plot_filters(model: nn.Module, path: Path) -> torch.Tensor:
    """Draw the filters of the first convolution and return its weights, (O, 1, k, k), detached and on the CPU.

    ANSWER 5.1: what do the filters detect?
    """
    # Hint: the first nn.Conv2d of model.modules(); a colour scale symmetric around 0.
    conv = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    weights = conv.weight.detach().cpu()
    limit = weights.abs().max().item()
    columns = 8
    n_rows = (len(weights) + columns - 1) // columns
    fig = new_figure(columns, n_rows + 0.5)
    axes = fig.subplots(n_rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    for ax, w in zip(axes.ravel(), weights):
        ax.imshow(w[0].numpy(), cmap="RdBu", vmin=-limit, vmax=limit)
    fig.suptitle("Filters of the first convolution")
    save_figure(fig, path)
    return weights


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? Grad-CAM (Selvaraju et al. 2017), written by hand.

    images: float32 (B, 1, H, W). targets: int64 (B,). Returns float32 (B, H, W) in [0, 1]: each map is divided by its
    largest value; a map without any positive value stays 0. `model` keeps its mode and its gradients. It may come in
    training mode, and frozen (no parameter requires a gradient); its maps are those of evaluation mode.
    """
    # Hint: layer.register_forward_hook gives the activations A (B, C, h, w); torch.autograd.grad of the target logits
    # with respect to A; weights = mean of the gradient over h, w; map = ReLU of the weighted sum over C; F.interpolate.
    # A frozen model builds a graph only if its input requires a gradient: a copy of the images can.
    activations = []
    handle = layer.register_forward_hook(lambda module, inputs, output: activations.append(output))
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            x = images.clone().requires_grad_(True)
            logits = model(x)
            score = logits.gather(1, targets.view(-1, 1)).sum()
            A = activations[0]
            grads = torch.autograd.grad(score, A)[0]
    finally:
        handle.remove()
        model.train(was_training)
    weights = grads.mean(dim=(2, 3), keepdim=True)
    cam = torch.relu((weights * A).sum(dim=1, keepdim=True))
    cam = F.interpolate(cam, size=images.shape[2:], mode="bilinear", align_corners=False).squeeze(1)
    largest = cam.amax(dim=(1, 2), keepdim=True)
    cam = torch.where(largest > 0, cam / largest.clamp(min=1e-12), torch.zeros_like(cam))
    return cam.detach()


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
    # Hint: sort_cases gives the indices, figures.overlays draws.
    cases = sort_cases(probabilities, labels, threshold)
    right = np.concatenate([cases["TP"][:2], cases["TN"][:1]])
    wrong = np.concatenate([cases["FP"][:2], cases["FN"][:1]])
    indices = [int(i) for i in np.concatenate([right, wrong])]
    called = torch.as_tensor((probabilities[indices] >= threshold).astype(np.int64), device=images.device)
    maps = grad_cam(model, layer, images[indices], called)
    names = ["normal", "pneumonia"]
    titles = [f"true: {names[int(labels[i])]}\ncalled: {names[int(c)]}" for i, c in zip(indices, called)]
    figures.overlays(images[indices], maps, titles, "Grad-CAM", path)
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
