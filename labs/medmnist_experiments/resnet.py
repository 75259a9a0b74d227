"""Residual networks from scratch and the same networks without skips, trained alike; why skips help.

python -m labs.medmnist_experiments.resnet                      # PneumoniaMNIST, 20 and 56 layers, ResNet-18
python -m labs.medmnist_experiments.resnet --flag breastmnist --epochs 40
python -m labs.medmnist_experiments.resnet --quick
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from labs.medmnist_experiments import common, networks, residual
from labs.medmnist_experiments.command_line import shared_parser
from labs.medmnist_experiments.common import Experiment, Network
from toolkit.augment import Augmentation, normalize
from toolkit.cli import OneLineParser, from_flags, in_range, run_script
from toolkit.plots import new_figure, save_figure
from toolkit.runs import RunFolder
from toolkit.study import TableRow

MODELS, QUICK_MODELS = ("resnet18", "resnet20", "plain20", "resnet56", "plain56"), ("resnet20", "plain20")
# Before training: gradient norm of the second layer over that of the last but two; 1 where every layer gets as much.
GROWTH = "gradient_growth"
LOSS = "training_loss_of_last_epoch"
GRADIENT_IMAGES = 128  # of the training split, for the gradient norms
COLORS = {"resnet": "#1b9e77", "plain": "#d95f02"}  # ColorBrewer Dark2
STYLES = ("-", "--", ":", "-.")


def build_parser() -> OneLineParser:
    """The flags of all experiments and those of this one."""
    parser = shared_parser("resnet", __doc__.splitlines()[0], flag="pneumoniamnist", epochs=6, seeds=3)
    group = parser.add_argument_group("networks")
    group.add_argument(
        "--models",
        nargs="+",
        default=list(MODELS),
        help="resnet or plain and a depth: 18, 34, or 6n + 2; for --quick only those of 20 layers",
    )
    group.add_argument("--width", type=in_range(int, 1, 256), default=16, help="channels of the first stage")
    group.add_argument(
        "--stem", choices=("small", "photograph"), default="small", help="photograph: for images of about 224 pixels"
    )
    group.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.05, help="highest, of SGD")
    return parser


@dataclass(frozen=True)
class Recipe:
    """Width and stem of every network, and the highest learning rate of its training."""

    width: int
    stem: str
    learning_rate: float


def main(argv: list[str] | None = None) -> None:
    """Train every network with every seed, read the test split once, draw curves and gradient norms."""
    args = build_parser().parse_args(argv)
    models = list(QUICK_MODELS) if args.quick and args.models == list(MODELS) else list(dict.fromkeys(args.models))
    for name in models:
        residual.build(name, 2)  # a wrong name is reported before anything is trained
    experiment = common.begin("resnet", vars(args), dimensions=2, free=("models",))
    recipe = from_flags(Recipe, vars(args))
    rows_to_train = {name: network(experiment, recipe, name) for name in models}
    runs = common.train_all(experiment, rows_to_train)
    draw_curves(runs, experiment.folder / "curves.png")
    draw_gradients(runs, experiment.folder / "gradient_norms.png")
    found = common.measure_on_test(experiment, rows_to_train, runs)
    rows = [row(name, found[name], runs[name], experiment.task.metrics) for name in models]
    facts = {"runs": runs, "test": found, "difference_to_torchvision": difference_to_torchvision()}
    common.report(experiment, rows, (*experiment.task.metrics, LOSS, GROWTH), facts)


def network(experiment: Experiment, recipe: Recipe, name: str) -> Network:
    """One row: SGD with momentum and a cosine schedule for every network."""

    def build() -> nn.Module:
        channels, outputs = experiment.source.channels, experiment.task.outputs
        plain = residual.build(name, outputs, in_channels=channels, width=recipe.width, stem=recipe.stem)
        return experiment.task.prepared(plain).to(experiment.device)

    def train(run: RunFolder) -> dict[str, Any]:
        # An X-ray has an up and a left, ultrasound an up: one recipe for both shifts by two pixels and mirrors nothing.
        loaders = experiment.loaders(run.config["seed"], Augmentation(flips=False, crop_padding=2))
        model = build()
        before = gradient_profiles(experiment, model)
        networks.place(model, experiment.device)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=1e-4
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, experiment.steps(loaders[0]))
        options = {"optimizer": optimizer, "scheduler": schedule, "criterion": experiment.criterion()}
        facts = common.fit(experiment, run, model, loaders, **options)
        after = gradient_profiles(experiment, model)["network"]
        return {**facts, "gradient_norms": {"before": before, "after": after}}

    return Network(build, train)


def gradient_profiles(experiment: Experiment, model: nn.Module) -> dict[str, list[float | None]]:
    """Gradient norms of each layer of `model` ('network') and of its copy without BatchNorm; None where infinite."""
    split = experiment.source.read("train")
    images = normalize(split.images[:GRADIENT_IMAGES]).to(experiment.device)
    targets = experiment.task.targets(split.labels[:GRADIENT_IMAGES]).flatten().to(experiment.device)
    variants = {"network": model, "without BatchNorm": residual.without_batchnorm(model)}
    found = {name: residual.gradient_norms(variant, images, targets) for name, variant in variants.items()}
    return {name: [norm if math.isfinite(norm) else None for norm in norms] for name, norms in found.items()}


def row(name: str, found: list[dict[str, Any]], runs: list[dict[str, Any]], metrics: tuple[str, ...]) -> TableRow:
    """A line of the table: test metrics, the training loss of the last epoch, and the growth of the gradients."""
    values = common.values_of(found, metrics)
    values[LOSS] = [run["history"]["train_loss"][-1] for run in runs]
    norms = [run["gradient_norms"]["before"]["network"] for run in runs]
    values[GROWTH] = [one[1] / one[-3] for one in norms if one[1] and one[-3]]
    return TableRow(f"{name} ({runs[0]['parameters']:,} parameters)", values)


def difference_to_torchvision() -> float:
    """Largest difference of logits to torchvision's resnet18 with the same (random) weights, on random images."""
    reference = torchvision.models.resnet18(weights=None).eval()
    ours = residual.build("resnet18", 1000, width=64, stem="photograph").eval()
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        return float((ours(images) - reference(images)).abs().max())


