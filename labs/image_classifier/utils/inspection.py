"""Read every image of a new data set once: is it readable, what is in it, which grey values does it have?"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from toolkit.images import ImageError, Picture, read_image


@dataclass(frozen=True)
class Facts:
    """What is known of one readable image.

    content: a hash of shape, type and pixels, the same for the same picture in different files.
    size: width and height. value_range: its 0.1 and 99.9 percentiles if it has more than 8 bits.
    scale: what its grey values mean (toolkit.images.Picture).
    """

    content: str
    size: tuple[int, int]
    is_color: bool
    value_range: tuple[float, float] | None
    scale: str


def read_in_threads(function: Callable[[Any], Any], items: Sequence[Any], description: str) -> Iterable[Any]:
    """function(item) for all items, in order; Pillow decodes without holding the interpreter's lock.

    Only a few images are read ahead, so that a large set never waits in memory for a slower consumer.
    """
    workers = min(16, os.cpu_count() or 1)
    bar = tqdm(desc=description, total=len(items), unit="image", leave=False, disable=None)
    with ThreadPoolExecutor(workers) as pool, bar:
        ahead: deque[Future] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 32 * workers:
                yield ahead.popleft().result()
                bar.update()
        while ahead:
            yield ahead.popleft().result()
            bar.update()


def inspect(paths: Sequence[Path], window: tuple[float, float] | None, max_pixels: int) -> dict[Path, Facts | str]:
    """Facts of each path, or the reason (one line, with the path) why it cannot be read."""

    def one(path: Path) -> Facts | str:
        try:
            return facts_of(read_image(path, window=window, max_pixels=max_pixels))
        except ImageError as error:
            return str(error)

    return dict(zip(paths, read_in_threads(one, paths, "read"), strict=True))


def facts_of(picture: Picture) -> Facts:
    """Facts of one image."""
    pixels = picture.pixels
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + np.ascontiguousarray(pixels).tobytes())
    deep = None if pixels.dtype == np.uint8 else tuple(float(v) for v in np.percentile(pixels, (0.1, 99.9)))
    return Facts(digest.hexdigest()[:20], (pixels.shape[1], pixels.shape[0]), pixels.ndim == 3, deep, picture.scale)


def channels(facts: Iterable[Facts | str]) -> int:
    """3 if any readable image has colour, else 1."""
    return 3 if any(fact.is_color for fact in facts if isinstance(fact, Facts)) else 1


def value_range(facts: Iterable[Facts]) -> tuple[float, float] | None:
    """From the darkest to the brightest percentile of all deep images; None if there are none."""
    ranges = [fact.value_range for fact in facts if fact.value_range]
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None
