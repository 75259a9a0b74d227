"""The study's pictures, drawn from results.json; a function whose part of the study was not run draws nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labs.pathmnist_resnet18.src.wording import change
from toolkit import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Any]
COLORS = (plots.TRUE_COLOR, plots.PREDICTED_COLOR, "#7570b3")  # ColorBrewer Dark2, distinct for colour-blind readers
MEASURES = ("precision", "recall", "f1")


def draw_all(results: Results, folder: Path) -> None:
    """Every picture whose results are there; one that was drawn from older results is removed."""
    draw = {
        "loss_curve.png": lambda path: curves(results, "loss", "loss (nats)", path),
        "accuracy_curve.png": lambda path: curves(results, "acc", "accuracy", path),
        "search.png": lambda path: search_bars(results, path),
        "ablation.png": lambda path: ablation_points(results, path),
        "confusion_matrix.png": lambda path: confusion(results, path),
        "per_class_bars.png": lambda path: per_class_bars(results, path),
    }
    for name, make in draw.items():
        (folder / name).unlink(missing_ok=True)
        make(folder / name)


def curves(results: Results, metric: str, label: str, path: Path | None) -> Figure | None:
    """One panel for each training of the whole training set: training and validation over epochs."""
    runs = [(name, results[name]) for name in ("baseline", "final") if results[name]]
    if not runs:
        return None
    figure = plots.new_figure(4.6 * len(runs), 3.7)
    figure.suptitle(f"{results['data']['name']}: {label} over epochs")
    panels = figure.subplots(1, len(runs), squeeze=False, sharey=True)[0]
    for axes, (name, run) in zip(panels, runs, strict=True):
        history = run["history"]
        epochs = range(1, len(history["val_loss"]) + 1)
        n = {"train": run["train_images"], "val": run["validation"]["n"]}
        for split, color in (("train", plots.PREDICTED_COLOR), ("val", plots.TRUE_COLOR)):
            text = f"{split}, n = {n[split]:,}"
            axes.plot(epochs, history[f"{split}_{metric}"], color=color, marker="o", markersize=3, label=text)
        axes.axvline(run["best_epoch"], color="0.6", linestyle=":", linewidth=1, label="best epoch")
        axes.set(xlabel="epoch", title=f"{name} (seed {run['seed']})")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel(label)
    return plots.save_figure(figure, path)


def search_bars(results: Results, path: Path | None) -> Figure | None:
    """Validation accuracy of each configuration of the search, best at the top."""
    search = results["search"]
    if not search:
        return None
    rows = search["rows"][::-1]
    names = [", ".join(str(row["settings"][flag]) for flag in search["flags"] if flag != "seed") for row in rows]
    figure = plots.new_figure(7, 1.3 + 0.36 * len(rows))
    axes = figure.subplots()
    axes.barh(range(len(rows)), [row["mean"] for row in rows], color=plots.TRUE_COLOR)
    for place, row in enumerate(rows):
        axes.text(row["mean"] + 0.01, place, f"{row['mean']:.3f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), names)
    n = results["data"]["images"]["val"]
    axes.set(xlim=(0, 1.1), xlabel=f"validation accuracy, n = {n:,}", title=f"search on {results['data']['name']}")
    return plots.save_figure(figure, path)


def ablation_points(results: Results, path: Path | None) -> Figure | None:
    """Validation accuracy of each change: every seed a dot, the mean a bar, the first row's mean a line."""
    ablation = results["ablation"]
    if not ablation:
        return None
    rows = ablation["rows"][::-1]
    figure = plots.new_figure(7, 1.3 + 0.36 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.plot([row["mean"]] * 2, [place - 0.3, place + 0.3], color=plots.PREDICTED_COLOR, linewidth=2)
        axes.plot(row["values"], [place] * row["n"], "o", color=plots.TRUE_COLOR, markersize=5)
    axes.axvline(rows[-1]["mean"], color="0.6", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), [change(row["change"]) for row in rows])
    n = results["data"]["images"]["val"]
    axes.set(xlabel=f"validation accuracy, n = {n:,}\ndots: seeds; bar: mean; dotted line: no change")
    axes.set_title(f"one change at a time, {results['data']['name']}")
    axes.grid(alpha=0.3, axis="x")
    return plots.save_figure(figure, path)


def confusion(results: Results, path: Path | None) -> Figure | None:
    """Confusion matrix of the final model on the test images."""
    final = results["final"]
    if not final:
        return None
    title = f"final model, test images of {final['dataset']}"
    return plots.confusion(np.array(final["test"]["confusion_matrix"]), final["classes"], title, path)


def per_class_bars(results: Results, path: Path | None) -> Figure | None:
    """Precision, recall and F1 of each class on the test images."""
    final = results["final"]
    if not final:
        return None
    rows, test = final["test"]["per_class"], final["test"]
    figure = plots.new_figure(9, 5.4)
    axes = figure.subplots()
    for number, measure in enumerate(MEASURES):
        places = np.arange(len(rows)) + (number - 1) * 0.27
        label = {"f1": "F1"}.get(measure, measure)
        axes.bar(places, [row[measure] for row in rows], width=0.25, color=COLORS[number], label=label)
    names = [f"{name} ({row['support']:,})" for name, row in zip(final["classes"], rows, strict=True)]
    axes.set_xticks(range(len(rows)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set(ylim=(0, 1.16), ylabel="score", title=f"final model, test images of {final['dataset']}, n = {test['n']:,}")
    axes.set_xlabel("class (test images)")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(ncols=3, loc="upper center")
    return plots.save_figure(figure, path)
