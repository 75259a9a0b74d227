"""One file to pixels, whatever its format. Every problem is an ImageError of one line that names the file."""

from __future__ import annotations

import logging
import re
import warnings
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageFile, ImageOps

from toolkit.errors import reason_of
from toolkit.images import complete, dicom, nifti, tiff
from toolkit.images.errors import (
    MAX_PIXELS,
    ImageError,
    check_file,
    check_opacity,
    check_size,
    check_values,
    pick_frame,
    printable,
)

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # no exotic decoder ever sees a file from outside
HEAD = 352  # bytes that tell every format: DICOM's mark ends at 132, NIfTI's at 348
ALL_FRAMES = "all"
FRAME = re.compile(r"(.+)#frame=([1-9][0-9]*)$", re.DOTALL)
Scale = Literal["8 bits", "more than 8 bits", "window"]

# check_size is called before anything is decoded, with a limit that users may raise; Pillow's own is fixed and warns.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Picture:
    """Pixels (H, W) grey or (H, W, 3) RGB, and what their values mean.

    scale: '8 bits' (0..255 as stored), 'window' (0..255 by the window of a DICOM file or of the caller), or 'more than
    8 bits' (values as stored, rescaled to units in DICOM): two scales in one set of images are not comparable.
    """

    pixels: np.ndarray
    scale: Scale


def split_frame(path: Path | str) -> tuple[Path, int]:
    """'a.dcm#frame=3' → (a.dcm, 3); any other path → (path, 0). A file that is called so is taken as it is."""
    found = FRAME.match(str(path))
    if found is None or Path(path).exists():
        return Path(path), 0
    return Path(found[1]), int(found[2])


def with_frame(path: Path, frame: int) -> Path:
    """The inverse of `split_frame`."""
    return path.with_name(f"{path.name}#frame={frame}") if frame else path


