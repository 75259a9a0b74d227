"""Every picture. matplotlib is imported when the first one is drawn, without a window system."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toolkit.augment import denormalize
from toolkit.runs import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUE_COLOR, PREDICTED_COLOR = "#1b9e77", "#d95f02"  # distinct for colour-blind readers (ColorBrewer Dark2)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, drawn by Agg; no global state, so nothing has to be closed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


_stamps: list[str] = []  # words on every picture that is written, see `stamped`


@contextlib.contextmanager
def stamped(words: str) -> Iterator[None]:
    """Inside, every picture that save_figure writes carries these words; none for an empty text."""
    _stamps.append(words)
    try:
        yield
    finally:
        _stamps.pop()


def save_figure(figure: Figure, path: str | os.PathLike | None) -> Figure:
    """Write `figure` as PNG, whole or not at all; without a path nothing is written."""
    if path is not None:
        for words in filter(None, _stamps):
            figure.text(0.5, 0.5, words, rotation=20, ha="center", va="center", fontsize=22, color="red", alpha=0.4)
        content = io.BytesIO()
        figure.savefig(content, format="png")
        write_bytes(path, content.getvalue())
    return figure


def learning_curves(
    history: Mapping[str, Sequence[float]],
    metric: str,
    title: str,
    path: str | os.PathLike | None = None,
    *,
    steps: Mapping[str, Sequence[float]] | None = None,
    guessing: tuple[str, float] | None = None,
) -> Figure:
    """Loss and `metric` over epochs, training and validation, over the loss of the single steps.

    Args:
        history: lists train_loss, val_loss, train_acc, val_acc (or _iou), one value per epoch.
        metric: acc or iou, fractions.
        steps: columns step and loss of steps.csv. An epoch may be the whole training, and one dot is not a curve.
        guessing: name and value of the loss of a model that knows nothing, such as ("ln 9", 2.197).
    """
    figure = new_figure(9, 3.6)
    figure.suptitle(title)
    count = len(history["train_loss"])
    loss_axes, metric_axes = figure.subplots(1, 2)
    labels = {"loss": "loss (nats)" if metric == "acc" else "loss", "acc": "accuracy", "iou": "IoU"}
    at, unit = range(1, count + 1), "epoch"
    if steps and steps["step"]:
        last = steps["step"][-1]
        at, unit = [last * epoch / count for epoch in range(1, count + 1)], "training step"
        loss_axes.plot(steps["step"], steps["loss"], color=PREDICTED_COLOR, alpha=0.35, linewidth=0.8, label="one step")
    for axes, name, where in ((loss_axes, "loss", at), (metric_axes, metric, range(1, count + 1))):
        for split, color in (("train", PREDICTED_COLOR), ("val", TRUE_COLOR)):
            axes.plot(where, history[f"{split}_{name}"], color=color, marker="o", markersize=3, label=split)
        axes.set(xlabel=unit if axes is loss_axes else "epoch", ylabel=labels[name])
        axes.grid(alpha=0.3)
    metric_axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if guessing is not None:
        name, value = guessing
        loss_axes.axhline(value, color="black", linestyle=":", linewidth=1, label=f"guessing: {name} = {value:.3f}")
    _cut_a_huge_start(loss_axes, [history["train_loss"], history["val_loss"]])
    for axes in (loss_axes, metric_axes):
        axes.legend()
    return save_figure(figure, path)


def _cut_a_huge_start(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Where the first epoch is far above all others, let the axis end below it and say so: the others are the curve."""
    later = [value for values in curves for value in values[1:]]
    first = max(values[0] for values in curves)
    if later and first > 3 * max(later) > 0:
        axes.set_ylim(0, 1.3 * max(later))
        axes.set_title(f"epoch 1 lies above: {first:.2g}", fontsize=9)


def confusion(
    counts: np.ndarray, class_names: Sequence[str], title: str, path: str | os.PathLike | None = None
) -> Figure:
    """Confusion matrix with counts in the cells and each row coloured by its share of the true class."""
    size = 3.2 + 0.62 * len(class_names)
    figure = new_figure(size + 0.8, size)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, count, ha="center", va="center", color="white" if share[row, column] > 0.5 else "k")
    ticks = range(len(class_names))
    axes.set_xticks(ticks, class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, class_names)
    axes.set(xlabel="predicted class", ylabel="true class", title=f"{title}, n = {counts.sum()}")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.7)
    return save_figure(figure, path)


