"""What run.py does between the graded functions: loops over models and seeds, figures in their files. Provided."""

from __future__ import annotations

import re
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from labs.hw5_pneumonia import choices as choosing
from labs.hw5_pneumonia import figures, hw5_dl, recipes
from toolkit import plots
from toolkit.augment import normalize
from toolkit.backbones import last_map
from toolkit.devices import describe, pick_device, resolve_precision, seed_everything
from toolkit.gradcam import randomised
from toolkit.medmnist_data import Source
from toolkit.runs import environment, write_json

FIGURES = ("accuracy", "auc", "precision", "recall", "f1", "specificity")


@dataclass
class Trained:
    """One model of the comparison, trained with several seeds."""

    recipe: recipes.Recipe
    models: list[nn.Module] = field(default_factory=list)
    histories: list[recipes.History] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def settle(args: Namespace, source: Source) -> recipes.Settings:
    """Device, precision and loss; says what was found."""
    device = pick_device(args.device)
    precision = resolve_precision(args.precision, device)
    labels = source.read("train").labels
    choosing.check_classes(labels, "train", source.class_names)
    choosing.check_classes(source.read("val").labels, "val", source.class_names)
    print(f"data: {source.name} from {source.origin}\ndevice: {describe(device)}, {precision}")
    weights = choosing.balanced_weights(labels)
    say = _say if sys.stderr.isatty() else lambda _line: None
    return recipes.Settings(args.epochs, args.resnet_epochs, args.head_epochs, weights, device, precision, say)


def _say(line: str) -> None:
    sys.stderr.write(f"  {line}\n")


def part_1(source: Source, batch_size: int, folder: Path) -> dict[str, list[int]]:
    """Samples, distribution and augmented examples. Of the test split only the number of labels is shown."""
    splits = {name: source.read(name) for name in hw5_dl.SPLITS}
    counts = hw5_dl.explore(splits, source.class_names, folder)
    train = normalize(splits["train"].images[:6])
    generator = torch.Generator().manual_seed(0)
    rows = [train] + [hw5_dl.augment(train, generator) for _ in range(3)]
    names = ("as they are", "augmented", "augmented again", "and again")
    figures.image_grid(rows, names, "what training batches look like", folder / "1_augmentation.png")
    return counts


def train_all(
    args: Namespace,
    settings: recipes.Settings,
    source: Source,
    weights: Mapping[str, torch.Tensor] | None,
    folder: Path,
) -> dict[str, Trained]:
    """Parts 2 and 3: every recipe with every seed; the curves of the first seed are drawn."""
    trained: dict[str, Trained] = {}
    for recipe in recipes.make_recipes(args.models, settings, args.backbone, weights, args.image_size):
        row = trained.setdefault(recipe.name, Trained(recipe))
        for seed in range(args.seeds):
            seed_everything(seed)
            loaders = hw5_dl.make_dataloaders(source, args.batch_size, seed)
            started = time.perf_counter()
            model, history = recipe.train(loaders)
            row.seconds.append(round(time.perf_counter() - started, 1))
            row.models.append(model)
            row.histories.append(history)
            best = int(np.argmin(history["val_loss"]))
            print(
                f"{recipe.name}, seed {seed}: {len(history['val_loss'])} epochs in {row.seconds[-1]:.0f} s, "
                f"best validation loss {history['val_loss'][best]:.4f}, accuracy there {history['val_acc'][best]:.4f}",
                flush=True,
            )
        path = folder / f"{'2' if recipe.name == 'CNN' else '3'}_curves_{_file_name(recipe.name)}.png"
        hw5_dl.plot_training(row.histories[0], f"{recipe.name}, seed 0", path)
    return trained


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower().replace("-", ""))


def choose_and_open_test(
    args: Namespace, settings: recipes.Settings, source: Source, trained: Mapping[str, Trained], folder: Path
) -> tuple[dict[str, Any], torch.Tensor, np.ndarray]:
    """Write every threshold, chosen on validation data, to choices.json; then open the test split, once."""
    val = source.read("val")
    images, labels = normalize(val.images), val.labels.numpy()
    chosen: dict[str, Any] = {}
    for name, row in trained.items():
        chosen[name] = []
        for seed, model in enumerate(row.models):
            probabilities = choosing.predict(model, images, settings.precision)
            threshold = choosing.choose_threshold(probabilities, labels)
            on_val = hw5_dl.evaluate(probabilities, labels, threshold)
            chosen[name].append({"seed": seed, "threshold": threshold, "validation": on_val})
    test_loader = hw5_dl.make_dataloaders(source, args.batch_size)["test"]
    images, labels = choosing.SealedTest(test_loader).open(chosen, folder / "choices.json")
    return chosen, images, labels


