"""What is a label worth? Trains the methods of recipe.py with several numbers of labels, and makes the table.

python -m labs.few_labels --quick                                      # two minutes: does everything run?
python -m labs.few_labels --methods residual --labels 90 --seeds 1     # one point of the curve
python -m labs.few_labels --methods labels residual fixmatch --labels 450 600
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classification_train import train_model
from labs.few_labels import recipe, report
from toolkit import backbones, experiment, metrics
from toolkit.augment import normalize
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.devices import describe, pick_device, place_model, resolve_precision
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, Split, locate, official_test
from toolkit.runs import RunFolder, read_json, writable_folder, write_json
from toolkit.study import SealedSource, Study

OUTPUTS = Path(__file__).resolve().parent / "outputs"
EPOCH_STEPS = 100


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(prog="python -m labs.few_labels", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--methods", nargs="+", choices=tuple(recipe.METHODS), default=list(recipe.METHODS), help="rows of the table"
    )
    parser.add_argument("--labels", nargs="+", type=in_range(int, 9), default=[600], help="numbers of labels")
    parser.add_argument("--seeds", type=in_range(int, 1, 50), default=3, help="trainings of each row: draws 0, 1, ...")
    parser.add_argument("--steps", type=in_range(int, 1), default=2000, help="of each training")
    parser.add_argument("--batch_size", type=in_range(int, 2), default=48, help="labelled images per step")
    parser.add_argument("--quick", action="store_true", help="one draw, a few steps: does everything run?")
    parser.add_argument(
        "--backbone", default="mobilenet_v2", help="network of torchvision for the rows with ImageNet weights"
    )
    parser.add_argument("--weights", help="file with its ImageNet weights; default: download")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of matrix work")
    parser.add_argument("--output_dir", help="default: labs/few_labels/outputs")
    parser.add_argument("--overwrite", action="store_true", help="train again what the folder holds already")
    return parser


@dataclass(frozen=True)
class Point:
    """One point of the curve: a method with a number of labels."""

    method: str
    labels: int

    @property
    def name(self) -> str:
        """Row of the study."""
        return f"{self.method}-{self.labels}"


@dataclass(frozen=True)
class Lab:
    """What all trainings share. epochs: of `steps` batches each."""

    source: SealedSource
    device: torch.device
    precision: str
    epochs: int
    steps: int
    batch_size: int
    pretrained: recipe.Pretrained | None

    def labelled(self, split: str, count: int, seed: int) -> Split:
        """At most `count` labelled images of a split, drawn by class frequency."""
        whole = self.source.read(split)
        rows = torch.from_numpy(recipe.draw(whole.labels.numpy(), min(count, len(whole)), seed))
        return Split(whole.images[rows], whole.labels[rows])

    def train(self, point: Point, seed: int, run: RunFolder) -> dict[str, Any]:
        """Train one draw → facts for its results.json; validation images alone decide which epoch is kept."""
        method = recipe.METHODS[point.method]
        train, val = self.labelled("train", point.labels, seed), self.labelled("val", point.labels, seed)
        unlabelled = self.source.unsealed.read("train", unlabelled=True)
        unlabelled = unlabelled.images[unlabelled.labels < 0]
        model = place_model(self.network(point), self.device, (3, 28, 28))
        criterion = recipe.criterion(method)
        batches = recipe.Batches(self.batch_size, self.steps, seed)
        train_model(
            model,
            recipe.training_loader(method, train, unlabelled, batches, model, criterion),
            recipe.evaluation_loader(val),
            epochs=self.epochs,
            max_steps_per_epoch=self.steps,
            learning_rate=method.learning_rate,
            weight_decay=method.weight_decay,
            criterion=criterion,
            optimizer="adamw",
            scheduler="onecycle",
            device=self.device,
            precision=self.precision,
            ema_decay=method.ema_decay,
            run=run,
        )
        return {
            "validation": metrics.classification_metrics(self.answers(point, run, val), val.labels.numpy()),
            "validation_images": len(val),
            "unlabelled_images": 0 if method.unlabelled == "none" else len(unlabelled),
        }

    def network(self, point: Point) -> torch.nn.Module:
        """The method's network before training."""
        return recipe.build(recipe.METHODS[point.method], self.source.num_classes, self.pretrained)

    def answers(self, point: Point, run: RunFolder, split: Split) -> np.ndarray:
        """Probabilities (N, 9) of a finished run for a split."""
        model = self.network(point).to(self.device)
        experiment.load_best(model, run, self.device)
        return recipe.answers(model, normalize(split.images).to(self.device), recipe.METHODS[point.method].views)


