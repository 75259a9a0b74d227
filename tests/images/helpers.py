"""Files to read: DICOM with any elements, and what the reader makes of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.images import read_image

NO_PYDICOM = "pydicom is not installed (requirements-dev.txt)"


def read_pixels(path: Path, **options: Any) -> np.ndarray:
    """The pixels alone."""
    return read_image(path, **options).pixels


def write_dicom(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    """An uncompressed CT slice with these pixels; skips the test where pydicom is not installed."""
    pydicom = pytest.importorskip("pydicom.dataset", reason=NO_PYDICOM)
    uid = pytest.importorskip("pydicom.uid", reason=NO_PYDICOM)
    meta = pydicom.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.CTImageStorage, uid.generate_uid()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset = pydicom.FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = 12 if pixels.dtype == np.uint16 else 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path
