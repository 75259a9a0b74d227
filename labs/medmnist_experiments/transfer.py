"""Transfer from ImageNet: convolutions frozen, partly fine-tuned, or the same network from scratch.

python -m labs.medmnist_experiments.transfer
python -m labs.medmnist_experiments.transfer --backbone mobilenet_v2 --weights mobilenet_v2.pth
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from labs.medmnist_experiments import common
from toolkit.cli import OneLineParser, in_range, not_empty, run_script

if TYPE_CHECKING:
    import torch
    from torch import nn

    from labs.medmnist_experiments.common import Experiment
    from labs.medmnist_experiments.tasks import Task
    from toolkit.medmnist_data import Split
    from toolkit.runs import RunFolder

TITLES = {
    "frozen": "ImageNet weights, convolutions frozen",
    "partly": "ImageNet weights, partly fine-tuned",
    "scratch": "from scratch",
}
KEEP = "lower_loss"  # which epoch, see common.fit
EXTRA = ("epochs to the common loss", "seconds to the common loss")


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = common.build_parser(
        "transfer", __doc__.splitlines()[0], flag="breastmnist", epochs=20, seeds=3, batch_size=32
    )
    group = parser.add_argument_group("transfer")
    group.add_argument("--backbone", type=not_empty, default="vgg16", help="classifier of torchvision")
    group.add_argument("--weights", type=not_empty, metavar="PATH", help="its ImageNet state dict (else: download)")
    group.add_argument("--strategies", nargs="+", choices=tuple(TITLES), default=list(TITLES), help="rows of the table")
    group.add_argument("--image_size", type=in_range(int, 28, 512), default=64, help="pixels that the network sees")
    group.add_argument(
        "--trainable", type=in_range(float, 0, 1), default=0.5, help="'partly': share of the weights that may change"
    )
    group.add_argument(
        "--learning_rate", type=in_range(float, 0, open_low=True), default=0.001, help="head and scratch"
    )
    group.add_argument("--fine_learning_rate", type=in_range(float, 0, open_low=True), default=1e-4, help="pretrained")
    group.add_argument("--weight_decay", type=in_range(float, 0), default=0.01, help="of AdamW")
    group.add_argument("--ema_decay", type=in_range(float, 0, 0.99999), default=0.95, help="averaged weights; 0: none")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Train every strategy with every seed, then read the test split once."""
    args = build_parser().parse_args(argv)

    from labs.medmnist_experiments.tasks import Task
    from toolkit import backbones

    experiment = common.begin("transfer", args, dimensions=2, free=("strategies",))
    task = Task.of(experiment.source)
    backbones.build(args.backbone)  # a wrong name is said before anything else
    asked = list(dict.fromkeys(args.strategies))
    weights = backbones.find_weights(args.backbone, args.weights) if {"frozen", "partly"} & set(asked) else None
    run_now = [name for name in asked if weights is not None or name == "scratch"]
    build(experiment, task, run_now[0] if run_now else "scratch", weights)  # so are weights that do not fit
    runs = {}
    for name in run_now:
        runs[name] = common.run_seeds(
            experiment, name, lambda seed, run, name=name: train(experiment, task, name, weights, run)
        )
    test = experiment.open_test({name: [run["validation"] for run in found] for name, found in runs.items()})
    figures = {name: evaluate(experiment, task, name, weights, test) for name in run_now}
    speeds, target = convergence(runs)
    rows = [row(name, figures[name], speeds[name], task) if name in runs else not_run(name) for name in asked]
    if runs:
        draw(experiment, task, runs, figures, target)
    facts = {"runs": runs, "test": figures, "convergence": speeds, "common_validation_loss": target}
    common.report(experiment, rows, (*task.metrics, *EXTRA), facts)


def not_run(name: str) -> common.Row:
    """A line that says why there is no figure."""
    return common.Row(f"{TITLES[name]}: not run, no weights", {})


def sample_images(experiment: Experiment) -> torch.Tensor:
    """A few training images float32 (B, C, H, W) in [-1, 1]."""
    from toolkit.augment import normalize

    return normalize(experiment.source.read("train").images[:128])


def build(experiment: Experiment, task: Task, strategy: str, weights: dict[str, torch.Tensor] | None) -> nn.Module:
    """The network of a strategy, on the device."""
    from labs.medmnist_experiments import backbone
    from labs.medmnist_experiments.networks import place

    args, images = experiment.args, sample_images(experiment)
    given = None if strategy == "scratch" else weights
    net = backbone.build(args.backbone, given, task.outputs, args.image_size, images)
    net.freeze(backbone.frozen_blocks(net, strategy, args.trainable))
    return place(task.prepared(net), experiment.device)


def parameter_groups(model: nn.Module, strategy: str, head_rate: float, fine_rate: float) -> list[dict[str, Any]]:
    """The weights that learn: pretrained ones slowly, new ones at the full rate."""
    learning = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    pretrained = [weight for name, weight in learning if "features." in name and strategy != "scratch"]
    known = {id(weight) for weight in pretrained}
    new = [weight for _name, weight in learning if id(weight) not in known]
    groups = [{"params": new, "lr": head_rate}, {"params": pretrained, "lr": fine_rate}]
    return [group for group in groups if group["params"]]


