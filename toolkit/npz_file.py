"""Reads and checks one MedMNIST npz file array by array; says which array of which file is wrong.

np.load meets a broken file with whichever exception of zipfile, zlib or NumPy comes first, or asks for as much memory
as a broken header claims. Here each fault becomes one line that names file and array; nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from toolkit.errors import UserError

SPLITS = ("train", "val", "test")
CHUNK_BYTES = 1 << 20
CHECKED_FILE = ".checked.json"  # next to the data: size, mtime and MD5 of the files whose MD5 was computed before


class DataError(UserError):
    """Data that is missing or broken. The message names the file, the array and the cure."""


class UnreadableError(DataError):
    """The system refuses to read the file (permissions, a disk error), so its content is unknown and not to blame."""


@dataclass(frozen=True)
class Header:
    """What an npy header says: the array's shape and dtype; nothing is decoded to learn it."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class Layout:
    """What the arrays of a file must look like. `splits` are those that must be there; others may be."""

    size: int
    is_3d: bool
    channels: int
    num_classes: int
    multi_label: bool
    splits: tuple[str, ...] = SPLITS

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one stored image: (S, S), (S, S, 3) or (S, S, S)."""
        shape = (self.size,) * (3 if self.is_3d else 2)
        return shape if self.channels == 1 else (*shape, self.channels)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of one stored label: (1,), or (num_classes,) for multi-label sets."""
        return (self.num_classes,) if self.multi_label else (1,)


def read_headers(path: Path) -> dict[str, Header]:
    """Shape and dtype of every array in `path`, without decoding any; DataError if it is not a readable npz."""
    with _named_errors(path), zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
    headers = {}
    for member in members:
        with _named_errors(path, member), zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            headers[member.removesuffix(".npy")] = _read_header(stream)
    return headers


def read_array(path: Path, name: str) -> np.ndarray:
    """Decode the array `name` of `path` and compare its CRC-32; DataError if it is missing or broken."""
    with _opened_array(path, name) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    return np.ascontiguousarray(array)  # free unless someone saved it in Fortran order


def array_bytes(path: Path, name: str) -> Iterator[bytes]:
    """The array `name` as the bytes of an .npy file, in chunks: for arrays that are too large for memory.

    Raises DataError as read_array does; for a wrong CRC-32 after the last chunk.
    """
    with _opened_array(path, name) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def stored_crc(path: Path, name: str) -> str:
    """The CRC-32 that the archive has of the array `name`, as 8 hexadecimal digits. Nothing is decoded for it."""
    with _named_errors(path, name), zipfile.ZipFile(path) as archive:
        return f"{archive.getinfo(f'{name}.npy').CRC:08x}"


def check_headers(path: Path, layout: Layout) -> dict[str, Header]:
    """Return the headers of `path` if they fit `layout`; else raise DataError naming the array. Decodes nothing."""
    headers = read_headers(path)
    for split in SPLITS:
        images, labels = headers.get(f"{split}_images"), headers.get(f"{split}_labels")
        if images is None and labels is None and split not in layout.splits:
            continue
        for name, header in ((f"{split}_images", images), (f"{split}_labels", labels)):
            if header is None:
                raise DataError(f"{path}: array {name} is missing; it holds {', '.join(headers) or 'no arrays'}")
        _check_images(path, f"{split}_images", images, layout)
        _check_label_header(path, f"{split}_labels", labels, layout)
        if not images.shape[0]:
            raise DataError(f"{path}: array {split}_images holds no image")
        if labels.shape[0] != images.shape[0]:
            raise DataError(f"{path}: {split}_labels has {labels.shape[0]} rows for {images.shape[0]} {split}_images")
    for name in (f"unlabelled_{split}_images" for split in SPLITS):
        if name in headers:
            _check_images(path, name, headers[name], layout)
    return headers


def check_labels(path: Path, name: str, labels: np.ndarray, layout: Layout) -> None:
    """Raise DataError unless every label is one of 0 .. num_classes-1 (multi-label: 0 or 1)."""
    highest = 1 if layout.multi_label else layout.num_classes - 1
    if labels.size and not (labels.min() >= 0 and labels.max() <= highest):
        wrong = labels.max() if labels.max() > highest else labels.min()
        raise DataError(f"{path}: array {name} has the label {wrong}; allowed: 0 .. {highest}")


def check_contents(path: Path, layout: Layout, *, decode_images: bool) -> None:
    """Check headers and label values, and with `decode_images` the checksum of every image array as well."""
    for name in check_headers(path, layout):
        if name.endswith("_labels"):
            check_labels(path, name, read_array(path, name), layout)
        elif decode_images:
            for _chunk in array_bytes(path, name):
                pass


