"""Images per second of our loader and of the usual one, in one run: medmnist + torchvision transforms + DataLoader.

    python -m bench.loader              # 90,000 images, made by repeating the bundled sample
    python -m bench.loader --quick      # 6,000 images

Both sides read the same npz (for PathMNIST the usual one is medmnist.PathMNIST; its check of the official number of
images is met by giving it a file of that size) and deliver float32 batches in [-1, 1]. The normalised pixels are
asserted to be equal. "augmented" is the same on both sides: left-right and up-down flips, reflect-padded crop by 4.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from bench.table import show_ratio, show_setting
from classification_dataset import ImageDataset
from toolkit.augment import Augmentation
from toolkit.batches import make_loader
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.medmnist_data import Split, locate

GOAL = 60  # times the usual loader, plain and augmented


def build_parser() -> OneLineParser:
    """The flags of this benchmark."""
    parser = OneLineParser(prog="python -m bench.loader", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=in_range(int, 512), default=90_000, help="size of the set")
    parser.add_argument("--batch_size", type=in_range(int, 1), default=256)
    parser.add_argument("--repeats", type=in_range(int, 1), default=3, help="passes; the median counts")
    parser.add_argument("--quick", action="store_true", help="6,000 images, one pass")
    return parser


def usual_dataset(arrays: dict[str, np.ndarray], folder: Path, augmented: bool) -> Any:
    """medmnist.PathMNIST over these arrays, with torchvision's transforms."""
    import medmnist
    from torchvision import transforms

    class PathMNIST(medmnist.PathMNIST):
        """The official reader, for a training set of any length."""

        info = {**medmnist.INFO["pathmnist"], "n_samples": {"train": len(arrays["train_images"])}}  # noqa: RUF012

        def __init__(self, **options: Any) -> None:
            medmnist.INFO[self.flag] = self.info
            super().__init__(**options)

    path = folder / "pathmnist.npz"
    if not path.exists():
        np.savez(path, **arrays)
    steps = [transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
    steps += [transforms.RandomCrop(28, padding=4, padding_mode="reflect")]
    steps = [*(steps if augmented else []), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    return PathMNIST(split="train", root=str(folder), transform=transforms.Compose(steps))


def images_per_second(loader: Iterable, count: int, repeats: int) -> float:
    """Median over `repeats` passes over `count` images."""
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        seen = sum(len(images) for images, _labels in loader)
        rates.append(seen / (time.perf_counter() - started))
        assert seen == count
    return statistics.median(rates)


def assert_same_pixels(ours: ImageDataset, usual: Any) -> None:
    """Our normalised pixels are those of ToTensor and Normalize, bit for bit, on the first 1,000 images."""
    count = min(1000, len(ours))
    images = ours.__getitems__(range(count)).stacked[0]
    expected = torch.stack([usual[index][0] for index in range(count)])
    assert torch.equal(images, expected), "the two loaders deliver different pixels"


def main() -> None:
    """Measure plain and augmented loading on both sides."""
    args = build_parser().parse_args()
    images, repeats = (6_000, 1) if args.quick else (args.images, args.repeats)
    sample = locate("pathmnist", dataset="sample").read("train")
    index = torch.arange(images) % len(sample)
    split = Split(sample.images[index], sample.labels[index])
    pixels = split.images.permute(0, 2, 3, 1).contiguous().numpy()
    arrays = {"train_images": pixels, "train_labels": split.labels[:, None].numpy().astype(np.uint8)}
    show_setting(
        f"{images:,} images of 28 x 28 x 3, batches of {args.batch_size}, shuffled, loading in the main process"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, augmentation in (("plain", None), ("augmented", Augmentation(crop_padding=4))):
            ours = ImageDataset(split, augmentation=augmentation)
            usual = usual_dataset(arrays, Path(folder), augmented=augmentation is not None)
            if augmentation is None:
                assert_same_pixels(ours, usual)
            loader = make_loader(ours, args.batch_size, shuffle=True)
            our_rate = images_per_second(loader, images, repeats)
            few = torch.utils.data.Subset(usual, range(min(images, 20_000)))  # its rate does not depend on the length
            usual_rate = images_per_second(DataLoader(few, args.batch_size, shuffle=True), len(few), 1)
            show_ratio(name, our_rate, usual_rate, "images/s", "ours", "medmnist + torchvision", GOAL)


if __name__ == "__main__":
    run_script(main)
