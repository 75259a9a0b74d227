"""What run.py does between the graded functions: trainings over models and seeds, pictures, tables. Provided."""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from classification_dataset import ImageDataset
from labs.hw5_pneumonia import choices, figures, hw5_dl
from labs.hw5_pneumonia.recipes import Recipe
from toolkit import plots
from toolkit.augment import normalize
from toolkit.backbones import last_map
from toolkit.batches import make_loader
from toolkit.bootstrap import bootstrap_intervals
from toolkit.gradcam import randomised
from toolkit.mean_sd import mean_and_sd
from toolkit.medmnist_data import Source
from toolkit.metrics import predict
from toolkit.runs import RunFolder, load_checkpoint, save_checkpoint, write_bytes
from toolkit.study import Study, summary

METRICS = ("accuracy", "auc", "precision", "recall", "f1", "specificity")
INTERVALS = ("accuracy", "auc", "recall", "specificity")
REPLICATES = 500  # of the bootstrap
# An operating point is what a model does at one threshold: its sensitivity (the share of the ill that it finds) and its
# specificity (the share of the healthy that it calls healthy).
SENSITIVITY = 0.98  # of the third operating point: few ill children may be missed
Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Machine:
    """Where the models compute, and how precisely."""

    device: torch.device
    precision: str


@dataclass(frozen=True)
class Trained:
    """One model of the comparison, trained with several seeds: their results, and the networks from their folders."""

    recipe: Recipe
    runs: list[dict[str, Any]]
    study: Study
    machine: Machine

    @property
    def seeds(self) -> Sequence[int]:
        return self.study.seeds

    def network(self, seed: int) -> nn.Module:
        """The trained network of a seed."""
        network = self.recipe.build_on(self.machine.device, self.machine.precision)
        network.load_state_dict(load_checkpoint(self.study.run(slug(self.recipe.name), seed).file("best.pt"))["model"])
        return network

    def probabilities(self, batches: Any) -> list[np.ndarray]:
        """Probability of pneumonia (N,) of each seed's network."""
        machine = self.machine
        return [predict(self.network(seed), batches, machine.device)[0][:, 1] for seed in self.seeds]


def slug(name: str) -> str:
    """'ResNet-18 from scratch' → 'resnet18_from_scratch', for files."""
    return re.sub(r"\W+", "_", name.lower().replace("-", ""))


def digest_of(path: Path) -> str:
    """Changes whenever the code changes that trains, and not with comments (answers) or formatting."""
    return hashlib.sha256(ast.dump(ast.parse(path.read_text(encoding="utf-8"))).encode()).hexdigest()[:12]


def part_1(source: Source, folder: Path) -> dict[str, list[int]]:
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
    study: Study, machine: Machine, recipes: Sequence[Recipe], source: Source, batch_size: int
) -> dict[str, Trained]:
    """Parts 2 and 3: every recipe with every seed; the curves of the first seed are drawn."""
    trained: dict[str, Trained] = {}
    for recipe in recipes:

        def train(seed: int, run: RunFolder, recipe: Recipe = recipe) -> dict[str, Any]:
            network = recipe.build_on(machine.device, machine.precision)
            loaders = hw5_dl.make_dataloaders(source, batch_size, seed)
            if recipe.augmentation is not None:
                images = ImageDataset(source.read("train"), augmentation=recipe.augmentation, seed=seed)
                loaders["train"] = make_loader(images, batch_size, shuffle=True, seed=seed)
            history = recipe.fit(network, loaders, f"{recipe.name}, seed {seed}")
            save_checkpoint(run.file("best.pt"), {"model": network.state_dict()})
            best = int(np.argmin(history["val_loss"]))
            validation = {"loss": history["val_loss"][best], "accuracy": history["val_acc"][best]}
            return {"validation": validation, "epochs": len(history["val_loss"]), "history": history}

        runs = study.train(slug(recipe.name), train)
        trained[recipe.name] = Trained(recipe, runs, study, machine)
        path = study.folder / f"{'2' if recipe.name == 'CNN' else '3'}_curves_{slug(recipe.name)}.png"
        hw5_dl.plot_training(runs[0]["history"], f"{recipe.name}, seed 0", path)
    return trained


def choose_thresholds(trained: Mapping[str, Trained], val_loader: Any) -> dict[str, list[dict[str, Any]]]:
    """The threshold of every model and seed, chosen on validation data, with the metrics there."""
    batches = list(val_loader)
    labels = torch.cat([labels for _images, labels in batches]).numpy()
    chosen: dict[str, list[dict[str, Any]]] = {}
    for name, row in trained.items():
        chosen[name] = []
        for seed, probabilities in zip(row.seeds, row.probabilities(batches), strict=True):
            threshold = choices.choose_threshold(probabilities, labels)
            on_val = hw5_dl.evaluate(probabilities, labels, threshold)
            sensitive = choices.threshold_for_sensitivity(probabilities, labels, SENSITIVITY)
            # Youden's threshold is the one with the highest sensitivity + specificity, see choices.choose_threshold.
            points = {"0.5": 0.5, "Youden": threshold, f"sensitivity {SENSITIVITY:.0%}": sensitive}
            chosen[name].append({"seed": seed, "threshold": threshold, "points": points, "validation": on_val})
    return chosen


