"""What job.py does, step by step: read, build, train on the course's one loop, measure, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader

from classification_models import count_parameters
from classification_train import train_model
from labs.image_classifier.models import networks
from labs.image_classifier.utils import loaders, scores
from labs.pathmnist_resnet18.src import augmentations, losses, memory
from toolkit import backbones, experiment, metrics, plots
from toolkit.batches import make_loader
from toolkit.bootstrap import bootstrap_intervals
from toolkit.cli import from_flags
from toolkit.devices import pick_device, place_model, resolve_precision, seed_everything
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, locate, official_test
from toolkit.runs import RunFolder
from toolkit.stored_images import StoredImages
from toolkit.training import make_optimizer

TASK = "classification"
EVALUATION_BATCH = 256
SUBSET_SEED = 0  # of --train_share: every configuration of a search sees the same images


@dataclass(frozen=True)
class Stored:
    """One split as it lies in the file: pixels uint8 (N, H, W, C), in memory or on the disk, labels int64 (N,)."""

    pixels: np.ndarray | StoredImages
    labels: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """What is trained and how: the flags of job.py with these names."""

    model_name: str
    image_size: int
    stem: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    ema_decay: float
    num_epochs: int
    batch_size: int
    schedule: str
    step_epochs: int
    step_factor: float
    patience: int
    min_steps_per_epoch: int
    max_steps_per_epoch: int
    seed: int
    augment: str
    mixup: float
    loss: str
    focal_gamma: float
    label_smoothing: float
    class_weights: bool


@dataclass(frozen=True)
class Machine:
    """Where the network computes, and how precisely."""

    device: torch.device
    precision: str


def run(flags: Mapping[str, Any]) -> None:
    """One training with validation metrics and, if asked for, the test metrics. flags: all of job.py."""
    recipe, device = from_flags(Recipe, flags), pick_device(flags["device"])
    machine = Machine(device, resolve_precision(flags["precision"], device))
    seed_everything(recipe.seed)
    source = find_source(flags)
    experiment.check_promises(source, flags["evaluate_test"], flags["results_path"])
    print(experiment.describe_start(source, device, machine.precision))
    train, val = read(source, "train"), read(source, "val")
    rows = chosen_rows(train.labels, flags["train_share"])
    workers = flags["num_workers"]
    kept_on = "cpu" if workers else device  # loader processes cannot reach images on a GPU
    batches = (training_loader(recipe, train, rows, kept_on, workers), evaluation_loader(val, kept_on, workers))
    model = build_model(recipe.model_name, recipe.image_size, recipe.stem, source.num_classes)
    normalization = loaders.statistics(train.pixels, rows)
    model.network.set_normalization(*normalization)
    run = experiment.open_run(TASK, flags, source.name)
    with experiment.saying_how_to_resume(run):
        history = fit(recipe, model, batches, train.labels[rows], source, machine, run)
    experiment.load_best(model, run, device)
    title = f"{recipe.model_name}, validation images of {source.name}"
    facts = {
        "train_images": len(rows),
        "steps_per_epoch": steps_per_epoch(recipe, batches[0]),
        "normalization": {"mean": normalization[0].tolist(), "sd": normalization[1].tolist(), "scale": [-1, 1]},
        "parameters": count_parameters(model),
        **validate(model, val, machine, source.class_names, title, run),
    }
    if flags["evaluate_test"]:
        test = official_test(source)
        found = {"data": test.name, **evaluate(model, read(test, "test"), machine, flags["bootstrap"], recipe.seed)}
        facts |= {"test": found, "test_metrics": found["metrics"]}
        print("test: " + one_line(found["metrics"]))
    facts["peak_memory_bytes"] = memory.peak_bytes()
    where = {"dataset_name": source.name, "device": device, "precision": machine.precision}
    experiment.report(run, TASK, flags, history, facts, **where)


def find_source(flags: Mapping[str, Any]) -> Source:
    """PathMNIST of 28 pixels, or with --native of --image_size."""
    size = flags["image_size"] if flags["native"] else 28
    return locate("pathmnist", size=size, **{name: flags[name] for name in ("data_root", "dataset", "mirror")})


def read(source: Source, split: str) -> Stored:
    """One split without a copy: the file's own order is what the dataset stores."""
    found = source.read(split)
    return Stored(found.file or found.images.permute(0, 2, 3, 1).numpy(), found.labels.numpy())


def chosen_rows(labels: np.ndarray, share: float) -> np.ndarray:
    """Numbers of a stratified part of the images, int64 sorted; all of them for a share of 1.

    Raises UserError for a share that leaves a class without an image.
    """
    if share == 1:
        return np.arange(len(labels))

    count, classes = round(share * len(labels)), len(np.unique(labels))
    if not classes <= count <= len(labels) - classes:
        raise UserError(
            f"train_share is {share}: {count} of {len(labels)} images; allowed: at least one of each of the "
            f"{classes} classes inside and outside, or 1 for all"
        )
    rows, _ = train_test_split(np.arange(len(labels)), train_size=count, stratify=labels, random_state=SUBSET_SEED)
    return np.sort(rows)


def training_loader(
    recipe: Recipe, train: Stored, rows: np.ndarray, device: torch.device | str, num_workers: int
) -> DataLoader:
    """Shuffled, augmented batches of the stored size; an epoch has at least --min_steps_per_epoch."""
    augmentation = augmentations.named(recipe.augment, train.pixels.shape[1])
    options = {"augmentation": augmentation, "seed": recipe.seed, "device": device}
    dataset = loaders.LabelledImages(train.pixels, train.labels, rows, **options)
    return make_loader(
        dataset,
        recipe.batch_size,
        shuffle=True,
        num_workers=num_workers,
        seed=recipe.seed,
        min_batches=recipe.min_steps_per_epoch,
    )