def read_image(path: Path | str, *, window: tuple[float, float] | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read one image; a grey picture that was saved as RGB becomes grey again.

    path: a file, with `#frame=3` behind it for one frame of several (see split_frame).
    window: (center, width) for DICOM, instead of the file's own.
    max_pixels: larger images are refused before they are decoded.
    Transparent pixels become black, EXIF orientation is applied. Raises ImageError for files that are missing, broken,
    of another kind, of several frames without one being named, or with NaN.
    """
    file, frame = split_frame(path)
    try:
        check_file(file)
        picture = _read(file, frame, window, max_pixels)
        check_values(picture.pixels)
    except ImageError as error:
        raise ImageError(f"{printable(path)}: {error}") from None
    except OSError as error:
        raise ImageError(f"{printable(path)}: {error.strerror or _broken(error)}") from None
    except MemoryError:
        raise ImageError(f"{printable(path)}: too large for the memory of this machine") from None
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error, zlib.error, ... for bad bytes
        raise ImageError(f"{printable(path)}: {_broken(error)}") from None
    pixels = picture.pixels
    if pixels.ndim == 3 and _is_grey(pixels[::8, ::8]) and _is_grey(pixels):  # a few pixels tell most colour pictures
        return Picture(np.ascontiguousarray(pixels[..., 0]), picture.scale)
    return picture


def _is_grey(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[..., :1]).all())


def count_frames(path: Path) -> int:
    """Number of frames of a file, from its header. Raises ImageError as read_image does."""
    try:
        check_file(path)
        kind = kind_of(path)
        if kind == "DICOM":
            return dicom.count_frames(path)
        if kind == "NIfTI":
            return nifti.count_slices(path)
        try:
            with Image.open(path, formats=FORMATS) as image:
                return len(_frames(image))
        except Image.UnidentifiedImageError:
            return tiff.count_pages(path) if tiff.begins(path) else 1
    except ImageError as error:
        raise ImageError(f"{printable(path)}: {error}") from None
    except Exception:  # read_image will say what is wrong with it
        return 1


def frame_choice(text: str) -> str:
    """The type of a flag --frame: '' (none named), a frame's number from 1, or 'all'."""
    if text in ("", ALL_FRAMES) or (text.isdecimal() and int(text) >= 1):
        return text
    raise ArgumentTypeError(f"{text!r} is not allowed; give the number of a frame, from 1, or all")


def frames_of(path: Path, frame: str) -> list[Path]:
    """The paths of the frames to read of one file; the path itself if it has one frame, or cannot be read."""
    if not frame or "#frame=" in path.name:
        return [path]
    try:
        count = count_frames(path)
    except ImageError:
        return [path]
    if count == 1:
        return [path]
    return [with_frame(path, number) for number in (range(1, count + 1) if frame == ALL_FRAMES else [int(frame)])]


def kind_of(path: Path) -> str:
    """'DICOM', 'NIfTI', or 'picture' for everything that Pillow or tifffile may know. Raises ImageError if empty."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        raise ImageError("the file is empty")
    if nifti.begins(path, head):
        return "NIfTI"
    return "DICOM" if dicom.begins(head) else "picture"


def _hush() -> None:
    """Decoders warn of every oddity that they cope with; in a folder of thousands that hides what matters."""
    warnings.filterwarnings("ignore", module=r"pydicom|toolkit\.images|PIL|tifffile")


_hush()
for _name in ("pydicom", "PIL", "tifffile"):
    logging.getLogger(_name).addHandler(logging.NullHandler())  # else Python prints their messages to stderr


def _read(path: Path, frame: int, window: tuple[float, float] | None, max_pixels: int) -> Picture:
    _hush()  # again: whoever catches warnings elsewhere puts the old filters back
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # WeasyPrint, where it is imported, fills cut files with grey for all
    kind = kind_of(path)
    if kind == "DICOM":
        values, scale = dicom.read_dicom(path, window, max_pixels, frame)
        return Picture(values, scale)
    if kind == "NIfTI":
        return Picture(nifti.read_slice(path, max_pixels, frame), "more than 8 bits")
    pixels = _read_picture(path, max_pixels, frame)
    return Picture(pixels, "8 bits" if pixels.dtype == np.uint8 else "more than 8 bits")


def _read_picture(path: Path, max_pixels: int, frame: int) -> np.ndarray:
    with open(path, "rb") as file:  # a path would be mapped, which scrambles an uncompressed TIFF that is to be turned
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.UnidentifiedImageError:
            if tiff.begins(path):
                return tiff.read_with_tifffile(path, max_pixels, frame)
            raise
        check_size(*image.size, max_pixels)
        frames = _frames(image)
        image.seek(frames[pick_frame(frame, len(frames))])
        check_size(*image.size, max_pixels)
        if image.format == "TIFF" and not tiff.pillow_reads(image):
            return tiff.read_with_tifffile(path, max_pixels, frame)
        image.load()
        _check_complete(image, file)
        if image.mode.startswith(("I", "F")):
            return _deep(image)
        return _shallow(ImageOps.exif_transpose(image))


def _check_complete(image: Image.Image, file: BinaryIO) -> None:
    """Raise ImageError if Pillow has filled in pixels that the file does not have."""
    if image.format in ("JPEG", "MPO"):
        file.seek(0)
        complete.check_jpeg(file.read(), image)
    elif image.format == "PNG":
        complete.check_png(file, image)
    elif image.format == "TIFF":
        tiff.check_strips(image, file)


def _frames(image: Image.Image) -> list[int]:
    """Which frames of an open file are images of their own."""
    if image.format == "TIFF":
        return tiff.pages(image)
    if image.format == "MPO":  # cameras add previews and the other eye's view to the picture
        return [0]
    return list(range(getattr(image, "n_frames", 1)))


def _deep(image: Image.Image) -> np.ndarray:
    """A grey image of more than 8 bits → (H, W) of its own type."""
    if image.format == "TIFF":
        return tiff.deep_grey(image)
    pixels = np.asarray(ImageOps.exif_transpose(image))
    if pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() < 65536:
        return pixels.astype(np.uint16)  # Pillow's mode I holds PNG of 16 bits, too
    return pixels.astype(pixels.dtype.newbyteorder("="))


def _shallow(image: Image.Image) -> np.ndarray:
    """An image of at most 8 bits per channel → uint8 (H, W) or (H, W, 3), transparency as black."""
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        check_opacity(np.asarray(image.getchannel("A")))
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _broken(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image in a known format ({', '.join(FORMATS)}, DICOM)"
    return f"broken image ({reason_of(error)})"
