"""What does augmentation bring? A 2D CNN without any, with each transformation alone, with all, with those that help.

python -m labs.medmnist_experiments.augmentation
python -m labs.medmnist_experiments.augmentation --flag pneumoniamnist --rows none all
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labs.medmnist_experiments import common
from toolkit.cli import OneLineParser, in_range, run_script

if TYPE_CHECKING:
    from argparse import Namespace

    from torch import nn

    from labs.medmnist_experiments.common import Experiment
    from labs.medmnist_experiments.tasks import Task
    from toolkit.medmnist_data import Split
    from toolkit.runs import RunFolder
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
KEEP = "lower_loss"  # which epoch, see common.fit
STEPS, FEWEST_EPOCHS = 1400, 6  # of training, where --epochs is not given: small and large sets learn equally long


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = common.build_parser("augmentation", __doc__.splitlines()[0], flag="breastmnist", epochs=1)
    parser.set_defaults(epochs=None)
    group = parser.add_argument_group("augmentation")
    group.add_argument("--rows", nargs="+", choices=ROWS, default=list(DEFAULT_ROWS), help="what is compared")
    group.add_argument("--metric", choices=("auc", "accuracy"), default="auc", help="figure whose gain is reported")
    group.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.003, help="of AdamW")
    group.add_argument("--weight_decay", type=in_range(float, 0), default=0.05, help="of AdamW")
    group.add_argument("--dropout", type=in_range(float, 0, 0.95), default=0.5, help="before the last dense layer")
    group.add_argument("--ema_decay", type=in_range(float, 0, 0.99999), default=0.98, help="averaged weights; 0: none")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Train every row with every seed, then read the test split once."""
    args = build_parser().parse_args(argv)

    names = rows_to_train(args.rows)
    experiment, task = begin(args)
    runs: dict[str, list[dict[str, Any]]] = {}
    train_rows(experiment, task, names, runs)
    if CHOSEN in args.rows:
        train_rows(experiment, task, [chosen(runs, args.metric)], runs)
    draw_samples(experiment, list(runs))
    draw_curves(experiment, runs)
    test = experiment.open_test({name: [run["validation"] for run in found] for name, found in runs.items()})
    figures = {name: evaluate(experiment, task, name, test) for name in runs}
    rows = [row(name, runs[name], figures, args.metric, task) for name in runs]
    draw_comparison(experiment, task, rows)
    metrics = (*task.metrics, f"gain in {args.metric}", f"validation {args.metric}")
    common.report(experiment, rows, metrics, {"runs": runs, "test": figures})


def rows_to_train(asked: list[str]) -> list[str]:
    """Without "chosen", which is known later, and with what the others need: every gain is over "none"."""
    plain = [name for name in asked if name != CHOSEN]
    parts = PARTS if CHOSEN in asked and not set(PARTS) & set(plain) else ()  # something to choose from
    return list(dict.fromkeys(["none", *plain, *parts]))


def train_rows(experiment: Experiment, task: Task, names: list[str], runs: dict[str, list[dict[str, Any]]]) -> None:
    """Train every seed of each row and put the results into `runs`."""
    for name in names:
        runs[name] = common.run_seeds(experiment, name, lambda seed, run, name=name: train(experiment, task, name, run))


def chosen(runs: Mapping[str, list[dict[str, Any]]], metric: str) -> str:
    """Name of the row of those parts that raise the mean of `metric` on validation images; "none" if none does."""

    def mean(name: str) -> float:
        found = [run["validation"][metric] for run in runs[name] if run["validation"][metric] is not None]
        return statistics.fmean(found) if found else math.nan

    helpful = [name for name in PARTS if name in runs and mean(name) > mean("none")]
    print(f"chosen on validation images: {', '.join(helpful) or 'no augmentation'}")
    return "+".join(helpful) or "none"


def begin(args: Namespace) -> tuple[Experiment, Task]:
    """Settle data, machine and folder, and how many epochs it takes."""
    from labs.medmnist_experiments.tasks import Task

    experiment = common.begin("augmentation", args, dimensions=2, free=("rows", "metric"))
    task = Task.of(experiment.source)
    task.check_metric(args.metric)
    args.epochs = args.epochs or max(FEWEST_EPOCHS, round(STEPS * args.batch_size / experiment.source.count("train")))
    return experiment, task


def named(name: str) -> ImageAugmentation | None:
    """The augmentation of a row: none, all, parts joined by +, or all without one."""
    from toolkit.transforms import ImageAugmentation

    if name == "none":
        return None
    left_out = name.removeprefix("without-") if name.startswith("without-") else None
    parts = [part for part in PARTS if part in name.split("+") or ((name == "all" or left_out) and part != left_out)]
    return ImageAugmentation(**{key: value for part in parts for key, value in PARTS[part].items()})


