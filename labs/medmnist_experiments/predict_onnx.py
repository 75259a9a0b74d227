"""Classify images with an exported network, without torch: numpy, Pillow and onnxruntime are enough.

python -m labs.medmnist_experiments.predict_onnx MODEL.onnx image.png folder/ volume.npy
python -m labs.medmnist_experiments.predict_onnx MODEL.onnx folder/ --format csv > answers.csv

How an image becomes the network's input, and what the classes are called, stands in the file's metadata, where
quantize.py has put it. A file that cannot be read gets a line with the reason, and the others are answered.

Exit code: 0; 3 if an image could not be read, or something that may be an image was left out; 2 if nothing was done.
Not a medical device: it answers for images like those of its training set, and for no others.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError, reason_of
from toolkit.images import MAX_PIXELS, ImageError, LeftOut, frame_choice, frames_of, printable, read_image, scan
from toolkit.images.scan import summary

FACTS = "medmnist_experiments"  # key of the metadata, as in int8_onnx.py, which needs more packages than this script
BATCH = 64
EXIT_INCOMPLETE = 3


@dataclass(frozen=True)
class Facts:
    """What the file says about itself. mean, deviation: of pixels in [0, 1]; input = (pixel - mean) / deviation."""

    class_names: tuple[str, ...]
    channels: int
    size: int
    dimensions: int
    mean: float
    deviation: float


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(prog="python -m labs.medmnist_experiments.predict_onnx", description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL.onnx", help="written by labs.medmnist_experiments.quantize")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="images, volumes (.npy), or folders of them")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="of the answers")
    parser.add_argument("--frame", type=frame_choice, default="", help="of files with several: a number from 1, or all")
    parser.add_argument("--max_pixels", type=in_range(int, 1), default=MAX_PIXELS, help="larger images are refused")
    parser.add_argument("--threads", type=in_range(int, 1, 256), default=1, help="of ONNX Runtime")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Open the model, read and predict batch by batch, print; returns the exit code."""
    args = build_parser().parse_args(argv)
    session, facts = open_model(args.model, args.threads)
    files, left_out = find_images(args.paths)
    paths = [named for file in files for named in frames_of(file, args.frame)]
    answers: list[Answer] = []
    for start in range(0, len(paths), BATCH):
        answers += answer(session, facts, paths[start : start + BATCH], args.max_pixels)
    {"table": print_table, "csv": print_csv, "json": print_json}[args.format](answers, facts.class_names)
    sys.stdout.flush()
    broken = sum(bool(one.error) for one in answers)
    missed = [file for file in left_out if file.may_be_image]
    if broken:
        sys.stderr.write(f"{len(answers) - broken} images predicted, {broken} could not be read\n")
    if any(map(os.path.isdir, args.paths)):
        sys.stderr.write(summary(len(files), left_out) + "\n")
    for file in missed:
        sys.stderr.write(f"left out: {printable(file.path)}: {file.reason}\n")
    return EXIT_INCOMPLETE if broken or missed else 0


