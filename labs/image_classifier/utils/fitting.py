"""What train.py does, step by step: decode, build, train on the course's one loop, measure, cross-validate."""

from __future__ import annotations

import statistics as summary
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from classification_train import train_model
from labs import training
from labs.image_classifier.models.networks import ImageClassifier, build_with_weights
from labs.image_classifier.utils import cache, keeping, loaders, pictures, scores, splitting, trained
from labs.image_classifier.utils.datafolder import DataFolder, Record, one_hot
from labs.image_classifier.utils.options import Settings
from labs.image_classifier.utils.reading import Preprocessing
from toolkit import backbones
from toolkit.devices import pick_device, resolve_precision, seed_everything
from toolkit.errors import UserError
from toolkit.images import MAX_PIXELS
from toolkit.runs import RunFolder, environment, read_json, write_json
from toolkit.stored_images import StoredImages

TASK = "classification"


@dataclass(frozen=True)
class Decoded:
    """Records with their decoded images uint8 (N, S, S, C) and labels (N,) or (N, L)."""

    records: Sequence[Record]
    pixels: np.ndarray | StoredImages
    labels: np.ndarray
    preprocessing: Preprocessing

    def rows(self, split: str) -> np.ndarray:
        """Numbers of the images of `split`, int64."""
        return np.array([row for row, record in enumerate(self.records) if record.split == split], dtype=np.int64)


@dataclass(frozen=True)
class Plan:
    """Everything that a training needs, built and checked before anything on the disk is touched."""

    model: ImageClassifier
    train_loader: DataLoader
    val_loader: DataLoader
    criterion: dict[str, nn.Module]
    described: dict[str, Any]
    rows: tuple[np.ndarray, np.ndarray]


def prepare(settings: Settings, data: DataFolder) -> training.Setup:
    """Device, precision and seed. The run folder is made, and an older run replaced, when the training begins."""
    data = replace(data, size=settings.image_size)
    if not (settings.folds and settings.resume):
        if settings.resume and (last := Path(settings.resume) / "best.pt").is_file():
            trained.check_same_images(last, *(contents(data.of(split)) for split in ("train", "val")))
        return training.prepare(settings, TASK, lambda: data, begin=False)  # type: ignore[arg-type,return-value]
    run = RunFolder.open(settings.resume)
    trained_on = run.config.get("dataset_name", data.name)
    if trained_on != data.name:
        raise UserError(f"--resume {run.path}: it was trained on {trained_on}, but --data is {data.name}")
    device = pick_device(settings.device)
    seed_everything(settings.seed)
    return training.Setup(run, device, resolve_precision(settings.precision, device), data)


def contents(records: Iterable[Record]) -> list[str]:
    """The hashes of what is in the images."""
    return [record.content for record in records]


def decode(settings: Settings, data: DataFolder, records: Sequence[Record]) -> Decoded:
    """Read and resize the images of `records`, or find them in the cache."""
    facts = data.facts
    preprocessing = Preprocessing(
        settings.image_size,
        facts["channels"],
        **{key: tuple(facts[key]) if facts.get(key) else None for key in ("value_range", "window")},
        fit=settings.fit,
        max_pixels=facts.get("max_pixels", MAX_PIXELS),
        frame=facts.get("frame", ""),
        scales=tuple(facts.get("scales", ())),
    )
    pixels = cache.decoded([record.path for record in records], preprocessing, data.path, settings.cache)
    return Decoded(records, pixels, data.labels(records), preprocessing)


def train_once(settings: Settings, setup: training.Setup, data: DataFolder, images: Decoded) -> None:
    """One training on the splits of the data folder; results.json has validation and, if asked for, test metrics."""
    plan = build(settings, data, images, (images.rows("train"), images.rows("val")), setup.device)
    if settings.evaluate_test:  # a file that is gone must not be noticed after the training
        cache.check_present([record.path for record in data.of("test")])
    history, _seconds = fit(settings, setup, plan)
    title = f"{settings.model_name}, validation, {data.name}"
    facts = measure(plan, setup, data, images, title)
    if settings.evaluate_test:
        test = decode(settings, data, data.of("test"))
        probabilities = trained.probabilities(plan.model, test.pixels, test.rows("test"), setup.device)
        facts["test_metrics"] = scores.headline(probabilities, test.labels)
        print("test: " + show(facts["test_metrics"]))
    training.report(settings, setup, TASK, history, facts)


