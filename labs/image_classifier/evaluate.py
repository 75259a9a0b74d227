"""Measure a trained model on a split of a data folder: metrics, intervals, pictures, its worst mistakes.

    python -m labs.image_classifier.evaluate runs/breast --data data/breast --split test --positive malignant

Writes metrics.json, per_class.csv, predictions.csv, mistakes.csv and the pictures to MODEL/evaluation-SPLIT.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labs.image_classifier.utils import datafolder, scores
from labs.image_classifier.utils.datafolder import DataFolder, Record
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError, check_choice
from toolkit.images import MAX_PIXELS, printable
from toolkit.runs import environment, write_bytes, write_json
from toolkit.stored_images import StoredImages

if TYPE_CHECKING:
    from labs.image_classifier.utils.trained import Trained


@dataclass(frozen=True)
class Predicted:
    """A split with what the model says of it: decoded pixels (N, S, S, C), probabilities (N, K), labels."""

    records: list[Record]
    pixels: np.ndarray | StoredImages
    probabilities: np.ndarray
    labels: np.ndarray


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(prog="python -m labs.image_classifier.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", help="run folder of a training or a cross-validation (the mean of its folds), or a best.pt"
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="made by labs.image_classifier.prepare")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="what to measure on")
    parser.add_argument(
        "--positive", metavar="CLASS", help="the finding: sensitivity, specificity, PPV, NPV for it alone"
    )
    parser.add_argument("--output_dir", metavar="FOLDER", help="default: evaluation-SPLIT in the run folder")
    parser.add_argument("--bootstrap", type=in_range(int, 0), default=500, help="resamples for the intervals; 0: none")
    parser.add_argument("--seed", type=in_range(int, 0, 2**32 - 1), default=0, help="of the resampling")
    parser.add_argument("--batch_size", type=in_range(int, 1), default=64, help="images at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Load, predict, measure, draw, report."""
    args = build_parser().parse_args(argv)
    data = datafolder.read(args.data)
    records = data.of(args.split)
    if not records:
        raise UserError(f"{data.path} has no image in split {args.split}")
    if args.positive is not None:
        check_choice("positive", args.positive, data.classes)

    from labs.image_classifier.utils import cache, trained  # import torch
    from toolkit.devices import describe, pick_device

    model = trained.load(args.model, pick_device(args.device))
    check_same_labels(model, data)
    check_not_trained_on(model, records, args.split)
    run = Path(args.model) if Path(args.model).is_dir() else Path(args.model).parent
    folder = Path(args.output_dir) if args.output_dir else run / f"evaluation-{args.split}"
    cache.check_present([record.path for record in records])
    folder.mkdir(parents=True, exist_ok=True)

    preprocessing = replace(model.preprocessing, max_pixels=data.facts.get("max_pixels", MAX_PIXELS))
    pixels = cache.decoded([record.path for record in records], preprocessing, data.path)
    found = Predicted(records, pixels, model.predict(pixels, args.batch_size), data.labels(records))
    metrics: dict[str, Any] = {
        "data": data.name,
        "split": args.split,
        "n": len(records),
        "model_name": model.model_name,
        "networks": len(model.models),
        **measure(found, data, args.positive, args.bootstrap, args.seed),
        "device": describe(model.device),
        "environment": environment(),
    }
    write_json(folder / "metrics.json", metrics)
    write_tables(folder, metrics["per_class"], found, model)
    draw(folder, metrics, found, model)
    print_summary(metrics)
    print(f"files: {', '.join(sorted(path.name for path in folder.iterdir()))} in {folder}")


def check_same_labels(model: Trained, data: DataFolder) -> None:
    """The outputs of the model must be the classes of the data, in the same order."""
    if model.classes != data.classes or model.multi_label != data.multi_label:
        raise UserError(
            f"the model knows {', '.join(model.classes)}, but {data.path} has {', '.join(data.classes)}; "
            "evaluate it on data with its classes"
        )


def check_not_trained_on(model: Trained, records: Sequence[Record], split: str) -> None:
    """Raise UserError if the model knows validation or test images: prepare has drawn the splits again since."""
    known = {
        "train": frozenset(),
        "val": model.training_images,
        "test": model.training_images | model.validation_images,
    }
    seen = [record for record in records if record.content in known[split]]
    if seen:
        raise UserError(
            f"{len(seen)} of {len(records)} images of split {split} were used to train this model (one of them: "
            f"{printable(seen[0].path)}); prepare the data as it was then (the same --seed), or use other images"
        )


def measure(found: Predicted, data: DataFolder, positive: str | None, repeats: int, seed: int) -> dict[str, Any]:
    """All metrics of metrics.json; intervals if `repeats` is above 0."""
    findings = [positive] if positive is not None else data.classes

    def all_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
        flat: dict[str, float | None] = dict(scores.headline(probabilities, labels))
        for name in findings:
            for key, value in scores.diagnostic(probabilities, labels, data.positions[name]).items():
                flat[f"{key} of {name}"] = value
        return flat

    probabilities, labels, units = found.probabilities, found.labels, data.units(found.records)
    metrics: dict[str, Any] = {
        **scores.headline(probabilities, labels),
        "per_class": dict(zip(data.classes, scores.per_class(probabilities, labels), strict=True)),
        "positive": positive,
        "diagnostic": {name: scores.diagnostic(probabilities, labels, data.positions[name]) for name in findings},
        "calibration": scores.calibration(probabilities, labels),
    }
    if repeats:
        metrics["interval_95"] = scores.bootstrap(probabilities, labels, units, repeats, seed, all_metrics)
        metrics["bootstrap"] = {"resamples": repeats, "independent_units": len(set(units.tolist()))}
    return metrics


