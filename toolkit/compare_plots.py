"""Pictures of toolkit.compare: learning curves of each architecture, and quality over size."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, NullLocator

from toolkit.mean_sd import mean_and_sd
from toolkit.plots import new_figure, save_figure

# One colour and marker per architecture in every picture (Okabe and Ito's colours, told apart by the colour-blind).
STYLES = {"linear": ("#e69f00", "s"), "mlp": ("#0072b2", "o"), "cnn": ("#009e73", "^"), "unet": ("#d55e00", "D")}
SPARE = (("#cc79a7", "v"), ("#56b4e9", "P"), ("#7a5195", "X"), ("#5f6b00", "*"), ("#000000", "<"))


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each architecture; variants of one get the spare ones in turn."""
    others = [name for name in names if name not in STYLES]
    return STYLES | {name: SPARE[index % len(SPARE)] for index, name in enumerate(others)}


class Candidate(Protocol):
    """What is drawn of a toolkit.compare.Candidate."""

    runs: list[Any]  # of toolkit.compare.Run; all have the same `task`
    values: list[float]
    mean: float
    parameters: int | None


def draw_curves(task: str, best: Mapping[str, Candidate], data: object, path: Path) -> None:
    """The metric over epochs: validation strong with every seed faint, training dashed."""
    kind = next(iter(best.values())).runs[0].task
    column, label = kind.metric.removeprefix("best_"), kind.label
    drawing = new_figure(8, 4.6)
    axes = drawing.subplots()
    look_of = styles(best)
    for name, one in best.items():
        color, marker = look_of[name]
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
    """A panel for each task: the metric over the number of parameters, with the spread over seeds."""
    shown = [task for task in best if any(one.parameters for one in best[task].values())]
    drawing = new_figure(4.6 * max(1, len(shown)), 3.9)
    for axes, task in zip(drawing.subplots(1, max(1, len(shown)), squeeze=False)[0], shown, strict=False):
        look_of = styles(best[task])
        for name, one in best[task].items():
            if one.parameters:
                color, marker = look_of[name]
                _mean, spread = mean_and_sd(one.values)
                label, look = f"{name} (n={len(one.values)})", {"linestyle": "none", "capsize": 4, "markersize": 7}
                axes.errorbar(one.parameters, one.mean, spread, color=color, marker=marker, label=label, **look)
        label = next(iter(best[task].values())).runs[0].task.label
        axes.set(xlabel="parameters", ylabel=f"validation {label}", title=f"{task}, mean ± sd over seeds")
        axes.margins(x=0.2, y=0.15)
        label_sizes(axes)
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
    save_figure(drawing, path)


def label_sizes(axes: Any) -> None:
    """Make the x axis of Matplotlib axes logarithmic, with a few labels (1k, 2k, 5k) that never overlap."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    for locator in (LogLocator(numticks=5), LogLocator(subs=(1, 2, 5), numticks=5), MaxNLocator(4)):
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        if len(ticks) >= 2:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 6)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
