"""DICOM through pydicom, which is optional: a project without DICOM files does not need it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolkit.errors import reason_of
from toolkit.images import codestream, complete, display
from toolkit.images.errors import ImageError, check_size, pick_frame, require

JPEG_START = b"\xff\xd8"  # also of JPEG-LS
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # what pydicom gives as RGB
LONGEST_FIRST_VALUE = 64  # bytes; the first element of a file without preamble is a group length or a short code


def begins(head: bytes) -> bool:
    """True if these first bytes of a file are DICOM's: the mark, or a first element where the preamble is missing."""
    if head[128:132] == b"DICM":
        return True
    if head[:2] not in (b"\x02\0", b"\x08\0") or len(head) < 132 or head[3] != 0:
        return False
    has_type = head[4:6].isalpha() and head[4:6].isupper()
    length = int.from_bytes(head[6:8] if has_type else head[4:8], "little")
    return length % 2 == 0 and length <= LONGEST_FIRST_VALUE


def count_frames(path: Path) -> int:
    """Number of frames, from the header."""
    dataset = _open(path, header_only=True)
    return int(display.number(dataset, "NumberOfFrames") or 1)


def read_dicom(
    path: Path, window: tuple[float, float] | None, max_pixels: int, frame: int
) -> tuple[np.ndarray, Literal["8 bits", "more than 8 bits", "window"]]:
    """Pixels of one frame and their scale (see reader.Picture).

    Stored values become units (Hounsfield for CT) by slope and intercept or the modality's table. The window (argument,
    else the file's first, or its table) maps them to uint8. Without a window they are float32, or uint8 if 8 bits were
    stored and no units are known. MONOCHROME1, where low values are bright, is inverted; colour comes as RGB.
    """
    dataset = _open(path)
    if not any(name in dataset for name in PIXELS):
        raise ImageError(f"a DICOM file without an image ({_title(dataset)})")
    frames = int(display.number(dataset, "NumberOfFrames") or 1)
    index = pick_frame(frame, frames)
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise ImageError("a damaged DICOM file: it does not say how many rows and columns it has")
    check_size(dataset.Columns, dataset.Rows, max_pixels, int(dataset.get("SamplesPerPixel") or 1))
    _check_storage(dataset)
    stored = _decode(dataset, index, frames)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        return _colored_by_palette(stored, dataset), "8 bits"
    if stored.ndim == 3:
        return (stored >> max(int(dataset.BitsStored) - 8, 0)).astype(np.uint8), "8 bits"
    return _grey(stored, dataset, index, window)


def _open(path: Path, header_only: bool = False) -> Any:
    pydicom = require("pydicom", "DICOM")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # oddities are dealt with here
    return pydicom.dcmread(path, force=True, stop_before_pixels=header_only)  # force: without a preamble, too


def _title(dataset: Any) -> str:
    """What kind of DICOM object it is, such as 'RT Structure Set Storage'."""
    uid = dataset.get("SOPClassUID") or getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID")
    return getattr(uid, "name", None) or "of an unknown kind"


def _check_storage(dataset: Any) -> None:
    """Raise ImageError for pixels that pydicom decodes to something else than what is meant."""
    if "PixelData" not in dataset:  # floats
        return
    if not dataset.PixelData:
        raise ImageError("a damaged DICOM file: its PixelData is empty")
    highest, bits = dataset.get("HighBit"), dataset.get("BitsStored")
    if highest and bits and highest != bits - 1:
        raise ImageError(
            f"its HighBit is {highest} and its BitsStored {bits}, so which bits count is unclear; export it again"
        )
    colors = dataset.get("PhotometricInterpretation")
    if int(dataset.get("SamplesPerPixel") or 1) > 1 and colors not in COLORS:
        raise ImageError(f"its colours are stored as {colors!r}; allowed: {', '.join(COLORS)}")
    if colors == "PALETTE COLOR" and not dataset.get("RedPaletteColorLookupTableDescriptor"):
        raise ImageError("a damaged DICOM file: its colours are numbers of a palette that it does not have")