def build(
    settings: Settings, data: DataFolder, images: Decoded, rows: tuple[np.ndarray, np.ndarray], device: torch.device
) -> Plan:
    """Loaders for training and validation rows, and the network with the weights to start from. Touches no run."""
    train_rows, val_rows = rows
    pixels, labels, preprocessing = images.pixels, images.labels, images.preprocessing
    size, channels = preprocessing.image_size, preprocessing.channels
    parts = (settings.augment, settings.flip, settings.rotation, settings.intensity, settings.stain)
    augmentation = loaders.augmentation(loaders.AugmentationSettings(*parts), size)
    train_set = loaders.LabelledImages(
        pixels, labels, train_rows, augmentation=augmentation, seed=settings.seed, device=device
    )
    val_set = loaders.LabelledImages(pixels, labels, val_rows, device=device)
    train_loader = loaders.training_loader(train_set, settings.batch_size, settings.seed, settings.oversample)

    model = build_with_weights(
        settings.model_name, settings.weights, channels, len(data.classes), size, data.multi_label
    )
    model.set_normalization(*loaders.statistics(pixels, train_rows))
    if settings.weights != "none" and backbones.is_folded(model):
        few = torch.arange(min(256, len(train_set)))
        plain = loaders.LabelledImages(pixels, labels, train_rows)
        backbones.unfold_batchnorm(model, plain.__getitems__(few).stacked[0])
    seen = [contents(images.records[row] for row in part) for part in rows]
    earlier = trained.images_behind(settings.weights)
    check_weights(settings.weights, earlier, {"val": seen[1], "test": contents(data.of("test"))})
    described = trained.description(
        settings.model_name, data.classes, data.multi_label, preprocessing, data.name, seen, earlier
    )
    criterion = balanced_criterion(settings.class_weights, train_set, len(data.classes), device)
    return Plan(model, train_loader, loaders.evaluation_loader(val_set), criterion, described, rows)


def check_weights(weights: str, earlier: Sequence[frozenset[str]], splits: dict[str, list[str]]) -> None:
    """Raise UserError if the run that the weights come from knows validation or test images: another split was drawn.

    Validation images may have chosen its epoch: they do the same here.
    """
    for split, hashes in splits.items():
        known = earlier[0] if split == "val" else earlier[0] | earlier[1]
        count = sum(content in known for content in hashes)
        if count:
            raise UserError(
                f"--weights {weights} know {count} of {len(hashes)} images of split {split}, so results on them would "
                "be too good; prepare the data as it was for that run (the same --seed), or take other weights"
            )


def fit(settings: Settings, setup: training.Setup, plan: Plan) -> tuple[dict[str, list[float]], float]:
    """Train, and leave the model with the weights of the best epoch → history, seconds.

    A run that fails before its first epoch is finished gives its folder back, so that the next start can have it.
    """
    is_new = setup.run is None and settings.output_dir and not settings.resume
    with keeping.older_run_kept(Path(settings.output_dir) if is_new and settings.overwrite else None):
        try:
            return training.train(
                train_model,
                plan.model,
                (plan.train_loader, plan.val_loader),
                settings,
                setup,
                best_extra=plan.described,
                **plan.criterion,
            )
        except BaseException:
            if setup.run is not None and not setup.run.file("last.pt").exists():
                keeping.give_back(setup.run)
            raise


def balanced_criterion(
    class_weights: bool, train_set: loaders.LabelledImages, num_classes: int, device: torch.device
) -> dict[str, nn.Module]:
    """{'criterion': ...} for --class_weights, else {}."""
    if not class_weights:
        return {}
    labels = train_set.own_labels()
    if labels.ndim == 2:
        return {"criterion": loaders.WeightedLabels(loaders.label_weights(labels)).to(device)}
    return {"criterion": nn.CrossEntropyLoss(weight=loaders.class_weights(labels, num_classes)).to(device)}


def measure(plan: Plan, setup: training.Setup, data: DataFolder, images: Decoded, title: str) -> dict[str, Any]:
    """Validation metrics for results.json, and their confusion matrix."""
    rows = plan.rows[1]
    probabilities = trained.probabilities(plan.model, images.pixels, rows, setup.device)
    labels = images.labels[rows]
    metrics = scores.headline(probabilities, labels)
    pictures.confusion(probabilities, labels, data.classes, title, setup.run.file("confusion.png"))
    print("validation: " + show(metrics))
    return {
        "val_metrics": metrics,
        "parameters": sum(parameter.numel() for parameter in plan.model.parameters()),
        "classes": data.classes,
        "preprocessing": images.preprocessing.as_dict(),
    }


