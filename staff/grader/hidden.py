"""The hidden part of the data, in the trusted process only: test images, their labels, boxes with a secret seed.

Images that go to the student's process are turned, mirrored and shifted at random, and so are those it trains on: what
was memorised of the public files does not fit, and what was learned does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from staff.grader.dataset import REFERENCE
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, locate

MAX_SHIFT = 2  # pixels
EVALUATED_IMAGES = 1000  # at most, after repeating a small test set with other turns


def moved(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image (C, H, W) turned by a multiple of 90 degrees, perhaps mirrored, and shifted with its edge repeated."""
    result = np.empty_like(images)
    height, width = images.shape[-2:]
    for i, image in enumerate(images):
        image = np.rot90(image, rng.integers(4), axes=(1, 2))
        if rng.random() < 0.5:
            image = image[:, :, ::-1]
        padded = np.pad(image, ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT)), mode="edge")
        y, x = rng.integers(0, 2 * MAX_SHIFT + 1, 2)
        result[i] = padded[:, y : y + height, x : x + width]
    return result


def normalized(images: np.ndarray) -> np.ndarray:
    """uint8 images, or float images in [0, 1], to float32 in [-1, 1]."""
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    return ((images / scale - 0.5) / 0.5).astype(np.float32)


@dataclass
class Pool:
    """Images uint8 (N, C, 28, 28) and labels int64 (N,), -1 where there is none."""

    images: np.ndarray
    labels: np.ndarray


class HiddenData:
    """Public training images and hidden test images of a data set, from the full set or from the bundled file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        if not source.has("test"):
            raise UserError(f"{source.path} has no test images; the grader needs the staff's copy of the data")

    @classmethod
    def find(cls, data_root: str, flag: str = REFERENCE, announce=print) -> HiddenData:
        """The data set in `data_root`, else the staff's bundled file of it; never downloads."""
        return cls(locate(flag, data_root=data_root, download=False, announce=announce))

    @property
    def kind(self) -> str:
        """Which gates apply: 'full' or 'sample' of the reference set, else the name that results record."""
        if self.source.flag != REFERENCE:
            return self.source.name
        return "sample" if self.source.is_sample else "full"

    def pool(self, split: str, unlabelled: bool = False) -> Pool:
        """One split as NumPy arrays."""
        found = self.source.read(split, unlabelled=unlabelled)
        return Pool(found.images.contiguous().numpy(), found.labels.numpy())

    def training(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` labelled training images, moved, float32 (count, C, 28, 28) in [-1, 1], and labels."""
        pool = self.pool("train")
        chosen = _passes(rng, len(pool.images), count)
        return normalized(moved(pool.images[chosen], rng)), pool.labels[chosen]

    def evaluation(self, rng: np.random.Generator, split: str = "test", limit: int = EVALUATED_IMAGES):
        """Moved images of a split, in secret order, float32 in [-1, 1], and their labels, which stay here.

        A small split appears several times, each time moved differently (at most 4 times).
        """
        pool = self.pool(split)
        chosen = _passes(rng, len(pool.images), min(limit, 4 * len(pool.images)))
        return normalized(moved(pool.images[chosen], rng)), pool.labels[chosen]

    def boxes(self, rng: np.random.Generator, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (count, C, 28, 28) normalised, with one box each, and masks (count, 1, 28, 28)."""
        import torch

        from synthetic_data import UNIFORMS_PER_BOX, SegmentationDataGenerator

        pool = self.pool(split, unlabelled=True)
        images = moved(pool.images[_passes(rng, len(pool.images), count)], rng)
        uniforms = torch.from_numpy(rng.random((count, UNIFORMS_PER_BOX)).astype(np.float32)).clamp(max=1 - 2**-24)
        drawer = SegmentationDataGenerator()
        plain = torch.from_numpy(images.astype(np.float32) / 255)
        boxed, masks = drawer.draw(plain, drawer.place(uniforms), drawer.colors(uniforms))
        return normalized(boxed.numpy()), masks.numpy()


def _passes(rng: np.random.Generator, available: int, count: int) -> np.ndarray:
    """Indices of whole passes in new orders, cut to `count`."""
    rounds = -(-count // available)
    return np.concatenate([rng.permutation(available) for _ in range(rounds)])[:count]
