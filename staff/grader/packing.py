"""The files in a folder, a zip or a tar archive, none of which is trusted: names, and how to read each within a limit.

Links are never followed, nothing is extracted by its own name, and depth, count and size are bounded while reading.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from toolkit.errors import UserError

MAX_ENTRIES = 50_000
MAX_DEPTH = 30
MAX_ARCHIVE_BYTES = 1 << 30
SKIPPED_FOLDERS = {".git", "__pycache__", ".venv", "venv", "env", "node_modules", "__MACOSX", ".ipynb_checkpoints"}
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")

Read = Callable[[int], bytes]  # reads at most this many bytes
Entry = tuple[str, Read | None]  # name with slashes; None: not a regular file


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


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar archive, by its content."""
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except Exception:  # a damaged tar raises what its damage makes it raise
        return False


def archive_entries(path: Path, use: Callable[[Iterable[Entry]], object]) -> object:
    """What `use` makes of an archive's entries while it is open. UserError for a damaged or an encrypted one."""
    try:
        if path.stat().st_size > MAX_ARCHIVE_BYTES:
            raise UserError(f"the archive is larger than {MAX_ARCHIVE_BYTES >> 20} MB")
        if not is_archive(path):
            state = "is damaged" if path.stat().st_size else "is empty"
            raise UserError(
                f"{printable(path.name)!r} {state}: no archive can be read from it; pack and upload it again"
            )
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return use(_zip_entries(archive))
        with tarfile.open(path) as archive:
            return use(_tar_entries(archive))
    except UserError:
        raise
    except Exception as error:  # zlib.error, lzma.LZMAError, struct.error: a damaged archive, whoever noticed
        raise UserError(f"the archive cannot be read: {printable(str(error))}") from None


def _is_odd(name: str) -> bool:
    """Whether a name leaves the archive."""
    return ".." in PurePosixPath(name).parts or name.startswith("/") or name[1:2] == ":"


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[Entry]:
    if len(archive.infolist()) > MAX_ENTRIES:
        raise UserError(f"the archive holds more than {MAX_ENTRIES} files")
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")  # PowerShell 5 writes backslashes
        mode = info.external_attr >> 16
        regular = not stat.S_IFMT(mode) or stat.S_ISREG(mode)
        if name.endswith("/") or any(part in SKIPPED_FOLDERS for part in name.split("/")):
            continue
        yield name, _read_member(archive, info) if regular and not _is_odd(name) else None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Read:
    def read(limit: int) -> bytes:
        if info.flag_bits & 1:
            raise UserError(f"{printable(info.filename)} is encrypted")
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
        name = member.name.removeprefix("./")
        if member.isdir() or any(part in SKIPPED_FOLDERS for part in name.split("/")):
            continue
        content = archive.extractfile(member) if member.isreg() and not _is_odd(name) else None
        yield name, content.read if content else None
