"""Decoded images as one uint8 array, in memory or in a file (toolkit.stored_images), so that no epoch decodes anything.

A cache file lies in DATA/cache, is named by a hash of the files (path, size, time) and of the preprocessing, and is
shared by all runs on the data: folds, seeds and sweeps decode nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labs.image_classifier.utils.inspection import read_in_threads
from labs.image_classifier.utils.reading import Preprocessing
from toolkit.errors import UserError, check_choice
from toolkit.images import printable, split_frame
from toolkit.stored_images import MEMORY_LIMIT, StoredImages, write_images, written_once

CACHES = ("auto", "memory", "disk")


def decoded(
    paths: Sequence[Path], preprocessing: Preprocessing, folder: Path, cache: str = "auto"
) -> np.ndarray | StoredImages:
    """uint8 (N, image_size, image_size, channels) of all paths. Raises ImageError for the first that cannot be read.

    cache: 'memory', 'disk' (folder/cache), or 'auto': memory up to MEMORY_LIMIT.
    """
    check_choice("cache", cache, CACHES)
    shape = (len(paths), preprocessing.image_size, preprocessing.image_size, preprocessing.channels)

    def images() -> Iterable[np.ndarray]:
        return read_in_threads(preprocessing.load, paths, "decode")

    if cache == "disk" or (cache == "auto" and math.prod(shape) > MEMORY_LIMIT):
        target = folder / "cache" / f"{_key(paths, preprocessing)}.npy"
        return written_once(target, shape, write_images(images, shape), "try --cache memory")
    pixels = np.empty(shape, dtype=np.uint8)
    for row, image in enumerate(images()):
        pixels[row] = image
    return pixels


def check_present(paths: Sequence[Path]) -> list[list[Any]]:
    """Path, size and time of each file. Raises UserError for the first that is gone."""
    facts = []
    for path in paths:
        file, frame = split_frame(path)
        try:
            status = file.stat()
        except OSError as error:
            raise UserError(f"{printable(path)}: {error.strerror}; prepare the data again") from None
        facts.append([str(file.resolve()), frame, status.st_size, status.st_mtime_ns])
    return facts


def _key(paths: Sequence[Path], preprocessing: Preprocessing) -> str:
    facts = check_present(paths)
    return hashlib.sha256(json.dumps([facts, preprocessing.as_dict()]).encode()).hexdigest()[:24]
