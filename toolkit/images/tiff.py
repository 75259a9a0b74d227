"""TIFF that Pillow misreads or cannot read: several deep channels, 64-bit floats, signed bytes (through tifffile)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from toolkit.errors import reason_of
from toolkit.images import complete
from toolkit.images.errors import ImageError, check_opacity, check_size, pick_frame, require

SUBFILE, BITS, PHOTOMETRIC, ORIENTATION, SAMPLE_FORMAT = 254, 258, 262, 274, 339  # TIFF 6.0, part 1
IMAGE_DEPTH = 32997  # slices of a page; Pillow reads the first one alone
COMPRESSION, JPEG_TABLES, JPEG, END = 259, 347, 7, b"\xff\xd9"
STRIPS, TILES = (273, 279), (324, 325)  # offsets, numbers of bytes
REDUCED_OR_MASK = 1 | 4  # bits of SUBFILE: a thumbnail or a mask is not its own page
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
OPACITY = 2  # of ExtraSamples: colours are still to be multiplied by it
# What a viewer does with each Orientation, as (transpose, flip rows, flip columns).
ORIENTED = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def begins(path: Path) -> bool:
    """True for a TIFF or BigTIFF, by its first bytes."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def pillow_reads(image: Image.Image) -> bool:
    """True if Pillow decodes this TIFF correctly: unsigned bytes, or a single deep channel of at most 32 bits."""
    bits = tuple(image.tag_v2.get(BITS, (1,)))
    kinds = set(image.tag_v2.get(SAMPLE_FORMAT, (1,)))
    if int(image.tag_v2.get(IMAGE_DEPTH) or 1) > 1:
        return False
    return (max(bits) <= 8 and kinds == {1}) or (len(bits) == 1 and bits[0] in (16, 32))


def check_strips(image: Image.Image, file: BinaryIO) -> None:
    """Raise ImageError if a strip or tile of the current page is JPEG and lacks pixels; libtiff notices all others."""
    if image.tag_v2.get(COMPRESSION) != JPEG:
        return
    tables = bytes(image.tag_v2.get(JPEG_TABLES, b""))
    for offsets, counts in (STRIPS, TILES):
        places = zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(counts, ()), strict=False)
        for offset, count in places:
            file.seek(offset)
            strip = file.read(count) + END  # one that is cut has none of its own
            complete.check_jpeg(tables[:-2] + strip[2:] if tables else strip)  # without end and second start marker


def pages(image: Image.Image) -> list[int]:
    """Numbers of the pages of a TIFF open in Pillow, without thumbnails and masks."""
    found = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        if not int(image.tag_v2.get(SUBFILE) or 0) & REDUCED_OR_MASK:
            found.append(number)
    return found or [0]


def deep_grey(image: Image.Image) -> np.ndarray:
    """A decoded TIFF of one deep channel → (H, W) uint16, uint32, int32 or float32, low values dark."""
    pixels = np.asarray(image)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    kind, bits = image.tag_v2.get(SAMPLE_FORMAT, (1,))[0], image.tag_v2.get(BITS, (1,))[0]
    if kind == 1 and bits == 32 and pixels.dtype == np.int32:
        pixels = pixels.view(np.uint32)  # Pillow knows no unsigned mode of 32 bits
    return _dark_zero(pixels, image.tag_v2.get(PHOTOMETRIC))


def _dark_zero(pixels: np.ndarray, photometric: Any) -> np.ndarray:
    """Reverse the values of a WhiteIsZero image; floats by 1 - x, which keeps the usual 0..1."""
    if photometric != WHITE_IS_ZERO:
        return pixels
    if pixels.dtype.kind == "f":
        return 1 - pixels
    ends = np.iinfo(pixels.dtype)
    return (ends.max - pixels.astype(np.int64) + ends.min).astype(pixels.dtype)


def count_pages(path: Path) -> int:
    """Number of pages of a TIFF that Pillow cannot open."""
    tifffile = require("tifffile", "this kind of TIFF")
    with tifffile.TiffFile(path) as file:
        return max(1, sum(not page.is_reduced and not page.is_mask for page in file.pages))


def read_with_tifffile(path: Path, max_pixels: int, frame: int) -> np.ndarray:
    """Any TIFF → (H, W) or (H, W, 3), its own type, transparency as black. Raises ImageError."""
    tifffile = require("tifffile", "this kind of TIFF")
    with tifffile.TiffFile(path) as file:
        found = [page for page in file.pages if not page.is_reduced and not page.is_mask] or list(file.pages)
        page = found[pick_frame(frame, len(found))]
        check_size(page.imagewidth, page.imagelength, max_pixels, page.samplesperpixel)
        if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
            raise ImageError(f"its colours are stored as {page.photometric.name}; save it as grey or RGB")
        if page.imagedepth > 1:
            raise ImageError(f"it is a volume of {page.imagedepth} slices; save the one you mean as its own file")
        _check_segments(page, path.stat().st_size)
        try:
            pixels = page.asarray()
        except Exception as error:  # of many classes; all that lack a codec name its package
            if "imagecodecs" in str(error):
                raise ImageError(f"{reason_of(error)}: pip install imagecodecs") from None
            raise
        orientation = int(page.tags.valueof(ORIENTATION) or 1)
        photometric, is_planar = page.photometric, page.planarconfig == 2 and page.samplesperpixel > 1
        kind_of_last = page.extrasamples[0] if page.extrasamples else OPACITY
    if is_planar:
        pixels = np.moveaxis(pixels, 0, -1)  # (C, H, W) → (H, W, C)
    if pixels.dtype.kind == "b":
        pixels = pixels * np.uint8(255)
    return _oriented(_dark_zero(_without_transparency(pixels, kind_of_last), photometric), orientation)


def _check_segments(page: Any, file_size: int) -> None:
    """Raise ImageError if strips or tiles are not in the file; tifffile fills in zeros for them."""
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if page.planarconfig == 2 and page.extrasamples and page.extrasamples[0] != OPACITY:  # that plane is not used
        places = places[: len(places) * (page.samplesperpixel - 1) // page.samplesperpixel]
    count = sum(size == 0 or offset + size > file_size for offset, size in places)
    if count:
        raise ImageError(f"{count} of its {len(places)} strips or tiles are not in the file; get the file again")


def _without_transparency(pixels: np.ndarray, kind: int) -> np.ndarray:
    """(H, W, 2 or 4) → the colours over black, (H, W) or (H, W, 3).

    kind: what the last channel is (OPACITY; the colours were multiplied by it already; something else).
    """
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    colors = pixels[..., :-1]
    if kind == OPACITY:
        check_opacity(pixels[..., -1])
        full = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
        colors = (colors * (pixels[..., -1:] / full)).astype(pixels.dtype)
    return colors[..., 0] if colors.shape[2] == 1 else colors


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    transpose, flip_rows, flip_columns = ORIENTED.get(orientation, (False, False, False))
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    pixels = pixels[::-1] if flip_rows else pixels
    return np.ascontiguousarray(pixels[:, ::-1] if flip_columns else pixels)
