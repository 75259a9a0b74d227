"""NIfTI volumes slice by slice through nibabel, which is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolkit.images.errors import ImageError, check_size, pick_frame, require

MARK = b"n+1\0"  # at byte 344 of a NIfTI-1 file that holds header and values
SUFFIXES = (".nii", ".nii.gz")


def begins(path: Path, head: bytes) -> bool:
    """True for a NIfTI file, by its mark or, if it is compressed, by its name."""
    return head[344:348] == MARK or path.name.lower().endswith(SUFFIXES)


def count_slices(path: Path) -> int:
    """Number of axial slices."""
    return _volume(path).shape[2]


def read_slice(path: Path, max_pixels: int, frame: int) -> np.ndarray:
    """One axial slice, float32 (H, W): front at the top, the patient's right side at the left, as radiologists look."""
    volume = _volume(path)
    index = pick_frame(frame, volume.shape[2])
    check_size(volume.shape[0], volume.shape[1], max_pixels)
    values = np.asarray(volume.dataobj[:, :, index])  # (right to left, back to front)
    if values.dtype.kind in "uif":  # colours and complex numbers are refused by the caller, not cut down to one part
        values = values.astype(np.float32)
    return np.ascontiguousarray(values.T[::-1, ::-1])


def _volume(path: Path) -> Any:
    nibabel = require("nibabel", "NIfTI")
    volume = nibabel.load(path)
    shape = tuple(size for size in volume.shape[3:] if size != 1)
    if len(volume.shape) < 3 or shape:
        raise ImageError(f"its shape is {volume.shape}; a volume of three dimensions is read slice by slice")
    return nibabel.as_closest_canonical(volume.slicer[(slice(None),) * 3 + (0,) * (len(volume.shape) - 3)])
