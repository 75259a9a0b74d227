"""Files of every kind against arrays that are known, and files that must be refused."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from labs.image_classifier.utils.reading import Preprocessing, to_uint8
from tests.images.helpers import read_pixels
from toolkit.images import ImageError

pytestmark = pytest.mark.provided
GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOR = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize("pixels", [GREY, COLOR], ids=["grey", "rgb"])
def test_lossless_files_give_back_their_pixels(tmp_path: Path, suffix: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_pixels(tmp_path / f"a.{suffix}"), pixels)


def test_jpeg_is_close_and_a_grey_picture_saved_as_rgb_is_grey(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (32, 1))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_pixels(tmp_path / "a.jpg").astype(int) - smooth).max() <= 4
    Image.fromarray(np.stack([GREY] * 3, axis=2)).save(tmp_path / "b.png")
    assert np.array_equal(read_pixels(tmp_path / "b.png"), GREY)


def test_palette_alpha_and_one_bit(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1], [2, 0]], dtype=np.uint8), mode=None).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    palette.save(tmp_path / "p.png")
    assert read_pixels(tmp_path / "p.png").tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 0, 0]]]
    alpha = np.dstack([COLOR, np.full((6, 8), 255, np.uint8)])
    alpha[0, :, 3] = 0
    Image.fromarray(alpha).save(tmp_path / "a.png")
    expected = COLOR.copy()
    expected[0] = 0  # what is transparent becomes black
    assert np.array_equal(read_pixels(tmp_path / "a.png"), expected)
    Image.fromarray(GREY > 100).save(tmp_path / "b.png")
    assert np.array_equal(read_pixels(tmp_path / "b.png"), (GREY > 100) * np.uint8(255))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept_and_scaled_by_one_range_for_all_images(tmp_path: Path, suffix: str) -> None:
    deep = GREY.astype(np.uint16) * 16 + 7  # 12 bits in 16, as scanners write
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    pixels = read_pixels(tmp_path / f"a.{suffix}")
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, deep)
    grey = Preprocessing(8, 1, value_range=(0.0, 4095.0)).apply(np.array([[0, 2048], [4095, 9000]], np.uint16))
    assert (grey.min(), grey.max()) == (0, 255)
    values = np.array([255, 1000, 2000], np.uint16)  # neither end of the range is in this image
    assert np.array_equal(to_uint8(values, (0.0, 4095.0)), np.rint(values.astype(float) * 255 / 4095))


def test_sixteen_bit_rgb_tiff(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed (requirements-dev.txt)")
    deep = COLOR.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    assert np.array_equal(to_uint8(read_pixels(tmp_path / "a.tif"), None), COLOR)


def test_resizing_keeps_the_proportions_unless_told_otherwise() -> None:
    wide = np.full((10, 20), 200, dtype=np.uint8)
    padded = Preprocessing(20, 1).apply(wide)[..., 0]
    assert padded[5:15].min() == 200
    assert padded[:5].max() == padded[15:].max() == 0
    assert Preprocessing(20, 1, fit="stretch").apply(wide).min() == 200
    assert Preprocessing(20, 3, fit="crop").apply(wide).shape == (20, 20, 3)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of 100 bytes whose header claims any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not an image at all", "not an image in a known format"),
        (b"GIF89a" + b"\0" * 200, "not an image in a known format"),
        (png_that_claims(60_000, 60_000), "more than the limit"),
        (png_that_claims(50, 50), "a.png"),
    ],
    ids=["empty", "text", "gif", "bomb", "cut"],
)
def test_bad_files_are_refused_with_one_line_that_names_them(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_pixels(tmp_path / "a.png")
    assert "a.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_refused_whatever_a_library_has_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WeasyPrint switches this on for the whole process, and Pillow then fills what is missing with grey."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-700])
    (tmp_path / "a.png").write_bytes(png_that_claims(50, 50))
    for name in ("a.jpg", "a.png"):
        with pytest.raises(ImageError, match=name):
            read_pixels(tmp_path / name)


def test_a_tiff_of_several_pages_is_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="2 frames"):
        read_pixels(tmp_path / "a.tif")


def test_the_limit_can_be_raised_without_a_warning(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="limit of 40"):
        read_pixels(tmp_path / "a.png", max_pixels=40)
    assert read_pixels(tmp_path / "a.png", max_pixels=48).shape == (6, 8)


@pytest.mark.parametrize("name", ["a.png", "grey.png", "a.tif", "deep.tif"])
def test_an_image_that_is_transparent_everywhere_is_not_read_as_black(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pixels = np.full((9, 9, 4), 200, np.uint8)
    pixels[..., 3] = 0
    if name == "deep.tif":
        tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed (requirements-dev.txt)")
        tifffile.imwrite(path, pixels.astype(np.uint16), photometric="rgb", extrasamples=["unassalpha"])
    else:
        Image.fromarray(pixels).convert("LA" if name == "grey.png" else "RGBA").save(path)
    with pytest.raises(ImageError, match="all its pixels are transparent; save it without transparency"):
        read_pixels(path)