def md5_of(path: Path) -> str:
    """MD5 of a file as 32 hexadecimal digits. It guards against accidents, not against attackers."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def md5_remembered(path: Path) -> str:
    """MD5 of a file, computed once and then taken from `.checked.json` as long as size and mtime stay the same.

    (The 224-pixel sets are 13 GB: half a minute of MD5 at each start.) In a read-only folder it is computed each time.
    """
    with _named_errors(path):
        return _md5_remembered(path)


def set_aside(path: Path) -> Path | None:
    """Rename a bad file to `<name>.bad` (`.bad-2`, ...), never over another one; None where renaming is not allowed."""
    number = 1
    while (target := path.with_name(path.name + (".bad" if number == 1 else f".bad-{number}"))).exists():
        number += 1
    try:
        path.rename(target)
    except OSError:
        return None
    return target


def _md5_remembered(path: Path) -> str:
    """The work of md5_remembered, with the system's own errors."""
    memory_path = path.parent / CHECKED_FILE
    status = path.stat()
    stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    memory = _read_memory(memory_path)
    entry = memory.get(path.name)
    if isinstance(entry, dict) and entry == {**stamp, "md5": str(entry.get("md5"))}:
        return entry["md5"]
    memory[path.name] = {**stamp, "md5": md5_of(path)}
    with contextlib.suppress(OSError):  # a read-only folder: the next start computes it again
        temporary = memory_path.with_name(f"{CHECKED_FILE}.{os.getpid()}")
        temporary.write_text(json.dumps(memory, indent=1), encoding="utf-8")
        os.replace(temporary, memory_path)
    return memory[path.name]["md5"]


def _read_memory(memory_path: Path) -> dict:
    """What `.checked.json` says; nothing if it is absent or damaged, for it is only a saving of time."""
    try:
        memory = json.loads(memory_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


@contextlib.contextmanager
def _opened_array(path: Path, name: str) -> Iterator[BinaryIO]:
    """The .npy file inside the npz, from its beginning; DataError if it is missing or not as long as it claims."""
    with _named_errors(path, name), zipfile.ZipFile(path) as archive:
        member = f"{name}.npy"
        if member not in archive.namelist():
            raise DataError(f"{path}: array {name} is missing")
        with archive.open(member) as stream:
            header = _read_header(stream)
            nbytes = int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
            # Ask the archive before asking for memory: a broken header may claim any shape.
            if stream.tell() + nbytes != archive.getinfo(member).file_size:
                raise DataError(f"{path}: array {name} does not hold the {header.shape} values that its header claims")
            stream.seek(0)
            yield stream


def _read_header(stream: BinaryIO) -> Header:
    """Parse the npy header at the start of `stream`; ValueError for another format or for pickled objects."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy format {version} is not known")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("the array holds pickled objects")
    return Header(shape, dtype)


def _check_images(path: Path, name: str, header: Header, layout: Layout) -> None:
    """Images must be uint8 of the size asked for."""
    if header.dtype != "uint8":
        raise DataError(f"{path}: array {name} has dtype {header.dtype}; allowed: uint8")
    if header.shape[1:] != layout.image_shape:
        wanted = ", ".join(map(str, layout.image_shape))
        raise DataError(f"{path}: array {name} has shape {header.shape}; allowed: (N, {wanted})")


def _check_label_header(path: Path, name: str, header: Header, layout: Layout) -> None:
    """Labels must be whole numbers, one row an image."""
    if header.dtype.kind not in "iu":
        raise DataError(f"{path}: array {name} has dtype {header.dtype}; allowed: whole numbers such as uint8")
    if header.shape[1:] != layout.label_shape:
        raise DataError(f"{path}: array {name} has shape {header.shape}; allowed: (N, {layout.label_shape[0]})")


@contextlib.contextmanager
def _named_errors(path: Path, name: str | None = None) -> Iterator[None]:
    """Turn everything that zipfile, zlib and NumPy raise for broken bytes into one DataError naming file and array."""
    where = f"{path}: array {name.removesuffix('.npy')}" if name else f"{path}"
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        # zipfile seeks to where broken bytes point it, which the system calls an invalid argument.
        kind = DataError if error.errno in (None, errno.EINVAL) else UnreadableError
        raise kind(f"{where} cannot be read ({error.strerror or error})") from None
    except zipfile.BadZipFile as error:
        what = "cannot be read" if name else "is truncated or is not an npz file"
        raise DataError(f"{where} {what} ({error})") from None
    except (zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error) as error:
        reason = str(error).partition("\n")[0] or "it ends early"
        raise DataError(f"{where} cannot be read ({reason})") from None