def best_model(chosen: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The model with the highest mean AUC on validation images: its pictures are drawn."""
    return max(chosen, key=lambda name: float(np.mean([row["validation"]["auc"] for row in chosen[name]])))


@dataclass(frozen=True)
class OnTest:
    """The test split, and what every model says of it."""

    images: torch.Tensor
    labels: np.ndarray
    probabilities: Mapping[str, list[np.ndarray]]
    thresholds: Mapping[str, list[float]]
    points: Mapping[str, Mapping[str, float]]  # model → named thresholds of its first seed
    best: str  # the model whose cases, operating points, calibration and maps are drawn


def look_at_test(trained: Mapping[str, Trained], chosen: Mapping[str, Any], batches: Batches) -> OnTest:
    """Run every network over the test batches, once."""
    images, labels = torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches]).numpy()
    thresholds = {name: [choice["threshold"] for choice in rows] for name, rows in chosen.items()}
    probabilities = {name: row.probabilities(batches) for name, row in trained.items()}
    points = {name: rows[0]["points"] for name, rows in chosen.items()}
    return OnTest(images, labels, probabilities, thresholds, points, best_model(chosen))


def part_4(trained: Mapping[str, Trained], test: OnTest, folder: Path) -> dict[str, Any]:
    """Test metrics of every model and seed, and the pictures of the first seeds."""
    models: dict[str, Any] = {}
    for name, row in trained.items():
        models[name] = {**metrics_of(test, name), "seconds_of_training": [run["seconds"] for run in row.runs]}
        first = models[name]["seeds"][0]
        counts = np.array([[first["tn"], first["fp"]], [first["fn"], first["tp"]]])
        title, path = f"{name}, test", folder / f"4_confusion_{slug(name)}.png"
        plots.confusion(counts, ("normal", "pneumonia"), title, path)
    first_seeds = {name: several[0] for name, several in test.probabilities.items()}
    thresholds = {name: several[0] for name, several in test.thresholds.items()}
    areas = hw5_dl.plot_roc_and_pr(first_seeds, test.labels, thresholds, folder / "4_roc_pr.png")
    draw_cases(test, folder)
    best = first_seeds[test.best]
    figures.calibration(best, test.labels, f"{test.best}, test", folder / "4_calibration.png")
    points = {
        name: {"threshold": value, **hw5_dl.evaluate(best, test.labels, value)}
        for name, value in test.points[test.best].items()
    }
    path = folder / "4_operating_points.png"
    figures.operating_points(best, test.labels, points, f"{test.best}, seed 0, test", path)
    return {"models": models, "areas_seed_0": areas, "best_model": test.best, "operating_points": points}


def metrics_of(test: OnTest, name: str) -> dict[str, Any]:
    """Metrics of one model: of each seed, their mean and spread, and intervals of the first seed."""
    several, thresholds = test.probabilities[name], test.thresholds[name]
    seeds = [hw5_dl.evaluate(p, test.labels, t) for p, t in zip(several, thresholds, strict=True)]

    def measure(rows: np.ndarray) -> dict[str, float]:
        found = hw5_dl.evaluate(several[0][rows], test.labels[rows], thresholds[0])
        return {key: found[key] for key in INTERVALS}

    rows = np.arange(len(test.labels))
    intervals = bootstrap_intervals(measure, rows, REPLICATES, seed=0, strata=test.labels)
    return {**summary(seeds, METRICS), "interval_95_seed_0": intervals, "thresholds": thresholds, "seeds": seeds}


def draw_cases(test: OnTest, folder: Path) -> None:
    """Eight images of each kind, the most confident first."""
    name = test.best
    cases = hw5_dl.sort_cases(test.probabilities[name][0], test.labels, test.thresholds[name][0])
    rows = [test.images[torch.as_tensor(indices[:8].copy())] for indices in cases.values()]
    names = {"TP": "true positives", "TN": "true negatives", "FP": "false positives", "FN": "false negatives"}
    titles = [f"{names[kind]}, {len(indices)} in all" for kind, indices in cases.items()]
    figures.image_grid(rows, titles, f"{name} on test images, the most confident first", folder / "4_cases.png")


def part_5(trained: Mapping[str, Trained], test: OnTest, folder: Path) -> dict[str, Any]:
    """Filters and Grad-CAM of the best model, and whether the maps depend on what was learned (Adebayo 2018)."""
    model = trained[test.best].network(0)
    images = test.images.to(next(model.parameters()).device)
    place = last_map(model, images[:1])
    layer = model.get_submodule(place)
    hw5_dl.plot_filters(model, folder / "5_filters.png")
    probabilities, threshold = test.probabilities[test.best][0], test.thresholds[test.best][0]
    path = folder / "5_grad_cam.png"
    shown = hw5_dl.plot_grad_cam(model, layer, images, test.labels, probabilities, threshold, path)
    targets = torch.ones(len(shown), dtype=torch.int64, device=images.device)
    learned = hw5_dl.grad_cam(model, layer, images[shown], targets)
    random = randomised(model)
    random_maps = hw5_dl.grad_cam(random, random.get_submodule(place), images[shown], targets)
    change = (learned - random_maps).abs().mean().item()
    return {"model": test.best, "layer": place, "test_images": shown, "mean_change_with_random_weights": change}


def write_tables(models: Mapping[str, Mapping[str, Any]], not_run: Mapping[str, str], folder: Path) -> str:
    """Write 3_table.md, from the graded function, and 3_table.csv with means and deviations; return the table.

    not_run: model → why it was not run.
    """
    pairs = {
        name: {key: mean_and_sd([seed[key] for seed in found["seeds"]]) for key in METRICS}
        for name, found in models.items()
    }
    text = hw5_dl.comparison_table({**pairs, **not_run})
    write_bytes(folder / "3_table.md", text.encode())
    print(f"\n{text}")
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["model", "seeds", *(f"{name}{kind}" for name in METRICS for kind in ("", "_sd"))])
    for name, row in pairs.items():
        numbers = ["" if value is None else f"{value:.6f}" for key in METRICS for value in row[key]]
        writer.writerow([name, len(models[name]["seeds"]), *numbers])
    writer.writerows(not_run.items())
    write_bytes(folder / "3_table.csv", lines.getvalue().encode())
    return text
