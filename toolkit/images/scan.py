"""Which files of a folder are images, and what was left out: nothing disappears without being counted.

A file with a known suffix is taken unread. Any other file is taken if its first bytes are those of a format that is
read: scanners and archives give DICOM names such as 1.2.840.113619, IM000012, scan.IMA or slice.000.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.images import dicom, nifti
from toolkit.images.errors import printable
from toolkit.images.reader import HEAD

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom")
NO_IMAGES = tuple(
    (
        ".txt .csv .tsv .json .xml .md .html .css .js .log .ini .yaml .yml .toml .py .pyc .pyi .ipynb .c .h .sh .bat "
        ".pdf .doc .docx .xls .xlsx .ods .odt .ppt .pptx .db .sqlite .lnk .exe .dll .so .icc .ttf "
        ".zip .gz .bz2 .xz .tar .7z .rar .pt .pth .onnx .pkl .h5 .mp3 .mp4 .avi .wav"
    ).split()
)
IMAGES_LIKE_TEXT = tuple(".svg .eps .mha .mhd .nrrd .nhdr .fits .fit .pgm .ppm .pbm .pnm .xpm".split())
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")  # previews and rubbish of systems
RAW = (".nef", ".dng", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".pef", ".svs", ".ndpi", ".scn")  # begin as TIFF does
NO_IMAGE_NAMES = ("dicomdir", "thumbs.db", "desktop.ini")
BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # lengths of the second header of BMP
SHOWN_KINDS = 6


@dataclass(frozen=True)
class LeftOut:
    """A file that was not taken. kind: for the summary; may_be_image: someone may expect an answer for it."""

    path: Path
    kind: str
    reason: str
    may_be_image: bool


@dataclass(frozen=True)
class Scan:
    """The image files of a folder in alphabetical order, and everything else in it."""

    taken: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def missed(self) -> list[LeftOut]:
        """What was left out and may be an image."""
        return [file for file in self.left_out if file.may_be_image]

    def summary(self) -> str:
        """'412 files, 398 images taken; left out: 6 .gif, 5 hidden, 3 .txt'."""
        return summary(len(self.taken), self.left_out)


def summary(taken: int, left_out: Iterable[LeftOut]) -> str:
    """One line of counts."""
    kinds = Counter(file.kind for file in left_out)
    shown = [f"{count} {kind}" for kind, count in kinds.most_common(SHOWN_KINDS)]
    others = sum(kinds.values()) - sum(count for _, count in kinds.most_common(SHOWN_KINDS))
    shown += [f"{others} others"] if others else []
    total = taken + sum(kinds.values())
    return f"{total} files, {taken} images taken" + (f"; left out: {', '.join(shown)}" if shown else "")


def scan(folder: Path, also: tuple[str, ...] = ()) -> Scan:
    """Look at every file below `folder`, through links to folders, too.

    also: suffixes that the caller reads itself (.npy). Hidden files and the folders of systems are left out.
    """
    taken: list[Path] = []
    left_out: list[LeftOut] = []
    for path, problem in _walk(folder, set()):
        verdict = problem or _judge(path, folder, (*SUFFIXES, *also))
        if verdict is None:
            taken.append(path)
        else:
            left_out.append(verdict)
    return Scan(tuple(taken), tuple(left_out))


def begins_as_image(path: Path) -> bool:
    """True if the first bytes are those of a format that is read. Raises OSError."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if dicom.begins(head) or nifti.begins(path, head):
        return True
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bitmap = head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BITMAP_HEADERS
    starts = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return is_webp or is_bitmap or head.startswith(starts)


def _walk(folder: Path, seen: set[str]) -> Iterator[tuple[Path, LeftOut | None]]:
    """All files below `folder` in alphabetical order; folders that cannot be entered with the reason."""
    real = os.path.realpath(folder)
    if real in seen:
        yield (
            folder,
            LeftOut(folder, "links to a folder read already", "a link to a folder that was read already", False),
        )
        return
    seen.add(real)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield folder, LeftOut(folder, "unreadable folders", f"cannot be listed: {error.strerror}", True)
        return
    for name in names:
        path = folder / name
        if path.is_dir():
            yield from _walk(path, seen)
        else:
            yield path, None


def _judge(path: Path, root: Path, suffixes: tuple[str, ...]) -> LeftOut | None:
    """None if a file is to be taken, else why not."""
    suffix = path.suffix.lower()
    if not path.is_file():
        is_link = path.is_symlink()
        return LeftOut(
            path, "broken links" if is_link else "devices", "a link to nothing" if is_link else "no file", is_link
        )
    try:
        hidden = next(filter(is_hidden, path.relative_to(root).parts), None)
        if hidden:
            return LeftOut(path, "hidden", f"hidden, because of {printable(hidden)}", begins_as_image(path))
        if suffix in suffixes:
            return None
        may_be_image = not _is_something_else(path)
        if path.name.lower() not in NO_IMAGE_NAMES and suffix not in RAW and begins_as_image(path):
            return None
    except OSError as error:
        return LeftOut(path, "unreadable", error.strerror or "cannot be read", True)
    kind = printable(suffix) if suffix and len(suffix) <= 8 else "of unknown kind"
    return LeftOut(
        path, kind, f"not an image in a known format; known are {', '.join(suffixes)} and DICOM", may_be_image
    )


def is_hidden(name: str) -> bool:
    """True for files and folders that systems hide, or keep for themselves: .DS_Store, __MACOSX, previews of a NAS."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _is_something_else(path: Path) -> bool:
    """True for text, archives, documents: what is not taken for an image."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(IMAGES_LIKE_TEXT) or (name != path.name.lower() and name.endswith(SUFFIXES)):
        return False
    if path.name.lower() in NO_IMAGE_NAMES or path.suffix.lower() in NO_IMAGES:
        return True
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head.startswith((b"PK\x03\x04", b"%PDF", b"\x1f\x8b", b"SQLite")):
        return True
    return bool(head) and not any(byte < 9 or 13 < byte < 32 for byte in head)  # text has no control characters
