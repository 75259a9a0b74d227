"""One image file → pixels. PNG, JPEG, TIFF and BMP through Pillow, what it cannot read of TIFF through tifffile, DICOM.

An image has 8 bits a value (uint8) or more ("deep": uint16, int32, float32); deep values become uint8 by a range that
prepare.py takes from the training images and that every checkpoint carries, so that one grey value means the same in
all images. A range for each image would hide that one of them is darker.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from toolkit.errors import UserError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # nothing else is tried, so no exotic decoder meets a file from outside
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
MAX_PIXELS = 100_000_000  # 300 MB as RGB; a decompression bomb of some kB can claim far more
FITS = ("pad", "stretch", "crop")

# The limit below is checked before anything is decoded, and the user may raise it; Pillow's own is fixed and warns.
Image.MAX_IMAGE_PIXELS = None


class ImageError(UserError):
    """A file that cannot be used as an image; the message names it and says why."""


@dataclass(frozen=True)
class Preprocessing:
    """How a file becomes the square uint8 image that a network gets; a checkpoint carries all of it.

    channels: 1 or 3. value_range: values (low, high) of deep images that become 0 and 255. window: (center, width) for
    DICOM, instead of the one in the file. fit: 'pad' with black, 'stretch', or 'crop' the longer side. max_pixels:
    larger files are refused.
    """

    image_size: int
    channels: int
    value_range: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    fit: str = "pad"
    max_pixels: int = MAX_PIXELS

    def load(self, path: Path | str) -> np.ndarray:
        """Read `path` → uint8 (image_size, image_size, channels). Raises ImageError."""
        return self.apply(read_pixels(path, window=self.window, max_pixels=self.max_pixels))

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels as read_pixels gives them → uint8 (image_size, image_size, channels)."""
        image = Image.fromarray(to_uint8(pixels, self.value_range))
        image = image.convert("L" if self.channels == 1 else "RGB")
        size, bilinear = (self.image_size, self.image_size), Image.Resampling.BILINEAR
        if image.size != size:
            if self.fit == "pad":
                image = ImageOps.pad(image, size, bilinear)
            elif self.fit == "crop":
                image = ImageOps.fit(image, size, bilinear)
            else:
                image = image.resize(size, bilinear)
        return np.asarray(image).reshape(self.image_size, self.image_size, self.channels)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint or JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `as_dict`."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def to_uint8(pixels: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """uint8 stays; deeper values are mapped linearly so that value_range becomes 0..255, and clipped.

    Without a range (no deep image was in training) that of the type is taken: 0..65535, and 0..1 for floats.
    """
    if pixels.dtype == np.uint8:
        return pixels
    low, high = value_range or ((0.0, 1.0) if pixels.dtype.kind == "f" else (0.0, 65535.0))
    scaled = (pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def read_pixels(
    path: Path | str, *, window: tuple[float, float] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Pixels of one file: (H, W) grey or (H, W, 3) RGB, uint8 or deep. An image whose channels are equal becomes grey.

    Transparent pixels become black, EXIF orientation is applied. Raises ImageError for files that are missing, broken,
    of another kind, of several pages, or of more than max_pixels.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(132)
        if not head:
            raise ImageError(f"{path}: the file is empty")
        if head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
            from labs.image_classifier.utils.dicom import read_dicom

            pixels = read_dicom(path, window, max_pixels)
        else:
            pixels = _read_with_pillow(path, max_pixels)
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or _reason(error)}") from None
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error, zlib.error, ... for bad bytes
        raise ImageError(f"{path}: broken image ({_reason(error)})") from None
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = np.ascontiguousarray(pixels[..., 0])
    return pixels


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image in a known format ({', '.join(FORMATS)}, DICOM)"
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError for an image over the limit; called before its pixels are decoded."""
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: {width} x {height} pixels are more than the limit of {max_pixels:,}; "
            "cut it into tiles, or raise --max_pixels"
        )


def _read_with_pillow(path: Path, max_pixels: int) -> np.ndarray:
    try:
        image = Image.open(path, formats=FORMATS)
    except Image.UnidentifiedImageError:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _read_with_tifffile(path, max_pixels)
        raise
    with image:
        check_size(path, *image.size, max_pixels)
        if getattr(image, "n_frames", 1) > 1:
            raise ImageError(f"{path}: it has {image.n_frames} pages; save the one you mean as a file of its own")
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):  # 16 or 32 bits, grey
            pixels = np.asarray(image)
            if pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() < 65536:
                return pixels.astype(np.uint16)  # Pillow's mode I holds 16-bit PNG, too
            return pixels.astype(pixels.dtype.newbyteorder("="))
        if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, image)
        return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _read_with_tifffile(path: Path, max_pixels: int) -> np.ndarray:
    """TIFF that Pillow does not know, such as RGB with 16 bits a channel."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) != 1:
            raise ImageError(f"{path}: it has {len(file.pages)} pages; save the one you mean as a file of its own")
        page = file.pages[0]
        check_size(path, page.imagewidth, page.imagelength, max_pixels)
        pixels = page.asarray()
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        raise ImageError(f"{path}: it has {pixels.shape[2]} channels; allowed: 1, 3, or 4 with transparency")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        full = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
        pixels = (pixels[..., :3] * (pixels[..., 3:] / full)).astype(pixels.dtype)
    return pixels
