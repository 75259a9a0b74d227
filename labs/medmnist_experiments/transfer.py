"""Transfer from ImageNet: convolutions frozen, partly fine-tuned, or the same network from scratch.

python -m labs.medmnist_experiments.transfer
python -m labs.medmnist_experiments.transfer --backbone mobilenet_v2 --weights mobilenet_v2.pth
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labs.medmnist_experiments import backbone, common, pictures
from labs.medmnist_experiments.command_line import shared_parser
from labs.medmnist_experiments.common import Experiment, Network
from labs.medmnist_experiments.networks import place
from toolkit import backbones
from toolkit.augment import normalize
from toolkit.cli import OneLineParser, from_flags, in_range, not_empty, run_script
from toolkit.plots import new_figure, save_figure
from toolkit.runs import RunFolder
from toolkit.study import TableRow
from toolkit.transforms import ImageAugmentation

TITLES = {
    "frozen": "ImageNet weights, convolutions frozen",
    "partly": "ImageNet weights, partly fine-tuned",
    "scratch": "from scratch",
}
MILD = ImageAugmentation(rotation=10.0, scaling=0.1, shift=0.07, intensity=0.1)
EXTRA = ("epochs to the common loss", "seconds to the common loss")


def build_parser() -> OneLineParser:
    """The flags of all experiments and those of this one."""
    parser = shared_parser("transfer", __doc__.splitlines()[0], flag="breastmnist", epochs=20, seeds=3, batch_size=32)
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


@dataclass(frozen=True)
class Recipe:
    """How all strategies are trained. learning_rate: of new weights; fine_learning_rate: of pretrained ones."""

    backbone: str
    image_size: int
    trainable: float
    learning_rate: float
    fine_learning_rate: float
    weight_decay: float
    ema_decay: float


def main(argv: list[str] | None = None) -> None:
    """Train every strategy with every seed, then read the test split once."""
    args = build_parser().parse_args(argv)
    recipe = from_flags(Recipe, vars(args))
    experiment = common.begin("transfer", vars(args), dimensions=2, free=("strategies",))
    backbones.build(args.backbone)  # a wrong name is reported before anything else
    asked = list(dict.fromkeys(args.strategies))
    weights = backbones.find_weights(args.backbone, args.weights) if {"frozen", "partly"} & set(asked) else None
    networks = {
        name: network(experiment, recipe, name, None if name == "scratch" else weights)
        for name in asked
        if name == "scratch" or weights is not None
    }
    for one in list(networks.values())[:1]:
        one.build()  # so are weights that do not fit
    runs = common.train_all(experiment, networks)
    found = common.measure_on_test(experiment, networks, runs) if runs else {}
    speeds, target = convergence(runs)
    rows = []
    for name in asked:
        known = name in runs
        title = TITLES[name] if known else f"{TITLES[name]}: not run, no weights"
        rows.append(TableRow(title, values(found[name], speeds[name], experiment.task.metrics) if known else {}))
    if runs:
        draw(experiment, recipe.backbone, runs, found, target)
    facts = {"runs": runs, "test": found, "convergence": speeds, "common_validation_loss": target}
    common.report(experiment, rows, (*experiment.task.metrics, *EXTRA), facts)


def network(
    experiment: Experiment, recipe: Recipe, strategy: str, weights: Mapping[str, torch.Tensor] | None
) -> Network:
    """One row: the backbone with or without weights, the same training for all."""

    def build() -> nn.Module:
        images = normalize(experiment.source.read("train").images[:128])
        given = None if weights is None else dict(weights)
        net = backbone.build(recipe.backbone, given, experiment.task.outputs, recipe.image_size, images)
        net.freeze(backbone.frozen_blocks(net, strategy, recipe.trainable))
        return place(experiment.task.prepared(net), experiment.device)

    def train(run: RunFolder) -> dict[str, Any]:
        model = build()
        groups = parameter_groups(model, strategy, recipe.learning_rate, recipe.fine_learning_rate)
        facts = common.fit(
            experiment,
            run,
            model,
            experiment.loaders(run.config["seed"], MILD),
            optimizer=torch.optim.AdamW(groups, weight_decay=recipe.weight_decay),
            criterion=experiment.criterion(),
            ema_decay=recipe.ema_decay,
        )
        return {**facts, "seconds_an_epoch": run.seconds_so_far() / facts["epochs"]}

    return Network(build, train)


def parameter_groups(model: nn.Module, strategy: str, head_rate: float, fine_rate: float) -> list[dict[str, Any]]:
    """The weights that learn: pretrained ones slowly, new ones at the full rate."""
    learning = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    pretrained = [weight for name, weight in learning if "features." in name and strategy != "scratch"]
    known = {id(weight) for weight in pretrained}
    new = [weight for _name, weight in learning if id(weight) not in known]
    groups = [{"params": new, "lr": head_rate}, {"params": pretrained, "lr": fine_rate}]
    return [group for group in groups if group["params"]]


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


def values(
    found: list[dict[str, Any]], speed: list[dict[str, Any]], metrics: tuple[str, ...]
) -> dict[str, list[float]]:
    """Test metrics, and how soon the common loss was reached by the seeds that did."""
    speeds = common.values_of(speed, ("epochs", "seconds"))
    return common.values_of(found, metrics) | dict(zip(EXTRA, speeds.values(), strict=True))


def draw(
    experiment: Experiment, name_of_backbone: str, runs: dict[str, Any], found: dict[str, Any], target: float | None
) -> None:
    """One picture: validation loss over epochs (speed), its spread (stability), and the test metrics of every seed."""
    figure = new_figure(13, 4.4)
    title = f"{name_of_backbone} on {experiment.source.name}, n = {len(experiment.seeds)} seeds per strategy"
    figure.suptitle(title)
    curves, *scores = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    for color, (name, several) in zip(pictures.COLORS, runs.items(), strict=False):
        pictures.bundle(curves, [run["history"] for run in several], "val_loss", color, TITLES[name])
    if target is not None:
        curves.axhline(target, color="0.4", linestyle=":", label="loss that all reach")
    curves.set(xlabel="epoch", ylabel="validation loss (nats)")
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.grid(alpha=0.3)
    curves.legend(fontsize=8)
    references = common.references(experiment)
    for axes, metric in zip(scores, experiment.task.metrics, strict=False):
        rows = {name: common.values_of(several, [metric])[metric] for name, several in found.items()}
        pictures.dots(axes, rows, f"test {metric.replace('_', ' ')}", references.get(metric))
    scores[-1].set_yticklabels([])
    save_figure(figure, experiment.folder / "comparison.png")


if __name__ == "__main__":
    run_script(main)