def class_predictions(
    images: torch.Tensor,
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    title: str,
    path: str | os.PathLike | None = None,
) -> Figure:
    """A grid of up to 12 images (N, C, H, W) in [-1, 1]: the most confident mistakes, then other images if few."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    order = np.lexsort((-confidence, predicted == labels))[:12]  # mistakes first, the surest first
    rows = -(-len(order) // 4)
    figure = new_figure(11, 0.6 + 2.95 * rows)
    mistakes = int((predicted != labels).sum())
    figure.suptitle(f"{title}: most confident mistakes ({mistakes} of {len(labels)} images are wrong)")
    for axes in (panels := figure.subplots(rows, 4, squeeze=False)).flat:
        axes.axis("off")
    for axes, index in zip(panels.flat, order, strict=False):
        _show(axes, images[index])
        color = TRUE_COLOR if predicted[index] == labels[index] else PREDICTED_COLOR
        text = f"{_short(class_names[predicted[index]])} ({confidence[index]:.0%})\ntrue: "
        axes.set_title(text + _short(class_names[labels[index]]), fontsize=8, color=color)
    return save_figure(figure, path)


def mask_predictions(
    images: torch.Tensor,
    masks: torch.Tensor,
    predicted: torch.Tensor,
    iou: torch.Tensor,
    title: str,
    path: str | os.PathLike | None = None,
) -> Figure:
    """One row an image: image, true mask, predicted probabilities, and both masks' outlines with their IoU."""
    count = len(images)
    figure = new_figure(8.4, 0.5 + 2.1 * count)
    figure.suptitle(title)
    for number, row in enumerate(figure.subplots(count, 4, squeeze=False)):
        for axes in row:
            axes.set(xticks=[], yticks=[])  # with its frame: a mask may be white all over
        _show(row[0], images[number])
        row[1].imshow(masks[number, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        row[2].imshow(predicted[number, 0].float().numpy(), cmap="gray", vmin=0, vmax=1)
        _show(row[3], images[number])
        for mask, color in ((masks, TRUE_COLOR), (predicted, PREDICTED_COLOR)):
            _outline(row[3], (mask[number, 0] > 0.5).numpy(), color)
        names = ("image", "true mask", "predicted probability", f"IoU {iou[number]:.3f}")
        for axes, name in zip(row, names, strict=True):
            axes.set_title(name, fontsize=10)
    return save_figure(figure, path)


def box_samples(items: Sequence[Mapping[str, Any]], path: str | os.PathLike | None = None) -> Figure:
    """Image and mask of each item of PathMNISTBoxDataset, one below the other."""
    figure = new_figure(1.9 * len(items) + 0.4, 4.4)
    figure.suptitle(f"images with a drawn box, and its mask, n = {len(items)}")
    for item, (top, bottom) in zip(items, figure.subplots(2, len(items), squeeze=False).T, strict=True):
        _show(top, item["image"])
        bottom.imshow(item["mask"][0].cpu().numpy(), cmap="gray", vmin=0, vmax=1)
        top.axis("off")
        bottom.axis("off")
    return save_figure(figure, path)


def _show(axes: Any, image: torch.Tensor) -> None:
    """Draw one image (C, H, W) in [-1, 1], grey or RGB."""
    pixels = denormalize(image.cpu()).permute(1, 2, 0).numpy()  # (H, W, C)
    axes.imshow(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)


def _outline(axes: Any, mask: np.ndarray, color: str) -> None:
    """Draw the edges of a mask (H, W) of bool along its pixels, at the border of the image too."""
    from matplotlib.collections import LineCollection

    padded = np.pad(mask, 1)
    rows = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])  # edges between two rows: (y, x) of the lower pixel
    columns = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])  # between two columns: of the right one
    edges = [((x - 0.5, y - 0.5), (x + 0.5, y - 0.5)) for y, x in rows]
    edges += [((x - 0.5, y - 0.5), (x - 0.5, y + 0.5)) for y, x in columns]
    axes.add_collection(LineCollection(edges, colors=color, linewidths=2, capstyle="projecting", clip_on=False))


def _short(name: str, length: int = 36) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