def train(
    experiment: Experiment, task: Task, strategy: str, weights: dict[str, torch.Tensor] | None, run: RunFolder
) -> dict[str, Any]:
    """Train one seed of one strategy → facts for its results.json."""
    import torch

    from labs.medmnist_experiments import tasks
    from toolkit.transforms import ImageAugmentation

    args = experiment.args
    model = build(experiment, task, strategy, weights)
    mild = ImageAugmentation(rotation=10.0, scaling=0.1, shift=0.07, intensity=0.1)
    loaders = tasks.loaders(experiment, task, run.config["seed"], mild)
    groups = parameter_groups(model, strategy, args.learning_rate, args.fine_learning_rate)
    history = common.fit(
        experiment,
        run,
        model,
        loaders,
        keep=KEEP,
        optimizer=torch.optim.AdamW(groups, weight_decay=args.weight_decay),
        criterion=task.criterion(experiment.source.read("train").labels, weighted=False).to(experiment.device),
        ema_decay=args.ema_decay,
    )
    found = tasks.predict(experiment, task, model, loaders[1])
    return {
        "validation": task.figures(found, experiment.source.read("val").labels.numpy()),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_that_learn": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "history": history,
        "seconds_an_epoch": run.seconds_so_far() / len(history["val_loss"]),
    }


def evaluate(
    experiment: Experiment, task: Task, name: str, weights: dict[str, torch.Tensor] | None, test: Split
) -> list[dict[str, Any]]:
    """Test figures of each seed of a strategy."""
    from labs.medmnist_experiments import tasks
    from toolkit.runs import RunFolder

    loader, found = tasks.evaluation_loader(experiment, task, test), []
    for seed in experiment.seeds:
        run = RunFolder.open(common.run_path(experiment, name, seed))
        model = common.restore(build(experiment, task, name, weights), run, KEEP)
        found.append(task.figures(tasks.predict(experiment, task, model, loader), test.labels.numpy()))
    return found


def convergence(runs: dict[str, list[dict[str, Any]]]) -> tuple[dict[str, list[dict[str, Any]]], float | None]:
    """When does each run reach a validation loss that all strategies reach? → epochs and seconds, and that loss.

    The common loss is the highest of the strategies' mean best losses. A run that never reaches it has None.
    """
    if not runs:
        return {}, None
    best = {name: statistics.fmean(min(run["history"]["val_loss"]) for run in found) for name, found in runs.items()}
    target = max(best.values())
    speeds: dict[str, list[dict[str, Any]]] = {}
    for name, found in runs.items():
        speeds[name] = []
        for run in found:
            epoch = next((e for e, loss in enumerate(run["history"]["val_loss"], start=1) if loss <= target), None)
            seconds = None if epoch is None else epoch * run["seconds_an_epoch"]
            speeds[name].append({"epochs": epoch, "seconds": seconds})
    return speeds, target


def row(name: str, figures: list[dict[str, Any]], speed: list[dict[str, Any]], task: Task) -> common.Row:
    """A line of the table: test figures, and how soon the common loss was reached by the seeds that did."""
    values = {key: [found[key] for found in figures if found[key] is not None] for key in task.metrics}
    for key, title in zip(("epochs", "seconds"), EXTRA, strict=True):
        values[title] = [found[key] for found in speed if found[key] is not None]
    return common.Row(TITLES[name], values)


def draw(
    experiment: Experiment, task: Task, runs: dict[str, Any], figures: dict[str, Any], target: float | None
) -> None:
    """One picture: validation loss over epochs (speed), its spread (stability), and the test figures of every seed."""
    from labs.medmnist_experiments import pictures
    from toolkit.plots import new_figure, save_figure

    figure = new_figure(13, 4.4)
    figure.suptitle(
        f"{experiment.args.backbone} on {experiment.source.name}, n = {len(experiment.seeds)} seeds a strategy"
    )
    curves, *scores = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    for color, (name, found) in zip(pictures.COLORS, runs.items(), strict=False):
        pictures.bundle(curves, [run["history"] for run in found], "val_loss", color, TITLES[name])
    if target is not None:
        curves.axhline(target, color="0.4", linestyle=":", label="loss that all reach")
    curves.set(xlabel="epoch", ylabel="validation loss (nats)")
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.grid(alpha=0.3)
    curves.legend(fontsize=8)
    references = common.references(experiment)
    for axes, metric in zip(scores, task.metrics, strict=False):
        rows = {name: [one[metric] for one in found if one[metric] is not None] for name, found in figures.items()}
        pictures.dots(axes, rows, f"test {metric.replace('_', ' ')}", references.get(metric))
    scores[-1].set_yticklabels([])
    save_figure(figure, experiment.folder / "comparison.png")


if __name__ == "__main__":
    run_script(main)
