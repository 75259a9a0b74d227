"""Finds, downloads, verifies and reads any MedMNIST data set: every flag, every size, 2D and 3D.

    source = locate("pathmnist")        # which file it is; nothing is decoded yet
    source.name                         # "pathmnist", or "pathmnist-sample" if only the bundled part could be had
    train = source.read("train")        # Split(images uint8 (N,3,28,28), labels int64 (N,))

The search goes: a file with the official name in `data_root`; a bundled copy of the official file (the same MD5, so
nothing need be downloaded); a download; the bundled sample. `dataset="full"` never ends at the sample, and
`dataset="sample"` starts there. Two environment variables serve a course: MEDMNIST_MIRROR, a base address to download
from, and MEDMNIST_VERIFY=0, which accepts a well-formed file of your own in `data_root`; its name then ends in
"-unverified", so that no result of it passes for an official one.

Files with more than 2 GiB of pixels (PathMNIST at 128 and 224) are unpacked once, and read from there batch by batch:
toolkit/stored_images.py. At 28 and 64 pixels everything stays in memory.

The npz is read here and not by medmnist's classes: those insist on the official number of images, decode one image at a
time through PIL, and importing them pulls in torchvision. Labels, addresses and MD5s come from medmnist.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit import npz_file, stored_images
from toolkit.download import IMPATIENT, DownloadError, Limits, fetch
from toolkit.errors import check_choice
from toolkit.medmnist_catalog import RESTORE, Bundled, Entry, bundled, bundled_test_of, official_entry
from toolkit.npz_file import SPLITS, DataError, Layout, UnreadableError
from toolkit.stored_images import StoredImages

if TYPE_CHECKING:  # torch takes seconds to import; it is needed only once images are read
    import torch

DATASETS = ("auto", "full", "sample")
MIRROR_VARIABLE = "MEDMNIST_MIRROR"
VERIFY_VARIABLE = "MEDMNIST_VERIFY"
NPZ_MAGIC = b"PK"  # an npz is a zip file

# Addresses that failed in this process, with the reason. A second data loader does not wait for them again.
_failed_downloads: dict[str, str] = {}


@dataclass(frozen=True, eq=False)
class Split:
    """One split, in memory or, if `file` is given, mapped from it.

    images: uint8 (N,C,H,W), or (N,C,D,H,W) for 3D sets; C is 1 for grey ones. A view of the file's own N,H,W,C order,
        which is what torch calls channels_last.
    labels: int64 (N,), or (N,num_classes) of 0 and 1 for multi-label sets; -1 where the sample has no label.
    file: the images of a set that is too large for memory. A dataset takes its batches from here; `images` is a map of
        the same file, for looking at some of them. It cannot be written to.
    """

    images: torch.Tensor
    labels: torch.Tensor
    file: StoredImages | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """A data set that was found and checked; nothing of it is decoded yet.

    origin is "file" (in data_root), "download" or "bundled"; name is what results record ("pathmnist",
    "pathmnist_64", "pathmnist-sample", ...); task is medmnist's own word for it ("multi-class", ...).
    """

    flag: str
    size: int
    path: Path
    origin: str
    name: str
    task: str
    class_names: tuple[str, ...]
    is_sample: bool
    layout: Layout
    headers: dict[str, npz_file.Header]

    @property
    def num_classes(self) -> int:
        """Number of classes, or of labels per image for multi-label sets."""
        return self.layout.num_classes

    @property
    def channels(self) -> int:
        """3 for colour images, 1 for grey images and for volumes."""
        return self.layout.channels

    @property
    def multi_label(self) -> bool:
        """True if an image may have several labels at once (chestmnist)."""
        return self.layout.multi_label

    @property
    def is_large(self) -> bool:
        """True if the images of the file take more than MEMORY_LIMIT bytes (2 GiB); volumes always fit."""
        shapes = [header.shape for name, header in self.headers.items() if name.endswith("_images")]
        return not self.layout.is_3d and sum(math.prod(shape) for shape in shapes) > stored_images.MEMORY_LIMIT

    def has(self, split: str, unlabelled: bool = False) -> bool:
        """True if `read` with these arguments gives at least one array."""
        return bool(self._arrays(split, unlabelled))

    def count(self, split: str, unlabelled: bool = False) -> int:
        """Number of images that `read` with these arguments gives, taken from the headers."""
        return sum(self.headers[name].shape[0] for name in self._arrays(split, unlabelled))

    def read(self, split: str, unlabelled: bool = False) -> Split:
        """Decode one split. With `unlabelled` the images that the sample has without labels follow, labelled -1.

        Raises DataError if the file has no such split or changed since it was checked, UserError if a large split
        cannot be unpacked.
        """
        import torch

        names = self._arrays(split, unlabelled)
        if not names:
            raise DataError(f"{self.path} has no {split}_images and {split}_labels: the course holds this split back")
        if self.is_large and len(names) == 1:
            file = self._unpacked(names[0])
            labels = torch.from_numpy(self._read_labels(names[0], len(file)))
            return Split(file.tensor().permute(0, 3, 1, 2), labels, file)
        images = [npz_file.read_array(self.path, name) for name in names]
        labels = [self._read_labels(name, len(array)) for name, array in zip(names, images, strict=True)]
        # One array stays as it was read; only a sample with its unlabelled part is copied together.
        pixels = images[0] if len(images) == 1 else np.concatenate(images)
        tensor = torch.from_numpy(pixels)
        tensor = tensor.permute(0, 3, 1, 2) if self.channels > 1 else tensor.unsqueeze(1)  # (N,C,H,W) or (N,1,D,H,W)
        return Split(tensor, torch.from_numpy(np.concatenate(labels)))

    def _unpacked(self, name: str) -> StoredImages:
        """The file that the images of a large set are unpacked to."""
        shape = (*self.headers[name].shape[:3], self.channels)  # grey ones have no axis of channels in the npz
        return stored_images.unpacked(self.path, name, shape)

    def _arrays(self, split: str, unlabelled: bool) -> list[str]:
        """Names of the image arrays that make up a split."""
        check_choice("split", split, SPLITS)
        names = [f"{split}_images", f"unlabelled_{split}_images"]
        return [name for name in names[: 2 if unlabelled else 1] if name in self.headers]

    def _read_labels(self, images_name: str, rows: int) -> np.ndarray:
        """Labels that belong to an image array: int64 (rows,) or (rows, num_classes)."""
        if images_name.startswith("unlabelled_"):
            return np.full((rows, self.num_classes) if self.multi_label else rows, -1, np.int64)
        name = images_name.replace("_images", "_labels")
        labels = npz_file.read_array(self.path, name)
        npz_file.check_labels(self.path, name, labels, self.layout)
        return labels.astype(np.int64) if self.multi_label else labels[:, 0].astype(np.int64)


def load(flag: str, splits: Iterable[str] = ("train", "val"), **locate_arguments: object) -> dict[str, Split]:
    """Locate a data set and read the named splits of it: {"train": Split, "val": Split}."""
    source = locate(flag, **locate_arguments)
    return {split: source.read(split) for split in splits}


def locate(
    flag: str,
    *,
    size: int = 28,
    data_root: str | os.PathLike[str] = "./data",
    dataset: str = "auto",
    mirror: str | None = None,
    download: bool = True,
    verify: bool | None = None,
    announce: Callable[[str], None] = print,
) -> Source:
    """Find and check the npz of a MedMNIST set; see the top of this file for the order of the search.

    mirror: base address to download from (default: MEDMNIST_MIRROR, else the address that medmnist names).
    verify: False accepts a well-formed file in data_root that is not the official one (default: not MEDMNIST_VERIFY=0).
    announce: gets one line for each thing that differs from the ordinary: a fallback, a file set aside.
    Raises UserError for an unknown flag, size or dataset, DataError where nothing usable is found.
    """
    entry = official_entry(flag, size)
    check_choice("dataset", dataset, DATASETS)
    copy = bundled(flag, size)
    if dataset == "sample":
        if copy is None:
            raise DataError(f"no {entry.name} is bundled; use --dataset full")
        return _bundled_source(entry, copy)
    source = _from_folder(entry, Path(data_root), _is_verifying(verify), announce)
    if source:
        return source
    if copy and copy.official:
        return _bundled_source(entry, copy)
    fallback = copy if dataset == "auto" else None
    try:
        if not download:
            raise DownloadError("downloading is switched off")
        return _download(entry, Path(data_root), mirror, fallback is not None, announce)
    except DownloadError as error:
        if fallback is None:
            raise DataError(_nothing_found(entry, Path(data_root), error)) from None
        announce(f"no full {entry.name}: {error}; using the bundled {fallback.name} ({fallback.what})")
        return _bundled_source(entry, fallback)


def official_test(source: Source) -> Source:
    """Where the test images that a result is reported on are.

    For an official file that is the file itself. Staff may have official test images of a bundled sample in a file of
    their own ("test_of" in the manifest), from another centre than the sample. A student's copy has none at all.
    """
    copy = bundled_test_of(source.name)
    if copy is None:
        return source
    return _bundled_source(official_entry(source.flag, source.size), copy, splits=("test",))


def inspect(flag: str, *, size: int = 28, data_root: str | os.PathLike[str] = "./data") -> Source | None:
    """The file in data_root, None if it is not there; DataError if it is bad. Renames and downloads nothing."""
    entry = official_entry(flag, size)
    return _checked_file(entry, Path(data_root) / entry.file_name, _is_verifying(None))


def download_address(flag: str, *, size: int = 28, mirror: str | None = None) -> str:
    """Where `locate` would download from: the mirror, else MEDMNIST_MIRROR, else the address that medmnist names."""
    return _address(official_entry(flag, size), mirror)


def _address(entry: Entry, mirror: str | None) -> str:
    """The official address or that of the file on a mirror."""
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        return entry.url
    if not mirror.startswith(("http://", "https://")):
        raise DataError(f"mirror is {mirror!r}; allowed: an http:// or https:// address (for a folder use data_root)")
    return f"{mirror.rstrip('/')}/{entry.file_name}"


def _is_verifying(verify: bool | None) -> bool:
    """The argument if given, else what the environment says."""
    return os.environ.get(VERIFY_VARIABLE, "1") != "0" if verify is None else verify


def _source(entry: Entry, path: Path, origin: str, name: str, layout: Layout, is_sample: bool = False) -> Source:
    """Put a Source together; DataError if the headers of `path` do not fit."""
    headers = npz_file.check_headers(path, layout)
    facts = (entry.task, entry.class_names, is_sample, layout, headers)
    return Source(entry.flag, layout.size, path, origin, name, *facts)


def _from_folder(entry: Entry, data_root: Path, verify: bool, announce: Callable[[str], None]) -> Source | None:
    """The file in data_root, if there is one and it is good; a bad one is set aside and announced."""
    path = data_root / entry.file_name
    try:
        return _checked_file(entry, path, verify)
    except UnreadableError as error:
        announce(f"{error}; ignoring it")
    except DataError as error:
        if not verify:
            raise  # the user means this very file
        target = npz_file.set_aside(path)
        announce(f"{error}; " + (f"set aside as {target.name}" if target else f"it cannot be renamed: delete {path}"))
    return None


def _checked_file(entry: Entry, path: Path, verify: bool) -> Source | None:
    """The official file at `path`, None if nothing is there; DataError saying what is wrong with it."""
    if not path.is_file():
        return None
    if not verify:
        return _unverified_source(entry, path)
    if npz_file.md5_remembered(path) == entry.md5:
        return _source(entry, path, "file", entry.name, entry.layout)
    npz_file.check_contents(path, entry.layout, decode_images=True)  # says what is wrong, if it can be told
    raise DataError(f"{path} is well-formed but not the official file (your own? set {VERIFY_VARIABLE}=0)")


def _unverified_source(entry: Entry, path: Path) -> Source:
    """A file of the user's own, named so in every result unless it is the official one after all."""
    layout = replace(entry.layout, splits=())
    npz_file.check_contents(path, layout, decode_images=False)
    official = npz_file.md5_remembered(path) == entry.md5
    return _source(entry, path, "file", entry.name if official else f"{entry.name}-unverified", layout)


