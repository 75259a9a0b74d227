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

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn import metrics
from torch import nn
from torch.nn import functional as F

from labs.hw5_pneumonia import figures
from toolkit.plots import new_figure, save_figure

# ---- Part 3: comparison ----------------------------------------------------------------------------------------------


def comparison_table(rows: Mapping[str, Mapping[str, Any] | str]) -> str:
    """Markdown table with one row per model: test accuracy, AUC, precision, recall, F1.

    rows: name → {"accuracy": (mean, sd), "auc": (mean, sd), "precision": ..., "recall": ..., "f1": ...}, where sd is
        the standard deviation over seeds, or None if there is one seed. Or name → a text such as "not run: no
        weights", which is then shown instead of numbers.
    ANSWER 3.3: The pretrained network is best by about one point of AUC, which is hardly more than
    the spread over seeds, so the ranking is not certain.
    """
    def cell(value):
        mean, sd = value
        return f"{mean:.3f}" + ("" if sd is None else f" +/- {sd:.3f}")

    out = ["| model | accuracy | AUC | precision | recall | F1 |", "|:---|---:|---:|---:|---:|---:|"]
    for name in rows:
        if isinstance(rows[name], str):
            out.append(f"| {name} | {rows[name]} |  |  |  |  |")
        else:
            r = rows[name]
            out.append(
                f"| {name} | {cell(r['accuracy'])} | {cell(r['auc'])} | {cell(r['precision'])} | {cell(r['recall'])} "
                f"| {cell(r['f1'])} |"
            )
    return "\n".join(out) + "\n"


# ---- Part 4: evaluation ----------------------------------------------------------------------------------------------


