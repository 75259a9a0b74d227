"""Predict the classes of images with a trained model. Files that cannot be read get a line, too.

    python -m labs.image_classifier.predict runs/breast image.png folder/ list.csv
    python -m labs.image_classifier.predict runs/breast folder/ --format csv --output answers.csv --min_confidence 0.8

Exit code: 0; 3 if an image could not be read, or something that may be an image was left out; 2 if nothing was done.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labs.image_classifier.utils.inspection import read_in_threads
from labs.image_classifier.utils.tables import PROBLEMS, Finder, read_table, write_problems
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError
from toolkit.images import ImageError, LeftOut, frame_choice, frames_of, printable, scan
from toolkit.images.scan import summary
from toolkit.runs import write_bytes

if TYPE_CHECKING:
    from labs.image_classifier.utils.attention import Painter
    from labs.image_classifier.utils.trained import Trained

EXIT_INCOMPLETE = 3
UNSURE = "unsure"
LISTS = (".csv", ".tsv")
SHOWN = 5  # files that are named on the terminal


@dataclass(frozen=True)
class Loaded:
    """One file, as an image for the network or with the reason why it is none."""

    path: Path
    image: np.ndarray | None = None
    error: str = ""
    warning: str = ""


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(prog="python -m labs.image_classifier.predict", description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", help="run folder of a training or a cross-validation (the mean of its folds), or a best.pt"
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image, folder, or CSV with a column path")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="of the answers")
    parser.add_argument("--output", metavar="FILE", help="write the answers here instead of to the terminal")
    parser.add_argument(
        "--min_confidence", type=in_range(float, 0, 1), default=0.0, help=f"below, the label is {UNSURE!r}"
    )
    parser.add_argument(
        "--frame", type=frame_choice, help="of files with several: a number from 1, or all (default: as in training)"
    )
    parser.add_argument(
        "--max_pixels", type=in_range(int, 1), help="larger images are refused (default: as in training)"
    )
    parser.add_argument("--gradcam", metavar="FOLDER", help="write a picture per image of what decided; needs captum")
    parser.add_argument("--batch_size", type=in_range(int, 1), default=64, help="images at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Load, read and predict batch by batch, write; returns the exit code."""
    args = build_parser().parse_args(argv)
    if not os.path.exists(args.model):
        raise UserError(f"no model at {args.model}; give the run folder of a training")
    if args.output:
        check_output(Path(args.output))
    if args.gradcam:
        check_pictures_are_apart(Path(args.gradcam), args.paths)
    files, left_out = expand(args.paths)
    if args.output:
        check_inputs_are_kept(Path(args.output), [args.model, *args.paths, *files])
    count = len(files)

    from labs.image_classifier.utils import trained  # imports torch
    from toolkit.devices import pick_device

    model = trained.load(args.model, pick_device(args.device))
    frame = model.preprocessing.frame if args.frame is None else args.frame
    if args.max_pixels:
        model = replace(model, preprocessing=replace(model.preprocessing, max_pixels=args.max_pixels))
    files = [named for file in files for named in frames_of(file, frame)]
    painter = make_painter(model, args.gradcam) if args.gradcam else None
    answers = list(predict(model, files, args.batch_size, args.min_confidence, painter))
    text = as_text(answers, model.classes, args.format)
    if args.output:
        write_bytes(args.output, text.encode("utf-8"))
    else:
        sys.stdout.write(text)
        sys.stdout.flush()
    if any(map(os.path.isdir, args.paths)):
        sys.stderr.write(summary(count, left_out) + "\n")
    return report(answers, left_out, Path(args.output) if args.output else None)


def make_painter(model: Trained, folder: str) -> Painter:
    """What writes the pictures of --gradcam."""
    from labs.image_classifier.utils.attention import Painter  # imports torch and captum

    return Painter(model, Path(folder))


def check_output(path: Path) -> None:
    """Raise UserError now, and not after an hour of predictions, if the answers cannot be written."""
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise UserError(f"--output {path} is no file; leave --output out, and the answers go to the terminal")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write --output {path}: {path.parent} is not a folder that can be written to")
    if (path.parent / "dataset.json").exists():  # its problems.csv is prepare's
        raise UserError(f"--output {path} is in a prepared data folder; write the answers somewhere else")


def check_pictures_are_apart(folder: Path, paths: Iterable[str]) -> None:
    """Raise UserError if the next prediction of a folder would take the pictures of --gradcam for its images."""
    for path in filter(os.path.isdir, paths):
        if folder.resolve().is_relative_to(Path(path).resolve()):
            raise UserError(f"--gradcam {folder} is in {path}, whose images are read; name a folder outside of it")


def check_inputs_are_kept(output: Path, inputs: Iterable[str | Path]) -> None:
    """Raise UserError if the answers, or problems.csv next to them, would replace what is read or another's list."""
    written = [output, output.with_name(PROBLEMS)]
    if output.name == PROBLEMS or output.suffix == ".pt":
        raise UserError(f"--output {output}: that name is taken; give another one, such as answers.csv")
    kept = {os.path.realpath(path) for path in inputs}
    for path in written:
        if os.path.realpath(path) in kept:
            raise UserError(f"--output {output} would replace {path}, which is read; name another file")
    if written[1].is_file() and not written[1].read_bytes().startswith(b"path,problem"):
        raise UserError(f"--output {output} would replace {written[1]}, which is not of this lab; name another folder")


