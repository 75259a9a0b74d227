"""A 3D CNN from scratch on volumes of 28 x 28 x 28: AdrenalMNIST3D (bundled) or any other 3D set of MedMNIST.

python -m labs.medmnist_experiments.cnn3d
python -m labs.medmnist_experiments.cnn3d --flag nodulemnist3d --seeds 3
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labs.medmnist_experiments import common
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np
    from torch import nn

    from labs.medmnist_experiments.common import Experiment
    from labs.medmnist_experiments.tasks import Task
    from toolkit.medmnist_data import Split
    from toolkit.runs import RunFolder

METRICS = ("auc", "accuracy", "balanced_accuracy")
STAGES = ((16, 16), (32, 32), (64, 64))  # six convolutions; after the first, which halves the sides, 14, 7 and 3 voxels
VARIANT = "cnn3d"
MIRRORS = ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4))  # axes of (N, 1, D, H, W) to flip
KEEP = "lower_loss"  # which epoch, see common.fit


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = common.build_parser("cnn3d", __doc__.splitlines()[0], flag="adrenalmnist3d", epochs=120)
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


def main(argv: list[str] | None = None) -> None:
    """Train every seed, then read the test split once and compare with the published figures."""
    experiment, task = begin(build_parser().parse_args(argv))
    draw_samples(experiment, task)
    runs = common.run_seeds(experiment, VARIANT, lambda _seed, run: train(experiment, task, run))
    draw_curves(experiment, runs)
    test = experiment.open_test({"validation": [run["validation"] for run in runs]})
    probabilities = [answers(experiment, task, trained(experiment, task, seed), test) for seed in experiment.seeds]
    labels = test.labels.numpy()
    figures = [task.figures(found, labels) for found in probabilities]
    together = task.figures(sum(probabilities) / len(probabilities), labels)
    rows = [row("3D CNN", figures)]
    if len(figures) > 1:
        rows.append(row(f"3D CNN, mean of the {len(figures)} networks' probabilities", [together]))
    draw_test(experiment, task, test, probabilities[0])
    common.report(experiment, rows, METRICS, {"runs": runs, "test": figures, "test_of_all_together": together})


def begin(args: Namespace) -> tuple[Experiment, Task]:
    """Settle data, machine and folder."""
    from labs.medmnist_experiments.tasks import Task

    experiment = common.begin("cnn3d", args, dimensions=3)
    return experiment, Task.of(experiment.source)


def row(title: str, figures: list[dict[str, Any]]) -> common.Row:
    """A line of the table from the figures of each seed."""
    return common.Row(title, {name: [one[name] for one in figures if one[name] is not None] for name in METRICS})


def augmentation(name: str) -> Any:
    """The augmentation of --augment; None for none."""
    from toolkit.transforms import VolumeAugmentation

    return None if name == "none" else VolumeAugmentation(turns=name == "symmetries")


def build(experiment: Experiment, task: Task) -> nn.Module:
    """The network with random weights, on the device."""
    from labs.medmnist_experiments.networks import ConvNet, place

    network = ConvNet(3, 1, task.outputs, STAGES, first_stride=2, dropout=experiment.args.dropout)
    return place(task.prepared(network), experiment.device)


def train(experiment: Experiment, task: Task, run: RunFolder) -> dict[str, Any]:
    """Train one seed → facts for its results.json; figures on validation data only."""
    import torch

    from labs.medmnist_experiments import tasks

    args = experiment.args
    model = build(experiment, task)
    loaders = tasks.loaders(experiment, task, run.config["seed"], augmentation(args.augment))
    criterion = task.criterion(experiment.source.read("train").labels, args.class_weights == "balanced")
    history = common.fit(
        experiment,
        run,
        model,
        loaders,
        keep=KEEP,
        optimizer=torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay),
        criterion=criterion.to(experiment.device),
        ema_decay=args.ema_decay,
        patience=args.patience,
    )
    val = experiment.source.read("val")
    return {
        "validation": task.figures(answers(experiment, task, model, val), val.labels.numpy()),
        "epochs": len(history["val_acc"]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history": history,
    }


def trained(experiment: Experiment, task: Task, seed: int) -> nn.Module:
    """The network of a finished run."""
    from toolkit.runs import RunFolder

    run = RunFolder.open(common.run_path(experiment, VARIANT, seed))
    return common.restore(build(experiment, task), run, KEEP)


def answers(experiment: Experiment, task: Task, model: nn.Module, split: Split) -> np.ndarray:
    """Probabilities (N, K) for a split, means over --views mirror images of each volume."""
    from labs.medmnist_experiments import tasks
    from toolkit.medmnist_data import Split

    views = [Split(split.images.flip(axes), split.labels) for axes in MIRRORS[: experiment.args.views]]
    loaders = [tasks.evaluation_loader(experiment, task, view) for view in views]
    found = [tasks.predict(experiment, task, model, loader) for loader in loaders]
    return sum(found) / len(found)


def draw_samples(experiment: Experiment, task: Task) -> None:
    """Middle slices of training volumes of each class, and of one volume as it is augmented."""
    import torch

    from labs.medmnist_experiments import pictures
    from toolkit.augment import normalize

    train = experiment.source.read("train")
    picked = [int(i) for c in range(len(task.class_names)) for i in (train.labels == c).nonzero()[:3]][:9]
    title = f"{experiment.source.name}: middle slices of training volumes"
    names = [task.class_names[int(train.labels[i])] for i in picked]
    pictures.slices(normalize(train.images[picked]), names, title, experiment.folder / "volumes.png")
    change = augmentation(experiment.args.augment)
    if change is not None:
        volumes = train.images[picked[:1]].expand(7, -1, -1, -1, -1)
        changed = change(volumes, torch.Generator().manual_seed(0))
        shown = torch.cat([normalize(volumes[:1]), changed])
        names = ["as it is"] + ["augmented"] * 7
        pictures.slices(shown, names, f"{experiment.source.name}: one volume", experiment.folder / "augmented.png")


def draw_curves(experiment: Experiment, runs: list[dict[str, Any]]) -> None:
    """Learning curves of all seeds."""
    from labs.medmnist_experiments import pictures

    title = f"3D CNN on {experiment.source.name}"
    histories = [run["history"] for run in runs]
    pictures.curves({"validation": histories}, title, experiment.folder / "curves.png")


def draw_test(experiment: Experiment, task: Task, test: Split, probabilities: np.ndarray) -> None:
    """Confusion matrix and 3D Grad-CAM of the first seed: right and wrong volumes, the surest first."""
    import torch

    from labs.medmnist_experiments import pictures
    from labs.medmnist_experiments.networks import attention_layer
    from toolkit import metrics, plots
    from toolkit.augment import normalize
    from toolkit.gradcam import grad_cam

    labels = test.labels.numpy()
    counts = metrics.confusion_matrix(probabilities, labels)
    title = f"3D CNN, {experiment.source.name}, test, seed 0"
    plots.confusion(counts, task.class_names, title, experiment.folder / "confusion.png")
    said, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    order = torch.from_numpy(sure).argsort(descending=True)
    right = [int(i) for i in order if said[i] == labels[i]]
    wrong = [int(i) for i in order if said[i] != labels[i]]
    picked = right[:4] + wrong[:4]
    volumes = normalize(test.images[picked]).to(experiment.device)
    model = trained(experiment, task, 0)
    try:
        maps = grad_cam(
            model, attention_layer(model, volumes), volumes, torch.from_numpy(said[picked]).to(experiment.device)
        )
    except UserError as error:  # the training is done, and its table must not be lost for a picture
        print(f"note: no attention.png: {error}")
        return
    names = [f"{task.class_names[said[i]]} ({sure[i]:.0%})\ntrue: {task.class_names[labels[i]]}" for i in picked]
    pictures.slices(volumes, names, f"{title}: what spoke for the answer", experiment.folder / "attention.png", maps)


if __name__ == "__main__":
    run_script(main)
