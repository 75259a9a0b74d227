"""What the tests of Homework 5 share: small data with known answers, and looking at pictures.

Nothing here uses a graded module, so that the tests of one TODO never need another one.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from labs.hw5_pneumonia import page
from toolkit.medmnist_data import Split

CLASS_NAMES = ("normal", "pneumonia")


@dataclass
class SmallSource:
    """Like toolkit's Source, with few images; every pixel of an image holds its own number."""

    counts: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {"train": (30, 70), "val": (5, 14), "test": (8, 9)}
    )
    name = "small"
    origin = "test"
    class_names = CLASS_NAMES

    def read(self, split: str) -> Split:
        normal, ill = self.counts[split]
        start = 100 * list(self.counts).index(split) % 150
        values = (torch.arange(normal + ill) + start).to(torch.uint8)
        images = values.view(-1, 1, 1, 1).repeat(1, 1, 28, 28)
        order = torch.randperm(normal + ill, generator=torch.Generator().manual_seed(1))
        return Split(images, (torch.arange(normal + ill) >= normal).long()[order])


def small_batches(count: int = 44, batch_size: int = 8, seed: int = 3, signal: float = 1.5) -> list:
    """Batches (images (B, 1, 4, 4), labels (B,)) of two classes that differ by `signal` in one corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = torch.randn(count, 1, 4, 4, generator=generator)
    images[:, 0, 0, 0] += signal * (2 * labels - 1)
    return list(zip(images.split(batch_size), labels.split(batch_size), strict=True))


def small_model(seed: int = 5) -> nn.Module:
    """A linear classifier of 4 x 4 images."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def noisy_model(seed: int = 5) -> nn.Module:
    """The same with BatchNorm and dropout, which behave otherwise in training."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 2)
    )


def scores(count: int = 60, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and labels that agree with them more often than not."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(count) < 0.6).astype(np.int64)
    return np.round(np.clip(0.25 + 0.4 * labels + 0.25 * generator.standard_normal(count), 0, 1), 2), labels


def check_picture(path: Path) -> None:
    """The file is a PNG of sensible size, and something is drawn on it."""
    assert path.is_file(), f"expected the figure {path.name}, no such file was written"
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) >= 150, f"{path.name} has {pixels.shape[1]} x {pixels.shape[0]} pixels: too small to read"
    assert pixels.std() > 3, f"{path.name} is blank"


def check_answer(function: object, number: str) -> None:
    """The file of `function` holds some words, in a comment or docstring, that begin with "ANSWER number:"."""
    source = Path(inspect.getfile(function)).read_text(encoding="utf-8")
    words = page.answers_in(source).get(number, "").split()
    if not words:
        where = "no comment and no line of a docstring starts with"
        raise NotImplementedError(f"TODO {number}: {where} ANSWER {number}:")
    assert len(words) >= 15, f"the answer {number} has {len(words)} words; write a few sentences"
