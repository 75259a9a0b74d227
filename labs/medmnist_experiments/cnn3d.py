"""A 3D CNN from scratch on volumes of 28 x 28 x 28: AdrenalMNIST3D (bundled) or any other 3D set of MedMNIST.

python -m labs.medmnist_experiments.cnn3d
python -m labs.medmnist_experiments.cnn3d --flag nodulemnist3d --seeds 3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from labs.medmnist_experiments import common, pictures
from labs.medmnist_experiments.command_line import shared_parser
from labs.medmnist_experiments.common import Experiment
from labs.medmnist_experiments.networks import ConvNet, place
from toolkit.cli import OneLineParser, from_flags, in_range, run_script
from toolkit.medmnist_data import Split
from toolkit.runs import RunFolder
from toolkit.study import TableRow
from toolkit.transforms import VolumeAugmentation

METRICS = ("auc", "accuracy", "balanced_accuracy")
STAGES = ((16, 16), (32, 32), (64, 64))  # six convolutions; after the first, which halves the sides, 14, 7 and 3 voxels
ROW = "cnn3d"
MIRRORS = ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4))  # axes of (N, 1, D, H, W) to flip


def build_parser() -> OneLineParser:
    """The flags of all experiments and those of this one."""
    parser = shared_parser("cnn3d", __doc__.splitlines()[0], flag="adrenalmnist3d", epochs=120)
    group = parser.add_argument_group("3D CNN")
    group.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.004, help="of AdamW")
    group.add_argument("--weight_decay", type=in_range(float, 0), default=0.05, help="of AdamW")
    group.add_argument("--dropout", type=in_range(float, 0, 0.95), default=0.5, help="before the last dense layer")
    group.add_argument("--patience", type=in_range(int, 1), default=60, help="epochs without a better one, then stop")
    group.add_argument("--ema_decay", type=in_range(float, 0, 0.99999), default=0.99, help="averaged weights; 0: none")
    group.add_argument(
        "--augment",
        choices=("none", "flips", "symmetries"),
        default="flips",
        help="flips: of each axis; symmetries: also quarter turns; both: shifts, intensity",
    )
    group.add_argument(
        "--views", type=int, choices=(1, len(MIRRORS)), default=len(MIRRORS), help="mirror images averaged in an answer"
    )
    group.add_argument("--class_weights", choices=("balanced", "none"), default="balanced", help="of the loss")
    return parser


@dataclass(frozen=True)
class Recipe:
    """The script's own flags: how the 3D CNN is trained, and over how many views an answer is averaged."""

    learning_rate: float
    weight_decay: float
    dropout: float
    patience: int
    ema_decay: float
    augment: str
    views: int
    class_weights: str

    @property
    def augmentation(self) -> VolumeAugmentation | None:
        """The augmentation of --augment; None for none."""
        return None if self.augment == "none" else VolumeAugmentation(turns=self.augment == "symmetries")


def main(argv: list[str] | None = None) -> None:
    """Train every seed, then read the test split once and compare with the published figures."""
    flags = vars(build_parser().parse_args(argv))
    experiment, recipe = common.begin("cnn3d", flags, dimensions=3), from_flags(Recipe, flags)
    train, name = experiment.source.read("train"), experiment.source.name
    pictures.volume_samples(train, experiment.task.class_names, recipe.augmentation, name, experiment.folder)
    runs = train_all(experiment, recipe)
    histories = {"validation": [run["history"] for run in runs]}
    pictures.curves(histories, f"3D CNN on {name}", experiment.folder / "curves.png")
    test = experiment.open_test({"validation": [run["validation"] for run in runs]})
    labels = test.labels.numpy()
    several = [answers(experiment, trained(experiment, recipe, seed), test, recipe.views) for seed in experiment.seeds]
    found = [experiment.task.measure(probabilities, labels) for probabilities in several]
    for seed, probabilities, measured in zip(experiment.seeds, several, found, strict=True):
        common.write_predictions(experiment, ROW, seed, probabilities, measured)
    together = experiment.task.measure(sum(several) / len(several), labels)
    rows = [TableRow("3D CNN", common.values_of(found, METRICS))]
    if len(found) > 1:
        title = f"3D CNN, mean of the {len(found)} networks' probabilities"
        rows.append(TableRow(title, common.values_of([together], METRICS)))
    model, title = trained(experiment, recipe, 0), f"3D CNN, {name}, test, seed 0"
    pictures.volume_answers(model, test, several[0], experiment.task.class_names, title, experiment.folder)
    common.report(experiment, rows, METRICS, {"runs": runs, "test": found, "test_of_all_together": together})


def train_all(experiment: Experiment, recipe: Recipe) -> list[dict[str, Any]]:
    """The results of every seed."""
    return experiment.study.train(ROW, lambda seed, run: train(experiment, recipe, seed, run))


def finished_networks(words: list[str]) -> tuple[Experiment, list[nn.Module]]:
    """The networks of a command line, one per seed, from their folder or trained into it."""
    flags = vars(build_parser().parse_args(words))
    experiment, recipe = common.begin("cnn3d", flags, dimensions=3), from_flags(Recipe, flags)
    train_all(experiment, recipe)
    return experiment, [trained(experiment, recipe, seed) for seed in experiment.seeds]


def build(experiment: Experiment, dropout: float) -> nn.Module:
    """The network with random weights, on the device."""
    network = ConvNet(3, 1, experiment.task.outputs, STAGES, first_stride=2, dropout=dropout)
    return place(experiment.task.prepared(network), experiment.device)


def train(experiment: Experiment, recipe: Recipe, seed: int, run: RunFolder) -> dict[str, Any]:
    """Train one seed → facts for its results.json; metrics on validation data only."""
    model = build(experiment, recipe.dropout)
    facts = common.fit(
        experiment,
        run,
        model,
        experiment.loaders(seed, recipe.augmentation),
        optimizer=torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
        criterion=experiment.criterion(weighted=recipe.class_weights == "balanced"),
        ema_decay=recipe.ema_decay,
        patience=recipe.patience,
    )
    val = experiment.source.read("val")
    probabilities = answers(experiment, model, val, recipe.views)
    return {**facts, "validation": experiment.task.measure(probabilities, val.labels.numpy())}


def trained(experiment: Experiment, recipe: Recipe, seed: int) -> nn.Module:
    """The network of a finished run."""
    return common.trained(experiment, ROW, seed, build(experiment, recipe.dropout))


def answers(experiment: Experiment, model: nn.Module, split: Split, views: int) -> np.ndarray:
    """Probabilities (N, K) for a split, means over `views` mirror images of each volume."""
    mirrored = [Split(split.images.flip(axes), split.labels) for axes in MIRRORS[:views]]
    return sum(experiment.predict(model, view) for view in mirrored) / views


if __name__ == "__main__":
    run_script(main)
