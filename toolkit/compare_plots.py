"""Pictures of toolkit.compare: learning curves of each architecture, and quality over size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from toolkit.plots import new_figure, save_figure

# One colour and marker for an architecture in every picture (Okabe and Ito's colours, told apart by the colour-blind).
STYLES = {"linear": ("#e69f00", "s"), "mlp": ("#0072b2", "o"), "cnn": ("#009e73", "^"), "unet": ("#d55e00", "D")}
SPARE = ("#cc79a7", "v")


class Candidate(Protocol):
    """What is drawn of a toolkit.compare.Candidate."""

    runs: list[Any]  # of toolkit.compare.Run; all have the same `task`
    values: list[float]
    mean: float
    parameters: int | None


def draw_curves(task: str, best: Mapping[str, Candidate], data: object, path: Path) -> None:
    """The figure over epochs: validation strong with every seed faint, training dashed."""
    kind = next(iter(best.values())).runs[0].task
    column, label = kind.metric.removeprefix("best_"), kind.label
    drawing = new_figure(8, 4.6)
    axes = drawing.subplots()
    for name, one in best.items():
        color, marker = STYLES.get(name, SPARE)
        histories = [run.results["history"] for run in one.runs]
        for history in histories:
            axes.plot(range(1, len(history[column]) + 1), history[column], color=color, alpha=0.3, linewidth=1)
        for which, line in ((column, "-"), (column.replace("val_", "train_"), "--")):
            curves = [history[which] for history in histories if which in history]
            # Seeds that stopped early are shorter: the mean goes as far as all of them do.
            mean = [statistics.fmean(values) for values in zip(*curves, strict=False)]
            legend = f"{name} (n={len(curves)})" if line == "-" else None
            axes.plot(range(1, len(mean) + 1), mean, line, color=color, marker=marker if legend else None, label=legend)
    axes.plot([], [], "-", color="0.3", label="validation, mean over seeds")
    axes.plot([], [], "--", color="0.3", label="training, while it learns")
    axes.set(xlabel="epoch", ylabel=label, title=f"{task} on {data}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save_figure(drawing, path)


def draw_sizes(best: Mapping[str, Mapping[str, Candidate]], path: Path) -> None:
    """A panel for each task: the figure over the number of parameters, with the spread over seeds."""
    from matplotlib.ticker import EngFormatter

    shown = [task for task in best if any(one.parameters for one in best[task].values())]
    drawing = new_figure(4.6 * max(1, len(shown)), 3.9)
    for axes, task in zip(drawing.subplots(1, max(1, len(shown)), squeeze=False)[0], shown, strict=False):
        for name, one in best[task].items():
            if one.parameters:
                color, marker = STYLES.get(name, SPARE)
                spread = statistics.stdev(one.values) if len(one.values) > 1 else None
                label, look = f"{name} (n={len(one.values)})", {"linestyle": "none", "capsize": 4, "markersize": 7}
                axes.errorbar(one.parameters, one.mean, spread, color=color, marker=marker, label=label, **look)
        label = next(iter(best[task].values())).runs[0].task.label
        axes.set(xlabel="parameters", ylabel=f"validation {label}", title=f"{task}, mean ± sd over seeds")
        axes.set_xscale("log")
        for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            axis(EngFormatter(places=0, sep=""))
        axes.tick_params(axis="x", which="both", labelsize=8)
        axes.margins(x=0.2, y=0.15)
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
    save_figure(drawing, path)
