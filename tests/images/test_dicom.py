"""DICOM: rescale, window, MONOCHROME1, colour, with pydicom's own window function as the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-dev.txt)")

from tests.images.helpers import read_pixels, write_dicom  # noqa: E402
from toolkit.images import ImageError  # noqa: E402
from toolkit.images.display import Window  # noqa: E402

pytestmark = pytest.mark.provided
STORED = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)


def test_slope_intercept_and_window_as_pydicom_applies_them(tmp_path: Path) -> None:
    elements = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    path = write_dicom(tmp_path / "slice", STORED, **elements)  # without a suffix, as archives have them
    dataset = pydicom.dcmread(path)
    values = pydicom.pixels.apply_modality_lut(STORED, dataset)
    low, high = values.min(), 2 * 4095 - 1024
    oracle = (pydicom.pixels.apply_windowing(values, dataset) - low) / (high - low) * 255
    assert np.abs(read_pixels(path).astype(float) - oracle).max() <= 0.5 + 1e-6  # rounding to whole grey values
    narrow = write_dicom(tmp_path / "narrow", STORED // 64, WindowCenter=30, WindowWidth=12)  # half a unit shows here
    oracle = pydicom.pixels.apply_windowing(STORED // 64, pydicom.dcmread(narrow)) / 4095 * 255
    assert np.abs(read_pixels(narrow).astype(float) - oracle).max() <= 0.5 + 1e-6
    lung = read_pixels(path, window=(-600, 1500))
    assert np.array_equal(lung, Window(-600, 1500).apply(values))
    assert not np.array_equal(lung, read_pixels(path))


def test_low_values_of_monochrome1_are_bright(tmp_path: Path) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    usual = read_pixels(write_dicom(tmp_path / "a.dcm", STORED, **window))
    inverted = read_pixels(write_dicom(tmp_path / "b.dcm", STORED, PhotometricInterpretation="MONOCHROME1", **window))
    assert np.array_equal(inverted, 255 - usual)
    plain = read_pixels(write_dicom(tmp_path / "c.dcm", STORED))
    assert plain.dtype == np.float32
    assert np.array_equal(plain, STORED)
    turned = read_pixels(write_dicom(tmp_path / "d.dcm", STORED, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(turned, 4095 - STORED)


def test_colour_stays_colour(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(read_pixels(write_dicom(tmp_path / "a.dcm", pixels)), pixels)


def test_what_is_no_single_image_is_refused(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", STORED)
    with pytest.raises(ImageError, match="limit of 60"):
        read_pixels(path, max_pixels=60)
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImageError, match=r"cut\.dcm"):
        read_pixels(tmp_path / "cut.dcm")
    frames = write_dicom(tmp_path / "f.dcm", np.concatenate([STORED, STORED]), Rows=8, NumberOfFrames=2)
    with pytest.raises(ImageError, match="2 frames"):
        read_pixels(frames)
