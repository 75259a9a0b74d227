"""What the tests of Homework 5 share: small data with known answers, and looking at pictures.

Nothing here uses a graded module, so that the tests of one TODO never need another one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from labs.hw5_pneumonia import page
from tests import checks
from tests.todo import AnswerMissingError
from toolkit.medmnist_data import Split

CLASS_NAMES = ("normal", "pneumonia")
MIN_WORDS = 15  # of a written answer; grading asks for as many


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


def check_keys(found: Any, expected: Iterable[str], what: str) -> None:
    """Fail unless `found` is a dict with these keys; say which are missing."""
    asked = ", ".join(expected)
    assert found is not None, f"expected {what} as a dict with {asked}, got None; is the `return` missing?"
    assert isinstance(found, Mapping), f"expected {what} as a dict with {asked}, got a {type(found).__name__}"
    missing = [name for name in expected if name not in found]
    given = ", ".join(map(str, found))
    assert not missing, f"expected {what} as a dict with {asked}; {', '.join(missing)} is missing, got {given}"


def check_numbers(
    got: Any,
    expected: Mapping[str, float],
    what: str,
    mistakes: Mapping[str, Mapping[str, float]] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Fail unless the dict `got` has the numbers of `expected`; name the usual mistake first if it gives what came.

    mistakes: cause → the numbers that it changes.
    """
    check_keys(got, expected, what)
    found = {name: checks.number(got[name], f"{name} of {what}") for name in expected}
    off = [name for name, value in expected.items() if not abs(found[name] - value) <= tolerance]
    if not off:
        return

    def fits(wrong: Mapping[str, float]) -> bool:
        return set(wrong) & set(off) != set() and all(abs(found[n] - v) <= tolerance for n, v in wrong.items())

    cause = _cause(mistakes, fits)
    listed = ", ".join(f"{name} {expected[name]:.4g}, got {found[name]:.4g}" for name in off)
    pytest.fail(f"{what}: {cause}expected {listed}", pytrace=False)


def check_values(
    got: Any, expected: Any, what: str, mistakes: Mapping[str, Any] | None = None, tolerance: float = 1e-5
) -> None:
    """Fail unless the tensor, array or list `got` has shape and values of `expected`; name the usual mistake first.

    mistakes: cause → the values that it gives.
    """
    assert got is not None, f"expected {what}, got None; is the `return` missing?"
    found, wanted = _tensor(got, what), _tensor(expected, what)

    def fits(other: Any) -> bool:
        values = _tensor(other, what)
        return values.shape == found.shape and bool(((found - values).abs() <= tolerance).all())

    if fits(wanted):
        return
    cause = _cause(mistakes, fits)
    shape, right_shape = tuple(found.shape), tuple(wanted.shape)
    assert shape == right_shape, f"{what}: {cause}expected shape {right_shape}, got {shape}"
    assert not found.isnan().any(), f"{what}: {cause}NaN came out; is something divided by 0?"
    if found.numel() <= 8:
        shown = ["[" + ", ".join(f"{value:.4g}" for value in part.flatten()) + "]" for part in (wanted, found)]
        pytest.fail(f"{what}: {cause}expected {shown[0]}, got {shown[1]}", pytrace=False)
    gap = (found - wanted).abs()
    differ = int((gap > tolerance).sum())
    pytest.fail(f"{what}: {cause}{differ} of {gap.numel()} values are wrong by up to {gap.max():.3g}", pytrace=False)


def _cause(mistakes: Mapping[str, Any] | None, fits: Callable[[Any], bool]) -> str:
    return next((f"{text}; " for text, wrong in (mistakes or {}).items() if fits(wrong)), "")


def _tensor(values: Any, what: str) -> torch.Tensor:
    try:
        return torch.as_tensor(values).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        pytest.fail(f"expected {what} as numbers, got a {type(values).__name__}", pytrace=False)


def answers(*numbers: str) -> pytest.MarkDecorator:
    """One test for each ANSWER, with the marker of its TODO."""
    marks = {number: getattr(pytest.mark, f"hw5_{number.replace('.', '_')}") for number in numbers}
    return pytest.mark.parametrize("number", [pytest.param(number, marks=mark) for number, mark in marks.items()])


def check_answer(module: ModuleType, number: str) -> None:
    """The file of `module` holds some words, in a comment or docstring, that begin with "ANSWER number:"."""
    path = Path(inspect.getfile(module))
    words = page.answers_in(path.read_text(encoding="utf-8")).get(number, "").split()
    if not words:
        raise AnswerMissingError(
            f"TODO {number}: the ANSWER is missing; write it as a comment in {path.name} that starts with "
            f"# ANSWER {number}: (at least {MIN_WORDS} words; an answer that ends with a question mark does not count)"
        )
    assert len(words) >= MIN_WORDS, (
        f"ANSWER {number} has {len(words)} words; write a few sentences (at least {MIN_WORDS})"
    )
