"""Pictures of X-rays for the homework: grids, and maps laid over images. Provided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from toolkit.augment import denormalize
from toolkit.plots import new_figure, save_figure


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
        drawn = bottom.imshow(maps[number].cpu().numpy(), cmap="jet", alpha=0.45, vmin=0, vmax=1)
        top.set_title(titles[number], fontsize=9)
    if drawn is not None:
        figure.colorbar(drawn, ax=list(grid[1]), label="Grad-CAM", shrink=0.8)
    save_figure(figure, path)


def calibration(probabilities: np.ndarray, labels: np.ndarray, title: str, path: Path | None) -> None:
    """Bonus: how often images with a predicted probability are pneumonia, in ten equally filled groups."""
    from sklearn.calibration import calibration_curve

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
