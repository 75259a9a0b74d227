"""What job.py does, step by step: read, build, train on the course's one loop, measure, report."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from classification_models import count_parameters
from classification_train import train_model
from labs import training
from labs.image_classifier.models import networks
from labs.image_classifier.utils import loaders, scores
from labs.pathmnist_resnet18.src import augmentations, losses, memory
from toolkit import backbones, metrics, plots
from toolkit.batches import make_loader
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, locate

TASK = "classification"
EVALUATION_BATCH = 256
SUBSET_SEED = 0  # of --train_share: every configuration of a search sees the same images


@dataclass(frozen=True)
class Stored:
    """One split as it lies in the file: pixels uint8 (N, H, W, C), labels int64 (N,)."""

    pixels: np.ndarray
    labels: np.ndarray


def run(args: Namespace) -> None:
    """One training with validation figures and, if asked for, the test figures."""
    setup = training.prepare(args, TASK, lambda: find_source(args), begin=False)
    train, val = read(setup.source, "train"), read(setup.source, "val")
    rows = chosen_rows(train.labels, args.train_share)
    device = "cpu" if args.num_workers else setup.device
    train_loader = training_loader(args, train, rows, device)
    model = build_model(args, setup.source.num_classes)
    normalization = loaders.statistics(train.pixels, rows)
    model.network.set_normalization(*normalization)
    mixing = losses.MixUp(args.mixup) if args.mixup else None
    if mixing:
        mixing.attach(model)
    history, _seconds = training.train(
        with_step_schedule(args),
        model,
        (train_loader, evaluation_loader(val, device, args.num_workers)),
        args,
        setup,
        best_extra=describe(args, setup.source),
        criterion=criterion(args, train.labels[rows], setup.source.num_classes, mixing).to(setup.device),
    )
    facts = {
        "train_images": len(rows),
        "steps_per_epoch": steps_per_epoch(args, train_loader),
        "normalization": {"mean": normalization[0].tolist(), "sd": normalization[1].tolist(), "scale": [-1, 1]},
        "parameters": count_parameters(model),
        **measure(args, setup, model, val),
    }
    facts["peak_memory_bytes"] = memory.peak_bytes()
    training.report(args, setup, TASK, history, facts)


def find_source(args: Namespace) -> Source:
    """PathMNIST of 28 pixels, or with --native of 64."""
    size = args.image_size if args.native else 28
    return locate("pathmnist", size=size, data_root=args.data_root, dataset=args.dataset, mirror=args.mirror)


def read(source: Source, split: str) -> Stored:
    """One split without a copy: the file's own order is what the dataset stores."""
    found = source.read(split)
    return Stored(found.images.permute(0, 2, 3, 1).numpy(), found.labels.numpy())


def chosen_rows(labels: np.ndarray, share: float) -> np.ndarray:
    """Numbers of a stratified part of the images, int64 sorted; all of them for a share of 1.

    Raises UserError for a share that leaves a class without an image.
    """
    if share == 1:
        return np.arange(len(labels))
    from sklearn.model_selection import train_test_split

    count, classes = round(share * len(labels)), len(np.unique(labels))
    if not classes <= count <= len(labels) - classes:
        raise UserError(
            f"train_share is {share}: {count} of {len(labels)} images; allowed: at least one of each of the "
            f"{classes} classes inside and outside, or 1 for all"
        )
    rows, _ = train_test_split(np.arange(len(labels)), train_size=count, stratify=labels, random_state=SUBSET_SEED)
    return np.sort(rows)


def training_loader(args: Namespace, train: Stored, rows: np.ndarray, device: torch.device | str) -> DataLoader:
    """Shuffled, augmented batches of the stored size; an epoch has at least --min_steps_per_epoch."""
    augmentation = augmentations.named(args.augment, train.pixels.shape[1])
    options = {"augmentation": augmentation, "seed": args.seed, "device": device}
    dataset = loaders.LabelledImages(train.pixels, train.labels, rows, **options)
    return make_loader(
        dataset,
        args.batch_size,
        shuffle=True,
        num_workers=args.num_workers,
        seed=args.seed,
        min_batches=args.min_steps_per_epoch,
    )


def evaluation_loader(split: Stored, device: torch.device | str, num_workers: int = 0) -> DataLoader:
    """All images of a split once, in order, as they are."""
    # "none" is an augmentation, too: with it the dataset keeps the file's order, and nothing is copied.
    plain = augmentations.named("none", split.pixels.shape[1])
    rows = np.arange(len(split.labels))
    dataset = loaders.LabelledImages(split.pixels, split.labels, rows, augmentation=plain, device=device)
    return make_loader(dataset, EVALUATION_BATCH, shuffle=False, num_workers=num_workers)