def part_4(
    trained: Mapping[str, Trained],
    chosen: Mapping[str, Any],
    images: torch.Tensor,
    labels: np.ndarray,
    settings: recipes.Settings,
    folder: Path,
) -> dict[str, Any]:
    """Test figures of every model and seed, and the pictures of the first seeds."""
    models: dict[str, Any] = {}
    first: dict[str, np.ndarray] = {}
    for name, row in trained.items():
        probabilities = [choosing.predict(model, images, settings.precision) for model in row.models]
        thresholds = [choice["threshold"] for choice in chosen[name]]
        seeds = [hw5_dl.evaluate(p, labels, t) for p, t in zip(probabilities, thresholds, strict=True)]
        first[name] = probabilities[0]
        models[name] = {
            "mean": {key: float(np.mean([seed[key] for seed in seeds])) for key in FIGURES},
            "sd": {key: float(np.std([seed[key] for seed in seeds], ddof=min(1, len(seeds) - 1))) for key in FIGURES},
            "interval_95_seed_0": choosing.bootstrap_intervals(
                probabilities[0], labels, thresholds[0], hw5_dl.evaluate, FIGURES
            ),
            "seeds": seeds,
            "thresholds": thresholds,
            "seconds": row.seconds,
        }
        counts = np.array([[seeds[0]["tn"], seeds[0]["fp"]], [seeds[0]["fn"], seeds[0]["tp"]]])
        path = folder / f"4_confusion_{_file_name(name)}.png"
        plots.confusion(counts, ("normal", "pneumonia"), f"{name}, test", path)
    thresholds = {name: figures_of["thresholds"][0] for name, figures_of in models.items()}
    areas = hw5_dl.plot_roc_and_pr(first, labels, thresholds, folder / "4_roc_pr.png")
    shown = next(iter(first))
    _draw_cases(shown, first[shown], labels, thresholds[shown], images, folder)
    figures.calibration(first[shown], labels, f"{shown}, test", folder / "4_calibration.png")
    return {"models": models, "areas_seed_0": areas, "probabilities_seed_0": first}


def _draw_cases(
    name: str, probabilities: np.ndarray, labels: np.ndarray, threshold: float, images: torch.Tensor, folder: Path
) -> None:
    """Eight images of each kind, the most confident first."""
    cases = hw5_dl.sort_cases(probabilities, labels, threshold)
    rows = [images[torch.as_tensor(indices[:8].copy())] for indices in cases.values()]
    names = {"TP": "true positives", "TN": "true negatives", "FP": "false positives", "FN": "false negatives"}
    titles = [f"{names[kind]}, {len(indices)} in all" for kind, indices in cases.items()]
    figures.image_grid(rows, titles, f"{name} on test images, the most confident first", folder / "4_cases.png")


def part_5(
    trained: Mapping[str, Trained], results: dict[str, Any], images: torch.Tensor, labels: np.ndarray, folder: Path
) -> dict[str, Any]:
    """Filters and Grad-CAM of the first model, and whether the maps depend on what was learned (Adebayo 2018)."""
    name = next(iter(trained))
    model = trained[name].models[0].float()
    images = images.to(next(model.parameters()).device)
    place = last_map(model, images[:1])
    layer = model.get_submodule(place)
    hw5_dl.plot_filters(model, folder / "5_filters.png")
    probabilities = results.pop("probabilities_seed_0")[name]
    threshold = results["models"][name]["thresholds"][0]
    path = folder / "5_grad_cam.png"
    chosen = hw5_dl.plot_grad_cam(model, layer, images, labels, probabilities, threshold, path)
    targets = torch.ones(len(chosen), dtype=torch.int64, device=images.device)
    learned = hw5_dl.grad_cam(model, layer, images[chosen], targets)
    random = randomised(model)
    random_maps = hw5_dl.grad_cam(random, random.get_submodule(place), images[chosen], targets)
    change = (learned - random_maps).abs().mean().item()
    return {"model": name, "layer": place, "test_images": chosen, "mean_change_with_random_weights": change}


def table_rows(results: Mapping[str, Any], backbone: str, without_weights: bool) -> dict[str, Any]:
    """What hw5_dl.comparison_table takes; without weights the pretrained row says so."""
    rows: dict[str, Any] = {}
    for name, found in results["models"].items():
        several = len(found["seeds"]) > 1
        rows[name] = {key: (found["mean"][key], found["sd"][key] if several else None) for key in FIGURES}
    if without_weights:
        rows[recipes.pretrained_name(backbone)] = "not run: no weights"
    return rows


def write_results(
    results: dict[str, Any],
    distribution: Mapping[str, list[int]],
    trained: Mapping[str, Trained],
    chosen: Mapping[str, Any],
    args: Namespace,
    source: Source,
    settings: recipes.Settings,
    started: float,
    folder: Path,
) -> None:
    """results.json: every number of the run, with what is needed to repeat it."""
    seconds = round(time.perf_counter() - started, 1)
    everything = {
        "task": "hw5",
        "dataset": source.name,
        "images_of_each_class": dict(distribution),
        **results,
        "choices": dict(chosen),
        "histories": {name: row.histories for name, row in trained.items()},
        "seconds": seconds,
        "precision": settings.precision,
        "device": describe(settings.device),
        "environment": environment(),
        "config": vars(args),
    }
    write_json(folder / "results.json", everything)
    print(f"finished in {seconds:.0f} s")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    print(f"files in {args.output_dir}: {', '.join(names)}")
