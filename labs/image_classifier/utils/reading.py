"""From the pixels of a file to the square uint8 image that a network gets; toolkit.images reads the file.

Values of more than 8 bits become uint8 by one range that prepare.py takes from the training images and that every
checkpoint carries, so that a grey value means the same in all images. A range per image would hide that one of them is
darker.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from toolkit.images import MAX_PIXELS, ImageError, Picture, printable, read_image

FITS = ("pad", "stretch", "crop")


@dataclass(frozen=True)
class Preprocessing:
    """How a file becomes an image for the network; a checkpoint carries all of it.

    image_size: side in pixels.
    channels: 1 or 3.
    value_range: values (low, high) of deep images that become 0 and 255.
    window: (center, width) for DICOM, instead of the one in the file.
    fit: 'pad' with black, 'stretch', or 'crop' the longer side.
    max_pixels: larger files are refused.
    frame: of files with several; a number from 1, 'all', or '' to refuse them.
    scales: grey scales of the training images (toolkit.images.Picture.scale); () if unknown.
    """

    image_size: int
    channels: int
    value_range: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    fit: str = "pad"
    max_pixels: int = MAX_PIXELS
    frame: str = ""
    scales: tuple[str, ...] = ()

    def load(self, path: Path | str) -> np.ndarray:
        """Read `path` → uint8 (image_size, image_size, channels). Raises ImageError."""
        return self.load_with_scale(path)[0]

    def load_with_scale(self, path: Path | str) -> tuple[np.ndarray, str]:
        """The image as `load` gives it, and the grey scale of the file."""
        picture: Picture = read_image(path, window=self.window, max_pixels=self.max_pixels)
        try:
            return self.apply(picture.pixels), picture.scale
        except ImageError as error:
            raise ImageError(f"{printable(path)}: {error}") from None

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels as read_image gives them → uint8 (image_size, image_size, channels)."""
        image = Image.fromarray(to_uint8(pixels, self.value_range))
        image = image.convert("L" if self.channels == 1 else "RGB")
        size, bilinear = (self.image_size, self.image_size), Image.Resampling.BILINEAR
        if image.size != size:
            if self.fit == "pad":
                image = ImageOps.pad(_not_too_thin(image, self.image_size), size, bilinear)
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


def _not_too_thin(image: Image.Image, side: int) -> Image.Image:
    """An image so thin that padding would leave no row or column of it is made just thick enough."""
    least = -(-max(image.size) // side)
    if min(image.size) >= least:
        return image
    return image.resize((max(image.width, least), max(image.height, least)), Image.Resampling.BILINEAR)


def to_uint8(pixels: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """uint8 stays; deeper values are mapped linearly so that value_range becomes 0..255, and clipped.

    Without a range (no deep image was in training) unsigned types have the full scale of their type, and floats 0..1.
    Raises ImageError where that makes no sense: Hounsfield units, for instance, would become black and white alone.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if value_range is None:
        value_range = (0.0, 1.0) if pixels.dtype.kind == "f" else (0.0, float(np.iinfo(pixels.dtype).max))
        if pixels.min() < 0 or (pixels.dtype.kind == "f" and pixels.max() > 1):
            raise ImageError(
                f"its values go from {pixels.min():g} to {pixels.max():g}, and no training image had more than 8 bits, "
                "so it is unknown which are black and white; save it with 8 bits"
            )
    low, high = value_range
    scaled = (pixels.astype(np.float64) - low) * (255 / max(high - low, 1e-6))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
