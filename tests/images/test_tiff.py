"""TIFF of every type, order and meaning of values against the arrays that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images.helpers import read_pixels
from toolkit.images import ImageError, count_frames, read_image, with_frame

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed (requirements-dev.txt)")

pytestmark = pytest.mark.provided
RAMP = np.arange(48).reshape(6, 8)
TYPES = {
    "uint8": (RAMP * 5).astype(np.uint8),
    "uint16": (RAMP * 1300).astype(np.uint16),
    "uint32": (RAMP * 90_000_000).astype(np.uint32),  # beyond int32
    "int16": (RAMP * 100 - 2000).astype(np.int16),
    "int32": (RAMP * 100 - 2000).astype(np.int32),
    "float16": (RAMP / 64).astype(np.float16),
    "float32": (RAMP / 50 - 0.3).astype(np.float32),
    "float64": RAMP / 50 - 0.3,
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("order", "<>")
def test_grey_of_every_type_keeps_its_values(tmp_path: Path, name: str, order: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", TYPES[name], photometric="minisblack", byteorder=order)
    found = read_pixels(tmp_path / "a.tif")
    assert np.array_equal(found.astype(np.float64), TYPES[name].astype(np.float64))
    assert found.dtype.isnative


@pytest.mark.parametrize("name", TYPES)
def test_white_is_zero_is_reversed_whatever_the_type(tmp_path: Path, name: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", TYPES[name], photometric="miniswhite")
    found = read_pixels(tmp_path / "a.tif").astype(np.float64)
    whole = (
        1.0 if name.startswith("float") else float(np.iinfo(TYPES[name].dtype).max + np.iinfo(TYPES[name].dtype).min)
    )
    assert np.allclose(found, whole - TYPES[name].astype(np.float64))
    assert found[0, 0] > found[-1, -1], "low values are bright"


@pytest.mark.parametrize("name", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colour_in_pixel_and_in_plane_order(tmp_path: Path, name: str, planar: str, compression: str | None) -> None:
    grey = TYPES[name]
    color = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2)
    stored = np.moveaxis(color, 2, 0) if planar == "separate" else color
    options = {"photometric": "rgb", "planarconfig": planar, "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    assert np.array_equal(read_pixels(tmp_path / "a.tif"), color)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_colour_is_that_of_shallow_colour(tmp_path: Path, orientation: int) -> None:
    color = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", color, photometric="rgb", extratags=tag)
    tifffile.imwrite(tmp_path / "b.tif", color.astype(np.uint16), photometric="rgb", extratags=tag)
    shallow, deep = read_pixels(tmp_path / "a.tif"), read_pixels(tmp_path / "b.tif")
    assert deep.dtype == np.uint16, "this goes another way than bytes do"
    assert np.array_equal(shallow, deep)


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_and_counted(tmp_path: Path, name: str, bad: float) -> None:
    values = TYPES[name].copy()
    values[2, 1:4] = bad
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    with pytest.raises(ImageError, match="3 of 48 values are NaN or infinite"):
        read_image(tmp_path / "a.tif")


def test_many_channels_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((6, 8, 60), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="60 channels; allowed: 1, 3, or 4"):
        read_image(tmp_path / "a.tif")


def test_pages_are_frames_and_thumbnails_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(TYPES["uint16"], photometric="minisblack")
        file.write(TYPES["uint16"][::2, ::2], photometric="minisblack", subfiletype=1)
        file.write(TYPES["uint16"] + 7, photometric="minisblack")
    assert count_frames(path) == 2
    with pytest.raises(ImageError, match=r"2 frames; name one with --frame 1 \.\. 2"):
        read_image(path)
    assert np.array_equal(read_pixels(with_frame(path, 2)), TYPES["uint16"] + 7)
    with pytest.raises(ImageError, match="frame 3 was asked for"):
        read_image(with_frame(path, 3))


def test_lzw_of_sixteen_bits_needs_no_further_package(tmp_path: Path) -> None:
    Image.fromarray(TYPES["uint16"]).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert np.array_equal(read_pixels(tmp_path / "a.tif"), TYPES["uint16"])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_an_uncompressed_grey_tiff_is_turned_and_not_scrambled(tmp_path: Path, kind: type, orientation: int) -> None:
    grey = np.arange(20 * 32).reshape(20, 32).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", grey, extratags=[(274, "H", 1, orientation, True)])
    turned = [grey, grey[:, ::-1], grey[::-1, ::-1], grey[::-1], grey.T]
    turned += [np.rot90(grey, -1), np.rot90(grey, 2).T, np.rot90(grey)]  # TIFF 6.0, page 36
    assert np.array_equal(read_pixels(tmp_path / "a.tif"), turned[orientation - 1])


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
NO_PICTURES = {
    "complex": (GREY.astype(np.complex64), {}, "values are complex64"),
    "volume": (np.stack([GREY] * 4), {"volumetric": True, "tile": (16, 16, 16)}, "a volume of 4 slices"),
    "cmyk": (np.dstack([GREY.astype(np.uint16)] * 4), {"photometric": "separated"}, "stored as SEPARATED; save it as"),
    "palette": (
        GREY.astype(np.uint16),
        {"photometric": "palette", "colormap": np.zeros((3, 65536), np.uint16)},
        "stored as PALETTE",
    ),
}


@pytest.mark.parametrize("name", NO_PICTURES)
def test_what_would_be_read_as_something_else_is_refused(tmp_path: Path, name: str) -> None:
    pixels, options, message = NO_PICTURES[name]
    tifffile.imwrite(tmp_path / "a.tif", pixels, **{"photometric": "minisblack", **options})
    with pytest.raises(ImageError, match=message):
        read_pixels(tmp_path / "a.tif")


@pytest.mark.parametrize(("kind", "opacity"), [("unspecified", 0), ("assocalpha", 30_000), ("unassalpha", 65_535)])
def test_a_fourth_channel_is_transparency_only_where_it_says_so(tmp_path: Path, kind: str, opacity: int) -> None:
    colors = np.random.default_rng(0).integers(0, 20_000, (9, 7, 3), dtype=np.uint16)
    pixels = np.dstack([colors, np.full((9, 7), opacity, np.uint16)])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[kind])
    assert np.array_equal(read_pixels(tmp_path / "a.tif"), colors)