def evaluation_loader(split: Stored, device: torch.device | str, num_workers: int = 0) -> DataLoader:
    """All images of a split once, in order, as they are."""
    # "none" is an augmentation, too: with it the dataset keeps the file's order, and nothing is copied.
    plain = augmentations.named("none", split.pixels.shape[1])
    rows = np.arange(len(split.labels))
    dataset = loaders.LabelledImages(split.pixels, split.labels, rows, augmentation=plain, device=device)
    return make_loader(dataset, EVALUATION_BATCH, shuffle=False, num_workers=num_workers)


def build_model(model_name: str, image_size: int, stem: str, num_classes: int) -> backbones.Resized:
    """The network with its normalisation, behind the enlargement: batches stay small until they are on the device.

    Bilinear weights sum to 1, so it makes no difference that images are normalised after they were enlarged.
    """
    model = networks.build(model_name, 3, num_classes, image_size)
    if stem == "small":
        backbones.small_image_stem(model.network)
    return backbones.Resized(model, image_size)


def describe(recipe: Recipe, source: Source) -> dict[str, Any]:
    """What best.pt says in addition to the weights: enough to build the model again."""
    network = {"model_name": recipe.model_name, "image_size": recipe.image_size, "stem": recipe.stem}
    return {"task": TASK, "data_name": source.name, "classes": list(source.class_names), **network}


def criterion(recipe: Recipe, labels: np.ndarray, num_classes: int, mixing: losses.MixUp | None) -> nn.Module:
    """The loss of the flags --loss, --focal_gamma, --class_weights, --label_smoothing and --mixup."""
    weight = loaders.class_weights(labels, num_classes) if recipe.class_weights else None
    if recipe.loss == "focal":
        loss: nn.Module = losses.FocalLoss(recipe.focal_gamma, weight)
    else:
        loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=recipe.label_smoothing)
    return mixing.criterion(loss) if mixing else loss


def steps_per_epoch(recipe: Recipe, loader: DataLoader) -> int:
    """Training steps per epoch."""
    return min(recipe.max_steps_per_epoch or len(loader), len(loader))


def fit(
    recipe: Recipe,
    model: nn.Module,
    batches: tuple[DataLoader, DataLoader],
    labels: np.ndarray,
    source: Source,
    machine: Machine,
    run: RunFolder,
) -> dict[str, list[float]]:
    """Train on the course's loop → history. batches: of training and validation; labels: for class weights."""
    mixing = losses.MixUp(recipe.mixup) if recipe.mixup else None
    if mixing:
        mixing.attach(model)
    place_model(model, machine.device, (source.channels, source.size, source.size))
    optimizer = make_optimizer(recipe.optimizer, model, recipe.learning_rate, recipe.weight_decay)
    schedule: Any = recipe.schedule
    if schedule == "step":  # not one of the session's own; it is stepped after every batch
        steps = recipe.step_epochs * steps_per_epoch(recipe, batches[0])
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, steps, recipe.step_factor)
    return train_model(
        model,
        *batches,
        epochs=recipe.num_epochs,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_steps_per_epoch=recipe.max_steps_per_epoch,
        criterion=criterion(recipe, labels, source.num_classes, mixing).to(machine.device),
        optimizer=optimizer,
        scheduler=schedule,
        device=machine.device,
        precision=machine.precision,
        ema_decay=recipe.ema_decay,
        patience=recipe.patience or None,
        run=run,
        best_extra=describe(recipe, source),
    )


def validate(
    model: nn.Module, val: Stored, machine: Machine, names: tuple[str, ...], title: str, run: RunFolder
) -> dict[str, Any]:
    """Validation metrics, with a picture of the confusion."""
    found = evaluate(model, val, machine)
    plots.confusion(np.array(found["confusion_matrix"]), names, title, run.file("confusion.png"))
    print("validation: " + one_line(found["metrics"]))
    return {"classes": list(names), "validation": found, "val_metrics": found["metrics"]}


def evaluate(model: nn.Module, split: Stored, machine: Machine, bootstrap: int = 0, seed: int = 0) -> dict[str, Any]:
    """All metrics of one split: n, headline, per class, confusion matrix and, with `bootstrap`, 95 % intervals."""
    loader = evaluation_loader(split, machine.device)
    probabilities, labels = metrics.predict(model, loader, machine.device, machine.precision)
    found: dict[str, Any] = {
        "n": len(labels),
        "metrics": scores.headline(probabilities, labels),
        "per_class": scores.per_class(probabilities, labels),
        "confusion_matrix": metrics.confusion_matrix(probabilities, labels).tolist(),
    }
    if bootstrap:
        found |= {"bootstrap": bootstrap, "interval_level": 0.95}
        found["intervals"] = bootstrap_intervals(
            lambda rows: scores.headline(probabilities[rows], labels[rows]), np.arange(len(labels)), bootstrap, seed
        )
    return found


def one_line(found: Mapping[str, Any]) -> str:
    """'accuracy 0.8333, balanced accuracy 0.7900, ...'."""
    known = [(name.replace("_", " "), found[name]) for name in scores.HEADLINE if found.get(name) is not None]
    return ", ".join(f"{name} {value:.4f}" for name, value in known)
