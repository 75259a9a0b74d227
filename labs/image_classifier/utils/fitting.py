"""What train.py does, step by step: decode, build, train on the course's one loop, measure, cross-validate."""

from __future__ import annotations

import statistics as summary
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from classification_train import train_model
from labs.image_classifier.models.networks import ImageClassifier, build_with_weights
from labs.image_classifier.utils import cache, loaders, pictures, scores, splitting, trained
from labs.image_classifier.utils.datafolder import DataFolder, Record, one_hot
from labs.image_classifier.utils.reading import MAX_PIXELS, Preprocessing
from toolkit import backbones, experiment
from toolkit.devices import pick_device, resolve_precision, seed_everything
from toolkit.errors import UserError
from toolkit.runs import RunFolder, environment, read_json, write_json

TASK = "classification"


@dataclass(frozen=True)
class Decoded:
    """Records with their decoded images uint8 (N, S, S, C) and labels (N,) or (N, L)."""

    records: Sequence[Record]
    pixels: np.ndarray
    labels: np.ndarray
    preprocessing: Preprocessing

    def rows(self, split: str) -> np.ndarray:
        """Numbers of the images of `split`, int64."""
        return np.array([row for row, record in enumerate(self.records) if record.split == split], dtype=np.int64)


def prepare(args: Namespace, data: DataFolder) -> experiment.Setup:
    """Device, precision, seed and run folder; a cross-validation is resumed fold by fold."""
    data = replace(data, size=args.image_size)
    if not (args.folds and args.resume):
        return experiment.prepare(args, TASK, lambda: data)  # type: ignore[arg-type,return-value]
    run = RunFolder.open(args.resume)
    trained_on = run.config.get("dataset_name", data.name)
    if trained_on != data.name:
        raise UserError(f"--resume {run.path}: it was trained on {trained_on}, but --data is {data.name}")
    device = pick_device(args.device)
    seed_everything(args.seed)
    return experiment.Setup(run, device, resolve_precision(args.precision, device), data)


def decode(args: Namespace, data: DataFolder, records: Sequence[Record]) -> Decoded:
    """Read and resize the images of `records`, or find them in the cache."""
    facts = data.facts
    pair = {key: tuple(facts[key]) if facts.get(key) else None for key in ("value_range", "window")}
    limit = facts.get("max_pixels", MAX_PIXELS)
    preprocessing = Preprocessing(args.image_size, facts["channels"], **pair, fit=args.fit, max_pixels=limit)
    pixels = cache.decoded([record.path for record in records], preprocessing, data.path, args.cache)
    return Decoded(records, pixels, data.labels(records), preprocessing)


def train_once(args: Namespace, setup: experiment.Setup, data: DataFolder, images: Decoded) -> None:
    """One training on the splits of the data folder; results.json has validation and, if asked for, test figures."""
    model, history, seconds = fit(args, setup, data, images, images.rows("train"), images.rows("val"))
    facts = measure(model, setup, data, images, images.rows("val"), f"{args.model_name}, validation, {data.name}")
    if args.evaluate_test:
        test = decode(args, data, data.of("test"))
        probabilities = trained.probabilities(model, test.pixels, test.rows("test"), setup.device)
        facts["test_metrics"] = scores.headline(probabilities, test.labels)
        print("test: " + show(facts["test_metrics"]))
    experiment.report(args, setup, TASK, history, seconds, facts)


def fit(
    args: Namespace,
    setup: experiment.Setup,
    data: DataFolder,
    images: Decoded,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
) -> tuple[ImageClassifier, dict[str, list[float]], float]:
    """Train on some rows, choose the epoch on others → the model of the best epoch, history, seconds."""
    pixels, labels = images.pixels, images.labels
    size, channels = images.preprocessing.image_size, images.preprocessing.channels
    augmentation = loaders.augmentation(args.augment, size)
    options = {"seed": args.seed, "device": setup.device}
    train_set = loaders.LabelledImages(pixels, labels, train_rows, augmentation=augmentation, **options)
    val_set = loaders.LabelledImages(pixels, labels, val_rows, device=setup.device)
    train_loader = loaders.training_loader(train_set, args.batch_size, args.seed, args.oversample)

    model = build_with_weights(args.model_name, args.weights, channels, len(data.classes), size, data.multi_label)
    model.set_normalization(*loaders.statistics(pixels, train_rows))
    if args.weights != "none" and backbones.is_folded(model):
        few = torch.arange(min(256, len(train_set)))
        plain = loaders.LabelledImages(pixels, labels, train_rows)
        backbones.unfold_batchnorm(model, plain.__getitems__(few).stacked[0])
    described = trained.description(args.model_name, data.classes, data.multi_label, images.preprocessing, data.name)
    history, seconds = experiment.train(
        train_model,
        model,
        (train_loader, loaders.evaluation_loader(val_set)),
        args,
        setup,
        best_extra=described,
        **balanced_criterion(args, train_set, len(data.classes), setup.device),
    )
    return model, history, seconds


