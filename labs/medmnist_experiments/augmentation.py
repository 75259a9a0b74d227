"""What does augmentation bring? A 2D CNN without any, with each transformation alone, with all, with those that help.

python -m labs.medmnist_experiments.augmentation
python -m labs.medmnist_experiments.augmentation --flag pneumoniamnist --rows none all
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labs.medmnist_experiments import common, pictures
from labs.medmnist_experiments.command_line import shared_parser
from labs.medmnist_experiments.common import Experiment, Network
from labs.medmnist_experiments.networks import ConvNet, place
from toolkit.augment import normalize
from toolkit.cli import OneLineParser, from_flags, in_range, run_script
from toolkit.runs import RunFolder
from toolkit.study import TableRow
from toolkit.transforms import ImageAugmentation

# Each moves pixels by a few of 28 at most, which a radiologist would not notice as another finding.
PARTS: dict[str, dict[str, Any]] = {
    "flips": {"mirror": True},
    "rotation": {"rotation": 15.0},  # degrees
    "scaling": {"scaling": 0.15},  # zoom from 0.86 to 1.16
    "shift": {"shift": 0.1},  # of the side: 3 pixels
    "intensity": {"intensity": 0.2},
    "erasing": {"erasing": 0.25},  # of the side: a square of 7 pixels
}
CHOSEN = "chosen"  # the parts that helped on validation images, together
ROWS = ("none", *PARTS, "all", *(f"without-{name}" for name in PARTS), CHOSEN)
DEFAULT_ROWS = ("none", *PARTS, "all", CHOSEN)
STAGES = ((32,), (64,), (128,))  # widths of the convolutions at 28, 14 and 7 pixels
STEPS, FEWEST_EPOCHS = 1400, 6  # of training, where --epochs is not given: small and large sets train equally long


def build_parser() -> OneLineParser:
    """The flags of all experiments and those of this one."""
    parser = shared_parser("augmentation", __doc__.splitlines()[0], flag="breastmnist", epochs=None)
    group = parser.add_argument_group("augmentation")
    group.add_argument("--rows", nargs="+", choices=ROWS, default=list(DEFAULT_ROWS), help="what is compared")
    group.add_argument("--metric", choices=("auc", "accuracy"), default="auc", help="metric whose gain is reported")
    group.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.003, help="of AdamW")
    group.add_argument("--weight_decay", type=in_range(float, 0), default=0.05, help="of AdamW")
    group.add_argument("--dropout", type=in_range(float, 0, 0.95), default=0.5, help="before the last dense layer")
    group.add_argument("--ema_decay", type=in_range(float, 0, 0.99999), default=0.98, help="averaged weights; 0: none")
    return parser


@dataclass(frozen=True)
class Recipe:
    """How the network is trained; the same for every row."""

    learning_rate: float
    weight_decay: float
    dropout: float
    ema_decay: float


def main(argv: list[str] | None = None) -> None:
    """Train every row with every seed, then read the test split once."""
    args = build_parser().parse_args(argv)
    experiment = begin(vars(args), args.metric)
    recipe = from_flags(Recipe, vars(args))
    networks = {name: network(experiment, recipe, name) for name in rows_to_train(args.rows)}
    runs = common.train_all(experiment, networks)
    if CHOSEN in args.rows:
        best = chosen(runs, args.metric)
        networks[best] = network(experiment, recipe, best)
        runs |= common.train_all(experiment, {best: networks[best]})
    draw_samples(experiment, list(runs))
    draw_curves(experiment, runs)
    found = common.measure_on_test(experiment, networks, runs)
    rows = [row(name, runs[name], found, args.metric, experiment.task.metrics) for name in runs]
    draw_comparison(experiment, rows)
    metrics = (*experiment.task.metrics, f"gain in {args.metric}", f"validation {args.metric}")
    common.report(experiment, rows, metrics, {"runs": runs, "test": found})


def begin(flags: Mapping[str, Any], metric: str) -> Experiment:
    """Find data, machine and folder, and how many epochs it takes."""

    def epochs_for(source: Any) -> int:
        return max(FEWEST_EPOCHS, round(STEPS * flags["batch_size"] / source.count("train")))

    experiment = common.begin("augmentation", flags, dimensions=2, free=("rows", "metric"), epochs_for=epochs_for)
    experiment.task.check_metric(metric)
    return experiment


def finished_networks(words: list[str], row: str = "all") -> tuple[Experiment, list[nn.Module]]:
    """The networks of a command line and one row, one per seed, from their folder or trained into it."""
    args = build_parser().parse_args(words)
    experiment = begin(vars(args), args.metric)
    one = network(experiment, from_flags(Recipe, vars(args)), row)
    common.train_all(experiment, {row: one})
    return experiment, [common.trained(experiment, row, seed, one.build()) for seed in experiment.seeds]


def rows_to_train(asked: list[str]) -> list[str]:
    """Without "chosen", which is known later, and with what the others need: every gain is over "none"."""
    plain = [name for name in asked if name != CHOSEN]
    parts = PARTS if CHOSEN in asked and not set(PARTS) & set(plain) else ()  # something to choose from
    return list(dict.fromkeys(["none", *plain, *parts]))


def chosen(runs: Mapping[str, list[dict[str, Any]]], metric: str) -> str:
    """Name of the row of those parts that raise the mean of `metric` on validation images; "none" if none does."""

    def mean(name: str) -> float:
        found = [run["validation"][metric] for run in runs[name] if run["validation"][metric] is not None]
        return statistics.fmean(found) if found else math.nan

    helpful = [name for name in PARTS if name in runs and mean(name) > mean("none")]
    print(f"chosen on validation images: {', '.join(helpful) or 'no augmentation'}")
    return "+".join(helpful) or "none"


def named(name: str) -> ImageAugmentation | None:
    """The augmentation of a row: none, all, parts joined by +, or all without one."""
    if name == "none":
        return None
    left_out = name.removeprefix("without-") if name.startswith("without-") else None
    parts = [part for part in PARTS if part in name.split("+") or ((name == "all" or left_out) and part != left_out)]
    return ImageAugmentation(**{key: value for part in parts for key, value in PARTS[part].items()})


def network(experiment: Experiment, recipe: Recipe, name: str) -> Network:
    """One row; everything but the augmentation is the same in all of them."""

    def build() -> nn.Module:
        plain = ConvNet(2, experiment.source.channels, experiment.task.outputs, STAGES, dropout=recipe.dropout)
        return place(experiment.task.prepared(plain), experiment.device)

    def train(run: RunFolder) -> dict[str, Any]:
        model = build()
        return common.fit(
            experiment,
            run,
            model,
            experiment.loaders(run.config["seed"], named(name)),
            optimizer=torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
            criterion=experiment.criterion(),
            ema_decay=recipe.ema_decay,
        )

    return Network(build, train)


def row(
    name: str,
    runs: list[dict[str, Any]],
    found: Mapping[str, list[dict[str, Any]]],
    metric: str,
    metrics: tuple[str, ...],
) -> TableRow:
    """A line of the table; the gain is over the run without augmentation that started from the same weights."""
    values = common.values_of(found[name], metrics)
    if name != "none":
        pairs = [(one[metric], base[metric]) for one, base in zip(found[name], found["none"], strict=True)]
        values[f"gain in {metric}"] = [value - base for value, base in pairs if None not in (value, base)]
    values[f"validation {metric}"] = common.values_of((run["validation"] for run in runs), [metric])[metric]
    return TableRow(row_title(name), values)


def row_title(name: str) -> str:
    """A row's name in words."""
    titles = {"none": "no augmentation", "all": "all together"}
    if name.startswith("without-"):
        return f"without {name.removeprefix('without-')}"
    return titles.get(name, f"{name.replace('+', ', ')} together" if "+" in name else f"{name} alone")