def _bundled_source(entry: Entry, copy: Bundled, splits: tuple[str, ...] = ("train",)) -> Source:
    """A file of data/bundled. It is small, so its MD5 is compared at each start. splits: what a sample must have."""
    try:
        found = npz_file.md5_of(copy.path)
    except OSError as error:
        raise DataError(f"{copy.path} cannot be read ({error.strerror or error}); {RESTORE}") from None
    if found != copy.md5:
        raise DataError(f"{copy.path} was changed (MD5 {found} instead of {copy.md5}); {RESTORE}")
    layout = entry.layout if copy.official else replace(entry.layout, splits=splits)
    return _source(entry, copy.path, "bundled", copy.name, layout, is_sample=not copy.official)


def _download(
    entry: Entry, data_root: Path, mirror: str | None, may_fall_back: bool, announce: Callable[[str], None]
) -> Source:
    """Download into data_root. Where a fallback exists, an address that failed in this process is not tried again."""
    url = _address(entry, mirror)
    if may_fall_back and url in _failed_downloads:
        raise DownloadError(_failed_downloads[url])
    path = data_root / entry.file_name
    limits = IMPATIENT if may_fall_back else Limits()
    try:
        fetch(url, path, entry.md5, magic=NPZ_MAGIC, limits=limits, announce=announce)
    except DownloadError as error:
        _failed_downloads[url] = str(error)
        raise
    npz_file.md5_remembered(path)
    return _source(entry, path, "download", entry.name, entry.layout)


def _nothing_found(entry: Entry, data_root: Path, error: DownloadError) -> str:
    """One line: what was tried and what helps."""
    cure = f"put {entry.file_name} into {data_root}, or name a mirror (--mirror or {MIRROR_VARIABLE})"
    if bundled(entry.flag, entry.layout.size):
        cure += ", or use the bundled sample (--dataset sample)"
    return f"no {entry.name}: there is no good {data_root / entry.file_name}, and {error}; {cure}"
