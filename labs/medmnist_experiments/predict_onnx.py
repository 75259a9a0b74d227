"""Classify images with an exported network, without torch: numpy, Pillow and onnxruntime are enough.

python -m labs.medmnist_experiments.predict_onnx MODEL.onnx image.png folder/ volume.npy
python -m labs.medmnist_experiments.predict_onnx MODEL.onnx folder/ --format csv > answers.csv

How an image becomes the network's input, and what the classes are called, stands in the file's metadata, where
quantize.py has put it. Not a medical device: it answers for images like those of its training set, and for no others.
"""

from __future__ import annotations

import csv
import importlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError

if TYPE_CHECKING:
    import numpy as np

FACTS = "medmnist_experiments"  # key of the metadata, as in int8_onnx.py, which needs more packages than this script
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy")
MAX_PIXELS = 100_000_000  # refused before decoding: a few bytes of PNG can stand for gigabytes
BATCH = 64


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
    parser.add_argument("--threads", type=in_range(int, 1, 256), default=1, help="of ONNX Runtime")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Open the model, read all images, predict, print."""
    args = build_parser().parse_args(argv)
    for name, package in (("numpy", "numpy"), ("PIL", "Pillow"), ("onnxruntime", "onnxruntime")):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"the package {package} cannot be imported ({error}); pip install {package}") from None

    session, facts = open_model(args.model, args.threads)
    paths = list(find_images(args.paths))
    answers = []
    for start in range(0, len(paths), BATCH):
        several = paths[start : start + BATCH]
        for path, row in zip(several, predict(session, facts, several), strict=True):
            answers.append((str(path), dict(zip(facts.class_names, row, strict=True))))
    {"table": print_table, "csv": print_csv, "json": print_json}[args.format](answers, facts.class_names)


def open_model(path: str, threads: int) -> tuple[Any, Facts]:
    """The session and what the file says. Raises UserError for a file that is none of ours."""
    import onnxruntime

    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; labs.medmnist_experiments.quantize writes models")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # fatal; errors become exceptions, too
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes for a broken file, none of them public
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no model that ONNX Runtime can open ({reason[:150]})") from None
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
        raise UserError(f"{path}: its metadata makes no sense ({text[:150]})")
    return Facts(names, mean=mean, deviation=deviation, **numbers)


def find_images(paths: Sequence[str]) -> Iterator[Path]:
    """The files in the order given, those of a folder sorted. Raises UserError for what is not there."""
    for name in paths:
        path = Path(name)
        if path.is_dir():
            found = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES)
            if not found:
                raise UserError(f"{path} holds no image; allowed: {', '.join(SUFFIXES)}")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{path}: no such file or folder")


def predict(session: Any, facts: Facts, paths: Sequence[Path]) -> np.ndarray:
    """Files → probabilities float32 (N, K)."""
    import numpy as np

    pixels = np.stack([read(path, facts) for path in paths]).astype(np.float32)  # (N, C, ...), 0..255
    images = (pixels / 255 - np.float32(facts.mean)) / np.float32(facts.deviation)
    logits = session.run(None, {session.get_inputs()[0].name: images})[0]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def read(path: Path, facts: Facts) -> np.ndarray:
    """One file → uint8 (C, H, W) or (1, D, H, W). Raises UserError, naming it, for what the network cannot take."""
    if path.suffix.lower() == ".npy":
        return read_array(path, facts)
    if facts.dimensions == 3:
        raise UserError(f"{path}: the network takes volumes; give .npy files, uint8 of {facts.size} cubed")
    import numpy as np

    pixels = np.asarray(read_image(path, facts))
    return pixels[None] if facts.channels == 1 else pixels.transpose(2, 0, 1)


def read_image(path: Path, facts: Facts) -> Any:
    """Decoded, cut to the middle square and resized: a PIL image of the network's size and channels."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if math.prod(image.size) > MAX_PIXELS:
                raise UserError(f"{path} has {math.prod(image.size):,} pixels; allowed: up to {MAX_PIXELS:,}")
            if getattr(image, "n_frames", 1) > 1:
                raise UserError(f"{path} has {image.n_frames} frames; give files of one")
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{path} has more than 8 bits a pixel; convert it to 8 bits, with the window you want")
            image = image.convert("L" if facts.channels == 1 else "RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UserError(f"{path} is no image that Pillow can read ({type(error).__name__})") from None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == facts.size else image.resize((facts.size, facts.size), Image.Resampling.BICUBIC)


def read_array(path: Path, facts: Facts) -> np.ndarray:
    """A .npy file with uint8 (H, W), (H, W, 3) or (D, H, W) of exactly the network's size."""
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no array that numpy can read ({str(error).splitlines()[0][:100]})") from None
    wanted = (facts.size,) * facts.dimensions + ((3,) if facts.channels == 3 else ())
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.shape != wanted:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise UserError(f"{path} holds {found}; the network takes uint8 {wanted}")
    return array.transpose(2, 0, 1) if facts.channels == 3 else array[None]


Answers = list[tuple[str, dict[str, float]]]


def print_table(answers: Answers, class_names: Sequence[str]) -> None:
    """File, class, confidence."""
    width = max(len(path) for path, _probabilities in answers)
    longest = max(len(name) for name in class_names)
    for path, probabilities in answers:
        best = max(probabilities, key=probabilities.__getitem__)
        print(f"{path:{width}}  {best:{longest}}  {probabilities[best]:.3f}")


def print_csv(answers: Answers, class_names: Sequence[str]) -> None:
    """A column for each class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "class", "confidence", *class_names])
    for path, probabilities in answers:
        best = max(probabilities, key=probabilities.__getitem__)
        numbers = [f"{probabilities[name]:.6f}" for name in (best, *class_names)]
        writer.writerow([path, best, *numbers])


def print_json(answers: Answers, _class_names: Sequence[str]) -> None:
    """A list of objects."""
    rows = [
        {
            "path": path,
            "class": max(probabilities, key=probabilities.__getitem__),
            "probabilities": {name: round(float(value), 6) for name, value in probabilities.items()},
        }
        for path, probabilities in answers
    ]
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    run_script(main)