def draw_samples(experiment: Experiment, names: list[str]) -> None:
    """Training images as they are and as each row changes them."""
    images = experiment.source.read("train").images[:8]
    rows = {}
    for name in names:
        change = named(name)
        rows[name] = change(images, torch.Generator().manual_seed(1)) if change else normalize(images)
    title = f"{experiment.source.name}: training images as each row of the table sees them"
    pictures.image_rows(rows, title, experiment.folder / "augmented.png")


def draw_curves(experiment: Experiment, runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """Validation loss and accuracy over epochs without augmentation and with several parts of it."""
    several = [name for name in runs if name == "all" or "+" in name] or [list(runs)[-1]]
    shown = {name: [run["history"] for run in runs[name]] for name in dict.fromkeys(["none", *several])}
    title = f"2D CNN on {experiment.source.name}, without and with augmentation"
    pictures.curves(shown, title, experiment.folder / "curves.png")


def draw_comparison(experiment: Experiment, rows: list[TableRow]) -> None:
    """Test metrics of every row, seed by seed, next to MedMNIST's ResNet-18."""
    shown = {one.title: one.values for one in rows}
    title = f"{experiment.source.name}, test, n = {len(experiment.seeds)} seeds: dots are seeds, bars their means"
    path = experiment.folder / "comparison.png"
    pictures.comparison(shown, experiment.task.metrics[:2], common.references(experiment), title, path)


if __name__ == "__main__":
    run_script(main)
