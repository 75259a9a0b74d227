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


def comparison_table(rows: Mapping[str, Mapping[str, Any] | str]) -> str:
    """Markdown table with one row per model: test accuracy, AUC, precision, recall, F1.

    rows: name → {"accuracy": (mean, sd), "auc": (mean, sd), "precision": ..., "recall": ..., "f1": ...}, where sd is
        the standard deviation over seeds, or None if there is one seed. Or name → a text such as "not run: no
        weights", which is then shown instead of numbers.
    ANSWER 3.3: which model is best, by how much compared with the spread over seeds, and why?
    """
    # BEGIN SOLUTION 3.3: the table
    # ANSWER 3.3: Judge by AUC first, because accuracy also depends on where the threshold fell. Two models differ only
    # if their means are further apart than the spread over seeds and the interval of 624 test images (about two points
    # of accuracy): the small CNN and ResNet-18 from scratch do not. A network with two hundred times the weights gains
    # nothing from 28 x 28 pixels and 4,708 images. Pretrained weights help most, as they bring what the data lack. I
    # would take the small CNN unless the pretrained one is clearly ahead: it is cheaper, and easier to look into.
    names = ("accuracy", "AUC", "precision", "recall", "F1")
    lines = ["| model | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for model, row in rows.items():
        if isinstance(row, str):
            cells = [row] + [""] * (len(names) - 1)
        else:
            pairs = [row[name.lower()] for name in names]
            cells = [f"{mean:.3f}" + ("" if sd is None else f" ± {sd:.3f}") for mean, sd in pairs]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
    # END SOLUTION 3.3


# ---- Part 4: evaluation ----------------------------------------------------------------------------------------------


def evaluate(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return accuracy, auc, precision, recall (= sensitivity), f1 and specificity as fractions, and the counts
    tn, fp, fn, tp of the confusion matrix.

    ANSWER 4.1: which of these matters clinically?
    """
    # Hint: sklearn.metrics has all but specificity, which is the recall of the normal class.
    # BEGIN SOLUTION 4.1: confusion matrix and metrics
    called = (probabilities >= threshold).astype(int)
    tn, fp, fn, tp = metrics.confusion_matrix(labels, called, labels=[0, 1]).ravel().tolist()
    # ANSWER 4.1: Sensitivity (recall) first: a missed pneumonia goes untreated. But calling everything pneumonia gives
    # a sensitivity of 1, so it counts only together with specificity, which says how many healthy people get
    # antibiotics and a second examination. Precision is what the doctor asks ("it says pneumonia: is it?"), but it
    # depends on how common the disease is, as accuracy does, and does not carry over to another hospital. AUC compares
    # models without a threshold, but a patient is treated according to one; so calibration matters as well.
    return {
        "accuracy": (tp + tn) / len(labels),
        "auc": float(metrics.roc_auc_score(labels, probabilities)),
        "precision": float(metrics.precision_score(labels, called, zero_division=0)),
        "recall": float(metrics.recall_score(labels, called, zero_division=0)),
        "f1": float(metrics.f1_score(labels, called, zero_division=0)),
        "specificity": tn / max(tn + fp, 1),
        "tn": tn,
        "fp": fp,
        "fn": fn,
        "tp": tp,
    }
    # END SOLUTION 4.1


def plot_roc_and_pr(
    probabilities: Mapping[str, np.ndarray], labels: np.ndarray, thresholds: Mapping[str, float], path: Path
) -> dict[str, tuple[float, float]]:
    """Draw ROC and precision-recall curves of several models side by side, each with its operating point marked.

    probabilities, thresholds: one entry per model. Returns (AUC, average precision) of each model.
    """
    # Hint: metrics.roc_curve, metrics.precision_recall_curve; the operating point is where the threshold leads.
    # BEGIN SOLUTION 4.2: both curves with their areas and operating points
    figure = new_figure(10, 4.4)
    roc, pr = figure.subplots(1, 2)
    areas = {}
    for name, values in probabilities.items():
        areas[name] = (
            float(metrics.roc_auc_score(labels, values)),
            float(metrics.average_precision_score(labels, values)),
        )
        false_positive_rate, sensitivity, _thresholds = metrics.roc_curve(labels, values)
        (line,) = roc.plot(false_positive_rate, sensitivity, label=f"{name}, AUC {areas[name][0]:.3f}")
        precision, recall, _thresholds = metrics.precision_recall_curve(labels, values)
        pr.plot(recall, precision, label=f"{name}, AP {areas[name][1]:.3f}")
        point = evaluate(values, labels, thresholds[name])
        roc.plot(1 - point["specificity"], point["recall"], "o", color=line.get_color(), markeredgecolor="k")
        pr.plot(point["recall"], point["precision"], "o", color=line.get_color(), markeredgecolor="k")
    share = float(np.mean(labels))
    roc.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="chance")
    pr.axhline(share, color="0.7", linestyle="--", label=f"chance ({share:.3f} have pneumonia)")
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"ROC, test, n = {len(labels)}")
    pr.set(xlabel="recall (sensitivity)", ylabel="precision", title=f"precision-recall, test, n = {len(labels)}")
    for axes in (roc, pr):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right" if axes is roc else "lower left", title="dots: threshold in use", fontsize=8)
    save_figure(figure, path)
    return areas
    # END SOLUTION 4.2


def sort_cases(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return the indices of the images under "TP", "TN", "FP", "FN", those farthest from the threshold first.

    ANSWER 4.3: look at 4_cases.png; which patterns do the errors have?
    """
    # Hint: np.flatnonzero, and np.argsort of the distance to the threshold (kind="stable").
    # BEGIN SOLUTION 4.3: sort the images into four kinds
    called, ill = probabilities >= threshold, labels == 1
    kinds = {"TP": called & ill, "TN": ~called & ~ill, "FP": called & ~ill, "FN": ~called & ill}
    order = np.argsort(-np.abs(probabilities - threshold), kind="stable")
    # ANSWER 4.3: The model relies on darkness. True positives are pale, hazy lungs without a clear edge of the heart;
    # true negatives are dark, sharply outlined lungs of children who fill the frame. False positives are healthy lungs
    # on pale images of low contrast, or images with a wide black frame; false negatives are pneumonias on dark images
    # of high contrast, where the haze is faint. So it has learned exposure along with disease, and a machine with
    # another exposure would shift its errors. Stronger contrast augmentation or equalised histograms might help.
    return {kind: order[chosen[order]] for kind, chosen in kinds.items()}
    # END SOLUTION 4.3


# ---- Part 5: interpretability ----------------------------------------------------------------------------------------


def plot_filters(model: nn.Module, path: Path) -> torch.Tensor:
    """Draw the filters of the first convolution and return its weights, (O, 1, k, k), detached and on the CPU.

    ANSWER 5.1: what do the filters detect?
    """
    # Hint: the first nn.Conv2d of model.modules(); a colour scale symmetric around 0.
    # BEGIN SOLUTION 5.1: the filters of the first layer
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    weights = first.weight.detach().float().cpu()  # (O, 1, k, k)
    columns = 8
    rows = -(-len(weights) // columns)
    figure = new_figure(columns * 1.0 + 1, rows * 1.0 + 0.7)
    figure.suptitle(f"filters of the first layer, {tuple(weights.shape[2:])} weights each, n = {len(weights)}")
    limit = weights.abs().max().item()
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, weight in zip(grid.flat, weights, strict=False):
        drawn = axes.imshow(weight[0].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(drawn, ax=list(grid.flat), label="weight", shrink=0.8)
    save_figure(figure, path)
    # ANSWER 5.1: Some filters are positive on one side and negative on the other: edges of one direction, such as ribs,
    # the diaphragm and the border of the heart. Some have one sign in the middle and the other around: spots and thin
    # lines. Some have one sign only: they average, which is brightness, and brightness is what an infiltrate changes.
    # Many look like noise: three by three weights are few to see anything in, and nothing in training asks for tidy
    # ones. None of them detects pneumonia: what does is a combination in later layers.
    return weights
    # END SOLUTION 5.1


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? Grad-CAM (Selvaraju et al. 2017), written by hand.

    images: float32 (B, 1, H, W). targets: int64 (B,). Returns float32 (B, H, W) in [0, 1]: each map is enlarged
    bilinearly and then divided by its largest value; a map without any positive value stays 0. `model` keeps its mode
    and its gradients. It may come in training mode, and frozen (no parameter requires a gradient); its maps are those
    of evaluation mode.
    """
    # Hint: layer.register_forward_hook gives the activations A (B, C, h, w); torch.autograd.grad of the target logits
    # with respect to A; weights = mean of the gradient over h, w; map = ReLU of the weighted sum over C; F.interpolate.
    # A frozen model builds a graph only if its input requires a gradient: a copy of the images can.
    # BEGIN SOLUTION 5.2: Grad-CAM
    kept: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            logits = model(images.detach().requires_grad_())
            score = logits.gather(1, targets.view(-1, 1)).sum()  # images do not influence each other in eval mode
            (gradient,) = torch.autograd.grad(score, kept[0])  # (B, C, h, w)
    finally:
        hook.remove()
        model.train(was_training)
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
    maps = (weights * kept[0]).sum(dim=1, keepdim=True).relu().detach()  # (B, 1, h, w)
    maps = F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]  # (B, H, W)
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=torch.finfo(maps.dtype).tiny), 0)
    # END SOLUTION 5.2


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
    # BEGIN SOLUTION 5.2: choose the images and draw
    cases = sort_cases(probabilities, labels, threshold)
    chosen = [*cases["TP"][:2], *cases["TN"][:1], *cases["FP"][:2], *cases["FN"][:1]]
    kinds = {int(index): kind for kind, indices in cases.items() for index in indices}
    called = torch.from_numpy((probabilities[chosen] >= threshold).astype(np.int64))
    maps = grad_cam(model, layer, images[chosen], called)
    names = ("normal", "pneumonia")
    titles = [
        f"{kinds[int(i)]}: P(pneumonia) {probabilities[i]:.2f}\nmap of {names[int(c)]}"
        for i, c in zip(chosen, called, strict=True)
    ]
    figures.overlays(images[chosen], maps, titles, "Grad-CAM, test images", path)
    # ANSWER 5.2: Partly. For true positives the maps often lie on the lungs and near the heart, where an infiltrate may
    # be. Others lie on the shoulders, the border of the image or the black frame, where no doctor would look: there the
    # network reads exposure and framing. For "normal" a map says little: health has no place. The maps are coarse (a
    # few cells on a side), some are zero everywhere, and the findings are not marked, so they can raise suspicion of a
    # shortcut and cannot prove that there is none. False positives with a map outside the lungs are the ones to show to
    # a radiologist.
    return [int(index) for index in chosen]
    # END SOLUTION 5.2


# ---- Reflection ------------------------------------------------------------------------------------------------------


def reflection() -> None:
    """Three questions; answer each in a few sentences, as comments. A line `pass` may stay.

    6.1 Which threshold would you use for screening, and what do false positives and false negatives cost?
    6.2 Name three limits of images of 28 x 28 pixels.
    6.3 What would you do with images in full resolution and a cluster of GPUs?
    """
    # BEGIN SOLUTION 6.1: answer in comments -> pass
    # ANSWER 6.1: In screening most people are healthy, and a missed case is worse than a false alarm: untreated
    # pneumonia can kill a child; a false alarm costs a follow-up image, at worst needless antibiotics and worry. So
    # I would lower the threshold until sensitivity on validation data reaches what the clinic asks (say 98 %), and look
    # at what specificity is left: at 2 % prevalence and 80 % specificity, ten of eleven alarms are false, and
    # radiologists stop listening. The threshold belongs to a prevalence and a cost ratio; both must be asked for, and
    # it must be checked again on images of the place where it will be used.
    pass
    # END SOLUTION 6.1
    # BEGIN SOLUTION 6.2: answer in comments -> pass
    # ANSWER 6.2: (1) One pixel covers about a centimetre of chest: fine opacities, thin fluid lines and small nodules
    # are averaged away; only large consolidations remain. (2) Bone, tube and letter edges blur into the lung, so a
    # network may use what a doctor would discard at once, and no one can check that on the picture. (3) Squeezing to a
    # square changes proportions, and averaging leaves few grey levels, so heart size and density cannot be measured.
    # One more: a radiologist cannot read such an image, so there is no human performance to compare with.
    pass
    # END SOLUTION 6.2
    # BEGIN SOLUTION 6.3: answer in comments -> pass
    # ANSWER 6.3: Train at 224 to 512 pixels with a network pretrained on chest X-rays and not on photographs, with
    # many seeds and cross-validation split by patient (several images of one child must not be on both sides). Use more
    # hospitals, keep one of them for the test alone, and report by age and machine. Search augmentation and learning
    # rate with the dispatcher, average an ensemble, calibrate it. Bacterial against viral would become a possible
    # question. And have radiologists mark the findings, so that Grad-CAM can be scored and not only be looked at.
    pass
    # END SOLUTION 6.3
