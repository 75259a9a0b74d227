"""Are all pixels of an image in its file? Decoders fill in grey or black for what is missing, without a word.

A JPEG may be cut and have its end marker all the same: copied from a damaged disk, put together again by a repair
program, sent with lost parts. No decoder for Python passes on libjpeg's warning. But bytes behind the last pixel of a
scan mean nothing, so a whole image stays as it is, to the last bit, if some are added. Where pixels are missing, the
decoder takes the added bytes for pixels, and the image changes.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from toolkit.images.errors import ImageError

LACKING = "it is cut off: its end is there, but pixels before it are missing; get the file again"
# No 0xFF, which begins a marker; the first bit is 1, because decoders put zeros in the place of what is missing.
FILLER = b"\xb7" + np.random.default_rng(0).integers(1, 255, 63, dtype=np.uint8).tobytes()
MARKER = re.compile(rb"\xff+([\x01-\xfe])", re.DOTALL)  # 0xFF 0x00 is a byte of pixels
MARKER_LS = re.compile(rb"\xff+([\x80-\xfe])", re.DOTALL)  # in JPEG-LS a byte of pixels behind 0xFF is below 0x80
RESTARTS, END, SCAN, INTERVAL, LS_FRAME = range(0xD0, 0xD8), 0xD9, 0xDA, 0xDD, 0xF7
WITHOUT_LENGTH = {*range(0xD0, 0xD9), 0x01}
FRAMES = {*range(0xC0, 0xD0), LS_FRAME} - {0xC4, 0xC8, 0xCC}
ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # encoders leave out zeros at the end of such data
PROGRESSIVE, LOSSLESS = (0xC2, 0xC6), (0xC3, 0xC7)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
WHOLE = ((0, 0, 1, 1),)
INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7


def check_jpeg(stream: bytes, image: Any = None, decode: Callable[[bytes], Any] | None = None) -> None:
    """Raise ImageError if a JPEG or JPEG-LS stream lacks pixels. Other streams, and arithmetic coding, are not checked.

    stream: from its start marker; what follows its end marker is not looked at.
    image: what `decode` makes of it, an image of Pillow or an array; None: not known yet.
    decode: stream → image; None: by Pillow.
    """
    decode = decode or _decode
    longer = lengthened(stream)
    if longer is None:
        return
    expected = decode(stream) if image is None else image
    try:
        is_whole = _are_equal(decode(longer), expected)
    except Exception:  # of many classes: the added bytes make no sense as pixels
        is_whole = False
    if not is_whole:
        raise ImageError(LACKING)


def _decode(stream: bytes) -> Image.Image:
    image = JpegImageFile(BytesIO(stream))
    image.load()
    return image


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return ImageChops.difference(one, other).getbbox() is None  # much faster than turning them into arrays


def lengthened(stream: bytes) -> bytes | None:
    """The stream with FILLER behind the pixels of each scan and restart interval; None if it cannot be checked.

    Raises ImageError if a whole scan or interval is missing.
    """
    parts: list[bytes] = []
    frame, interval = Frame(), 0
    place, copied = 2, 0
    while found := MARKER.search(stream, place):
        marker, place = found[1][0], found.end()
        if marker == END:
            if any(frame.lacking.values()):
                raise ImageError(LACKING)
            return b"".join([*parts, stream[copied:place]]) if parts else None
        if marker in WITHOUT_LENGTH:
            continue
        segment = stream[place + 2 : place + int.from_bytes(stream[place : place + 2], "big")]
        place += 2 + len(segment)
        if marker in ARITHMETIC:
            return None
        if marker == INTERVAL:
            interval = int.from_bytes(segment, "big")
        if marker in FRAMES:
            frame = Frame.of(marker, segment)
        if marker == SCAN:
            ends = _ends(stream, place, MARKER_LS if frame.kind == LS_FRAME else MARKER)
            if interval and len(ends) < -(-frame.units(segment) // interval):
                raise ImageError(LACKING)
            for end in ends:
                parts += [stream[copied:end], FILLER]
                copied = place = end
            frame.tick_off(segment)
    return None


def _ends(stream: bytes, place: int, marker: re.Pattern[bytes]) -> list[int]:
    """Where the restart intervals of the scan that begins at `place` end; without such intervals, where it ends."""
    found = []
    for end in marker.finditer(stream, place):
        found.append(end.start())
        if end[1][0] not in RESTARTS:
            break
    return found


@dataclass
class Frame:
    """What the header of a JPEG's frame says, and what its scans have brought so far.

    sampling: component → blocks across and down in a unit. lacking: component → coefficients that no scan has brought
    to full precision.
    """

    kind: int = 0
    height: int = 0
    width: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    lacking: dict[int, set[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: int, segment: bytes) -> Frame:
        """The frame of a header segment."""
        height, width = struct.unpack(">HH", segment[1:5])
        sampling = {segment[n]: divmod(segment[n + 1], 16) for n in range(6, len(segment) - 2, 3)}
        return cls(kind, height, width, sampling, {component: set(range(64)) for component in sampling})

    def units(self, segment: bytes) -> int:
        """Number of units (MCUs) in the scan with this header; 0 where intervals are counted in another way."""
        if self.kind == LS_FRAME or not all(map(all, self.sampling.values())):
            return 0
        side = 1 if self.kind in LOSSLESS else 8
        across, down = (max(sizes) for sizes in zip(*self.sampling.values(), strict=True))
        if segment[0] > 1:
            return -(-self.width // (side * across)) * -(-self.height // (side * down))
        own_across, own_down = self.sampling[segment[1]]  # a single component is not padded to whole units
        columns, rows = -(-self.width * own_across // across), -(-self.height * own_down // down)
        return -(-columns // side) * -(-rows // side)

    def tick_off(self, segment: bytes) -> None:
        """Remove the coefficients that a scan completes. Only progressive files have several scans of a component."""
        count = segment[0]
        first, last, precision = segment[1 + 2 * count : 4 + 2 * count]
        for component in segment[1 : 1 + 2 * count : 2]:
            if self.kind not in PROGRESSIVE:
                self.lacking[component] = set()
            elif precision & 15 == 0:  # no bits are left for later scans
                self.lacking[component] -= set(range(first, last + 1))


def check_png(file: BinaryIO, image: Image.Image) -> None:
    """Raise ImageError if a PNG has fewer rows than it says; then the last one of the decoded image is zero."""
    if not image.info.get("interlace") and np.asarray(image.crop((0, image.height - 1, *image.size))).any():
        return
    file.seek(0)
    data = file.read()
    width, height, depth, color, _compression, _filter, is_interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits, wanted = depth * CHANNELS[color], 0
    for left, top, step_x, step_y in INTERLACED if is_interlaced else WHOLE:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        wanted += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    if _inflated_size(data) < wanted:
        raise ImageError(LACKING)


def _inflated_size(data: bytes) -> int:
    """Number of bytes in the compressed part of a PNG, unpacked piece by piece."""
    place, size, inflater = 8, 0, zlib.decompressobj()
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        waiting = data[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        while waiting:
            size += len(inflater.decompress(waiting, 2**20))
            waiting = inflater.unconsumed_tail
        place += 12 + length
    return size
