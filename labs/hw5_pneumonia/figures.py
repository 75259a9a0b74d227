"""Pictures of X-rays for the homework: grids, and maps laid over images. Provided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn import metrics
from sklearn.calibration import calibration_curve

from toolkit.augment import denormalize
from toolkit.plots import new_figure, save_figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito


def image_grid(rows: Sequence[torch.Tensor], titles: Sequence[str], title: str, path: Path | None) -> None:
    """Draw each of `rows`, images (n, 1, H, W) in [-1, 1], as a row with its title; rows may differ in length."""
    columns = max(1, max(len(images) for images in rows))
    figure = new_figure(1.25 * columns + 0.4, 1.65 * len(rows) + 0.5)
    figure.suptitle(title)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, images, name in zip(grid, rows, titles, strict=True):
        for axes in axes_row:
            axes.axis("off")
        axes_row[0].set_title(name if len(images) else f"{name} (none)", loc="left", fontsize=10)
        for axes, image in zip(axes_row, images, strict=False):
            axes.imshow(denormalize(image.cpu())[0].numpy(), cmap="gray", vmin=0, vmax=1)
    save_figure(figure, path)


def overlays(images: torch.Tensor, maps: torch.Tensor, titles: Sequence[str], title: str, path: Path | None) -> None:
    """Draw images (n, 1, H, W) in [-1, 1] above, and below the same with maps (n, H, W) in [0, 1] laid over them."""
    count = len(images)
    figure = new_figure(max(1.9 * count + 0.9, 5), 4.6)
    figure.suptitle(title)
    grid = figure.subplots(2, count, squeeze=False)
    drawn = None
    for number, (top, bottom) in enumerate(grid.T):
        pixels = denormalize(images[number].cpu())[0].numpy()
        for axes in (top, bottom):
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
            axes.axis("off")
        heat = maps[number].cpu().numpy()
        drawn = bottom.imshow(heat, cmap="jet", alpha=0.45, vmin=0, vmax=1)
        if not heat.any():  # blue all over would look as if it had been looked at and found unimportant
            bottom.set_title("0 everywhere: no place\nspeaks for this class", fontsize=8)
        top.set_title(titles[number], fontsize=9)
    if drawn is not None:
        figure.colorbar(drawn, ax=list(grid[1]), label="Grad-CAM", shrink=0.8)
    save_figure(figure, path)


def operating_points(
    probabilities: np.ndarray, labels: np.ndarray, points: Mapping[str, Mapping[str, float]], title: str, path: Path
) -> None:
    """ROC and precision-recall of one model with several thresholds marked; an inset enlarges the corner that matters.

    points: name of a threshold → its value ("threshold") and what it gives: recall, specificity, precision.
    """
    false_positive_rate, sensitivity, _ = metrics.roc_curve(labels, probabilities)
    precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
    figure = new_figure(11, 5)
    figure.suptitle(f"{title}, n = {len(labels)}: thresholds chosen beforehand on validation images")
    roc, pr = figure.subplots(1, 2)
    curves = ((roc, false_positive_rate, sensitivity), (pr, recall, precision))
    for axes, x, y in curves:
        corner = axes.inset_axes((0.3, 0.12, 0.66, 0.6) if axes is roc else (0.08, 0.12, 0.66, 0.6))
        for panel in (axes, corner):
            panel.plot(x, y, color="0.4")
            for (name, point), color in zip(points.items(), COLORS, strict=False):
                across = 1 - point["specificity"] if axes is roc else point["recall"]
                up = point["recall"] if axes is roc else point["precision"]
                values = f"sensitivity {point['recall']:.3f}, specificity {point['specificity']:.3f}"
                label = f"{name}: {point['threshold']:.3f}\n{values}"
                panel.plot(across, up, "o", color=color, markeredgecolor="k", label=label)
            panel.grid(alpha=0.3)
        widest = max(1 - point["specificity"] for point in points.values())
        lowest = min(min(point["recall"], point["precision"]) for point in points.values())
        edges = (
            (0, min(1, 1.3 * widest + 0.02)) if axes is roc else (max(0, lowest - 0.05), 1.005),
            (lowest - 0.05, 1.005),
        )
        corner.set(xlim=edges[0], ylim=edges[1])
        axes.indicate_inset_zoom(corner, edgecolor="black")
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    pr.set(xlabel="recall (sensitivity)", ylabel="precision", title="precision-recall")
    handles, names = roc.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(points), fontsize=8, title="threshold")
    save_figure(figure, path)


def calibration(probabilities: np.ndarray, labels: np.ndarray, title: str, path: Path | None) -> None:
    """Bonus: how often images with a predicted probability are pneumonia, in ten equally filled groups."""
    observed, predicted = calibration_curve(labels, probabilities, n_bins=10, strategy="quantile")
    figure = new_figure(4.6, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="ideal")
    axes.plot(predicted, observed, marker="o", label="model")
    axes.set(
        xlabel="predicted probability of pneumonia", ylabel="share with pneumonia", title=f"{title}, n = {len(labels)}"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
