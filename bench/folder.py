"""Images per second of the image classifier lab and of the usual way, in one run and on the same files.

    python -m bench.folder              # 2,000 files of 256 x 256, ResNet-18 at 64 pixels for prediction
    python -m bench.folder --quick      # 200 files, one pass

Epochs: torchvision's ImageFolder + DataLoader with Resize, RandomCrop, ToTensor, Normalize against our loader with the
same steps (resized once, when it is decoded; the crop is drawn again each time). Prediction: a loop that opens,
transforms and predicts one file after the other, against labs.image_classifier.predict's function.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from bench.table import show_ratio, show_setting
from labs.image_classifier import predict
from labs.image_classifier.models import NAMES, networks
from labs.image_classifier.utils import cache, loaders
from labs.image_classifier.utils.reading import Preprocessing
from labs.image_classifier.utils.trained import Trained
from toolkit.augment import Augmentation
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.medmnist_data import locate

EPOCH_GOAL, PREDICT_GOAL = 5, 2


def build_parser() -> OneLineParser:
    """The flags of this benchmark."""
    parser = OneLineParser(prog="python -m bench.folder", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=in_range(int, 64), default=2_000, help="files")
    parser.add_argument("--file_size", type=in_range(int, 28), default=256, help="side of the files in pixels")
    parser.add_argument("--image_size", type=in_range(int, 28), default=64, help="side after resizing")
    parser.add_argument("--model", choices=NAMES, default="resnet18", help="for the prediction")
    parser.add_argument("--batch_size", type=in_range(int, 2), default=32)
    parser.add_argument("--repeats", type=in_range(int, 1), default=3, help="passes; the median counts")
    parser.add_argument("--quick", action="store_true", help="200 files, one pass")
    return parser


def write_files(root: Path, count: int, size: int) -> None:
    """Bundled tissue images, enlarged, as PNG files in a folder for each class: real textures, honest PNG."""
    sample = locate("pathmnist", dataset="sample").read("train")
    for index in range(count):
        number = index % len(sample)
        folder = root / str(int(sample.labels[number]))
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(sample.images[number].permute(1, 2, 0).numpy())
        image.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.png")


def median_rate(count: int, repeats: int, one_pass: Callable[[], int]) -> float:
    """Images a second, the median over passes; each must deliver `count` images."""
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        seen = one_pass()
        rates.append(count / (time.perf_counter() - started))
        assert seen == count
    return statistics.median(rates)


def images_in(loader: Iterable) -> int:
    """Go once over a loader; how many images it delivered."""
    return sum(len(images) for images, _labels in loader)


def compare_epochs(root: Path, args: Any) -> None:
    """Loading alone, our second and later epochs against every epoch of the usual way."""
    size, padding = args.image_size, max(1, args.image_size // 14)
    steps = [transforms.Resize((size, size)), transforms.RandomCrop(size, padding, padding_mode="reflect")]
    steps += [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    usual = ImageFolder(str(root), transforms.Compose(steps))
    paths = [Path(path) for path, _label in usual.samples]
    labels = np.array([label for _path, label in usual.samples], dtype=np.int64)
    started = time.perf_counter()
    pixels = cache.decoded(paths, Preprocessing(size, 3, fit="stretch"), root)
    first = time.perf_counter() - started
    assert_same_pixels(pixels, paths, size)
    rows = np.arange(len(paths))
    ours = loaders.LabelledImages(pixels, labels, rows, augmentation=Augmentation(flips=False, crop_padding=padding))
    our_loader = loaders.training_loader(ours, args.batch_size, seed=0)
    count = len(our_loader.sampler)
    our_rate = median_rate(count, args.repeats, lambda: images_in(our_loader))
    usual_loader = DataLoader(usual, args.batch_size, shuffle=True)
    usual_rate = median_rate(len(usual), min(args.repeats, 2), lambda: images_in(usual_loader))
    print(f"{'decoding, once':<24} {'ours':>4} {len(paths) / first:>10,.0f} images/s")
    show_ratio("epochs from the second", our_rate, usual_rate, "images/s", "ours", "ImageFolder", EPOCH_GOAL)


def assert_same_pixels(pixels: np.ndarray, paths: list[Path], size: int) -> None:
    """What is cached is what Resize makes, bit for bit, on the first 50 files."""
    resize = transforms.Resize((size, size))
    for index, path in enumerate(paths[:50]):
        with Image.open(path) as image:
            expected = np.asarray(resize(image.convert("RGB")))
        assert np.array_equal(pixels[index], expected), f"{path}: the two ways read different pixels"


def compare_prediction(root: Path, args: Any) -> None:
    """From files to probabilities, with the same network."""
    size = args.image_size
    network = networks.build(args.model, 3, 9, size).eval()
    facts = (args.model, [str(number) for number in range(9)], False, Preprocessing(size, 3, fit="stretch"), "bench")
    model = Trained((network,), *facts, torch.device("cpu"))
    files = sorted(root.rglob("*.png"))[: max(64, args.images // 4)]
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    transform = transforms.Compose(steps)
    found: dict[str, np.ndarray] = {}

    def plain_loop() -> int:
        rows = []
        with torch.no_grad():
            for path in files:
                image = transform(Image.open(path).convert("RGB"))
                rows.append(network.probabilities(image[None])[0].numpy())
        found["loop"] = np.array(rows)
        return len(rows)

    def ours() -> int:
        answers = list(predict.predict(model, files, args.batch_size * 2, 0.0))
        found["ours"] = np.array([list(answer["probabilities"].values()) for answer in answers])
        return len(answers)

    loop_rate = median_rate(len(files), args.repeats, plain_loop)
    our_rate = median_rate(len(files), args.repeats, ours)
    assert np.allclose(found["loop"], found["ours"], atol=1e-4), "the two ways predict differently"
    show_ratio(f"predict, {args.model}", our_rate, loop_rate, "images/s", "ours", "loop over files", PREDICT_GOAL)


def main() -> None:
    """Write the files, then measure epochs and prediction."""
    args = build_parser().parse_args()
    if args.quick:
        args.images, args.repeats = 200, 1
    show_setting(f"{args.images:,} PNG files of {args.file_size} x {args.file_size} RGB, made {args.image_size} wide")
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), args.images, args.file_size)
        compare_epochs(Path(folder), args)
        compare_prediction(Path(folder), args)


if __name__ == "__main__":
    run_script(main)
