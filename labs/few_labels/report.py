"""The table and the picture: our points with their spread, and the published ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from labs.few_labels.recipe import METHODS
from toolkit.mean_sd import markdown, mean_sd_n
from toolkit.plots import new_figure, save_figure
from toolkit.runs import write_bytes

# Balanced accuracy on the whole official test split, ResNet-18 at 28 pixels, means of five trials: Huang, Jiang, Aeron,
# Hughes, "Systematic comparison of semi-supervised and self-supervised learning for medical image classification", CVPR
# 2024, figure C.1 of the appendix, read off to about half a point. From random weights, and from ImageNet weights.
PUBLISHED = {
    "labels only": (0.67, 0.795),
    "MixUp": (0.705, 0.74),
    "FixMatch": (0.79, 0.85),
    "FlexMatch": (0.815, 0.83),
    "MixMatch": (0.825, 0.835),
    "DINO": (0.825, 0.835),
    "CoMatch": (0.835, 0.85),
}
PUBLISHED_LABELS = 450
ALL_LABELS = 0.907  # accuracy of ResNet-18 at 28 pixels with all 89,996 labels (MedMNIST v2, Scientific Data 2023)
NOT_THE_SAME = (
    "Not the same as in the published comparison: 1,751 unlabelled images instead of about 89,500; a random tenth of "
    "the test images; network, augmentation and search budget; their values are read off a figure."
)
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#000000",
    "#56b4e9",
    "#999999",
    "#7f3c8d",
    "#117733",
)  # Okabe and Ito, and two more


def choose(runs: Mapping[Any, Sequence[Mapping[str, Any]]]) -> Any:
    """The point with the best mean balanced accuracy on validation images; of equal ones the first."""
    return max(runs, key=lambda point: fmean(run["validation"]["balanced_accuracy"] for run in runs[point]))


def write(
    folder: Path,
    runs: Mapping[Any, Sequence[Mapping[str, Any]]],
    found: Mapping[Any, Sequence[Mapping[str, Any]]],
    best: Any,
    *,
    quick: bool,
    where: str,
) -> str:
    """table.md and curve.png; prints and returns the table."""
    lines = []
    for point, several in found.items():
        trained = runs[point]
        lows, highs = zip(*(one["intervals"]["balanced_accuracy"] for one in several), strict=True)
        lines.append(
            [
                METHODS[point.method].title + (" (chosen)" if point == best else ""),
                point.labels,
                trained[0]["validation_images"],
                trained[0]["unlabelled_images"],
                mean_sd_n([one["balanced_accuracy"] for one in several], 3),
                f"{fmean(lows):.3f} to {fmean(highs):.3f}",
                mean_sd_n([one["accuracy"] for one in several], 3),
                mean_sd_n([run["validation"]["balanced_accuracy"] for run in trained], 3),
                f"{fmean(run['seconds'] for run in trained) / 60:.1f}",
            ]
        )
    heads = ["method", "labels", "validation images", "unlabelled", "balanced accuracy, test", "95 % interval (images)"]
    heads += ["accuracy, test", "balanced accuracy, validation", "minutes"]
    note = f"{where}. Test: 718 images of the official test split, another centre. {NOT_THE_SAME}"
    note += " QUICK RUN: these numbers mean nothing." if quick else ""
    text = f"{markdown(heads, lines)}\n\n{note}\n"
    write_bytes(folder / "table.md", text.encode())
    draw(found, folder / "curve.png", quick)
    print(f"\n{text}\nfiles in {folder}: table.md, curve.png, results.json, choices.json")
    return text


def draw(found: Mapping[Any, Sequence[Mapping[str, Any]]], path: Path, quick: bool) -> None:
    """Balanced accuracy over the number of labels, with bands of one standard deviation, and the published points."""
    methods = list(dict.fromkeys(point.method for point in found))
    figure = new_figure(5.2, 4.8 + 0.21 * len(methods))  # narrow and tall, with a line of legend for each: for a phone
    axes = figure.subplots()
    for color, method in zip(itertools.cycle(COLORS), methods, strict=False):
        points = sorted(
            (point.labels, [one["balanced_accuracy"] for one in found[point]])
            for point in found
            if point.method == method
        )
        labels, means = [count for count, _ in points], [fmean(values) for _, values in points]
        spread = [stdev(values) if len(values) > 1 else 0 for _, values in points]
        axes.plot(labels, means, "o-", color=color, label=METHODS[method].title)
        low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(labels, low, high, color=color, alpha=0.2, linewidth=0)
    small = {"fontsize": 7, "color": "0.35"}
    draw_published(axes, small)
    axes.axhline(ALL_LABELS, color="0.35", linestyle="--", linewidth=1)
    name = "MedMNIST's ResNet-18, 89,996 labels (accuracy)"
    axes.text(0.02, ALL_LABELS - 0.004, name, transform=axes.get_yaxis_transform(), va="top", **small)
    axes.set_xscale("log")
    ticks = sorted({45, 90, 225, 450, 600, *(point.labels for point in found)})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlim(0.9 * ticks[0], 10 * ticks[-1])  # room for names on the right
    axes.set(xlabel="labels", ylabel="balanced accuracy on another centre's images")
    axes.set_title("What a label is worth" + (" (quick: means nothing)" if quick else ""))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    save_figure(figure, path)


def draw_published(axes: Any, small: Mapping[str, Any]) -> None:
    """The published points at 450 labels: from random weights x, from ImageNet weights +; their names on the right."""
    lift = {0.815: -4, 0.79: -3, 0.83: -4, 0.835: 3, 0.85: 4}  # points: these values are close together
    for column, (marker, sign, place) in enumerate((("x", "\N{MULTIPLICATION SIGN}", 1.5), ("+", "+", 4.3))):
        label = f"published, 450 labels, from {('random', 'ImageNet')[column]} weights"
        for value in dict.fromkeys(pair[column] for pair in PUBLISHED.values()):
            axes.plot(PUBLISHED_LABELS, value, marker, color="0.35", label=label, zorder=3)
            label = "_"  # one line of the legend for all of them
            names = ", ".join(name for name, pair in PUBLISHED.items() if pair[column] == value)
            where = {"xytext": (0, lift.get(value, 0)), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{sign} {names}", (place * PUBLISHED_LABELS, value), **where, **small)