def open_model(path: str, threads: int) -> tuple[Any, Facts]:
    """The session and what the file says. Raises UserError for a file of another kind."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"the package onnxruntime cannot be imported ({error}); pip install onnxruntime") from None
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; labs.medmnist_experiments.quantize writes models")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # fatal; errors become exceptions, too
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes for a broken file, none of them public
        raise UserError(f"{path} is not a model that ONNX Runtime can open ({reason_of(error)})") from None
    return session, read_facts(session.get_modelmeta().custom_metadata_map.get(FACTS), path)


def read_facts(text: str | None, path: str) -> Facts:
    """Metadata → Facts. Raises UserError if it is missing or damaged."""
    if text is None:
        raise UserError(f"{path} does not say what its classes are; give a model that quantize.py has written")
    try:
        found = json.loads(text)
        names = tuple(str(name) for name in found["class_names"])
        numbers = {name: int(found[name]) for name in ("channels", "size", "dimensions")}
        mean, deviation = float(found["mean"]), float(found["deviation"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its metadata is damaged ({type(error).__name__}: {error})") from None
    if numbers["channels"] not in (1, 3) or numbers["dimensions"] not in (2, 3) or not deviation or not names:
        raise UserError(f"{path}: its metadata makes no sense ({text})")
    return Facts(names, mean=mean, deviation=deviation, **numbers)


def find_images(paths: Sequence[str]) -> tuple[list[Path], list[LeftOut]]:
    """The files in the order given, those of a folder sorted, and what was left out of folders.

    Raises UserError if there is no image at all.
    """
    files: list[Path] = []
    left_out: list[LeftOut] = []
    for name in paths:
        path = Path(name)
        if not name:  # would be this folder
            raise UserError("a path is empty; give an image, a volume (.npy) or a folder")
        if os.path.isdir(path):
            found = scan(path, also=(".npy",))
            files += found.taken
            left_out += found.left_out
            if not found.taken:
                left_out.append(LeftOut(path, "folders without an image", "no image in this folder", True))
        else:
            files.append(path)
    if not files:
        raise UserError(f"no image in {', '.join(map(printable, paths))}: {summary(0, left_out)}")
    return files, left_out


def answer(session: Any, facts: Facts, paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> list[Answer]:
    """One answer per file, with the reason instead of probabilities where it cannot be read."""
    images: list[np.ndarray | str] = []
    for path in paths:
        try:
            images.append(read(path, facts, max_pixels))
        except UserError as error:
            images.append(str(error).removeprefix(f"{printable(path)}: "))
    readable = [image for image in images if not isinstance(image, str)]
    rows = iter(predict(session, facts, readable) if readable else ())
    return [
        Answer(printable(path), {}, image)
        if isinstance(image, str)
        else Answer(printable(path), dict(zip(facts.class_names, map(float, next(rows)), strict=True)))
        for path, image in zip(paths, images, strict=True)
    ]


def predict(session: Any, facts: Facts, pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Images as `read` gives them → probabilities float32 (N, K)."""
    batch = np.stack(pixels).astype(np.float32)  # (N, C, ...), 0..255
    images = (batch / 255 - np.float32(facts.mean)) / np.float32(facts.deviation)
    logits = session.run(None, {session.get_inputs()[0].name: images})[0]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def read(path: Path, facts: Facts, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """One file → uint8 (C, H, W) or (1, D, H, W). Raises UserError, naming it, for what the network cannot take."""
    if path.suffix.lower() == ".npy":
        return read_array(path, facts)
    if facts.dimensions == 3:
        raise ImageError(f"{printable(path)}: the network takes volumes; give .npy files, uint8 of {facts.size} cubed")
    picture = read_image(path, max_pixels=max_pixels)
    if picture.pixels.dtype != np.uint8:
        raise ImageError(f"{printable(path)}: it has more than 8 bits; convert it to 8 bits, with the window you want")
    pixels = np.asarray(fitted(Image.fromarray(picture.pixels), facts))
    return pixels[None] if facts.channels == 1 else pixels.transpose(2, 0, 1)


def fitted(image: Image.Image, facts: Facts) -> Image.Image:
    """Cut to the middle square and resized to the network's size and channels."""
    image = image.convert("L" if facts.channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == facts.size else image.resize((facts.size, facts.size), Image.Resampling.BICUBIC)


def read_array(path: Path, facts: Facts) -> np.ndarray:
    """A .npy file with uint8 (H, W), (H, W, 3) or (D, H, W) of exactly the network's size."""
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ImageError(f"{printable(path)}: {error.strerror or reason_of(error)}") from None
    except (ValueError, EOFError) as error:
        raise ImageError(f"{printable(path)}: not an array that numpy can read ({reason_of(error)})") from None
    wanted = (facts.size,) * facts.dimensions + ((3,) if facts.channels == 3 else ())
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.shape != wanted:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise ImageError(f"{printable(path)}: it holds {found}; the network takes uint8 {wanted}")
    return array.transpose(2, 0, 1) if facts.channels == 3 else array[None]


@dataclass(frozen=True)
class Answer:
    """One file: class name → probability, or why there are none."""

    path: str
    probabilities: dict[str, float]
    error: str = ""

    @property
    def best(self) -> str:
        """The most probable class; '' if there is none."""
        return max(self.probabilities, key=self.probabilities.__getitem__) if self.probabilities else ""


def print_table(answers: Sequence[Answer], class_names: Sequence[str]) -> None:
    """File, class, confidence."""
    width = max(len(answer.path) for answer in answers)
    longest = max(len(name) for name in class_names)
    for one in answers:
        if one.error:
            print(f"{one.path:{width}}  error: {one.error}")
        else:
            print(f"{one.path:{width}}  {one.best:{longest}}  {one.probabilities[one.best]:.3f}")


def print_csv(answers: Sequence[Answer], class_names: Sequence[str]) -> None:
    """A column for each class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "class", "confidence", *class_names, "error"])
    for one in answers:
        names = (one.best, *class_names) if one.probabilities else ()
        numbers = [f"{one.probabilities[name]:.6f}" for name in names] or [""] * (1 + len(class_names))
        writer.writerow([one.path, one.best, *numbers, one.error])


def print_json(answers: Sequence[Answer], _class_names: Sequence[str]) -> None:
    """A list of objects."""
    rows = []
    for one in answers:
        if one.error:
            rows.append({"path": one.path, "error": one.error})
        else:
            rounded = {name: round(value, 6) for name, value in one.probabilities.items()}
            rows.append({"path": one.path, "class": one.best, "probabilities": rounded})
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    run_script(main)