def _decode(dataset: Any, index: int, frames: int) -> np.ndarray:
    """Stored values of one frame, (H, W) or (H, W, 3); YBR has become RGB. Raises ImageError with a cure."""
    pixels = require("pydicom.pixels", "DICOM")
    meta = getattr(dataset, "file_meta", None)
    if meta is None or "TransferSyntaxUID" not in meta:
        _guess_syntax(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    stream = codestream.stream_of(dataset, index, frames)
    codestream.check(stream, dataset)
    try:
        stored = pixels.pixel_array(dataset, index=index if frames > 1 else None)
        if stream.startswith(JPEG_START):
            complete.check_jpeg(stream, stored, lambda other: pixels.pixel_array(_with_stream(dataset, other)))
        return stored
    except ImageError:
        raise
    except Exception as error:  # pydicom and each of its codecs have their own errors
        cure = codestream.missing_codecs(syntax)
        if cure:
            raise ImageError(f"its pixels are compressed ({syntax.name}); to read them: pip install {cure}") from None
        raise ImageError(f"broken image ({reason_of(error)})") from None


def _with_stream(dataset: Any, stream: bytes) -> Any:
    """The same file with another compressed image for its only frame."""
    other = copy.copy(dataset)
    other.NumberOfFrames = 1
    other.PixelData = require("pydicom.encaps", "DICOM").encapsulate([stream])
    return other


def _guess_syntax(dataset: Any) -> None:
    """A file without a header does not name its encoding; pydicom found out which one it could parse."""
    uid = require("pydicom.uid", "DICOM")
    is_implicit, is_little = dataset.original_encoding
    explicit = uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = require("pydicom.dataset", "DICOM").FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if is_implicit else explicit


def _colored_by_palette(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Numbers of palette entries (H, W) → RGB uint8. Some writers put 8-bit colours into the low byte of 16."""
    pixels = require("pydicom.pixels", "DICOM")
    count, first = dataset.RedPaletteColorLookupTableDescriptor[:2]
    entries = pixels.apply_color_lut(np.arange(count or 2**16, dtype=np.int32) + first, dataset)  # (N, 3)
    places = np.clip(stored.astype(np.int64) - first, 0, len(entries) - 1)
    shift = 8 if entries.max() > 255 else 0
    return (entries >> shift).astype(np.uint8)[places][..., :3]


def _grey(
    stored: np.ndarray, dataset: Any, index: int, window: tuple[float, float] | None
) -> tuple[np.ndarray, Literal["8 bits", "more than 8 bits", "window"]]:
    is_float = "PixelData" not in dataset
    bits = 0 if is_float else int(dataset.get("BitsStored") or dataset.BitsAllocated)
    is_inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    is_signed = bool(dataset.get("PixelRepresentation"))
    modality = display.modality_of(dataset, index)
    voi = display.Window(*window) if window else display.voi_of(dataset, index)
    if voi is not None:
        grey = voi.apply(modality.apply(stored))
        return _padded(255 - grey if is_inverted else grey, stored, dataset, 0), "window"
    if bits == 8 and not is_signed and modality.is_identity:
        grey = (255 - stored if is_inverted else stored).astype(np.uint8)
        return _padded(grey, stored, dataset, 0), "8 bits"
    values = modality.apply(stored)
    if is_inverted:
        low = -(2 ** (bits - 1)) if is_signed else 0
        ends = np.array([0, 1]) if is_float else np.array([low, low + 2**bits - 1])
        values = modality.apply(ends).sum() - values
    return _padded(values.astype(np.float32), stored, dataset, None), "more than 8 bits"


def _padded(grey: np.ndarray, stored: np.ndarray, dataset: Any, black: int | None) -> np.ndarray:
    """Pixels that fill the frame around the image become black: its padding value says nothing about the patient.

    black: its grey value; None: the lowest one of the image itself.
    """
    ends = [display.number(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None or "PixelData" not in dataset:
        return grey
    if dataset.get("PixelRepresentation"):  # US or SS: the writer's type may be ambiguous
        ends = [end - 2**16 if end is not None and end >= 2**15 else end for end in ends]
    known = [end for end in ends if end is not None]
    outside = (stored >= min(known)) & (stored <= max(known))
    if outside.all():
        return grey
    return np.where(outside, grey[~outside].min() if black is None else grey.dtype.type(black), grey)
