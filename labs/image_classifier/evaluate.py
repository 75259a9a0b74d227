"""Measure a trained model on a split of a data folder: figures, intervals, pictures, its worst mistakes.

    python -m labs.image_classifier.evaluate runs/breast --data data/breast --split test

Writes metrics.json, per_class.csv, predictions.csv, mistakes.csv and the pictures to MODEL/evaluation-SPLIT.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from labs.image_classifier.utils.datafolder import DataFolder, Record
    from labs.image_classifier.utils.trained import Trained


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = OneLineParser(prog="python -m labs.image_classifier.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="run folder, or a best.pt in one")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="made by labs.image_classifier.prepare")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="what to measure on")
    parser.add_argument("--output_dir", metavar="FOLDER", help="default: evaluation-SPLIT in the run folder")
    parser.add_argument("--bootstrap", type=in_range(int, 0), default=500, help="resamples for the intervals; 0: none")
    parser.add_argument("--seed", type=in_range(int, 0, 2**32 - 1), default=0, help="of the resampling")
    parser.add_argument("--batch_size", type=in_range(int, 1), default=64, help="images at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Load, predict, measure, draw, report."""
    args = build_parser().parse_args(argv)

    from labs.image_classifier.utils import datafolder

    data = datafolder.read(args.data)
    records = data.of(args.split)
    if not records:
        raise UserError(f"{data.path} has no image in split {args.split}")

    from labs.image_classifier.utils import cache, scores, trained
    from toolkit.devices import describe, pick_device
    from toolkit.runs import environment, write_json

    model = trained.load(args.model, pick_device(args.device))
    check_same_labels(model, data)
    run = Path(args.model) if Path(args.model).is_dir() else Path(args.model).parent
    folder = Path(args.output_dir) if args.output_dir else run / f"evaluation-{args.split}"
    folder.mkdir(parents=True, exist_ok=True)

    pixels = cache.decoded([record.path for record in records], model.preprocessing, data.path)
    probabilities = model.predict(pixels, args.batch_size)
    labels, units = data.labels(records), data.units(records)
    figures: dict[str, Any] = {
        "data": data.name,
        "split": args.split,
        "n": len(records),
        "model_name": model.model_name,
        **scores.headline(probabilities, labels),
        "per_class": dict(zip(data.classes, scores.per_class(probabilities, labels), strict=True)),
        "calibration": scores.calibration(probabilities, labels),
    }
    if args.bootstrap:
        figures["interval_95"] = scores.bootstrap(probabilities, labels, units, args.bootstrap, args.seed)
        figures["bootstrap"] = {"resamples": args.bootstrap, "independent_units": len(set(units.tolist()))}
    figures |= {"device": describe(model.device), "environment": environment()}
    write_json(folder / "metrics.json", figures)
    write_tables(folder, figures, records, model, probabilities, labels)
    draw(folder, figures, records, model, probabilities, labels, pixels)
    print_summary(figures)
    print(f"files: {', '.join(sorted(path.name for path in folder.iterdir()))} in {folder}")


def check_same_labels(model: Trained, data: DataFolder) -> None:
    """The outputs of the model must be the classes of the data, in the same order."""
    if model.classes != data.classes or model.multi_label != data.multi_label:
        raise UserError(
            f"the model knows {', '.join(model.classes)}, but {data.path} has {', '.join(data.classes)}; "
            "evaluate it on data with its classes"
        )


def write_tables(
    folder: Path,
    figures: dict[str, Any],
    records: list[Record],
    model: Trained,
    probabilities: np.ndarray,
    labels: np.ndarray,
) -> None:
    """per_class.csv, predictions.csv (every image) and mistakes.csv (the worst first)."""
    from labs.image_classifier.utils import scores

    per_class = figures["per_class"]
    columns = list(next(iter(per_class.values())))
    write_csv(folder / "per_class.csv", ["class", *columns], [[name, *row.values()] for name, row in per_class.items()])
    rows = [
        [record.path, record.label, *model.answer(row), *row.tolist()]
        for record, row in zip(records, probabilities, strict=True)
    ]
    write_csv(folder / "predictions.csv", ["path", "true", "label", "confidence", *model.classes], rows)
    wrong = scores.mistakes(probabilities, labels)
    if model.multi_label:
        header = ["path", "about", "is_there", "probability"]
        rows = [[records[image].path, model.classes[k], there, value] for image, k, there, value in wrong]
    else:
        header = ["path", "label", "true", "confidence"]
        rows = [[records[i].path, model.classes[said], model.classes[true], value] for i, said, true, value in wrong]
    write_csv(folder / "mistakes.csv", header, rows)


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """A table, whole or not at all."""
    from toolkit.runs import write_bytes

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, text.getvalue().encode("utf-8"))


def draw(
    folder: Path,
    figures: dict[str, Any],
    records: list[Record],
    model: Trained,
    probabilities: np.ndarray,
    labels: np.ndarray,
    pixels: np.ndarray,
) -> None:
    """confusion.png, roc_pr.png, calibration.png and mistakes.png."""
    from labs.image_classifier.utils import pictures, scores

    title = f"{model.model_name}, {figures['split']} of {figures['data']}"
    pictures.confusion(probabilities, labels, model.classes, title, folder / "confusion.png")
    pictures.roc_and_pr(probabilities, labels, model.classes, title, folder / "roc_pr.png")
    pictures.calibration(figures["calibration"], title, folder / "calibration.png")
    wrong = scores.mistakes(probabilities, labels)
    captions = [mistake_caption(model, records[row[0]], row) for row in wrong[:12]]
    heading = f"{title}: the worst of {len(wrong)} mistakes, n = {len(records)}"
    pictures.image_grid([pixels[row[0]] for row in wrong[:12]], captions, heading, folder / "mistakes.png")


def mistake_caption(model: Trained, record: Record, mistake: tuple[int, int, int, float]) -> str:
    """What stands over one picture."""
    _, said, true, value = mistake
    if model.multi_label:
        return f"{record.path.name}\n{model.classes[said]}: {value:.0%}, true: {'yes' if true else 'no'}"
    return f"{record.path.name}\n{model.classes[said]} ({value:.0%})\ntrue: {model.classes[true]}"


def print_summary(figures: dict[str, Any]) -> None:
    """The headline with intervals, then a row a class."""
    intervals = figures.get("interval_95", {})
    print(f"{figures['model_name']} on {figures['split']} of {figures['data']}, n = {figures['n']}")
    for name, value in figures.items():
        if isinstance(value, float):
            low, high = intervals.get(name, (None, None))
            between = f"  [{low:.4f}, {high:.4f}]" if low is not None else ""
            print(f"{name.replace('_', ' '):>24}: {value:.4f}{between}")
    calibration = figures["calibration"]
    print(
        f"{'calibration error':>24}: {calibration['expected_calibration_error']:.4f}, Brier {calibration['brier']:.4f}"
    )
    width = max(5, *(len(name) for name in figures["per_class"]))
    print(f"{'class':>{width}}  precision  recall      F1     AUC      AP    n")
    for name, row in figures["per_class"].items():
        cells = [row[key] for key in ("precision", "recall", "f1", "auc", "average_precision")]
        shown = "  ".join("     -" if cell is None else f"{cell:6.3f}" for cell in cells)
        print(f"{name:>{width}}     {shown}  {row['support']:>4}")
    if intervals:
        bootstrap = figures["bootstrap"]
        print(f"[ ]: 95 %, {bootstrap['resamples']} resamples of {bootstrap['independent_units']} independent units")


if __name__ == "__main__":
    run_script(main)
