"""What every reader checks, and how it says that a file cannot be used."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import UserError

MAX_PIXELS = 100_000_000  # 300 MB as RGB; a file of a few kB can claim far more
MAX_CHANNELS = 4  # grey, grey and transparency, RGB, RGB and transparency


class ImageError(UserError):
    """A file that cannot be used as an image; the message says why, and what would help."""


def printable(path: Path | str) -> str:
    r"""A path as text that any file, terminal and picture takes: bytes that are not UTF-8 and line breaks as \xNN."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def check_size(width: int, height: int, max_pixels: int, channels: int = 1) -> None:
    """Raise ImageError for an image over the limit or with too many channels; called before pixels are decoded."""
    if channels > MAX_CHANNELS:
        raise ImageError(f"it has {channels} channels; allowed: 1, 3, or 4 with transparency")
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,}; "
            "cut it into tiles, or raise --max_pixels"
        )


def check_file(path: Path) -> None:
    """Raise ImageError for a pipe, a socket or a device: opening one may wait forever."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ImageError("not a file but a pipe, a socket or a device; save the image to a file first")


def check_values(pixels: np.ndarray) -> None:
    """Raise ImageError for what is no picture of numbers: no pixel at all, complex values, other dimensions, NaN."""
    shape = " x ".join(map(str, pixels.shape))
    if not pixels.size or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ImageError(f"its shape is {shape or 'empty'}; allowed: rows x columns, or rows x columns x 3 for colour")
    if pixels.dtype.kind not in "uif":
        raise ImageError(f"its values are {pixels.dtype}; allowed: whole numbers and floats")
    bad = pixels.size - int(np.isfinite(pixels).sum()) if pixels.dtype.kind == "f" else 0
    if bad:
        raise ImageError(f"{bad:,} of {pixels.size:,} values are NaN or infinite; replace them and save the file again")


def check_opacity(opacity: np.ndarray) -> None:
    """Raise ImageError if no pixel can be seen: over black nothing would be left; such a channel is a writer's slip."""
    if opacity.size and not opacity.any():
        raise ImageError("all its pixels are transparent; save it without transparency")


def pick_frame(frame: int, count: int) -> int:
    """The index (from 0) of the frame to read. frame: its number from 1, or 0 if none was named.

    A file with one frame is read whichever frame is asked for. Raises ImageError for several frames and none named.
    """
    if count <= 1:
        return 0
    if not frame:
        raise ImageError(
            f"it has {count} frames; name one with --frame 1 .. {count}, or make each an image with --frame all"
        )
    if frame > count:
        raise ImageError(f"it has {count} frames, and frame {frame} was asked for")
    return frame - 1


def require(module: str, what: str) -> Any:
    """Import an optional module. Raises ImageError that names the package to install for reading `what`."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ImageError(f"{what} needs {package}, which is not installed: pip install {package}") from None