def write_tables(folder: Path, per_class: dict[str, dict[str, Any]], found: Predicted, model: Trained) -> None:
    """per_class.csv, predictions.csv (every image) and mistakes.csv (the worst first)."""
    columns = list(next(iter(per_class.values())))
    write_csv(folder / "per_class.csv", ["class", *columns], [[name, *row.values()] for name, row in per_class.items()])
    paths = [printable(record.path) for record in found.records]
    rows = [
        [path, record.label, *model.answer(row), *row.tolist()]
        for path, record, row in zip(paths, found.records, found.probabilities, strict=True)
    ]
    write_csv(folder / "predictions.csv", ["path", "true", "label", "confidence", *model.classes], rows)
    wrong = scores.mistakes(found.probabilities, found.labels)
    if model.multi_label:
        header = ["path", "about", "is_there", "probability"]
        rows = [[paths[image], model.classes[k], there, value] for image, k, there, value in wrong]
    else:
        header = ["path", "label", "true", "confidence"]
        rows = [[paths[i], model.classes[said], model.classes[true], value] for i, said, true, value in wrong]
    write_csv(folder / "mistakes.csv", header, rows)


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """A table, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, text.getvalue().encode("utf-8"))


def draw(folder: Path, metrics: dict[str, Any], found: Predicted, model: Trained) -> None:
    """confusion.png, roc_pr.png, calibration.png and mistakes.png."""
    from labs.image_classifier.utils import pictures  # imports matplotlib

    probabilities, labels = found.probabilities, found.labels
    title = f"{model.model_name}, {metrics['split']} of {metrics['data']}"
    pictures.confusion(probabilities, labels, model.classes, title, folder / "confusion.png")
    pictures.roc_and_pr(probabilities, labels, model.classes, title, folder / "roc_pr.png")
    pictures.calibration(metrics["calibration"], title, folder / "calibration.png")
    wrong = scores.mistakes(probabilities, labels)
    captions = [mistake_caption(model, found.records[row[0]], row) for row in wrong[:12]]
    heading = f"{title}: the worst of {len(wrong)} mistakes, n = {len(labels)}"
    pictures.image_grid([found.pixels[row[0]] for row in wrong[:12]], captions, heading, folder / "mistakes.png")


def mistake_caption(model: Trained, record: Record, mistake: tuple[int, int, int, float]) -> str:
    """What stands over one picture."""
    _, said, true, value = mistake
    name = printable(record.path.name)
    if model.multi_label:
        return f"{name}\n{model.classes[said]}: {value:.0%}, true: {'yes' if true else 'no'}"
    return f"{name}\n{model.classes[said]} ({value:.0%})\ntrue: {model.classes[true]}"


def print_summary(metrics: dict[str, Any]) -> None:
    """The headline with intervals, a row per class, and what a clinician asks about the finding."""
    intervals = metrics.get("interval_95", {})
    networks = f" (mean of {metrics['networks']} networks)" if metrics["networks"] > 1 else ""
    print(f"{metrics['model_name']}{networks} on {metrics['split']} of {metrics['data']}, n = {metrics['n']}")
    for name, value in metrics.items():
        if isinstance(value, float):
            print(f"{name.replace('_', ' '):>24}: {with_interval(value, intervals.get(name))}")
    calibration = metrics["calibration"]
    print(
        f"{'calibration error':>24}: {calibration['expected_calibration_error']:.4f}, Brier {calibration['brier']:.4f}"
    )
    width = max(5, *(len(name) for name in metrics["per_class"]))
    print(f"{'class':>{width}}  precision  recall      F1     AUC      AP    n")
    for name, row in metrics["per_class"].items():
        cells = [row[key] for key in ("precision", "recall", "f1", "auc", "average_precision")]
        shown = "  ".join("     -" if cell is None else f"{cell:6.3f}" for cell in cells)
        print(f"{name:>{width}}     {shown}  {row['support']:>4}")
    if len(metrics["per_class"]) == 2 or metrics["positive"]:
        for name, values in metrics["diagnostic"].items():
            print(f"positive is {name!r}:")
            for key, value in values.items():
                print(f"{key:>24}: {with_interval(value, intervals.get(f'{key} of {name}'))}")
    if intervals:
        bootstrap = metrics["bootstrap"]
        print(f"[ ]: 95 %, {bootstrap['resamples']} resamples of {bootstrap['independent_units']} independent units")


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """'0.8123  [0.7001, 0.9000]'; '-' where there is nothing to divide by."""
    if value is None:
        return "-"
    return f"{value:.4f}" + (f"  [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


if __name__ == "__main__":
    run_script(main)
