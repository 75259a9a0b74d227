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

import copy

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
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
    md = "| Model | Test accuracy (%) | AUC (%) | Precision (%) | Recall (%) | F1 (%) |\n|---|---|---|---|---|---|\n"
    for model_name, r in rows.items():
        md += f"| {model_name} |"
        if type(r) is str:
            md += f" {r} |" + " |" * 4
        else:
            for k in ["accuracy", "auc", "precision", "recall", "f1"]:
                md += f" {100 * r[k][0]:.1f}" + (f" ± {100 * r[k][1]:.1f}" if r[k][1] is not None else "") + " |"
        md += "\n"
    return md


# ---- Part 4: evaluation ----------------------------------------------------------------------------------------------


# ANSWER 4.1: Sensitivity matters most since a missed pneumonia can kill a child, but specificity decides how
# many healthy children are treated or examined without need.
def evaluate(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return accuracy, auc, precision, recall (= sensitivity), f1 and specificity as fractions, and the counts
    tn, fp, fn, tp of the confusion matrix.

    ANSWER 4.1: which of these matters clinically?
    """
    y_hat = [1 if p >= threshold else 0 for p in probabilities]
    (tn, fp), (fn, tp) = metrics.confusion_matrix(labels, y_hat, labels=[0, 1]).tolist()
    report = metrics.classification_report(
        labels, y_hat, labels=[0, 1], target_names=["normal", "pneumonia"], output_dict=True, zero_division=0
    )
    return {
        "accuracy": metrics.accuracy_score(labels, y_hat),
        "auc": metrics.roc_auc_score(labels, probabilities),
        "precision": report["pneumonia"]["precision"],
        "recall": report["pneumonia"]["recall"],
        "f1": report["pneumonia"]["f1-score"],
        "specificity": report["normal"]["recall"],
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
    plt.figure(figsize=(12, 5))
    areas = {}
    for name, p in probabilities.items():
        auc = metrics.roc_auc_score(labels, p)
        ap = metrics.average_precision_score(labels, p)
        areas[name] = (auc, ap)
        y_hat = (p >= thresholds[name]).astype(int)
        tn, fp, fn, tp = metrics.confusion_matrix(labels, y_hat, labels=[0, 1]).ravel()
        fpr, tpr, _ = metrics.roc_curve(labels, p)
        plt.subplot(1, 2, 1)
        plt.plot(fpr, tpr, label=f"{name} (AUC={auc:.3f})")
        plt.plot(fp / (fp + tn), tp / (tp + fn), "ko")
        precision, recall, _ = metrics.precision_recall_curve(labels, p)
        plt.subplot(1, 2, 2)
        plt.plot(recall, precision, label=f"{name} (AP={ap:.3f})")
        plt.plot(tp / (tp + fn), metrics.precision_score(labels, y_hat, zero_division=0), "ko")
    plt.subplot(1, 2, 1)
    plt.xlabel("False Positive Rate")
    plt.ylabel("True Positive Rate")
    plt.legend()
    plt.subplot(1, 2, 2)
    plt.xlabel("Recall")
    plt.ylabel("Precision")
    plt.legend()
    plt.tight_layout()
    plt.savefig(path, dpi=120)
    plt.close()
    return areas


# ANSWER 4.3: False positives are often blurred or dark images with high diaphragms, false negatives show
# faint haze in one lung only, and both lie near the threshold.
def sort_cases(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the indices of the images under "TP", "TN", "FP", "FN", those farthest from the threshold first.

    ANSWER 4.3: look at 4_cases.png; which patterns do the errors have?
    """
    tp, tn, fp, fn = [], [], [], []
    for i in range(len(probabilities)):
        if probabilities[i] >= threshold:
            (tp if labels[i] == 1 else fp).append(i)
        else:
            (tn if labels[i] == 0 else fn).append(i)
    tp.sort(key=lambda i: probabilities[i], reverse=True)
    fp.sort(key=lambda i: probabilities[i], reverse=True)
    tn.sort(key=lambda i: probabilities[i])
    fn.sort(key=lambda i: probabilities[i])
    return {"TP": np.array(tp, int), "TN": np.array(tn, int), "FP": np.array(fp, int), "FN": np.array(fn, int)}


# ---- Part 5: interpretability ----------------------------------------------------------------------------------------


# ANSWER 5.1: Several filters look like edges in different directions and some like blobs or brightness
# averages, others look like noise since there are few training images.
def plot_filters(model: nn.Module, path: Path) -> torch.Tensor:
    """Draw the filters of the first convolution and return its weights, (O, 1, k, k), detached and on the CPU.

    ANSWER 5.1: what do the filters detect?
    """
    w = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and w is None:
            w = module.weight.detach().cpu()
    n = w.shape[0]
    fig, axs = plt.subplots((n + 7) // 8, 8, figsize=(8, (n + 7) // 8))
    bound = w.abs().max()
    for i, ax in enumerate(np.atleast_2d(axs).flat):
        ax.axis("off")
        if i < n:
            ax.imshow(w[i, 0], cmap="RdBu_r", vmin=-bound, vmax=bound)
    plt.savefig(path)
    plt.close(fig)
    return w


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? Grad-CAM (Selvaraju et al. 2017), written by hand.

    images: float32 (B, 1, H, W). targets: int64 (B,). Returns float32 (B, H, W) in [0, 1]: each map is divided by its
    largest value; a map without any positive value stays 0. `model` keeps its mode and its gradients. It may come in
    training mode, and frozen (no parameter requires a gradient); its maps are those of evaluation mode.
    """
    # work on a copy: mode and gradients of the model stay untouched
    name = next(n for n, m in model.named_modules() if m is layer)
    clone = copy.deepcopy(model)
    clone.eval()
    clone.requires_grad_(True)
    acts, grads = [], []
    target_layer = clone.get_submodule(name)
    target_layer.register_forward_hook(lambda m, i, o: acts.append(o))
    target_layer.register_full_backward_hook(lambda m, gi, go: grads.append(go[0]))
    with torch.enable_grad():
        logits = clone(images)
        logits[range(len(images)), targets].sum().backward()
    weights = grads[0].mean(dim=[2, 3], keepdim=True)
    cam = (weights * acts[0]).sum(dim=1, keepdim=True)
    cam = F.relu(cam)
    cam = F.interpolate(cam, size=images.shape[2:], mode="bilinear", align_corners=False)
    cam = cam[:, 0].detach()
    maximum = cam.view(len(cam), -1).max(dim=1)[0].view(-1, 1, 1)
    return cam / (maximum + (maximum == 0))


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
    predicted = (probabilities >= threshold).astype(int)
    correct_idx = [int(i) for i in np.nonzero(predicted == labels)[0]][:3]
    wrong_idx = [int(i) for i in np.nonzero(predicted != labels)[0]][:3]
    idx = correct_idx + wrong_idx
    batch = torch.stack([images[i] for i in idx])
    maps = grad_cam(model, layer, batch, torch.LongTensor([predicted[i] for i in idx]).to(batch.device))
    titles = [f"true {labels[i]}, predicted {predicted[i]}" for i in idx]
    figures.overlays(batch, maps, titles, "Grad-CAM: right and wrong", path)
    return idx


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