def evaluate(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return accuracy, auc, precision, recall (= sensitivity), f1 and specificity as fractions, and the counts
    tn, fp, fn, tp of the confusion matrix.

    ANSWER 4.1: Sensitivity matters most since a missed pneumonia can kill a child, but specificity
    decides how many healthy children are treated or examined without need.
    """
    pred = (np.asarray(probabilities) >= threshold).astype(np.int64)
    cm = metrics.confusion_matrix(labels, pred, labels=[0, 1])
    tn, fp = cm[0]
    fn, tp = cm[1]
    result = {}
    result["accuracy"] = metrics.accuracy_score(labels, pred)
    result["auc"] = metrics.roc_auc_score(labels, probabilities)
    result["precision"] = metrics.precision_score(labels, pred)
    result["recall"] = metrics.recall_score(labels, pred)
    result["f1"] = metrics.f1_score(labels, pred)
    result["specificity"] = tn / (tn + fp)
    result.update(tn=tn, fp=fp, fn=fn, tp=tp)
    return result


def plot_roc_and_pr(
    probabilities: Mapping[str, np.ndarray], labels: np.ndarray, thresholds: Mapping[str, float], path: Path
) -> dict[str, tuple[float, float]]:
    """Draw ROC and precision-recall curves of several models side by side, each with its operating point marked.

    probabilities, thresholds: one entry per model. Returns (AUC, average precision) of each model.
    """
    fig, axes = plt.subplots(1, 2, figsize=(12, 5))
    out = {}
    for name, p in probabilities.items():
        fpr, tpr, thr = metrics.roc_curve(labels, p)
        pre, rec, _ = metrics.precision_recall_curve(labels, p)
        auc, ap = metrics.auc(fpr, tpr), metrics.average_precision_score(labels, p)
        m = evaluate(p, labels, thresholds[name])
        axes[0].plot(fpr, tpr, label=f"{name} AUC={auc:.3f}")
        axes[0].plot([1 - m["specificity"]], [m["recall"]], marker="*", markersize=14, color="black")
        axes[1].plot(rec, pre, label=f"{name} AP={ap:.3f}")
        axes[1].plot([m["recall"]], [m["precision"]], marker="*", markersize=14, color="black")
        out[name] = (auc, ap)
    axes[0].legend()
    axes[1].legend()
    fig.savefig(path)
    plt.close(fig)
    return out


def sort_cases(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the indices of the images under "TP", "TN", "FP", "FN", those farthest from the threshold first.

    ANSWER 4.3: False positives are often blurred or dark images with high diaphragms, false
    negatives show faint haze in one lung only, and both lie near the threshold.
    """
    p = np.asarray(probabilities)
    y = np.asarray(labels)
    called = p >= threshold
    cases = {
        "TP": np.where(called & (y == 1))[0],
        "TN": np.where(~called & (y == 0))[0],
        "FP": np.where(called & (y == 0))[0],
        "FN": np.where(~called & (y == 1))[0],
    }
    for k in cases:
        cases[k] = cases[k][np.argsort(np.abs(p[cases[k]] - threshold))[::-1]]
    return cases


# ---- Part 5: interpretability ----------------------------------------------------------------------------------------


def plot_filters(model: nn.Module, path: Path) -> torch.Tensor:
    """Draw the filters of the first convolution and return its weights, (O, 1, k, k), detached and on the CPU.

    ANSWER 5.1: Several filters look like edges in different directions and some like blobs or
    brightness averages, others look like noise since there are few training images.
    """
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    weight = convs[0].weight.data.cpu()
    n = weight.shape[0]
    cols = 8
    rows = int(np.ceil(n / cols))
    top = weight.abs().max()
    plt.figure(figsize=(cols, rows))
    for i in range(n):
        plt.subplot(rows, cols, i + 1)
        plt.imshow(weight[i][0], cmap="bwr", vmin=-top, vmax=top)
        plt.axis("off")
    plt.savefig(path)
    plt.close()
    return weight


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? Grad-CAM (Selvaraju et al. 2017), written by hand.

    images: float32 (B, 1, H, W). targets: int64 (B,). Returns float32 (B, H, W) in [0, 1]: each map is divided by its
    largest value; a map without any positive value stays 0. `model` keeps its mode and its gradients. It may come in
    training mode, and frozen (no parameter requires a gradient); its maps are those of evaluation mode.
    """
    was_training = model.training
    model.eval()
    features = {}
    h = layer.register_forward_hook(lambda m, i, o: features.update(value=o))
    maps = []
    for image, target in zip(images, targets):
        with torch.enable_grad():
            inp = image.unsqueeze(0).clone().requires_grad_()
            score = model(inp)[0, target]
            a = features["value"]
            (g,) = torch.autograd.grad(score, a)
        w = g[0].mean(dim=(1, 2))
        m = torch.relu((w[:, None, None] * a[0]).sum(0)).detach()
        m = F.interpolate(m[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
        maps.append(m / m.max() if m.max() > 0 else m)
    h.remove()
    model.train(was_training)
    return torch.stack(maps)


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

    ANSWER 5.2: In most right images the map lies over the lungs, yet in some wrong ones it lies at
    the border or shoulders, which is not clinically relevant.
    """
    pred = (probabilities >= threshold).astype(int)
    right = np.where(pred == labels)[0][:3]
    wrong = np.where(pred != labels)[0][:3]
    shown = right.tolist() + wrong.tolist()
    maps = grad_cam(model, layer, images[shown], torch.tensor(pred[shown], device=images.device))
    fig, axs = plt.subplots(2, len(shown), figsize=(2 * len(shown), 4), squeeze=False)
    for j, i in enumerate(shown):
        picture = images[i, 0].cpu()
        axs[0, j].imshow(picture, cmap="gray")
        axs[0, j].set_title(f"label {labels[i]}, pred {pred[i]}", fontsize=8)
        axs[1, j].imshow(picture, cmap="gray")
        axs[1, j].imshow(maps[j].cpu(), cmap="jet", alpha=0.4)
        axs[0, j].axis("off")
        axs[1, j].axis("off")
    fig.savefig(path)
    plt.close(fig)
    return shown


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
