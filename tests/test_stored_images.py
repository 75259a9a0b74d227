"""Sets that are too large for memory: unpacked once, whole or not at all, and the same batches as from memory."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from classification_dataset import ImageDataset
from tests.medmnist_files import small_arrays, write
from toolkit import stored_images
from toolkit.augment import named_augmentation
from toolkit.batches import make_loader
from toolkit.errors import UserError
from toolkit.medmnist_data import VERIFY_VARIABLE, Source, Split, locate
from toolkit.npz_file import DataError

pytestmark = pytest.mark.provided
forks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork; the tests on Linux show it")
ROWS = {"train": 40, "val": 10, "test": 5}


@pytest.fixture(autouse=True)
def small_limit(monkeypatch, tmp_path) -> None:
    """Everything counts as too large; the user's cache is a folder of the test."""
    monkeypatch.setattr(stored_images, "MEMORY_LIMIT", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(stored_images.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv(VERIFY_VARIABLE, "0")


def found(root: Path, flag: str = "pathmnist", size: int = 64) -> Source:
    """A made set in `root`, located."""
    suffix = "" if size == 28 else f"_{size}"
    write(root / f"{flag}{suffix}.npz", small_arrays(flag, size, ROWS))
    return locate(flag, size=size, data_root=root, dataset="full", announce=lambda line: None)


def in_memory(source: Source, split: str, monkeypatch) -> Split:
    """The same split as a set below the limit would be read."""
    with monkeypatch.context() as context:
        context.setattr(stored_images, "MEMORY_LIMIT", 10**9)
        return source.read(split)


@pytest.mark.parametrize(
    ("flag", "augment", "num_workers"),
    [
        ("pathmnist", None, 0),
        ("pathmnist", "standard", 2),  # a copy of the dataset in each of two processes
        ("breastmnist", "standard", 0),  # grey
        ("chestmnist", None, 0),  # several labels per image
    ],
)
def test_batches_are_those_from_memory(flag: str, augment: str | None, num_workers: int, tmp_path, monkeypatch) -> None:
    source = found(tmp_path, flag)
    stored, plain = source.read("train"), in_memory(source, "train", monkeypatch)
    assert stored.file is not None
    assert plain.file is None
    assert torch.equal(stored.images, plain.images)
    function = named_augmentation(augment) if augment else None
    batches = [
        list(make_loader(ImageDataset(split, augmentation=function), 16, shuffle=True, num_workers=num_workers))
        for split in (stored, plain)
    ]
    for (images, labels), (expected, expected_labels) in zip(*batches, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)
        assert images.view(len(images), -1).shape[1] == expected[0].numel()  # what an MLP does with a batch


def test_28_pixels_need_no_file_and_224_do() -> None:
    """By bytes, with the limit as it is and the official numbers of images."""
    limit = 2 * 1024**3
    images = 89_996 + 10_004 + 7_180
    assert [images * size**2 * 3 > limit for size in (28, 64, 128, 224)] == [False, False, True, True]


def test_a_second_start_reads_the_file_and_not_the_npz(tmp_path, monkeypatch) -> None:
    source = found(tmp_path)
    first = source.read("train").images.clone()
    assert [path.name.split("-")[:2] for path in (tmp_path / "cache").glob("*.npy")] == [
        ["pathmnist_64", "train_images"]
    ]
    monkeypatch.setattr(stored_images.npz_file, "array_bytes", lambda *_: pytest.fail("unpacked a second time"))
    assert torch.equal(source.read("train").images, first)
    monkeypatch.undo()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def too_long(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut_short, too_long, empty])
def test_a_file_that_is_not_whole_is_written_again(spoil: Callable[[Path], None], tmp_path) -> None:
    source = found(tmp_path)
    expected = source.read("val").images.clone()
    [path] = (tmp_path / "cache").glob("*val_images*.npy")
    spoil(path)
    assert torch.equal(source.read("val").images, expected)


@forks
def test_what_is_killed_leaves_nothing_that_is_believed(tmp_path, monkeypatch) -> None:
    """As if the process died in the middle: only the .part is there. The next start replaces it."""
    source, plain = found(tmp_path), stored_images.npz_file.array_bytes

    def dies(path: Path, name: str):
        yield next(plain(path, name))[:100]
        os._exit(9)

    monkeypatch.setattr(stored_images.npz_file, "array_bytes", dies)
    child = multiprocessing.get_context("fork").Process(target=source.read, args=("train",))
    child.start()
    child.join()
    assert child.exitcode == 9
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == [".part"]
    monkeypatch.setattr(stored_images.npz_file, "array_bytes", plain)
    assert torch.equal(source.read("train").images, in_memory(source, "train", monkeypatch).images)
    assert not list((tmp_path / "cache").glob("*.part"))


@forks
def test_several_processes_unpack_once(tmp_path, monkeypatch) -> None:
    source, plain = found(tmp_path), stored_images.npz_file.array_bytes
    context = multiprocessing.get_context("fork")
    calls = context.Value("i", 0)

    def counted(path: Path, name: str):
        with calls.get_lock():
            calls.value += 1
        yield from plain(path, name)

    monkeypatch.setattr(stored_images.npz_file, "array_bytes", counted)
    children = [context.Process(target=source.read, args=("train",)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert calls.value == 1


def test_a_full_disk_is_one_line_before_anything_is_written(tmp_path, monkeypatch) -> None:
    source = found(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=stored_images.RESERVE + 1000)
    monkeypatch.setattr(stored_images.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        UserError, match=r"takes 0\.0 GB, but its disk has 0\.0 GB free; set MEDMNIST_CACHE to"
    ) as caught:
        source.read("train")
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_a_disk_that_fills_up_meanwhile_is_one_line(tmp_path, monkeypatch) -> None:
    source = found(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_images.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; set MEDMNIST_CACHE"):
        source.read("train")
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_read_only_data_folder_sends_the_file_to_the_users_cache(tmp_path, monkeypatch) -> None:
    source = found(tmp_path / "data")
    plain = os.access
    inside = str(tmp_path / "data")
    monkeypatch.setattr(os, "access", lambda path, mode: plain(path, mode) and not str(path).startswith(inside))
    assert source.read("train").file.path.parent == tmp_path / "home" / "medmnist"
    assert not (tmp_path / "data" / "cache").exists()
    monkeypatch.setenv(stored_images.CACHE_VARIABLE, str(tmp_path / "mine"))
    assert source.read("train").file.path.parent == tmp_path / "mine"
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv(stored_images.CACHE_VARIABLE, str(tmp_path / "taken"))
    with pytest.raises(UserError, match=r"cannot write the cache .*; set MEDMNIST_CACHE to a folder"):
        source.read("train")


def test_a_broken_npz_is_named_and_leaves_no_file(tmp_path) -> None:
    source = found(tmp_path)
    content = bytearray(source.path.read_bytes())
    content[content.index(b"train_images.npy") + 300] ^= 0xFF
    source.path.write_bytes(content)
    with pytest.raises(DataError, match=r"array train_images cannot be read .*CRC"):
        source.read("train")
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_it_is_indexed_like_an_array(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 4, 5, 1), np.uint8)
    write_them = stored_images.write_images(lambda: iter(pixels), pixels.shape)
    stored = stored_images.written_once(tmp_path / "x.npy", pixels.shape, write_them, "")
    for rows in (7, slice(3, 9, 2), np.array([4, 149, 4]), slice(None)):
        assert np.array_equal(stored[rows], pixels[rows])
    assert np.array_equal(np.stack(list(stored)), pixels)