def draw_curves(runs: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Training loss and validation accuracy over epochs, the mean over seeds of each network."""
    figure = new_figure(10, 4)
    figure.suptitle(
        f"with skips (resnet) and without (plain), trained alike; mean of {len(next(iter(runs.values())))} seeds"
    )
    depths = list(dict.fromkeys(depth_of(name) for name in runs))
    panels = {"train_loss": "training loss (nats)", "val_acc": "validation accuracy"}
    for axes, (key, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, found in runs.items():
            means = [statistics.fmean(values) for values in zip(*(one["history"][key] for one in found), strict=True)]
            style = STYLES[depths.index(depth_of(name)) % len(STYLES)]
            axes.plot(range(1, len(means) + 1), means, style, color=COLORS[kind_of(name)], label=name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def draw_gradients(runs: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Gradient norm of each layer, before and after training; a row for each depth."""
    depths = list(dict.fromkeys(depth_of(name) for name in runs))
    figure = new_figure(10, 0.6 + 3.4 * len(depths))
    panels = figure.subplots(len(depths), 2, squeeze=False, sharey="row")
    figure.suptitle(f"norm of the gradient of each layer's weights, one batch of {GRADIENT_IMAGES} images, seed 0")
    for depth, (before, after) in zip(depths, panels, strict=True):
        for name in (name for name in runs if depth_of(name) == depth):
            norms, color = runs[name][0]["gradient_norms"], COLORS[kind_of(name)]
            for axes, values in ((before, norms["before"]["network"]), (after, norms["after"])):
                draw_profile(axes, values, name, color, "-")
            draw_profile(before, norms["before"]["without BatchNorm"], f"{name} without BatchNorm", color, ":")
        for axes, when in ((before, "before training"), (after, "after training")):
            axes.set(yscale="log", xlabel="layer, from input to output", ylabel="norm", title=f"{depth} layers, {when}")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    save_figure(figure, path)


def draw_profile(axes: Any, norms: list[float | None], label: str, color: str, style: str) -> None:
    """One line over the layers; layers whose gradient is infinite or zero are left out of a logarithmic axis."""
    points = [(layer, norm) for layer, norm in enumerate(norms, start=1) if norm]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=color, label=label, marker=".", markersize=3)


def kind_of(name: str) -> str:
    """'resnet' or 'plain'."""
    return name.rstrip("0123456789")


def depth_of(name: str) -> int:
    """56 of 'plain56'."""
    return int(name.removeprefix(kind_of(name)))


if __name__ == "__main__":
    run_script(main)
