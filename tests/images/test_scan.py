"""What a folder holds: every file is taken, or counted with its reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images.helpers import write_dicom
from toolkit.images import ImageError, count_frames, printable, read_image, scan, with_frame

pytestmark = pytest.mark.provided
ROOT = Path(__file__).resolve().parents[2]
PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def picture(path: Path, kind: str = "PNG", **options: object) -> Path:
    """An image of one format under any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, kind, **options)
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jfif", "JPEG"),
        ("a.jpe", "JPEG"),
        ("a.JPG", "JPEG"),
        ("a.webp", "WEBP"),
        ("a.mpo", "MPO"),
        ("a.bmp", "BMP"),
        ("scan.000", "PNG"),
        ("scan", "TIFF"),
        ("1.2.840.113619.2", "JPEG"),
    ],
)
def test_formats_under_any_name_are_taken_and_read(tmp_path: Path, name: str, kind: str) -> None:
    path = picture(tmp_path / name, kind)
    assert scan(tmp_path).taken == (path,)
    found = read_image(path).pixels.astype(int)
    grey = found if found.ndim == 2 else found.mean(axis=2)  # lossy WebP tints a little
    assert np.abs(grey - PIXELS).max() < 40


def test_a_camera_s_second_picture_is_not_a_frame(tmp_path: Path) -> None:
    second = Image.fromarray(PIXELS[::-1].copy())
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert np.abs(read_image(tmp_path / "a.jpg").pixels.astype(int) - PIXELS).max() < 40


@pytest.mark.parametrize("name", ["1.2.840.113619.2.5", "a.IMA", "a.img", "a.000", "IM000012", "a.dcm"])
@pytest.mark.parametrize("preamble", [True, False])
def test_dicom_under_the_names_of_scanners_is_taken(tmp_path: Path, name: str, preamble: bool) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-dev.txt)")

    path = write_dicom(tmp_path / "source", PIXELS)
    raw = path.read_bytes()
    path.unlink()
    (tmp_path / name).write_bytes(raw if preamble else raw[132:])
    assert scan(tmp_path).taken == (tmp_path / name,)
    assert np.array_equal(read_image(tmp_path / name).pixels, PIXELS)


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    picture(tmp_path / ".hidden" / "a.png")
    picture(tmp_path / "__MACOSX" / "b.png")
    (tmp_path / "._good.png").write_bytes(b"\0\5\x16\7" + b"\0" * 90)  # what macOS puts next to a file
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "labels").write_text("a,b\n")
    Image.fromarray(PIXELS).save(tmp_path / "a.gif")
    picture(tmp_path / "raw.nef", "TIFF")
    (tmp_path / "unknown.xyz").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "empty.000").touch()
    found = scan(tmp_path)
    assert [path.name for path in found.taken] == ["good.png"]
    missed = {file.path.name for file in found.missed}
    assert missed == {"a.png", "b.png", "a.gif", "raw.nef", "unknown.xyz", "empty.000"}
    assert {file.path.name for file in found.left_out} == {*missed, "._good.png", "notes.txt", "labels"}
    assert found.summary().startswith("10 files, 1 images taken; left out: 3 hidden, ")
    assert "1 .gif" in found.summary()


def test_images_that_look_like_text_are_missed_and_previews_of_systems_are_hidden(tmp_path: Path) -> None:
    text = b"ObjectType = Image\n" * 40
    images = ["a.mha", "b.nrrd", "c.fits", "d.pgm", "e.svg", "f.dcm.gz"]
    for name in (*images, "readme", "notes.rst"):
        (tmp_path / name).write_bytes(text)
    picture(tmp_path / "good.png")
    picture(tmp_path / "@eaDir" / "good.png" / "SYNOPHOTO_THUMB_M.png")
    found = scan(tmp_path)
    assert [path.name for path in found.taken] == ["good.png"]
    assert [file.path.name for file in found.missed if file.kind != "hidden"] == images
    assert "1 hidden" in found.summary()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_a_pipe_is_left_out_of_folders_and_refused_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = scan(tmp_path)
    assert [path.name for path in found.taken] == ["good.png"]
    assert [file.reason for file in found.left_out] == ["no file"]
    for ask in (read_image, count_frames):
        with pytest.raises(ImageError, match=r"pipe\.png: not a file but a pipe"):  # opening it would wait forever
            ask(tmp_path / "pipe.png")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_are_followed_once_and_broken_ones_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "gone.png").symlink_to(tmp_path / "nowhere")
    found = scan(tmp_path / "set")
    assert [path.name for path in found.taken] == ["a.png"]
    assert [file.path.name for file in found.missed] == ["gone.png"]
    assert "a link to a folder that was read already" in [file.reason for file in found.left_out]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are always Unicode there")
def test_a_name_that_is_not_utf_8_is_taken_and_can_be_printed(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").rename(
        os.path.join(os.fsencode(tmp_path), b"caf\xe9\n.png").decode("utf-8", "surrogateescape")
    )
    (path,) = scan(tmp_path).taken
    assert np.array_equal(read_image(path).pixels, PIXELS)
    assert printable(path.name) == r"caf\xe9\x0a.png"
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"caf.xe9.x0a\.png: the file is empty") as caught:
        read_image(path)
    str(caught.value).encode("utf-8")


def test_nifti_is_read_slice_by_slice(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed (requirements-dev.txt)")

    volume = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)  # (to the right, to the front, up)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    assert scan(tmp_path).taken == (tmp_path / "a.nii.gz",)
    assert count_frames(tmp_path / "a.nii.gz") == 3
    found = read_image(with_frame(tmp_path / "a.nii.gz", 2)).pixels
    # The first axis runs to the patient's right, which radiologists have on the left; the second one to the front.
    assert np.allclose(found, volume[::-1, ::-1, 1].T)


@pytest.mark.parametrize("kind", [np.dtype(np.complex64), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_nifti_of_other_than_grey_values_is_refused(tmp_path: Path, kind: np.dtype) -> None:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed (requirements-dev.txt)")
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 2), kind), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match=r"its values are .*; allowed: whole numbers and floats"):
        read_image(tmp_path / "a.nii#frame=1")


def test_decoders_warn_nobody_on_the_terminal(tmp_path: Path) -> None:
    """In its own process: pytest has warnings and logs in its own hands."""
    pytest.importorskip("tifffile", reason="tifffile is not installed (requirements-dev.txt)")
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0\x01\0\x15\x01\x03\0\x01\0\0\0\xff\xff\0\0\0\0\0\0")
    code = (
        "import sys; from toolkit.images import ImageError, read_image\n"
        "try:\n    read_image(sys.argv[1])\nexcept ImageError as error:\n    print(error)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a.tif")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"{tmp_path / 'a.tif'}: ")
    assert done.stderr == ""
