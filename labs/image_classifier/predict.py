"""Predict the classes of images with a trained model. A file that cannot be read gets its line; the rest goes on.

    python -m labs.image_classifier.predict runs/breast image.png folder/ list.csv
    python -m labs.image_classifier.predict runs/breast folder/ --format csv --output answers.csv --min_confidence 0.8

Exit code: 0, or 3 if a file could not be read, or 2 if nothing could be done at all.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from labs.image_classifier.utils.trained import Trained

EXIT_SOME_BROKEN = 3
UNSURE = "unsure"


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = OneLineParser(prog="python -m labs.image_classifier.predict", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="run folder of a training, or its best.pt; all settings come from it")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image, folder, or CSV with a column path")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="of the answers")
    parser.add_argument("--output", metavar="FILE", help="write the answers here instead of to the terminal")
    parser.add_argument(
        "--min_confidence", type=in_range(float, 0, 1), default=0.0, help=f"below, the label is {UNSURE!r}"
    )
    parser.add_argument("--gradcam", metavar="FOLDER", help="write a picture an image of what decided; needs captum")
    parser.add_argument("--batch_size", type=in_range(int, 1), default=64, help="images at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Load, read and predict batch by batch, write; returns the exit code."""
    args = build_parser().parse_args(argv)

    if not Path(args.model).exists():
        raise UserError(f"no model at {args.model}; give the run folder of a training")
    files = list(expand(args.paths))

    from labs.image_classifier.utils import trained
    from toolkit.devices import pick_device

    model = trained.load(args.model, pick_device(args.device))
    painter = None
    if args.gradcam:
        from labs.image_classifier.utils.attention import Painter

        painter = Painter(model, Path(args.gradcam))
    answers = list(predict(model, files, args.batch_size, args.min_confidence, painter))
    text = as_text(answers, model, args.format)
    if args.output:
        from toolkit.runs import write_bytes

        write_bytes(args.output, text.encode("utf-8"))
    else:
        sys.stdout.write(text)
    broken = sum("error" in row for row in answers)
    if args.output or broken:
        where = f", written to {args.output}" if args.output else ""
        sys.stderr.write(f"{len(answers) - broken} images predicted, {broken} could not be read{where}\n")
    return EXIT_SOME_BROKEN if broken else 0


def expand(paths: Iterable[str]) -> Iterator[Path]:
    """Files of folders and of CSV lists in the place of those. Raises UserError for a folder without images."""
    from labs.image_classifier.utils.datafolder import read_table
    from labs.image_classifier.utils.sources import image_files

    for given in paths:
        path = Path(given)
        if path.is_dir():
            found = list(image_files(path))
            if not found:
                raise UserError(f"the folder {path} has no image")
            yield from found
        elif path.suffix.lower() == ".csv":
            yield from (path.parent / row["path"] for _, row in read_table(path, ["path"]))
        else:
            yield path


def predict(
    model: Trained, files: list[Path], batch_size: int, min_confidence: float, painter: Any = None
) -> Iterator[dict[str, Any]]:
    """One answer a file, in order: path, label, confidence, probabilities; or path and error."""

    from labs.image_classifier.utils.inspection import read_in_threads
    from labs.image_classifier.utils.reading import ImageError

    def load(path: Path) -> np.ndarray | str:
        try:
            return model.preprocessing.load(path)
        except ImageError as error:
            return str(error)

    def answer_batch() -> Iterator[dict[str, Any]]:
        images = [image for _, image in waiting if not isinstance(image, str)]
        rows = iter(model.predict(images, batch_size) if images else ())
        for path, image in waiting:
            if isinstance(image, str):
                yield {"path": str(path), "error": image.removeprefix(f"{path}: ")}
                continue
            row = next(rows)
            if painter is not None:
                painter.paint(path, image, row)
            yield to_answer(path, row, model, min_confidence)

    waiting: list[tuple[Path, np.ndarray | str]] = []
    readable = 0
    for path, image in zip(files, read_in_threads(load, files, "predict"), strict=True):
        waiting.append((path, image))
        readable += not isinstance(image, str)
        if readable == batch_size:  # broken files take no place: readable ones always meet in the same batches
            yield from answer_batch()
            waiting, readable = [], 0
    yield from answer_batch()


def to_answer(path: Path, row: np.ndarray, model: Trained, min_confidence: float) -> dict[str, Any]:
    """Path, label (or 'unsure'), confidence and all probabilities of one image."""
    label, confidence = model.answer(row)
    return {
        "path": str(path),
        "label": UNSURE if confidence < min_confidence else label,
        "confidence": confidence,
        "probabilities": dict(zip(model.classes, row.tolist(), strict=True)),
    }


def as_text(answers: list[dict[str, Any]], model: Trained, kind: str) -> str:
    """All answers as an aligned table, CSV or JSON."""
    if kind == "json":
        return json.dumps(answers, indent=2, ensure_ascii=False) + "\n"
    header = ["path", "label", "confidence", *model.classes, "error"]
    if kind == "csv":
        text = io.StringIO()
        rows = [
            [
                row["path"],
                row.get("label", ""),
                row.get("confidence", ""),
                *probabilities_of(row, model),
                row.get("error"),
            ]
            for row in answers
        ]
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()
    width = min(60, max(4, *(len(row["path"]) for row in answers)))
    label_width = max(5, *(len(row.get("label", "")) for row in answers))
    lines = [f"{'path':<{width}}  {'label':<{label_width}}  confidence  probabilities"]
    for row in answers:
        shown = row["path"] if len(row["path"]) <= width else "…" + row["path"][1 - width :]
        if "error" in row:
            lines.append(f"{shown:<{width}}  error: {row['error']}")
            continue
        values = ", ".join(f"{name} {value:.3f}" for name, value in row["probabilities"].items())
        lines.append(f"{shown:<{width}}  {row['label']:<{label_width}}  {row['confidence']:10.3f}  {values}")
    return "\n".join(lines) + "\n"


def probabilities_of(row: dict[str, Any], model: Trained) -> list[Any]:
    """The probabilities as cells; empty ones for a file that could not be read."""
    return list(row["probabilities"].values()) if "probabilities" in row else [""] * len(model.classes)


if __name__ == "__main__":
    run_script(main)
