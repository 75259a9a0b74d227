"""Images too many for memory: peak memory and images per second from the unpacked file, next to those from memory.

    python -m bench.stored                   # 6,000 training images of 224 pixels (0.9 GB), about three minutes
    python -m bench.stored --images 89996    # as many as PathMNIST+ has: 13.5 GB of disk, and longer
    python -m bench.stored --quick

The set repeats the bundled sample, enlarged. Batches of 128 are only loaded, plain and with the symmetries and the
crop of `--augment standard`; passes of the two sides alternate, and the first of each does not count. A set that takes
more than a third of the free memory is measured from the file alone. Training itself:
`python -m labs.pathmnist_resnet18.src.pathmnist_resnet18 fullsize --size 224 --images 6000 --steps 20`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from torch.utils.data import DataLoader

from bench.table import show_ratio, show_setting
from classification_dataset import ImageDataset
from labs.pathmnist_resnet18.src import fullsize
from labs.pathmnist_resnet18.src.memory import peak_bytes
from toolkit import stored_images
from toolkit.augment import named_augmentation
from toolkit.batches import make_loader
from toolkit.cli import OneLineParser, from_flags, in_range, run_script
from toolkit.errors import UserError
from toolkit.medmnist_data import Split, locate

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
    parser.add_argument("--only_peak", action="store_true", help="for a process that this benchmark starts itself")
    return parser


@dataclass(frozen=True)
class Settings:
    """The flags with these names."""

    images: int
    size: int
    batch_size: int
    repeats: int


def read_train(side: str, folder: Path, size: int) -> Split:
    """The training images of the made set, from memory or from the unpacked file."""
    stored_images.MEMORY_LIMIT = 0 if side == "file" else sys.maxsize
    return locate("pathmnist", size=size, data_root=folder, dataset="full", verify=False).read("train")


def loader_of(split: Split, augment: str, batch_size: int) -> DataLoader:
    """Shuffled batches as a training gets them."""
    return make_loader(ImageDataset(split, augmentation=named_augmentation(augment)), batch_size, shuffle=True)


def rate(loader: DataLoader) -> float:
    """Images per second of one pass."""
    started = time.perf_counter()
    seen = sum(len(images) for images, _labels in loader)
    return seen / (time.perf_counter() - started)


def show_peak(folder: Path, settings: Settings) -> None:
    """Unpack the set and go over it once in a process of its own, whose peak memory is that of the file alone."""
    words = ["--only_peak", "--folder", folder, "--size", settings.size, "--batch_size", settings.batch_size]
    done = subprocess.run([sys.executable, "-m", "bench.stored", *map(str, words)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"the process ended with exit code {done.returncode}; its own message stands above")
    peak = float(done.stdout.splitlines()[-1])
    verdict = "met" if peak < MEMORY_GOAL else "NOT MET"
    print(f"peak resident memory from the file: {peak / 1e9:.2f} GB (goal: below {MEMORY_GOAL / 1e9:g} GB: {verdict})")


def compare(settings: Settings, folder: Path) -> None:
    """Make the set, measure memory, then speed in passes that alternate, so that both sides see the same machine."""
    counts = {"train": settings.images, "val": OTHERS, "test": OTHERS}
    pixels = settings.images * settings.size**2 * 3
    size = f"{settings.size} x {settings.size} x 3"
    show_setting(f"{settings.images:,} images of {size} ({pixels / 1e9:.1f} GB), only loading")
    fullsize.make_set(folder, counts, settings.size)
    show_peak(folder, settings)
    sides = ("file", "memory")
    if pixels > psutil.virtual_memory().available / 3:  # read, and once more in the order of the network
        print("no comparison with memory: the set takes more than a third of what is free")
        sides = sides[:1]
    splits = {side: read_train(side, folder, settings.size) for side in sides}
    for augment in AUGMENTATIONS:
        loaders = {side: loader_of(split, augment, settings.batch_size) for side, split in splits.items()}
        rates = [{side: rate(loader) for side, loader in loaders.items()} for _ in range(settings.repeats + 1)][1:]
        found = {side: statistics.median(one[side] for one in rates) for side in sides}
        if len(sides) == 2:
            show_ratio(f"augment {augment}", *found.values(), "images/s", *sides, GOAL)
        else:
            print(f"augment {augment}: file {found['file']:,.0f} images/s")


def main() -> None:
    """Measure, or be the process of one side."""
    args = build_parser().parse_args()
    if args.quick:
        args.images, args.size, args.repeats = 600, 64, 1
    settings = from_flags(Settings, vars(args))
    if args.only_peak:
        rate(loader_of(read_train("file", Path(args.folder), args.size), "standard", args.batch_size))
        print(peak_bytes())
        return
    with tempfile.TemporaryDirectory(prefix="bench-stored-") as temporary:
        compare(settings, Path(args.folder or temporary))


if __name__ == "__main__":
    run_script(main)