def build_model(args: Namespace, num_classes: int) -> backbones.Resized:
    """The network with its normalisation, behind the enlargement: batches stay small until they are on the device.

    Bilinear weights sum to 1, so it makes no difference that images are normalised after they were enlarged.
    """
    model = networks.build(args.model_name, 3, num_classes, args.image_size)
    if args.stem == "small":
        backbones.small_image_stem(model.network)
    return backbones.Resized(model, args.image_size)


def describe(args: Namespace, source: Source) -> dict[str, Any]:
    """What best.pt says beside the weights: enough to build the model again."""
    names = ("model_name", "image_size", "stem")
    return {"task": TASK, "data_name": source.name, "classes": list(source.class_names)} | {
        name: getattr(args, name) for name in names
    }


def criterion(args: Namespace, labels: np.ndarray, num_classes: int, mixing: losses.MixUp | None) -> nn.Module:
    """The loss of the flags --loss, --focal_gamma, --class_weights, --label_smoothing and --mixup."""
    weight = loaders.class_weights(labels, num_classes) if args.class_weights else None
    if args.loss == "focal":
        loss: nn.Module = losses.FocalLoss(args.focal_gamma, weight)
    else:
        loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=args.label_smoothing)
    return mixing.criterion(loss) if mixing else loss


def steps_per_epoch(args: Namespace, loader: DataLoader) -> int:
    """Training steps an epoch."""
    return min(args.max_steps_per_epoch or len(loader), len(loader))


def with_step_schedule(args: Namespace) -> Callable[..., dict[str, list[float]]]:
    """train_model with what this lab's flags mean: --schedule step, and --patience 0 for no early stopping."""

    def train(
        model: nn.Module, train_loader: DataLoader, val_loader: DataLoader, **options: Any
    ) -> dict[str, list[float]]:
        if args.schedule == "step":
            # The loop steps its schedule after every batch.
            steps = args.step_epochs * steps_per_epoch(args, train_loader)
            options["scheduler"] = torch.optim.lr_scheduler.StepLR(options["optimizer"], steps, args.step_factor)
        return train_model(model, train_loader, val_loader, **{**options, "patience": args.patience or None})

    return train


def measure(args: Namespace, setup: training.Setup, model: nn.Module, val: Stored) -> dict[str, Any]:
    """Validation figures with a picture of the confusion, and with --evaluate_test the test figures."""
    names, title = setup.source.class_names, f"{args.model_name}, validation images of {setup.source.name}"
    figures = evaluate(model, val, setup)
    plots.confusion(np.array(figures["confusion_matrix"]), names, title, setup.run.file("confusion.png"))
    print("validation: " + one_line(figures["metrics"]))
    facts = {"classes": list(names), "validation": figures, "val_metrics": figures["metrics"]}
    if args.evaluate_test:
        facts["test"] = evaluate(model, read(setup.source, "test"), setup, args.bootstrap, args.seed)
        facts["test_metrics"] = facts["test"]["metrics"]
        print("test: " + one_line(facts["test_metrics"]))
    return facts


def evaluate(
    model: nn.Module, split: Stored, setup: training.Setup, bootstrap: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Every figure of one split: n, metrics, per class, confusion matrix and, with `bootstrap`, 95 % intervals."""
    loader = evaluation_loader(split, setup.device)
    probabilities, labels = metrics.predict(model, loader, setup.device, setup.precision)
    figures: dict[str, Any] = {
        "n": len(labels),
        "metrics": scores.headline(probabilities, labels),
        "per_class": scores.per_class(probabilities, labels),
        "confusion_matrix": metrics.confusion_matrix(probabilities, labels).tolist(),
    }
    if bootstrap:
        figures |= {"bootstrap": bootstrap, "interval_level": 0.95}
        figures["intervals"] = scores.bootstrap(probabilities, labels, np.arange(len(labels)), bootstrap, seed)
    return figures


def one_line(figures: dict[str, Any]) -> str:
    """'accuracy 0.8333, balanced accuracy 0.7900, ...'."""
    known = [(name.replace("_", " "), figures[name]) for name in scores.HEADLINE if figures.get(name) is not None]
    return ", ".join(f"{name} {value:.4f}" for name, value in known)
