"""The lab's pictures, in addition to those of toolkit.plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics

from labs.image_classifier.utils import scores
from toolkit import plots

MOST_CURVES = 10  # more lines in one picture cannot be told apart


def confusion(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str, path: Path | None
) -> Any:
    """Confusion matrix; for multi-label data one of 2 x 2 for each label, in a grid."""
    if labels.ndim == 1:
        counts = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(classes)))
        return plots.confusion(counts, classes, title, path)
    tables = metrics.multilabel_confusion_matrix(labels, scores.decisions(probabilities, True))
    columns = min(4, len(classes))
    rows = -(-len(classes) // columns)
    figure = plots.new_figure(2.4 * columns, 0.8 + 2.5 * rows)
    figure.suptitle(f"{title}, n = {len(labels)}")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(classes) :]:
        axes.axis("off")
    for axes, table, name in zip(panels, tables, classes, strict=False):
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(table):
            axes.text(column, row, count, ha="center", va="center", color="white" if share[row, column] > 0.5 else "k")
        axes.set_xticks([0, 1], ["no", "yes"])
        axes.set_yticks([0, 1], ["no", "yes"])
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_title(name, fontsize=9)
    return plots.save_figure(figure, path)


def roc_and_pr(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str, path: Path | None
) -> Any:
    """ROC and precision-recall curve of each class against the rest.

    Both of two classes are drawn: their ROC curves mirror each other, but their precision-recall curves say different
    things, and only the user knows which class is the finding.
    """
    truth = scores.truth_table(labels, len(classes))
    shown = [k for k in range(len(classes)) if 0 < truth[:, k].sum() < len(truth)]
    shown = shown[:MOST_CURVES]
    figure = plots.new_figure(11, 4.8)
    more = "" if len(classes) <= MOST_CURVES else f" (first {MOST_CURVES} classes)"
    figure.suptitle(f"{title}, n = {len(labels)}{more}")
    roc, pr = figure.subplots(1, 2)
    for k in shown:
        false, true, _ = metrics.roc_curve(truth[:, k], probabilities[:, k])
        precision, recall, _ = metrics.precision_recall_curve(truth[:, k], probabilities[:, k])
        roc.plot(false, true, label=f"{classes[k]} (AUC {metrics.roc_auc_score(truth[:, k], probabilities[:, k]):.3f})")
        average = metrics.average_precision_score(truth[:, k], probabilities[:, k])
        line = pr.plot(recall, precision, label=f"{classes[k]} (AP {average:.3f})", drawstyle="steps-post")[0]
        pr.axhline(truth[:, k].mean(), color=line.get_color(), linestyle=":", linewidth=1)
    roc.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="chance")
    roc.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (sensitivity)")
    pr.set(xlabel="recall (sensitivity)", ylabel="precision; dotted: chance", ylim=(0, 1.03))
    for axes in (roc, pr):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right" if axes is roc else "lower left")
    return plots.save_figure(figure, path)


def calibration(figures: dict[str, Any], title: str, path: Path | None) -> Any:
    """Reliability diagram: how often an answer of some confidence is right, and how many there are."""
    figure = plots.new_figure(5.6, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = figures["bins"]
    confidence = [row["confidence"] for row in bins]
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfect")
    upper.plot(confidence, [row["accuracy"] for row in bins], color=plots.TRUE_COLOR, marker="o", label="this model")
    upper.set(ylabel="share that is right", ylim=(0, 1.03))
    upper.legend(loc="upper left")
    lower.bar(confidence, [row["n"] for row in bins], width=0.04, color=plots.PREDICTED_COLOR)
    lower.set(xlabel="confidence", ylabel="answers", xlim=(0, 1.02))
    error = figures["expected_calibration_error"]
    upper.set_title(f"{title}\ncalibration error {error:.3f}, n = {sum(row['n'] for row in bins)}", fontsize=10)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return plots.save_figure(figure, path)


def image_grid(images: Sequence[np.ndarray], captions: Sequence[str], title: str, path: Path | None) -> Any:
    """Up to 12 images uint8 (H, W, C), each with a caption."""
    count = min(12, len(images))
    rows = max(1, -(-count // 4))
    figure = plots.new_figure(11, 0.6 + 3.1 * rows)
    figure.suptitle(title)
    panels = list(figure.subplots(rows, 4, squeeze=False).flat)
    for axes in panels:
        axes.axis("off")
    for axes, image, caption in zip(panels, images[:count], captions[:count], strict=False):
        axes.imshow(image.squeeze(-1) if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=8)
    return plots.save_figure(figure, path)