def balanced_criterion(
    args: Namespace, train_set: loaders.LabelledImages, num_classes: int, device: torch.device
) -> dict[str, nn.Module]:
    """{'criterion': ...} for --class_weights, else {}."""
    if not args.class_weights:
        return {}
    labels = train_set.own_labels()
    if labels.ndim == 2:
        return {"criterion": loaders.WeightedLabels(loaders.label_weights(labels)).to(device)}
    return {"criterion": nn.CrossEntropyLoss(weight=loaders.class_weights(labels, num_classes)).to(device)}


def measure(
    model: ImageClassifier,
    setup: experiment.Setup,
    data: DataFolder,
    images: Decoded,
    rows: np.ndarray,
    title: str,
) -> dict[str, Any]:
    """Validation figures for results.json, and their confusion matrix."""
    probabilities = trained.probabilities(model, images.pixels, rows, setup.device)
    labels = images.labels[rows]
    figures = scores.headline(probabilities, labels)
    pictures.confusion(probabilities, labels, data.classes, title, setup.run.file("confusion.png"))
    print("validation: " + show(figures))
    return {
        "val_metrics": figures,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "classes": data.classes,
        "preprocessing": images.preprocessing.as_dict(),
    }


def show(figures: dict[str, Any]) -> str:
    """One line: 'accuracy 0.8333, balanced accuracy 0.7900, ...'."""
    known = [(name.replace("_", " "), figures[name]) for name in scores.HEADLINE if figures.get(name) is not None]
    return ", ".join(f"{name} {value:.4f}" for name, value in known)


def cross_validate(args: Namespace, setup: experiment.Setup, data: DataFolder, images: Decoded) -> None:
    """Train --folds times on training + validation images; test images take no part. Finished folds are not repeated.

    Every unit (patient, copies) is in one fold.
    """
    fold_of = splitting.assign(
        data.units(images.records),
        one_hot(images.records, data.classes),
        {str(fold): 1 / args.folds for fold in range(1, args.folds + 1)},
        args.seed,
    )
    if len(set(fold_of)) < args.folds:
        raise UserError(f"folds is {args.folds}, but there are only {len(set(fold_of))} independent groups of images")
    rows = []
    for fold in range(1, args.folds + 1):
        outside, inside = np.flatnonzero(fold_of != str(fold)), np.flatnonzero(fold_of == str(fold))
        check_fold(data, images, outside, fold)
        rows.append(run_fold(args, setup, data, images, (outside, inside), fold))
        print(f"fold {fold} of {args.folds}: {show(rows[-1]['val_metrics'])}")
    report_folds(args, setup, data, rows)


def report_folds(args: Namespace, setup: experiment.Setup, data: DataFolder, rows: list[dict[str, Any]]) -> None:
    """results.json (also to --results_path) and a table on the terminal: mean ± sample sd over the folds."""
    mean, spread = {}, {}
    for name in rows[0]["val_metrics"]:
        values = [row["val_metrics"][name] for row in rows if row["val_metrics"][name] is not None]
        if len(values) > 1:
            mean[name], spread[name] = summary.fmean(values), summary.stdev(values)
    results = {
        "task": TASK,
        "dataset": data.name,
        "model_name": args.model_name,
        "seed": args.seed,
        "folds": args.folds,
        "best_val_acc": mean["accuracy"],
        "mean": mean,
        "sd": spread,
        "each_fold": [row["val_metrics"] for row in rows],
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "environment": environment(),
        "config": vars(args),
    }
    for path in filter(None, (setup.run.file("results.json"), args.results_path)):
        write_json(path, results)
    for name in (name for name in scores.HEADLINE if name in mean):
        print(f"{name.replace('_', ' '):>24}: {mean[name]:.4f} ± {spread[name]:.4f} (n = {args.folds} folds)")
    print(f"files: results.json, fold-1 .. fold-{args.folds} in {setup.run.path}")


def run_fold(
    args: Namespace,
    setup: experiment.Setup,
    data: DataFolder,
    images: Decoded,
    rows: tuple[np.ndarray, np.ndarray],
    fold: int,
) -> dict[str, Any]:
    """Train one fold in its own run folder, or go on with it, or read what it left."""
    path = setup.run.path / f"fold-{fold}"
    run = RunFolder(path)
    # With --overwrite the folds of an earlier cross-validation are still there; they are none of this one.
    if args.resume and run.file("results.json").exists():
        return read_json(run.file("results.json"))
    if not args.resume or not run.file("last.pt").exists():
        run = RunFolder.create(path, {**vars(args), "fold": fold}, overwrite=True)
    seed_everything(args.seed)
    inner = replace(setup, run=run)
    model, history, seconds = fit(args, inner, data, images, *rows)
    facts = measure(model, inner, data, images, rows[1], f"{args.model_name}, fold {fold}, {data.name}")
    results = {**facts, "fold": fold, "seconds": round(seconds, 2), "history": history}
    write_json(run.file("results.json"), results)
    return results


def check_fold(data: DataFolder, images: Decoded, train_rows: np.ndarray, fold: int) -> None:
    """Every class must be among the images that a fold trains on."""
    present = one_hot([images.records[row] for row in train_rows], data.classes).any(axis=0)
    if not present.all():
        name = data.classes[int(np.flatnonzero(~present)[0])]
        raise UserError(
            f"class {name!r} has no training image in fold {fold}, because all its images belong together; "
            "add images of other groups, or prepare without this class"
        )
