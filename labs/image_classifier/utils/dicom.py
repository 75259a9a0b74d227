"""DICOM through pydicom, which is optional: a project without DICOM files does not need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from labs.image_classifier.utils.reading import ImageError, check_size


def read_dicom(path: Path, window: tuple[float, float] | None, max_pixels: int) -> np.ndarray:
    """Pixels of a DICOM image with one frame: uint8 where a window is known, else float32 of rescaled values.

    Stored values become units (Hounsfield for CT) by slope and intercept; the window (argument, else the file's first)
    maps them to 0..255; MONOCHROME1, where low values are bright, is inverted. Colour comes as RGB. Raises ImageError.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
    except ImportError:
        raise ImageError(f"{path}: DICOM needs pydicom, which is not installed: pip install pydicom") from None
    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise ImageError(f"{path}: a DICOM file without an image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageError(f"{path}: it has {frames} frames; save the one you mean as a file of its own")
    check_size(path, dataset.Columns, dataset.Rows, max_pixels)
    stored, bits = pixel_array(dataset), int(dataset.BitsStored)  # YBR has become RGB
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = stored.dtype.itemsize * 8
    if stored.ndim == 3:
        return (stored >> max(bits - 8, 0)).astype(np.uint8)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    window = window or _window_of(dataset)
    if window is None:
        if inverted:
            stored = _stored_ends(dataset) - stored.astype(np.float64)
        return np.asarray(apply_modality_lut(stored, dataset)).astype(np.float32)
    grey = apply_window(np.asarray(apply_modality_lut(stored, dataset)), *window)
    return 255 - grey if inverted else grey


def apply_window(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """The linear window of DICOM PS3.3 C.11.2.1.2.1: values → uint8, center - width/2 to 0, center + width/2 to 255."""
    position = (values.astype(np.float64) - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.rint(np.clip(position, 0, 1) * 255).astype(np.uint8)


def _window_of(dataset: Any) -> tuple[float, float] | None:
    """The first window of the file, if it has a usable one."""
    center, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if center is None or width is None:
        return None
    first = [float(value[0] if hasattr(value, "__len__") else value) for value in (center, width)]
    return (first[0], first[1]) if first[1] >= 1 else None


def _stored_ends(dataset: Any) -> int:
    """Lowest plus highest value that can be stored: subtracting from it inverts."""
    bits = int(dataset.BitsStored)
    return -1 if dataset.PixelRepresentation else 2**bits - 1
