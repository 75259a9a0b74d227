"""The files in a folder, a zip or a tar archive, none of which is trusted: names, and how to read each within a limit.

Links are never followed, nothing is extracted by its own name, and depth, count and size are bounded while reading.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from toolkit.errors import UserError

MAX_ENTRIES = 50_000
MAX_DEPTH = 30
MAX_ARCHIVE_BYTES = 1 << 30
SKIPPED_FOLDERS = {".git", "__pycache__", ".venv", "venv", "env", "node_modules", "__MACOSX", ".ipynb_checkpoints"}
GIT_HEAD = ".git/HEAD"  # of a repository in an archive: named, so that it can be said, and not read
# What systems leave next to a hand-in that was unpacked, copied or looked at on them.
JUNK = re.compile(r"__MACOSX|\.DS_Store|\._.*|desktop\.ini|Thumbs\.db|.*:Zone\.Identifier", re.IGNORECASE | re.DOTALL)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Zip archives by their content that nobody hands in as such: weights, documents.
NO_ARCHIVES = (".pt", ".pth", ".npz", ".docx", ".xlsx", ".pptx", ".odt", ".pages", ".whl")

Read = Callable[[int], bytes]  # reads at most this many bytes
Entry = tuple[str, Read | None]  # name with slashes; None: not a regular file
T = TypeVar("T")


def printable(text: str, limit: int = 200) -> str:
    """Text from outside made harmless for a terminal and a table."""
    return "".join(c if c.isprintable() else "?" for c in text)[:limit]


def folder_entries(root: Path) -> Iterator[Entry]:
    """Files of a folder, in order of their names. What is deeper than MAX_DEPTH is not looked at."""
    waiting, seen = [""], 0
    while waiting:
        folder = waiting.pop()
        try:
            names = sorted(os.listdir(root / folder))
        except OSError:
            continue
        below = []
        for name in names:
            relative = f"{folder}/{name}" if folder else name
            seen += 1
            if seen > MAX_ENTRIES:
                raise UserError(f"the folder holds more than {MAX_ENTRIES} files; hand in only the assignment's files")
            try:
                mode = os.lstat(root / relative).st_mode
            except OSError:
                continue
            if not stat.S_ISDIR(mode):
                yield relative, read_regular(root / relative) if stat.S_ISREG(mode) else None
            elif name not in SKIPPED_FOLDERS and relative.count("/") < MAX_DEPTH:
                below.append(relative)
        waiting += reversed(below)


def read_regular(path: Path) -> Read:
    """A reader of a file that was regular a moment ago."""

    def read(limit: int) -> bytes:
        # O_NOFOLLOW and O_NONBLOCK: it may be a link or a pipe now.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UserError(f"{printable(path.name)} is not a regular file")
            return file.read(limit)

    return read


def is_archive(source: Path | io.BytesIO) -> bool:
    """Whether a file is a zip or a tar archive, by its content."""
    try:
        is_file = isinstance(source, io.BytesIO) or source.is_file()
        return is_file and (zipfile.is_zipfile(source) or tarfile.is_tarfile(_from_start(source)))
    except Exception:  # a damaged tar raises what its damage makes it raise
        return False


def _from_start(source: Path | io.BytesIO) -> Path | io.BytesIO:
    if isinstance(source, io.BytesIO):
        source.seek(0)
    return source


def archive_entries(source: Path | io.BytesIO, name: str, use: Callable[[Iterable[Entry]], T]) -> T:
    """What `use` makes of an archive's entries while it is open. UserError for a damaged or an encrypted one."""
    try:
        size = len(source.getbuffer()) if isinstance(source, io.BytesIO) else source.stat().st_size
        if size > MAX_ARCHIVE_BYTES:
            raise UserError(f"the archive is larger than {MAX_ARCHIVE_BYTES >> 20} MB")
        if not is_archive(source):
            state = "is damaged" if size else "is empty"
            raise UserError(f"{printable(name)!r} {state}: no archive can be read from it; pack and upload it again")
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                return use(_zip_entries(archive))
        in_memory = isinstance(_from_start(source), io.BytesIO)
        with tarfile.open(fileobj=source) if in_memory else tarfile.open(source) as archive:
            return use(_tar_entries(archive))
    except UserError:
        raise
    except NotImplementedError:  # a zip method that only its own program knows
        raise UserError(
            f"{printable(name)!r} is packed in a way that cannot be read here; pack it again as a plain zip"
        ) from None
    except Exception as error:  # zlib.error, lzma.LZMAError, struct.error: a damaged archive, whoever noticed
        raise UserError(f"the archive cannot be read: {printable(str(error))}") from None


def _inside(name: str) -> str:
    """A member's name as one below the archive: without backslashes, a drive, and what leads above it.

    Nothing is ever written by this name. '' for one whose `..` comes later, which says nothing about where it is.
    """
    plain = re.sub(r"^[A-Za-z]:", "", name.replace("\\", "/"))  # PowerShell 5 writes backslashes
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    while parts[:1] == [".."]:
        del parts[0]
    return "" if ".." in parts else "/".join(parts)


def _is_skipped(name: str) -> bool:
    return any(part in SKIPPED_FOLDERS for part in name.split("/")) and not name.endswith(GIT_HEAD)


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[Entry]:
    if len(archive.infolist()) > MAX_ENTRIES:
        raise UserError(f"the archive holds more than {MAX_ENTRIES} files")
    for info in archive.infolist():
        name = _inside(info.filename)
        mode = info.external_attr >> 16
        regular = not stat.S_IFMT(mode) or stat.S_ISREG(mode)
        if info.filename.endswith(("/", "\\")) or _is_skipped(name):
            continue
        readable = regular and name and not name.endswith(GIT_HEAD)
        yield name or info.filename, _read_member(archive, info) if readable else None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Read:
    def read(limit: int) -> bytes:
        if info.flag_bits & 1:
            raise UserError(f"{printable(info.filename)} is encrypted: hand in an archive without a password")
        with archive.open(info) as member:  # decompresses as it reads, so a bomb stops at the limit
            return member.read(limit)

    return read


def _tar_entries(archive: tarfile.TarFile) -> Iterator[Entry]:
    # Each member's place is found by unpacking what comes before it: bounded, or a bomb would unpack for hours.
    total = 0
    for count, member in enumerate(archive):
        total += member.size
        if count >= MAX_ENTRIES or total > MAX_ARCHIVE_BYTES:
            raise UserError(f"the archive holds more than {MAX_ENTRIES} files or {MAX_ARCHIVE_BYTES >> 20} MB")
        name = _inside(member.name)
        if member.isdir() or _is_skipped(name):
            continue
        readable = member.isreg() and name and not name.endswith(GIT_HEAD)
        content = archive.extractfile(member) if readable else None
        yield name or member.name, content.read if content else None
