"""Decoded images as one uint8 array, in memory or in a file that is mapped, so that no epoch decodes anything.

A cache file lies in DATA/cache, is named by a hash of the files (path, size, time) and of the preprocessing, and is
shared by all runs on the data: folds, seeds and sweeps decode nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from labs.image_classifier.utils.inspection import read_in_threads
from labs.image_classifier.utils.reading import Preprocessing
from toolkit.errors import UserError, check_choice
from toolkit.images import printable, split_frame

CACHES = ("auto", "memory", "disk")
MEMORY_LIMIT = 2 * 1024**3  # bytes; 'auto' maps a file for more


def decoded(paths: Sequence[Path], preprocessing: Preprocessing, folder: Path, cache: str = "auto") -> np.ndarray:
    """uint8 (N, image_size, image_size, channels) of all paths. Raises ImageError for the first that cannot be read.

    cache: 'memory', 'disk' (folder/cache), or 'auto': memory up to MEMORY_LIMIT.
    """
    check_choice("cache", cache, CACHES)
    shape = (len(paths), preprocessing.image_size, preprocessing.image_size, preprocessing.channels)
    if cache == "disk" or (cache == "auto" and np.prod(shape, dtype=np.int64) > MEMORY_LIMIT):
        return _mapped(paths, preprocessing, folder / "cache", shape)
    pixels = np.empty(shape, dtype=np.uint8)
    _fill(pixels, paths, preprocessing)
    return pixels


def _fill(pixels: np.ndarray, paths: Sequence[Path], preprocessing: Preprocessing) -> None:
    for row, image in enumerate(read_in_threads(preprocessing.load, paths, "decode")):
        pixels[row] = image


def _mapped(paths: Sequence[Path], preprocessing: Preprocessing, folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    target = folder / f"{_key(paths, preprocessing)}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # jobs of a sweep start together; one of them decodes
            if not target.exists():
                temporary = target.with_suffix(".part")
                file = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
                _fill(file, paths, preprocessing)
                file.flush()
                del file
                os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write the cache {target}: {error.strerror or error}; try --cache memory") from None
    # Copy on write: torch warns of arrays that cannot be written, and nothing is ever written to this one.
    return np.load(target, mmap_mode="c")


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
