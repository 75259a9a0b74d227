"""Compressed pixels inside DICOM: their true size before they are decoded, and which package can decode them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from toolkit.images.errors import ImageError, require

# What decodes each family of transfer syntaxes, besides Pillow: (package to install, module).
CODECS = {
    "JPEG": (("pylibjpeg", "pylibjpeg"), ("pylibjpeg-libjpeg", "libjpeg")),
    "JPEG-LS": (("pyjpegls", "jpeg_ls"),),
    "JPEG 2000": (("pylibjpeg", "pylibjpeg"), ("pylibjpeg-openjpeg", "openjpeg")),
}
FAMILIES = (  # beginnings of the UIDs of DICOM PS3.5 A.4; the first that fits counts
    ("1.2.840.10008.1.2.4.80", "JPEG-LS"),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS"),
    ("1.2.840.10008.1.2.4.9", "JPEG 2000"),
    ("1.2.840.10008.1.2.4.20", "JPEG 2000"),  # high throughput
    ("1.2.840.10008.1.2.4.5", "JPEG"),
    ("1.2.840.10008.1.2.4.7", "JPEG"),  # lossless: what many hospitals send
)
END = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000
LONGEST_PADDING = 64  # bytes behind it
FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # JPEG's start of frame, and JPEG-LS's


def missing_codecs(syntax: str) -> str:
    """Packages to install for a transfer syntax ('pylibjpeg pylibjpeg-libjpeg'); '' if nothing is missing."""
    family = next((family for start, family in FAMILIES if syntax.startswith(start)), None)
    return " ".join(package for package, module in CODECS.get(family, ()) if find_spec(module) is None)


def stream_of(dataset: Any, index: int, frames: int) -> bytes:
    """The compressed frame; empty if pixels are not compressed, or fragments do not add up (the decoder says how)."""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return b""
    try:
        return require("pydicom.encaps", "DICOM").get_frame(dataset.PixelData, index, number_of_frames=frames)
    except ValueError:
        return b""


def check(stream: bytes, dataset: Any) -> None:
    """Raise ImageError for a compressed frame that is cut off, or larger than the file's header says.

    A few bytes can claim gigabytes.
    """
    found = size_of(stream)
    if found is not None and END not in stream[-LONGEST_PADDING:]:  # some decoders make up what is missing
        raise ImageError("its compressed image is cut off; get the file again")
    wanted = (int(dataset.Columns), int(dataset.Rows), int(dataset.SamplesPerPixel))
    if found is not None and any(one > two for one, two in zip(found, wanted, strict=True)):
        raise ImageError(
            f"its header says {wanted[0]} x {wanted[1]} pixels of {wanted[2]} channels, the compressed image "
            f"{found[0]} x {found[1]} of {found[2]}"
        )


def size_of(stream: bytes) -> tuple[int, int, int] | None:
    """Width, height and channels in the header of a JPEG, JPEG-LS or JPEG 2000 stream; None if there is none."""
    start = stream[:512].find(b"\xff\x4f\xff\x51")  # start and SIZ marker of JPEG 2000, perhaps inside of a JP2 file
    if start >= 0 and len(stream) >= start + 42:
        right, lower, left, upper = (int.from_bytes(stream[start + n : start + n + 4], "big") for n in (8, 12, 16, 20))
        return right - left, lower - upper, int.from_bytes(stream[start + 40 : start + 42], "big")
    place = 2 if stream[:2] == b"\xff\xd8" else len(stream)
    while place + 9 < len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker in FRAME_HEADERS:
            height, width = (int.from_bytes(stream[place + n : place + n + 2], "big") for n in (5, 7))
            return width, height, stream[place + 9]
        place += 2 + int.from_bytes(stream[place + 2 : place + 4], "big") if marker != 0xFF else 1
    return None
