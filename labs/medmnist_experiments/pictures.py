"""The pictures of the experiments."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from labs.medmnist_experiments.networks import attention_layer
from toolkit import metrics, plots
from toolkit.augment import denormalize, normalize
from toolkit.errors import UserError
from toolkit.gradcam import grad_cam
from toolkit.medmnist_data import Split
from toolkit.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31", "#7f7f7f")
PLANES = ("axis 1", "axis 2", "axis 3")
History = Mapping[str, Sequence[float]]


def curves(rows: Mapping[str, Sequence[History]], title: str, path: Path) -> None:
    """Loss and accuracy over epochs of each row: validation strong with every seed faint, training dashed."""
    figure = new_figure(10, 4.2)
    figure.suptitle(title)
    panels = figure.subplots(1, 2)
    for axes, name, label in zip(panels, ("loss", "acc"), ("loss (nats)", "accuracy"), strict=True):
        for color, (row, histories) in zip(COLORS, rows.items(), strict=False):
            bundle(axes, histories, f"val_{name}", color, f"{row} (n={len(histories)})")
            if len(rows) == 1:
                bundle(axes, histories, f"train_{name}", COLORS[1], "training, augmented", style="--")
        axes.set(xlabel="epoch", ylabel=label if len(rows) == 1 else f"validation {label}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    panels[1].legend(loc="lower right", fontsize=8)
    save_figure(figure, path)


def bundle(axes: Axes, histories: Sequence[History], key: str, color: str, label: str, style: str = "-") -> None:
    """Every seed as a faint line and their mean as a strong one, as far as all seeds went."""
    for history in histories:
        axes.plot(range(1, len(history[key]) + 1), history[key], style, color=color, alpha=0.25, linewidth=0.8)
    mean = [statistics.fmean(values) for values in zip(*(history[key] for history in histories), strict=False)]
    axes.plot(range(1, len(mean) + 1), mean, style, color=color, label=label, linewidth=1.8)


def middle_slices(volume: torch.Tensor) -> list[np.ndarray]:
    """Volume (D, H, W) → its middle slice across each of the three axes."""
    D, H, W = volume.shape
    return [part.cpu().numpy() for part in (volume[D // 2], volume[:, H // 2], volume[:, :, W // 2])]


def slices(
    volumes: torch.Tensor, titles: Sequence[str], title: str, path: Path, maps: torch.Tensor | None = None
) -> None:
    """One column per volume (n, 1, D, H, W) in [-1, 1], one row per plane: the middle slices, with maps over them.

    maps: (n, D, H, W) in [0, 1], such as Grad-CAM.
    """
    count = len(volumes)
    figure = new_figure(max(1.5 * count + 1, 5), 5.6)
    figure.suptitle(title)
    grid = figure.subplots(3, count, squeeze=False)
    drawn = None
    for column in range(count):
        pixels = middle_slices(denormalize(volumes[column, 0]))
        heat = middle_slices(maps[column]) if maps is not None else [None] * 3
        for row, axes in enumerate(grid[:, column]):
            axes.imshow(pixels[row], cmap="gray", vmin=0, vmax=1)
            if heat[row] is not None:
                drawn = axes.imshow(heat[row], cmap="inferno", vmin=0, vmax=1, alpha=0.55)
            axes.set(xticks=[], yticks=[])
        grid[0, column].set_title(titles[column], fontsize=9)
    for row, name in enumerate(PLANES):
        grid[row, 0].set_ylabel(f"across {name}", fontsize=9)
    if drawn is not None:
        figure.colorbar(drawn, ax=list(grid[:, -1]), label="Grad-CAM, share of its highest value", shrink=0.7)
    save_figure(figure, path)


def volume_samples(
    train: Split, class_names: Sequence[str], augmentation: Callable | None, name: str, folder: Path
) -> None:
    """volumes.png: middle slices of training volumes of each class; augmented.png: one volume as it is augmented."""
    picked = [int(i) for c in range(len(class_names)) for i in (train.labels == c).nonzero()[:3]][:9]
    titles = [class_names[int(train.labels[i])] for i in picked]
    volumes = normalize(train.images[picked])
    slices(volumes, titles, f"{name}: middle slices of training volumes", folder / "volumes.png")
    if augmentation is not None:
        changed = augmentation(train.images[picked[:1]].expand(7, -1, -1, -1, -1), torch.Generator().manual_seed(0))
        titles = ["as it is"] + ["augmented"] * 7
        slices(torch.cat([volumes[:1], changed]), titles, f"{name}: one volume", folder / "augmented.png")


def volume_answers(
    model: nn.Module, test: Split, probabilities: np.ndarray, class_names: Sequence[str], title: str, folder: Path
) -> None:
    """confusion.png and attention.png: 3D Grad-CAM of right and wrong answers, the most confident first."""
    labels, predicted, confidence = test.labels.numpy(), probabilities.argmax(axis=1), probabilities.max(axis=1)
    plots.confusion(metrics.confusion_matrix(probabilities, labels), class_names, title, folder / "confusion.png")
    order = np.argsort(-confidence, kind="stable").tolist()
    picked = [i for i in order if predicted[i] == labels[i]][:4] + [i for i in order if predicted[i] != labels[i]][:4]
    device = next(model.parameters()).device
    volumes, targets = normalize(test.images[picked]).to(device), torch.from_numpy(predicted[picked]).to(device)
    try:
        maps = grad_cam(model, attention_layer(model, volumes), volumes, targets)
    except UserError as error:  # the training is done, and its table must not be lost for a picture
        print(f"note: no attention.png: {error}")
        return
    titles = [f"{class_names[predicted[i]]} ({confidence[i]:.0%})\ntrue: {class_names[labels[i]]}" for i in picked]
    slices(volumes, titles, f"{title}: what spoke for the answer", folder / "attention.png", maps)


def overlays(images: torch.Tensor, titles: Sequence[str], title: str, path: Path, maps: torch.Tensor) -> None:
    """Images (n, C, H, W) in [-1, 1] above; below the same with maps (n, H, W) in [0, 1] laid over them."""
    count = len(images)
    figure = new_figure(max(1.6 * count + 1, 5), 4.2)
    figure.suptitle(title)
    grid = figure.subplots(2, count, squeeze=False)
    drawn = None
    for number, (top, bottom) in enumerate(grid.T):
        pixels = denormalize(images[number].cpu()).permute(1, 2, 0).numpy()
        for axes in (top, bottom):
            axes.imshow(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        drawn = bottom.imshow(maps[number].cpu().numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.55)
        top.set_title(titles[number], fontsize=9)
    figure.colorbar(drawn, ax=list(grid[1]), label="Grad-CAM", shrink=0.9)
    save_figure(figure, path)


def image_rows(rows: Mapping[str, torch.Tensor], title: str, path: Path) -> None:
    """Each row of images (n, C, H, W) in [-1, 1] with its name."""
    columns = max(len(images) for images in rows.values())
    figure = new_figure(1.1 * columns + 1.4, 1.15 * len(rows) + 0.5)
    figure.suptitle(title)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=False):
            pixels = denormalize(image.cpu()).permute(1, 2, 0).numpy()
            axes.imshow(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
        for axes in line:
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    save_figure(figure, path)


def dots(axes: Axes, rows: Mapping[str, Sequence[float]], label: str, reference: tuple[str, float] | None) -> None:
    """One line a row: every seed a dot, their mean a bar; `reference` is a dashed line with its name."""
    names = list(rows)
    for number, name in enumerate(names):
        color = COLORS[number % len(COLORS)]
        values = rows[name]
        axes.plot(values, [number] * len(values), "o", color=color, alpha=0.5, markersize=5)
        if values:
            axes.plot([statistics.fmean(values)], [number], "|", color=color, markersize=22, markeredgewidth=3)
    if reference is not None:
        axes.axvline(reference[1], color="0.4", linestyle="--", linewidth=1)
        label += f"\n(dashed: {reference[0].replace(': ', ' ')})"
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3, axis="x")


def comparison(
    rows: Mapping[str, Mapping[str, Sequence[float]]],
    metrics: Sequence[str],
    references: Mapping[str, tuple[str, float]],
    title: str,
    path: Path,
) -> None:
    """A panel for each metric: every row's seeds as dots and their mean as a bar."""
    figure = new_figure(4.4 * len(metrics) + 1.5, 1.6 + 0.42 * len(rows))
    figure.suptitle(title)
    panels: Any = figure.subplots(1, len(metrics), squeeze=False)[0]
    for number, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
        values = {name: [v for v in found.get(metric, ()) if v is not None] for name, found in rows.items()}
        dots(axes, values, f"test {metric.replace('_', ' ')}", references.get(metric))
        if number:
            axes.set_yticklabels([])
    save_figure(figure, path)


def measurements(
    steps: Mapping[str, float | None], deletion: Mapping[str, Sequence[float]], title: str, folder: Path
) -> None:
    """sanity.png: correlation of the maps while layers become random; deletion.png: the answer while places go."""
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    known = {name: value for name, value in steps.items() if value is not None}
    axes.plot(range(len(known)), list(known.values()), "o-", color=COLORS[0])
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(known)), list(known), rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set(xlabel="random from the output down to", ylabel="rank correlation with the trained map", title=title)
    axes.grid(alpha=0.3)
    save_figure(figure, folder / "sanity.png")
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    for color, (name, values) in zip(COLORS, deletion.items(), strict=False):
        axes.plot(np.linspace(0, 100, len(values)), values, color=color, label=name)
    axes.set(xlabel="places blanked (%)", ylabel="mean probability of the answer", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, folder / "deletion.png")
