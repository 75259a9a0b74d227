"""The small print of DICOM: tables, functional groups, sloppy writers, compression."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-dev.txt)")

from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

from tests.images.helpers import read_pixels, write_dicom  # noqa: E402
from toolkit.images import ImageError, codestream, count_frames, read_image, with_frame  # noqa: E402

pytestmark = pytest.mark.provided
STORED = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)


def item(**elements: Any) -> Dataset:
    """One item of a sequence."""
    found = Dataset()
    for name, value in elements.items():
        setattr(found, name, value)
    return found


def table(values: np.ndarray, bits: int, first: int = 0) -> Dataset:
    """An item with a look-up table."""
    found = item(LUTDescriptor=[len(values), first, bits])
    found.add_new("LUTData", "US", values.tolist())
    return found


def groups(slope: float, center: float, width: float) -> dict[str, Sequence]:
    """Rescale and window of one frame, as enhanced CT and MR have them."""
    values = item(RescaleSlope=slope, RescaleIntercept=-1000, RescaleType="HU")
    window = item(WindowCenter=center, WindowWidth=width)
    return {"PixelValueTransformationSequence": Sequence([values]), "FrameVOILUTSequence": Sequence([window])}


@pytest.mark.parametrize("place", ["shared", "per frame"])
def test_enhanced_files_have_rescale_and_window_in_their_groups(tmp_path: Path, place: str) -> None:
    classic = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 600, "WindowWidth": 3000}
    expected = read_pixels(write_dicom(tmp_path / "classic.dcm", STORED, **classic))
    own = item(**groups(2, 600, 3000))
    name = "SharedFunctionalGroupsSequence" if place == "shared" else "PerFrameFunctionalGroupsSequence"
    found = read_image(write_dicom(tmp_path / "enhanced.dcm", STORED, NumberOfFrames=1, **{name: Sequence([own])}))
    assert found.scale == "window"
    assert np.array_equal(found.pixels, expected)
    assert len(np.unique(expected)) > 3


def test_each_frame_has_its_own_groups(tmp_path: Path) -> None:
    both = np.concatenate([STORED, STORED])
    each = Sequence([item(**groups(1, 1000, 2000)), item(**groups(2, 1000, 2000))])
    options = {"Rows": 8, "NumberOfFrames": 2, "PerFrameFunctionalGroupsSequence": each}
    path = write_dicom(tmp_path / "two.dcm", both, **options)
    assert count_frames(path) == 2
    first, second = (read_pixels(with_frame(path, number)) for number in (1, 2))
    for slope, found in ((1, first), (2, second)):
        window = {"WindowCenter": 1000, "WindowWidth": 2000, "RescaleSlope": slope, "RescaleIntercept": -1000}
        assert np.array_equal(found, read_pixels(write_dicom(tmp_path / "one.dcm", STORED, **window)))
    assert not np.array_equal(first, second)
    with pytest.raises(
        ImageError, match=r"2 frames; name one with --frame 1 .. 2, or make each an image with --frame all"
    ):
        read_image(path)


@pytest.mark.parametrize("empty", ["RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "NumberOfFrames"])
def test_an_empty_element_is_one_that_is_not_there(tmp_path: Path, empty: str) -> None:
    found = read_image(write_dicom(tmp_path / "a.dcm", STORED, **{empty: None}))
    assert found.scale == "more than 8 bits"
    assert np.array_equal(found.pixels, STORED)


def test_a_decimal_comma_and_several_windows(tmp_path: Path) -> None:
    expected = read_pixels(write_dicom(tmp_path / "a.dcm", STORED, WindowCenter=2040.5, WindowWidth=300))
    raw = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "comma.dcm").write_bytes(raw.replace(b"2040.5", b"2040,5"))
    assert np.array_equal(read_pixels(tmp_path / "comma.dcm"), expected)
    several = write_dicom(tmp_path / "b.dcm", STORED, WindowCenter=[2040.5, 90], WindowWidth=[300, 10])
    assert np.array_equal(read_pixels(several), expected)
    (tmp_path / "words.dcm").write_bytes(raw.replace(b"2040.5", b"middle"))
    with pytest.raises(ImageError, match="its WindowCenter is 'middle', which is not a number"):
        read_image(tmp_path / "words.dcm")
    assert read_image(tmp_path / "words.dcm", window=(40, 400)).scale == "window"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions_are_pydicom_s(tmp_path: Path, function: str) -> None:
    window = {"WindowCenter": 1800, "WindowWidth": 900, "VOILUTFunction": function}
    path = write_dicom(tmp_path / "a.dcm", STORED, **window)
    oracle = pydicom.pixels.apply_windowing(STORED, pydicom.dcmread(path)) / 4095 * 255
    assert np.abs(read_pixels(path) - oracle).max() <= 0.5 + 1e-6


def test_a_window_function_is_known_in_small_letters_and_never_guessed(tmp_path: Path) -> None:
    pixels = np.arange(4000, dtype=np.uint16).reshape(40, 100)
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    small = write_dicom(tmp_path / "a.dcm", pixels, VOILUTFunction="sigmoid ", **window)
    large = write_dicom(tmp_path / "b.dcm", pixels, VOILUTFunction="SIGMOID", **window)
    linear = write_dicom(tmp_path / "c.dcm", pixels, **window)
    assert np.array_equal(read_pixels(small), read_pixels(large))
    assert not np.array_equal(read_pixels(small), read_pixels(linear))
    odd = write_dicom(tmp_path / "d.dcm", pixels, VOILUTFunction="CUBIC", **window)
    with pytest.raises(ImageError, match="its VOILUTFunction is 'CUBIC'; allowed: LINEAR, LINEAR_EXACT, SIGMOID"):
        read_pixels(odd)


def test_a_voi_table_takes_precedence_and_is_scaled_by_its_bits(tmp_path: Path) -> None:
    curve = np.rint(np.sqrt(np.arange(4096) / 4095) * 1023).astype(np.uint16)
    elements = {"VOILUTSequence": Sequence([table(curve, 10)]), "WindowCenter": 100, "WindowWidth": 10}
    found = read_image(write_dicom(tmp_path / "a.dcm", STORED, **elements))
    assert found.scale == "window"
    assert np.array_equal(found.pixels, np.rint(curve[STORED] / 1023 * 255))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_modality_table_of_any_depth(tmp_path: Path, bits: int) -> None:
    values = (np.arange(2000) * (2**bits - 1) // 1999)[::-1].astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", STORED, ModalityLUTSequence=Sequence([table(values, bits, first=1000)]))
    expected = values[np.clip(STORED.astype(int) - 1000, 0, 1999)]
    assert np.array_equal(read_pixels(path), expected)


@pytest.mark.parametrize(("keyword", "kind"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)])
def test_floats_for_pixels(tmp_path: Path, keyword: str, kind: type) -> None:
    values = (STORED / 4096).astype(kind)
    path = write_dicom(tmp_path / "a.dcm", STORED)
    dataset = pydicom.dcmread(path)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.BitsAllocated = values.dtype.itemsize * 8
    setattr(dataset, keyword, values.tobytes())
    dataset.save_as(path)
    assert np.allclose(read_pixels(path), values)


@pytest.mark.parametrize("low_byte", [False, True])
def test_palette_entries_of_sixteen_bits_in_either_byte(tmp_path: Path, low_byte: bool) -> None:
    colors = {"Red": np.arange(256), "Green": np.arange(256)[::-1], "Blue": np.arange(256) // 2}
    stored = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in colors.items():
        entries = values if low_byte else values * 256
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"{name}PaletteColorLookupTableData"] = entries.astype("<u2").tobytes()
    found = read_pixels(write_dicom(tmp_path / "a.dcm", stored, **elements))
    assert np.array_equal(found, np.stack([values[stored] for values in colors.values()], axis=2))


@pytest.mark.parametrize("keep_meta", [True, False])
def test_a_file_without_preamble_is_recognised_and_read(tmp_path: Path, keep_meta: bool) -> None:
    path = write_dicom(tmp_path / "whole", STORED, WindowCenter=2000, WindowWidth=4000)
    raw = path.read_bytes()
    start = 132 if keep_meta else 132 + 12 + struct.unpack("<I", raw[140:144])[0]
    (tmp_path / "bare").write_bytes(raw[start:])
    assert np.array_equal(read_pixels(tmp_path / "bare"), read_pixels(path))


def test_eight_bits_without_units_are_the_grey_values_that_they_are(tmp_path: Path) -> None:
    stored = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    found = read_image(write_dicom(tmp_path / "a.dcm", stored))
    assert found.scale == "8 bits"
    assert np.array_equal(found.pixels, stored)
    rescaled = read_image(write_dicom(tmp_path / "b.dcm", stored, RescaleSlope=3, RescaleIntercept=-5))
    assert rescaled.scale == "more than 8 bits"
    assert np.array_equal(rescaled.pixels, stored * 3.0 - 5)


def compressed(tmp_path: Path, syntax: str, stream: bytes, **elements: Any) -> Path:
    """A file whose pixels are `stream`."""
    path = write_dicom(tmp_path / "a.dcm", STORED, **elements)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    return path


def siz(width: int, height: int, channels: int) -> bytes:
    """The beginning of a JPEG 2000 codestream that claims a size."""
    numbers = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, width, height, 0, 0, channels)
    body = numbers + bytes([15, 1, 1]) * channels
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(body) + 2) + body + b"\xff\xd9"


@pytest.mark.parametrize("claim", [(15_843, 15_843, 1), (8, 8, 200), (9, 8, 1)])
def test_a_compressed_image_larger_than_its_header_is_refused_undecoded(
    tmp_path: Path, claim: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compressed(tmp_path, "1.2.840.10008.1.2.4.90", siz(*claim))
    assert path.stat().st_size < 2000
    monkeypatch.setattr(pydicom.pixels, "pixel_array", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=f"8 x 8 pixels of 1 channels, the compressed image {claim[0]} x {claim[1]}"):
        read_image(path)


def test_jpeg_sizes_are_read_from_the_stream() -> None:
    for mode, channels in (("L", 1), ("RGB", 3)):
        stream = io.BytesIO()
        Image.new(mode, (70, 40)).save(stream, "JPEG")
        assert codestream.size_of(stream.getvalue()) == (70, 40, channels)
    assert codestream.size_of(siz(70, 40, 3)) == (70, 40, 3)
    assert codestream.size_of(b"anything else") is None


@pytest.mark.parametrize(
    ("syntax", "packages"),
    [
        ("1.2.840.10008.1.2.4.70", "pylibjpeg pylibjpeg-libjpeg"),  # JPEG Lossless
        ("1.2.840.10008.1.2.4.51", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.80", "pyjpegls"),
        ("1.2.840.10008.1.2.4.90", "pylibjpeg pylibjpeg-openjpeg"),
    ],
)
def test_a_missing_codec_is_named_with_the_command_that_installs_it(
    tmp_path: Path, syntax: str, packages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Unable to decompress:\n  first plugin\n  second plugin")

    monkeypatch.setattr(pydicom.pixels, "pixel_array", fail)
    path = compressed(tmp_path, syntax, b"\xff\xd8\xff\xd9")
    monkeypatch.setattr(codestream, "find_spec", lambda _name: None)
    with pytest.raises(ImageError, match=f"to read them: pip install {packages}$"):
        read_image(path)
    monkeypatch.setattr(codestream, "find_spec", lambda _name: object())
    with pytest.raises(ImageError, match="Unable to decompress; first plugin; second plugin"):
        read_image(path)


def test_without_pydicom_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", STORED)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match="pip install pydicom"):
        read_image(path)


FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*"))
FILES = [path for path in FILES if path.is_file() and path.suffix not in (".py", ".md", ".pyc")]


def test_every_file_of_pydicom_is_read_or_refused_with_one_line() -> None:
    read, refused = [], []
    for path in FILES:
        try:
            pixels = read_pixels(with_frame(path, 1))
            assert pixels.ndim in (2, 3)
            read.append(path.name)
        except ImageError as error:
            refused.append(str(error))
    assert not [reason for reason in refused if "\n" in reason]
    assert len(read) >= 85, refused  # 89 of 176 with pydicom 3.0; 51 more are headers of a DICOMDIR without images
    assert not [reason for reason in refused if "object has no attribute" in reason or "NoneType" in reason]


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_gdcm.dcm", "JPGExtended.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPEG2000.dcm"]
)
def test_compressed_files_of_pydicom_are_read_with_the_codecs(name: str) -> None:
    for package in ("pylibjpeg", "libjpeg", "openjpeg", "jpeg_ls"):
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-dev.txt)")
    path = next(path for path in FILES if path.name == name)
    assert read_pixels(path).std() > 1


@pytest.mark.parametrize("window", [None, (2000.0, 4000.0)])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_fills_the_frame_is_black_and_the_rest_as_without_it(
    tmp_path: Path, photometric: str, window: tuple[float, float] | None
) -> None:
    pixels = np.random.default_rng(0).integers(500, 3000, (16, 16), dtype=np.uint16)
    elements = {"PhotometricInterpretation": photometric}
    whole = read_pixels(write_dicom(tmp_path / "whole", pixels, **elements), window=window)
    pixels[:4], pixels[4:6] = 4000, 4090
    elements |= {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4095}
    padded = read_pixels(write_dicom(tmp_path / "padded", pixels, **elements), window=window)
    assert np.array_equal(padded[6:], whole[6:])
    assert set(padded[:6].ravel()) == {whole[6:].min() if window is None else 0}


UNCLEAR = {
    "empty": ({"PixelData": b""}, "its PixelData is empty"),
    "high bit": ({"HighBit": 15}, "its HighBit is 15 and its BitsStored 12"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "numbers of a palette that it does not have"),
    "colours": (
        {"PhotometricInterpretation": "HSV", "SamplesPerPixel": 3, "PlanarConfiguration": 0},
        "stored as 'HSV'",
    ),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_pixels_whose_meaning_is_unclear_are_refused(tmp_path: Path, name: str) -> None:
    elements, message = UNCLEAR[name]
    path = write_dicom(tmp_path / "a.dcm", np.arange(256, dtype=np.uint16).reshape(16, 16), **elements)
    with pytest.raises(ImageError, match=message):
        read_pixels(path)


@pytest.mark.parametrize(
    ("kind", "syntax"), [("JPEG", "1.2.840.10008.1.2.4.50"), ("JPEG2000", "1.2.840.10008.1.2.4.90")]
)
def test_a_compressed_image_that_is_cut_off_is_refused(tmp_path: Path, kind: str, syntax: str) -> None:
    stream = io.BytesIO()
    Image.fromarray((STORED >> 4).astype(np.uint8)).save(stream, kind)
    stored = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    assert read_pixels(compressed(tmp_path, syntax, stream.getvalue(), **stored)).shape == STORED.shape
    with pytest.raises(ImageError, match="cut off; get the file again"):
        read_pixels(compressed(tmp_path, syntax, stream.getvalue()[:-4], **stored))