def build(experiment: Experiment, task: Task) -> nn.Module:
    """The network with random weights, on the device."""
    from labs.medmnist_experiments.networks import ConvNet, place

    network = ConvNet(2, experiment.source.channels, task.outputs, STAGES, dropout=experiment.args.dropout)
    return place(task.prepared(network), experiment.device)


def train(experiment: Experiment, task: Task, name: str, run: RunFolder) -> dict[str, Any]:
    """Train one seed of one row → facts for its results.json; everything but the augmentation is equal."""
    import torch

    from labs.medmnist_experiments import tasks

    args = experiment.args
    model = build(experiment, task)
    loaders = tasks.loaders(experiment, task, run.config["seed"], named(name))
    criterion = task.criterion(experiment.source.read("train").labels, weighted=False)
    history = common.fit(
        experiment,
        run,
        model,
        loaders,
        keep=KEEP,
        optimizer=torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay),
        criterion=criterion.to(experiment.device),
        ema_decay=args.ema_decay,
    )
    found = tasks.predict(experiment, task, model, loaders[1])
    return {
        "validation": task.figures(found, experiment.source.read("val").labels.numpy()),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history": history,
    }


def trained(experiment: Experiment, task: Task, name: str, seed: int) -> nn.Module:
    """The network of a finished run."""
    from toolkit.runs import RunFolder

    run = RunFolder.open(common.run_path(experiment, name, seed))
    return common.restore(build(experiment, task), run, KEEP)


def evaluate(experiment: Experiment, task: Task, name: str, test: Split) -> list[dict[str, Any]]:
    """Test figures of each seed of a row."""
    from labs.medmnist_experiments import tasks

    loader = tasks.evaluation_loader(experiment, task, test)
    models = [trained(experiment, task, name, seed) for seed in experiment.seeds]
    return [task.figures(tasks.predict(experiment, task, model, loader), test.labels.numpy()) for model in models]


def row(
    name: str,
    runs: list[dict[str, Any]],
    figures: Mapping[str, list[dict[str, Any]]],
    metric: str,
    task: Task,
) -> common.Row:
    """A line of the table; the gain is over the run without augmentation that started from the same weights."""
    mine = figures[name]
    values = {key: [found[key] for found in mine if found[key] is not None] for key in task.metrics}
    if name != "none":
        pairs = zip(mine, figures["none"], strict=True)
        gains = [one[metric] - other[metric] for one, other in pairs if None not in (one[metric], other[metric])]
        values[f"gain in {metric}"] = gains
    known = [run["validation"][metric] for run in runs]
    values[f"validation {metric}"] = [value for value in known if value is not None]
    return common.Row(row_title(name), values)


def row_title(name: str) -> str:
    """A row's name in words."""
    titles = {"none": "no augmentation", "all": "all together"}
    if name.startswith("without-"):
        return f"without {name.removeprefix('without-')}"
    return titles.get(name, f"{name.replace('+', ', ')} together" if "+" in name else f"{name} alone")


def draw_samples(experiment: Experiment, names: list[str]) -> None:
    """Training images as they are and as each row changes them."""
    import torch

    from labs.medmnist_experiments import pictures
    from toolkit.augment import normalize

    images = experiment.source.read("train").images[:8]
    rows = {}
    for name in names:
        change = named(name)
        rows[name] = change(images, torch.Generator().manual_seed(1)) if change else normalize(images)
    title = f"{experiment.source.name}: training images as each row of the table sees them"
    pictures.image_rows(rows, title, experiment.folder / "augmented.png")


def draw_curves(experiment: Experiment, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Validation loss and accuracy over epochs without augmentation and with several parts of it."""
    from labs.medmnist_experiments import pictures

    several = [name for name in runs if name == "all" or "+" in name] or [list(runs)[-1]]
    shown = {name: [run["history"] for run in runs[name]] for name in dict.fromkeys(["none", *several])}
    title = f"2D CNN on {experiment.source.name}, without and with augmentation"
    pictures.curves(shown, title, experiment.folder / "curves.png")


def draw_comparison(experiment: Experiment, task: Task, rows: list[common.Row]) -> None:
    """Every row's test figures, seed by seed, beside MedMNIST's ResNet-18."""
    from labs.medmnist_experiments import pictures

    figures = {one.title: one.values for one in rows}
    average = statistics.fmean(len(one.values[task.metrics[0]]) for one in rows)
    title = f"{experiment.source.name}, test, n = {average:.0f} seeds: dots are seeds, bars their means"
    references = common.references(experiment)
    pictures.comparison(figures, task.metrics[:2], references, title, experiment.folder / "comparison.png")


if __name__ == "__main__":
    run_script(main)