@dataclass(frozen=True)
class Trained:
    """The finished runs of a study, and what they answer."""

    study: Study
    lab: Lab

    def answers(self, point: Point, seed: int, split: Split) -> np.ndarray:
        """Probabilities (N, 9) of one draw for a split; of a row with members their mean."""
        if members := recipe.METHODS[point.method].members:
            return np.mean([self.answers(replace(point, method=name), seed, split) for name in members], axis=0)
        return self.lab.answers(point, self.study.run(point.name, seed), split)

    def results(self, point: Point, seed: int) -> dict[str, Any]:
        """Validation metrics of one draw, the number of images, and what the training (of all members) cost."""
        members = recipe.METHODS[point.method].members
        if not members:
            return read_json(self.study.run(point.name, seed).file("results.json"))
        parts = [self.results(replace(point, method=name), seed) for name in members]
        val = self.lab.labelled("val", point.labels, seed)
        return {
            "validation": metrics.classification_metrics(self.answers(point, seed, val), val.labels.numpy()),
            "validation_images": len(val),
            "unlabelled_images": max(part["unlabelled_images"] for part in parts),
            "seconds": sum(part["seconds"] for part in parts),
        }

    def test(self, point: Point, seed: int, images: Split, validation: dict[str, Any]) -> dict[str, Any]:
        """Metrics on the test images, with intervals, each class and the gap to validation."""
        probabilities = self.answers(point, seed, images)
        return metrics.final_report(probabilities, images.labels.numpy(), self.lab.source.class_names, validation)


def main(argv: list[str] | None = None) -> None:
    """Train every point with every draw, then read the official test images once, then the table and the picture."""
    args = build_parser().parse_args(argv)
    if args.quick:
        args.seeds, args.steps, args.labels, args.batch_size = 1, 2, args.labels[:1], 16
    folder = writable_folder(args.output_dir or OUTPUTS / ("quick" if args.quick else "study"))
    source, device = find_data(args.labels), pick_device(args.device)
    methods, pretrained = find_methods(args.methods, source, args.backbone, args.weights)
    precision = resolve_precision(args.precision, device)
    print(experiment.describe_start(source, device, precision))
    epochs, steps = max(1, args.steps // EPOCH_STEPS), min(args.steps, EPOCH_STEPS)
    lab = Lab(SealedSource(source), device, precision, epochs, steps, args.batch_size, pretrained)
    points = [Point(method, labels) for method in methods for labels in sorted(set(args.labels))]

    settings = {"dataset": source.name, "steps": args.steps, "batch_size": args.batch_size, "quick": args.quick}
    about = {"dataset": source.name, "device": describe(device), "precision": precision}
    study = Study(folder, settings, range(args.seeds), about, args.overwrite)
    trained = Trained(study, lab)
    for point in points:
        train_all(study, lab, point, {"backbone": args.backbone, "weights": args.weights or "download"})
    runs = {point: [trained.results(point, seed) for seed in study.seeds] for point in points}
    best = report.choose(runs)
    choices = {point.name: [run["validation"] for run in found] for point, found in runs.items()}
    test = study.open_test({"validation": choices, "chosen": best.name}, lambda: official_test(source).read("test"))
    found = {
        point: [
            trained.test(point, seed, test, run["validation"]) for seed, run in zip(study.seeds, several, strict=True)
        ]
        for point, several in runs.items()
    }
    results = {"test": {point.name: several for point, several in found.items()}, "chosen": best.name}
    write_json(folder / "results.json", {**about, **settings, "test_data": official_test(source).name, **results})
    report.write(folder, runs, found, best, quick=args.quick, where=f"{about['device']}, {precision}")


def train_all(study: Study, lab: Lab, point: Point, start: dict[str, str]) -> None:
    """Train every draw. What the method is made of is in the run's settings: a changed one trains again.

    start: network and file of the ImageNet weights.
    """
    chosen = recipe.METHODS[point.method]
    if chosen.members:
        for name in chosen.members:
            train_all(study, lab, replace(point, method=name), start)
        return
    method = {name: str(value) for name, value in asdict(chosen).items() if name not in ("title", "members")}
    method |= start if chosen.network == "imagenet" else {}
    own = Study(study.folder, {**study.settings, **method}, study.seeds, study.about, study.overwrite, True)
    own.train(point.name, lambda seed, run: lab.train(point, seed, run))


def find_methods(
    asked: list[str], source: Source, backbone: str, weights: str | None
) -> tuple[list[str], recipe.Pretrained | None]:
    """(methods that can be trained here, ImageNet weights if one of them needs some): without weights, without them."""
    names = list(dict.fromkeys(asked))
    needing = [name for name in names if needs_weights(name)]
    if not needing:
        return names, None
    backbones.build(backbone)  # a wrong name is reported before anything else
    state = backbones.find_weights(backbone, weights)
    if state is None:
        names = [name for name in names if name not in needing]
        if not names:
            raise UserError(f"--methods {' '.join(needing)} need ImageNet weights; give a file with --weights")
        print(f"not run, no weights: {', '.join(needing)}")
        return names, None
    backbones.build(backbone, dict(state))  # weights that do not fit are reported before anything is trained
    images = normalize(source.read("train").images[:128])
    return names, recipe.Pretrained(backbone, state, images)


def needs_weights(name: str) -> bool:
    """True for a method that starts from ImageNet weights, or has a member that does."""
    method = recipe.METHODS[name]
    return method.network == "imagenet" or any(needs_weights(member) for member in method.members)


def find_data(budgets: list[int]) -> Source:
    """The bundled sample. Raises UserError for more labels than it has, or where it lacks the official test images."""
    source = locate("pathmnist", dataset="sample")
    if not official_test(source).has("test"):
        raise UserError("this copy has no official test images (data/bundled); the lab needs the staff's copy")
    if max(budgets) > source.count("train"):
        raise UserError(f"--labels is {max(budgets)}; allowed: 9 .. {source.count('train')} (labelled training images)")
    return source


if __name__ == "__main__":
    run_script(main)