def show(metrics: dict[str, Any]) -> str:
    """One line: 'accuracy 0.8333, balanced accuracy 0.7900, ...'."""
    known = [(name.replace("_", " "), metrics[name]) for name in scores.HEADLINE if metrics.get(name) is not None]
    return ", ".join(f"{name} {value:.4f}" for name, value in known)


def cross_validate(settings: Settings, setup: training.Setup, data: DataFolder, images: Decoded) -> None:
    """Train --folds times on training + validation images; test images take no part. Finished folds are not repeated.

    Every unit (patient, copies) is in one fold.
    """
    folds = range(1, settings.folds + 1)
    fold_of = splitting.assign(
        data.units(images.records),
        one_hot(images.records, data.classes),
        {str(fold): 1 / settings.folds for fold in folds},
        settings.seed,
    )
    if len(set(fold_of)) < settings.folds:
        raise UserError(
            f"folds is {settings.folds}, but there are only {len(set(fold_of))} independent groups of images"
        )
    parts = [(np.flatnonzero(fold_of != str(fold)), np.flatnonzero(fold_of == str(fold))) for fold in folds]
    for fold, (outside, _inside) in zip(folds, parts, strict=True):
        check_fold(data, images, outside, fold)
        if settings.batch_size > len(outside):
            raise UserError(f"batch_size is {settings.batch_size}, but fold {fold} trains on {len(outside)} images")
        check_fold_resumes(settings, contents(images.records[row] for row in outside), fold)
    first = build(settings, data, images, parts[0], setup.device)  # weights that do not fit are noticed here
    del first
    setup.begin()
    rows = []
    try:
        for fold, part in zip(folds, parts, strict=True):
            rows.append(run_fold(settings, setup, data, images, part, fold))
            print(f"fold {fold} of {settings.folds}: {show(rows[-1]['val_metrics'])}")
    except BaseException:
        if not any(setup.run.path.glob("fold-*/last.pt")):
            keeping.give_back(setup.run)
        raise
    report_folds(settings, setup, data, rows)


def check_fold_resumes(settings: Settings, training_images: Sequence[str], fold: int) -> None:
    """A resumed fold continues with the images that it was started with."""
    path = Path(settings.resume or "") / f"fold-{fold}" / "best.pt"
    if settings.resume and path.is_file():
        trained.check_same_images(path, training_images)


def report_folds(settings: Settings, setup: training.Setup, data: DataFolder, rows: list[dict[str, Any]]) -> None:
    """results.json (also to --results_path) and a table on the terminal: mean ± sample sd over the folds."""
    mean, spread = {}, {}
    for name in rows[0]["val_metrics"]:
        values = [row["val_metrics"][name] for row in rows if row["val_metrics"][name] is not None]
        if len(values) > 1:
            mean[name], spread[name] = summary.fmean(values), summary.stdev(values)
    results = {
        "task": TASK,
        "dataset": data.name,
        "model_name": settings.model_name,
        "seed": settings.seed,
        "folds": settings.folds,
        "best_val_acc": mean["accuracy"],
        "mean": mean,
        "sd": spread,
        "each_fold": [row["val_metrics"] for row in rows],
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "environment": environment(),
        "config": vars(settings),
    }
    for path in filter(None, (setup.run.file("results.json"), settings.results_path)):
        write_json(path, results)
    for name in (name for name in scores.HEADLINE if name in mean):
        print(f"{name.replace('_', ' '):>24}: {mean[name]:.4f} ± {spread[name]:.4f} (n = {settings.folds} folds)")
    print(f"files: results.json, fold-1 .. fold-{settings.folds} in {setup.run.path}")


def run_fold(
    settings: Settings,
    setup: training.Setup,
    data: DataFolder,
    images: Decoded,
    rows: tuple[np.ndarray, np.ndarray],
    fold: int,
) -> dict[str, Any]:
    """Train one fold in its own run folder, or resume it, or read what it left."""
    path = setup.run.path / f"fold-{fold}"
    run = RunFolder(path)
    # With --overwrite the folds of an earlier cross-validation are still there; they do not belong to this one.
    if settings.resume and run.file("results.json").exists() and run.file("best.pt").exists():
        return read_json(run.file("results.json"))
    if not settings.resume or not (run.file("last.pt").exists() and run.file("best.pt").exists()):
        run = RunFolder.create(path, {**vars(settings), "fold": fold}, overwrite=True)
    seed_everything(settings.seed)
    inner = replace(setup, run=run)
    plan = build(settings, data, images, rows, setup.device)
    history, seconds = fit(settings, inner, plan)
    facts = measure(plan, inner, data, images, f"{settings.model_name}, fold {fold}, {data.name}")
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
