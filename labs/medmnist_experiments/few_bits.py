"""Weights of few bits: where training while rounding earns its place, and how far it moves the weights.

python -m labs.medmnist_experiments.few_bits
python -m labs.medmnist_experiments.few_bits --bits 3 --quick

A narrow CNN, whose weights are rounded to `--bits` bits with one step per layer. Nothing is made smaller or faster
here; quantize.py does that. Activations stay float32, so that the rounding of weights is all that differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from labs.medmnist_experiments import common
from labs.medmnist_experiments.command_line import shared_parser
from labs.medmnist_experiments.common import Experiment
from labs.medmnist_experiments.networks import ConvNet, place
from toolkit.augment import Augmentation
from toolkit.cli import OneLineParser, from_flags, in_range, run_script
from toolkit.runs import RunFolder
from toolkit.study import TableRow

METRICS = ("auc", "accuracy", "balanced_accuracy")
LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)
FLOAT, LONGER = "float32", "float32-longer"  # names of runs


def build_parser() -> OneLineParser:
    """The flags of all experiments and those of this one."""
    parser = shared_parser("few_bits", __doc__.splitlines()[0], flag="pneumoniamnist", epochs=6, seeds=3)
    parser.add_argument("--bits", type=in_range(int, 2, 8), default=3, help="of every weight, the sign included")
    parser.add_argument("--width", type=in_range(int, 1, 256), default=8, help="channels of the first stage")
    parser.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.002, help="of AdamW")
    parser.add_argument("--more_epochs", type=in_range(int, 1), default=3, help="while rounding, and of the control")
    parser.add_argument(
        "--more_learning_rate", type=in_range(float, 0, open_low=True), default=0.001, help="of these epochs"
    )
    return parser


@dataclass(frozen=True)
class Recipe:
    """The script's own flags."""

    bits: int
    width: int
    learning_rate: float
    more_epochs: int
    more_learning_rate: float

    @property
    def aware(self) -> str:
        """Name of the runs that are trained while they are rounded."""
        return f"rounded-{self.bits}bit"


class Rounded(nn.Module):
    """A weight, rounded to a whole number of steps in the forward pass; the backward pass ignores the rounding.

    The step is the largest absolute weight of the layer over the largest whole number of `bits` bits. (The gradient of
    rounding is zero almost everywhere, so it is replaced by that of doing nothing: Bengio et al. 2013.)
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.most = 2 ** (bits - 1) - 1

    def step(self, weight: torch.Tensor) -> torch.Tensor:
        """What two neighbouring values differ by, a scalar."""
        return weight.detach().abs().max().clamp(min=1e-12) / self.most

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight of any shape → the same shape, with at most 2 * most + 1 different values."""
        step = self.step(weight)
        return weight + ((weight / step).round() * step - weight).detach()


def rounded(model: nn.Module, bits: int) -> nn.Module:
    """Make every convolution and dense layer of `model` compute with rounded weights, and return it."""
    for layer in list(model.modules()):
        if isinstance(layer, LAYERS):
            parametrize.register_parametrization(layer, "weight", Rounded(bits))
    return model


def steps_moved(before: nn.Module, after: nn.Module) -> dict[str, float]:
    """How far training moved the weights of a rounded network, in its steps, and the share that rounds differently."""
    moved, changed = [], []
    for name, layer in before.named_modules():
        if isinstance(layer, LAYERS):
            rounding = after.get_submodule(name).parametrizations.weight
            old, new = layer.weight.detach(), rounding.original.detach()
            step = rounding[0].step(old)
            moved.append(((new - old) / step).abs().flatten())
            changed.append(((new / step).round() != (old / step).round()).flatten())
    moves, changes = torch.cat(moved), torch.cat(changed)
    return {"mean": moves.mean().item(), "largest": moves.max().item(), "changed": changes.float().mean().item()}


def build(experiment: Experiment, width: int) -> nn.Module:
    """The network with random weights: three stages of two convolutions."""
    dimensions = 3 if experiment.source.flag.endswith("3d") else 2
    stages = [(width * 2**number,) * 2 for number in range(3)]
    network = ConvNet(dimensions, experiment.source.channels, experiment.task.outputs, stages)
    return place(experiment.task.prepared(network), experiment.device)


def fit(
    experiment: Experiment, run: RunFolder, seed: int, model: nn.Module, epochs: int, learning_rate: float
) -> dict[str, Any]:
    """Train with AdamW and a cosine schedule → facts for results.json."""
    is_2d = not experiment.source.flag.endswith("3d")
    loaders = experiment.loaders(seed, Augmentation(flips=False, crop_padding=2) if is_2d else None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, experiment.steps(loaders[0], epochs))
    options = {"optimizer": optimizer, "scheduler": schedule, "criterion": experiment.criterion()}
    return common.fit(experiment, run, model, loaders, epochs=epochs, **options)


def rows_of(experiment: Experiment, recipe: Recipe) -> dict[str, Callable[[int], nn.Module]]:
    """Title → (seed) → the finished network; trains what is not finished yet."""
    more = 1 if experiment.settings.quick else recipe.more_epochs

    def finished(seed: int, name: str = FLOAT) -> nn.Module:
        model = build(experiment, recipe.width)
        return common.trained(experiment, name, seed, rounded(model, recipe.bits) if name == recipe.aware else model)

    def train(seed: int, run: RunFolder) -> dict[str, Any]:
        return fit(experiment, run, seed, build(experiment, recipe.width), experiment.epochs, recipe.learning_rate)

    def train_longer(seed: int, run: RunFolder) -> dict[str, Any]:
        return fit(experiment, run, seed, finished(seed), more, recipe.more_learning_rate)

    def train_rounded(seed: int, run: RunFolder) -> dict[str, Any]:
        return fit(experiment, run, seed, rounded(finished(seed), recipe.bits), more, recipe.more_learning_rate)

    for name, function in ((FLOAT, train), (LONGER, train_longer), (recipe.aware, train_rounded)):
        experiment.study.train(name, function)
    return {
        "float32": finished,
        "float32, as many more epochs": lambda seed: finished(seed, LONGER),
        f"{recipe.bits} bits, rounded afterwards": lambda seed: rounded(finished(seed), recipe.bits),
        f"{recipe.bits} bits, trained while rounded": lambda seed: finished(seed, recipe.aware),
    }


def main(argv: list[str] | None = None) -> None:
    """Train, round, measure on validation data, then read the test split once and report."""
    flags = vars(build_parser().parse_args(argv))
    experiment, recipe = common.begin("few_bits", flags), from_flags(Recipe, flags)
    rows = rows_of(experiment, recipe)
    val = experiment.source.read("val")
    on_val = {row: [experiment.measure(model(s), val) for s in experiment.seeds] for row, model in rows.items()}
    first, *_, last = rows.values()
    moved = [steps_moved(first(seed), last(seed)) for seed in experiment.seeds]
    test = experiment.open_test({"validation": on_val})
    on_test = {row: [experiment.measure(model(s), test) for s in experiment.seeds] for row, model in rows.items()}
    table = [TableRow(row, common.values_of(found, METRICS)) for row, found in on_test.items()]
    facts = {"validation": on_val, "test": on_test, "steps_moved": moved}
    common.report(experiment, table, METRICS, facts, with_published=False)
    mean, largest, changed = (sum(one[name] for one in moved) / len(moved) for name in ("mean", "largest", "changed"))
    print(
        f"training while rounding moved weights by {mean:.2f} steps on average, at most {largest:.1f}; "
        f"{changed:.0%} of them round to another value (means over the seeds)"
    )


if __name__ == "__main__":
    run_script(main)
