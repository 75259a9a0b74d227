"""Images that are too many for memory: one .npy file, written once, of which a batch maps the rows that it needs.

    file = written_once(target, shape, write)   # write(stream) gives the pixels; the next start finds the file
    file[rows]                                  # those images, uint8 (B, H, W, C), in memory of their own

A map that stays open keeps every page that was ever touched in the resident memory of the process: after one epoch the
whole file. So each access opens the file, copies its rows and closes it. What stays in memory is the cache of the
system, which gives it up when memory is needed. The path is all that loader processes get of such a set.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from filelock import FileLock

from toolkit import npz_file
from toolkit.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import
    import torch

CACHE_VARIABLE = "MEDMNIST_CACHE"
MEMORY_LIMIT = 2 * 1024**3  # bytes of pixels; sets with more than that are read from a file
BLOCK = 64  # images that are read at once to go through all of them
RESERVE = 64 * 1024**2  # bytes of the disk that are left free


@dataclass(frozen=True)
class StoredImages:
    """uint8 (N, H, W, C) in an .npy file. Indexed like an array; what is asked for is copied, and no more is read."""

    path: Path
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images of a number, a slice or an array of numbers, in memory of their own."""
        return np.take(self._mapped(), np.arange(len(self))[rows], axis=0)

    def __iter__(self) -> Iterator[np.ndarray]:
        """One image after the other, read in blocks."""
        for start in range(0, len(self), BLOCK):
            yield from self[start : start + BLOCK]

    def tensor(self) -> torch.Tensor:
        """All images as one tensor (N, H, W, C) over the mapped file, for looking at some. It cannot be written to."""
        import torch

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(self._mapped())

    def _mapped(self) -> np.ndarray:
        # "r", not "c": the system counts a private writable map of 13 GB as memory, and may refuse it.
        return np.load(self.path, mmap_mode="r").view(np.ndarray).reshape(self.shape)


def written_once(target: Path, shape: Sequence[int], write: Callable[[BinaryIO], None], cure: str) -> StoredImages:
    """The images of `target`, which is written now if it is not there yet. Several processes may ask at once.

    shape: of the images, (N, H, W, C).
    write: gets a binary stream and writes a whole .npy file of uint8 to it; what it raises leaves no file behind.
    cure: what helps if the file cannot be written, for the end of the message.
    Raises UserError if the disk is too small or refuses to be written to.
    """
    shape = tuple(map(int, shape))
    if not _is_whole(target, shape):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock"):  # jobs of a sweep start together: one of them writes
                if not _is_whole(target, shape):
                    _write(target, shape, write, cure)
        except OSError as error:
            raise UserError(f"cannot write the cache {target}: {error.strerror or error}; {cure}") from None
    return StoredImages(target, shape)


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """True if the file holds as many bytes as these images have, and not one more or less."""
    try:
        found = np.load(path, mmap_mode="r")  # refuses a file that is shorter than its header says
        length = path.stat().st_size
    except (OSError, ValueError, EOFError):
        return False
    fits = found.dtype == np.uint8 and found.flags.c_contiguous and found.size == math.prod(shape)
    return fits and length == found.offset + found.nbytes


def _write(target: Path, shape: tuple[int, ...], write: Callable[[BinaryIO], None], cure: str) -> None:
    """Write next to `target` and rename, so that a file with the name is whole even if this process is killed."""
    temporary = target.with_name(f"{target.name}.part")
    temporary.unlink(missing_ok=True)  # of a start that was killed; its bytes are free again
    needed, free = math.prod(shape), shutil.disk_usage(target.parent).free - RESERVE
    if needed > free:
        raise UserError(
            f"the cache {target} takes {needed / 1e9:.1f} GB, but its disk has {max(free, 0) / 1e9:.1f} GB free; {cure}"
        )
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if not _is_whole(temporary, shape):
            raise UserError(f"what was written for {target} is not {shape[0]} images of {shape[1:]} bytes; {cure}")
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unpacked(path: Path, name: str, shape: Sequence[int]) -> StoredImages:
    """The image array `name` of the npz `path`, unpacked now if no earlier start did.

    shape: (N, H, W, C) of the images. The file's name holds the array's checksum: another npz gets another file.
    Raises DataError for a broken npz, UserError if the file cannot be written.
    """
    file_name = f"{path.stem}-{name}-{npz_file.stored_crc(path, name)}.npy"
    folders = cache_folders(path.parent)
    whole = (folder / file_name for folder in folders if _is_whole(folder / file_name, tuple(shape)))
    writable = (folder / file_name for folder in folders if _can_be_written(folder))
    target = next(whole, None) or next(writable, folders[-1] / file_name)

    def write(stream: BinaryIO) -> None:
        print(f"unpacking {name} of {path} once, to {target} ({math.prod(shape) / 1e9:.1f} GB)", flush=True)
        for chunk in npz_file.array_bytes(path, name):
            stream.write(chunk)

    cure = f"set {CACHE_VARIABLE} to a folder that can be written and has the space for it"
    return written_once(target, shape, write, cure)


def cache_folders(data_folder: Path) -> list[Path]:
    """Where unpacked images may lie: the folder of MEDMNIST_CACHE, else next to the data, else the user's cache."""
    if named := os.environ.get(CACHE_VARIABLE):
        return [Path(named)]
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [data_folder / "cache", Path(users) / "medmnist"]


def _can_be_written(folder: Path) -> bool:
    """True if a file can be made in the folder, or the folder itself."""
    return os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK)


def write_images(images: Callable[[], Iterable[np.ndarray]], shape: Sequence[int]) -> Callable[[BinaryIO], None]:
    """What `written_once` calls to write images one by one, each uint8 (H, W, C). images: gives them in order."""

    def write(stream: BinaryIO) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
        np.lib.format.write_array_header_1_0(stream, header)
        for image in images():
            stream.write(np.ascontiguousarray(image, dtype=np.uint8).data)

    return write
