"""Images too many for memory: peak memory and images per second from the unpacked file, next to those from memory.

    python -m bench.stored                   # 6,000 training images of 224 pixels (0.9 GB), about three minutes
    python -m bench.stored --images 89996    # as many as PathMNIST+ has: 13.5 GB of disk, and longer
    python -m bench.stored --quick

The set repeats the bundled sample, enlarged. Each side is a process of its own, which only loads: shuffled batches of
128, plain and with the symmetries and crop of `--augment standard`. The first pass does not count. With a set that
does not fit into half of the free memory only the file is measured. Training itself:
`python -m labs.pathmnist_resnet18.src.pathmnist_resnet18 fullsize --size 224 --images 6000 --steps 20`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.table import show_ratio, show_setting
from classification_dataset import ImageDataset
from labs.pathmnist_resnet18.src import fullsize
from labs.pathmnist_resnet18.src.memory import peak_bytes
from toolkit import stored_images
from toolkit.augment import named_augmentation
from toolkit.batches import make_loader
from toolkit.cli import OneLineParser, from_flags, in_range, run_script
from toolkit.errors import UserError
from toolkit.medmnist_data import locate

GOAL = 0.95  # of the rate from memory: no slower, but for the spread of a measurement
MEMORY_GOAL = 3e9  # bytes
AUGMENTATIONS = ("none", "standard")
OTHERS = 32  # validation and test images of the made set


def build_parser() -> OneLineParser:
    """The flags of this benchmark."""
    parser = OneLineParser(prog="python -m bench.stored", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=in_range(int, 256), default=6_000, help="for training")
    parser.add_argument("--size", type=int, choices=(64, 128, 224), default=224, help="side in pixels")
    parser.add_argument("--batch_size", type=in_range(int, 1), default=128)
    parser.add_argument("--repeats", type=in_range(int, 1), default=2, help="passes that count; their median")
    parser.add_argument("--folder", help="where the set is made and kept (default: a temporary one)")
    parser.add_argument("--quick", action="store_true", help="600 images of 64 pixels, one pass")
    parser.add_argument("--side", choices=("memory", "file"), help="what a process of this benchmark measures")
    return parser


@dataclass(frozen=True)
class Settings:
    """The flags with these names."""

    images: int
    size: int
    batch_size: int
    repeats: int


def measure(side: str, folder: Path, settings: Settings) -> dict[str, Any]:
    """Seconds of reading, images per second of each augmentation, and peak memory of this process."""
    stored_images.MEMORY_LIMIT = 0 if side == "file" else sys.maxsize
    source = locate("pathmnist", size=settings.size, data_root=folder, dataset="full", verify=False)
    started = time.perf_counter()
    split = source.read("train")
    found: dict[str, Any] = {"read_s": time.perf_counter() - started}
    for name in AUGMENTATIONS:
        dataset = ImageDataset(split, augmentation=named_augmentation(name))
        loader = make_loader(dataset, settings.batch_size, shuffle=True)
        rates = []
        for _ in range(settings.repeats + 1):
            started = time.perf_counter()
            seen = sum(len(images) for images, _labels in loader)
            rates.append(seen / (time.perf_counter() - started))
            assert seen == len(split)
        found[name] = statistics.median(rates[1:])
    return {**found, "peak_bytes": peak_bytes()}


def in_a_process(side: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """`measure` in a process of its own, whose peak memory is that of this side alone."""
    words = ["--side", side, "--folder", folder, "--size", settings.size]
    words += ["--batch_size", settings.batch_size, "--repeats", settings.repeats]
    command = [sys.executable, "-m", "bench.stored", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"the process for {side} ended with exit code {done.returncode}; its own message stands above")
    return json.loads(done.stdout.splitlines()[-1])


def compare(settings: Settings, folder: Path) -> None:
    """Make the set, measure both sides, print."""
    counts = {"train": settings.images, "val": OTHERS, "test": OTHERS}
    pixels = settings.images * settings.size**2 * 3
    show_setting(
        f"{settings.images:,} images of {settings.size} x {settings.size} x 3 ({pixels / 1e9:.1f} GB), only loading"
    )
    fullsize.make_set(folder, counts, settings.size)
    fits = pixels < psutil.virtual_memory().available / 2
    found = {side: in_a_process(side, settings, folder) for side in ("file", "memory")[: 2 if fits else 1]}
    for side, figures in found.items():
        verdict = "met" if figures["peak_bytes"] < MEMORY_GOAL else "NOT MET"
        goal = f" (goal: below {MEMORY_GOAL / 1e9:g} GB: {verdict})" if side == "file" else ""
        peak, seconds = figures["peak_bytes"] / 1e9, figures["read_s"]
        print(f"{side}: peak resident memory {peak:.2f} GB{goal}; read in {seconds:.0f} s")
    for name in AUGMENTATIONS:
        ours = found["file"][name]
        if fits:
            show_ratio(f"augment {name}", ours, found["memory"][name], "images/s", "file", "memory", GOAL)
        else:
            print(f"augment {name}: file {ours:,.0f} images/s; the set does not fit into half of the free memory")


def main() -> None:
    """Measure, or be the process of one side."""
    args = build_parser().parse_args()
    if args.quick:
        args.images, args.size, args.repeats = 600, 64, 1
    settings = from_flags(Settings, vars(args))
    if args.side:
        print(json.dumps(measure(args.side, Path(args.folder), settings)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-stored-") as temporary:
        compare(settings, Path(args.folder or temporary))


if __name__ == "__main__":
    run_script(main)