def expand(paths: Iterable[str]) -> tuple[list[Path], list[LeftOut]]:
    """Files in the place of folders and of CSV lists, and what was left out of the folders.

    Raises UserError if there is no image at all.
    """
    files: list[Path] = []
    left_out: list[LeftOut] = []
    for given in paths:
        path = Path(given)
        if not given:  # would be this folder
            raise UserError("a path is empty; give an image, a folder or a CSV with a column path")
        if os.path.isdir(path):
            found = scan(path)
            files += found.taken
            left_out += found.left_out
            if not found.taken:
                left_out.append(LeftOut(path, "folders without an image", "no image in this folder", True))
        elif path.suffix.lower() in LISTS:
            finder = Finder(path.parent)
            files += [finder.find(row["path"]) for _, row in read_table(path, ["path"])]
        else:
            files.append(path)
    if not files:
        raise UserError(f"no image in {', '.join(map(printable, paths))}: {summary(0, left_out)}")
    return files, left_out


def predict(
    model: Trained, files: list[Path], batch_size: int, min_confidence: float, painter: Painter | None = None
) -> Iterator[dict[str, Any]]:
    """One answer per file, in order: path, label, confidence, probabilities; or path and error."""
    known = model.preprocessing.scales

    def load(path: Path) -> Loaded:
        try:
            image, scale = model.preprocessing.load_with_scale(path)
        except ImageError as error:
            return Loaded(path, error=str(error).removeprefix(f"{printable(path)}: "))
        is_new = bool(known) and scale not in known
        return Loaded(path, image, warning=f"{scale}, the training images: {', '.join(known)}" if is_new else "")

    def answer_batch() -> Iterator[dict[str, Any]]:
        images = [one.image for one in waiting if one.image is not None]
        rows = iter(model.predict(images, batch_size) if images else ())
        for one in waiting:
            if one.image is None:
                yield {"path": printable(one.path), "error": one.error}
                continue
            row = next(rows)
            if painter is not None:
                painter.paint(one.path, one.image, row)
            warning = {"warning": f"other grey scale: {one.warning}"} if one.warning else {}
            yield to_answer(one.path, row, model, min_confidence) | warning

    waiting: list[Loaded] = []
    readable = 0
    for one in read_in_threads(load, files, "predict"):
        waiting.append(one)
        readable += one.image is not None
        if readable == batch_size:  # broken files take no place: readable ones always meet in the same batches
            yield from answer_batch()
            waiting, readable = [], 0
    yield from answer_batch()


def to_answer(path: Path, row: np.ndarray, model: Trained, min_confidence: float) -> dict[str, Any]:
    """Path, label (or 'unsure'), confidence and all probabilities of one image."""
    label, confidence = model.answer(row)
    return {
        "path": printable(path),
        "label": UNSURE if confidence < min_confidence else label,
        "confidence": confidence,
        "probabilities": dict(zip(model.classes, row.tolist(), strict=True)),
    }


def report(answers: list[dict[str, Any]], left_out: list[LeftOut], output: Path | None) -> int:
    """Say on stderr what has no answer or a doubtful one, list it in problems.csv next to the answers; → exit code."""
    broken = [(row["path"], row["error"]) for row in answers if "error" in row]
    doubtful = [(row["path"], row["warning"]) for row in answers if "warning" in row]
    missed = [(printable(file.path), f"left out: {file.reason}") for file in left_out if file.may_be_image]
    others = [(printable(file.path), f"left out: {file.reason}") for file in left_out if not file.may_be_image]
    if output is not None:
        write_problems(output.with_name(PROBLEMS), [*broken, *doubtful, *missed, *others])
    where = f", written to {output}" if output else ""
    if output or broken:
        sys.stderr.write(f"{len(answers) - len(broken)} images predicted, {len(broken)} could not be read{where}\n")
    for path, reason in missed[:SHOWN]:
        sys.stderr.write(f"{path}: {reason}\n")
    if len(missed) > SHOWN:
        cure = f"all in {output.with_name(PROBLEMS)}" if output else "--output FILE writes all to problems.csv"
        sys.stderr.write(f"... and {len(missed) - SHOWN} more; {cure}\n")
    if doubtful:
        sys.stderr.write(f"warning: {len(doubtful)} images have another grey scale than the training images\n")
    return EXIT_INCOMPLETE if broken or missed else 0


def as_text(answers: list[dict[str, Any]], classes: list[str], kind: str) -> str:
    """All answers as an aligned table, CSV or JSON."""
    if kind == "json":
        return json.dumps(answers, indent=2, ensure_ascii=False) + "\n"
    if kind == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "label", "confidence", *classes, "error", "warning"])
        for row in answers:
            values = row.get("probabilities", {})
            cells = [row["path"], row.get("label", ""), row.get("confidence", "")]
            cells += [values.get(name, "") for name in classes]
            writer.writerow([*cells, row.get("error", ""), row.get("warning", "")])
        return text.getvalue()
    return as_table(answers)


def as_table(answers: list[dict[str, Any]]) -> str:
    """For people: one line per file."""
    width = min(60, max(4, *(len(row["path"]) for row in answers)))
    label_width = max(5, *(len(row.get("label", "")) for row in answers))
    lines = [f"{'path':<{width}}  {'label':<{label_width}}  confidence  probabilities"]
    for row in answers:
        shown = row["path"] if len(row["path"]) <= width else "…" + row["path"][1 - width :]
        if "error" in row:
            lines.append(f"{shown:<{width}}  error: {row['error']}")
            continue
        values = ", ".join(f"{quoted(name)} {value:.3f}" for name, value in row["probabilities"].items())
        note = f"  ({row['warning']})" if "warning" in row else ""
        lines.append(f"{shown:<{width}}  {row['label']:<{label_width}}  {row['confidence']:10.3f}  {values}{note}")
    return "\n".join(lines) + "\n"


def quoted(name: str) -> str:
    """A class name in a list of them: in quotation marks if it holds a comma itself ("normal, benign")."""
    return f'"{name}"' if "," in name else name


if __name__ == "__main__":
    run_script(main)
