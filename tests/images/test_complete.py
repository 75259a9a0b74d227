"""A file that lacks pixels is refused, even if it has an end: decoders fill in grey or black without a word."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images.helpers import NO_PYDICOM, read_pixels
from toolkit.images import ImageError
from toolkit.images.complete import INTERLACED, LACKING, MARKER, SCAN

pytestmark = pytest.mark.provided

END = b"\xff\xd9"
ROWS, COLUMNS = 61, 90  # whole blocks of 8 neither way
Y, X = np.mgrid[:ROWS, :COLUMNS]
GREY = (np.sin(X / 9) * 50 + np.cos(Y / 7) * 50 + 128 + np.random.default_rng(0).integers(0, 20, X.shape)).astype(
    np.uint8
)
COLOR = np.stack([GREY, 255 - GREY, GREY.T[:ROWS, :1] + X.astype(np.uint8)], axis=-1)
FLAT = np.full((ROWS, COLUMNS, 3), 128, np.uint8)  # what decoders fill in

JPEGS = {
    "colour": (COLOR, {}),
    "grey": (GREY, {}),
    "whole colour": (COLOR, {"quality": 100, "subsampling": "4:4:4", "optimize": True}),
    "progressive": (COLOR, {"progressive": True}),
    "restart markers": (COLOR, {"restart_marker_blocks": 3}),
    "progressive with restart markers": (GREY, {"progressive": True, "restart_marker_rows": 1}),
    "CMYK": (np.concatenate([COLOR, GREY[..., None]], axis=-1), {}),
}


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    file = BytesIO()
    image = Image.fromarray(pixels)
    (Image.merge("CMYK", image.split()) if pixels.shape[2:] == (4,) else image).save(file, "JPEG", **options)
    return file.getvalue()


def scans_of(stream: bytes) -> list[int]:
    """Where the pixels of each scan begin."""
    found, place = [], 2
    while (marker := MARKER.search(stream, place)) and marker[1] != END[1:]:
        place = marker.end()
        if marker[1][0] not in range(0xD0, 0xD8):
            place += int.from_bytes(stream[place : place + 2], "big")
        if marker[1][0] == SCAN:
            found.append(place)
    return found


def check_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"{path.name}.*: {LACKING}"):
        read_pixels(path)


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_is_cut_is_refused_though_it_ends_as_it_should(tmp_path: Path, name: str) -> None:
    pixels, options = JPEGS[name]
    whole = jpeg(pixels, **options)
    path = tmp_path / "a.jpg"
    path.write_bytes(whole + b"what follows the end is no pixel")
    with Image.open(BytesIO(whole)) as image:
        assert np.array_equal(read_pixels(path), np.asarray(image.convert("L" if image.mode == "L" else "RGB")))
    first = scans_of(whole)[0]
    for place in (first + 10, (first + len(whole)) // 2, len(whole) - 12):
        check_refused(path, whole[:place] + END)


def test_a_lost_restart_interval_and_a_lost_scan_are_noticed(tmp_path: Path) -> None:
    whole = jpeg(COLOR, restart_marker_blocks=3)
    marks = [m.start() for m in MARKER.finditer(whole, scans_of(whole)[0])]
    check_refused(tmp_path / "a.jpg", whole[: marks[1] + 12] + whole[marks[2] :])
    check_refused(tmp_path / "a.jpg", whole[: marks[-2]] + END)
    whole = jpeg(COLOR, progressive=True)
    for scan in scans_of(whole)[1:]:
        start = whole.rindex(bytes([0xFF, SCAN]), 0, scan)
        tables = whole.rindex(b"\xff\xc4", 0, start)  # the tables of a scan stand before it
        check_refused(tmp_path / "a.jpg", whole[:tables] + END)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_a_grey_picture_looks_like_filled_in_pixels_and_is_none(tmp_path: Path, options: dict) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(FLAT, **options))
    assert np.array_equal(read_pixels(path), FLAT[..., 0])


def test_jpeg_inside_of_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(COLOR).save(path, compression="jpeg")
    assert read_pixels(path).shape == COLOR.shape
    with Image.open(path) as image:
        (offset, *_), (count, *_) = image.tag_v2[273], image.tag_v2[279]
    content = bytearray(path.read_bytes())
    cut = offset + count * 2 // 3
    content[cut : offset + count] = END + bytes(offset + count - cut - 2)
    check_refused(path, bytes(content))


@pytest.mark.parametrize(
    ("name", "codec"), [("SC_rgb_jpeg_dcmtk.dcm", None), ("MR_small_jpeg_ls_lossless.dcm", "jpeg_ls")]
)
def test_jpeg_inside_of_dicom(tmp_path: Path, name: str, codec: str | None) -> None:
    pydicom = pytest.importorskip("pydicom", reason=NO_PYDICOM)
    data = pytest.importorskip("pydicom.data", reason=NO_PYDICOM)
    encaps = pytest.importorskip("pydicom.encaps", reason=NO_PYDICOM)
    if codec:
        pytest.importorskip(codec, reason=f"{codec} is not installed (requirements-dev.txt)")
    source = Path(data.get_testdata_file(name, download=False))
    assert read_pixels(source).size
    dataset = pydicom.dcmread(source)
    stream = encaps.get_frame(dataset.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    dataset.PixelData = encaps.encapsulate([stream[: len(stream) * 3 // 4] + END])
    dataset.save_as(tmp_path / "a.dcm")
    check_refused(tmp_path / "a.dcm", (tmp_path / "a.dcm").read_bytes())


def png(raw: bytes, interlaced: bool = False) -> bytes:
    """A colour PNG of ROWS x COLUMNS out of filtered rows."""
    header = struct.pack(">IIBBBBB", COLUMNS, ROWS, 8, 2, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]

    def pack(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + b"".join(pack(*chunk) for chunk in chunks)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bottom", ["bright", "black"])
def test_a_png_with_fewer_rows_than_it_says_is_refused(tmp_path: Path, interlaced: bool, bottom: str) -> None:
    pixels = COLOR.copy()
    pixels[-3:] = 0 if bottom == "black" else 255
    passes = [pixels[top::y, left::x] for left, top, x, y in INTERLACED] if interlaced else [pixels]
    raw = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    path = tmp_path / "a.png"
    path.write_bytes(png(raw, interlaced))
    assert np.array_equal(read_pixels(path), pixels)
    for missing in (1, 1 + 3 * COLUMNS, len(raw) // 2):  # Pillow itself notices that a part of a row is missing
        path.write_bytes(png(raw[:-missing], interlaced))
        with pytest.raises(ImageError, match=f"{LACKING}|image file is truncated"):
            read_pixels(path)


def test_tiles_outside_of_the_file_are_noticed(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed (requirements-dev.txt)")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOR.astype(np.uint16) * 256, photometric="rgb", tile=(32, 32))
    assert read_pixels(path).shape == COLOR.shape
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ImageError, match="1 of its 6 strips or tiles are not in the file; get the file again"):
        read_pixels(path)


def test_a_plane_that_is_not_used_may_be_missing(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed (requirements-dev.txt)")
    path = tmp_path / "a.tif"
    planes = np.stack([GREY.astype(np.uint16), np.zeros((ROWS, COLUMNS), np.uint16)])
    tifffile.imwrite(path, planes, photometric="minisblack", planarconfig="separate", extrasamples=["unspecified"])
    with tifffile.TiffFile(path) as file:
        counts = file.pages[0].tags[279].valueoffset
    for plane in (1, 0):
        content = bytearray(path.read_bytes())
        content[counts + 4 * plane : counts + 4 * plane + 4] = bytes(4)
        path.write_bytes(content)
        if plane == 1:
            assert np.array_equal(read_pixels(path), GREY)
    with pytest.raises(ImageError, match="1 of its 1 strips or tiles are not in the file"):
        read_pixels(path)
