"""Bad files in data_root: each is named with its array and set aside, and the search continues. The memory of MD5s."""

# ruff: noqa: F401, F811 -- fixtures are imported by name and named again as arguments
from __future__ import annotations

import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.medmnist_files import arrays, find, flip_a_byte_of, lines, server, small_arrays, truncate, write
from toolkit import medmnist_data
from toolkit.medmnist_data import SPLITS, DataError
from toolkit.npz_file import UnreadableError

pytestmark = pytest.mark.provided

# --- bad files in data_root ------------------------------------------------------------------------------------------


def drop(name: str) -> Callable[[dict], None]:
    return lambda arrays: arrays.pop(name)


def change(name: str, how: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], None]:
    return lambda arrays: arrays.update({name: how(arrays[name])})


BAD_ARRAYS = {
    "missing array": (
        drop("val_labels"),
        "array val_labels is missing; it holds train_images, train_labels, val_images",
    ),
    "labels too high": (
        change("train_labels", lambda a: a + 9),
        r"array train_labels has the label \d+; allowed: 0 .. 8",
    ),
    "labels below zero": (change("val_labels", lambda a: a.astype(np.int8) - 9), "array val_labels has the label -"),
    "no images": (change("val_images", lambda a: a[:0]), "array val_images holds no image"),
    "too few labels": (change("train_labels", lambda a: a[:-1]), "train_labels has 11 rows for 12 train_images"),
    "other size": (
        change("test_images", lambda a: a[:, :14, :14]),
        r"array test_images has shape \(3, 14, 14, 3\); allowed: \(N, 28, 28, 3\)",
    ),
    "grey": (change("val_images", lambda a: a[..., 0]), r"array val_images has shape \(5, 28, 28\)"),
    "float images": (change("train_images", lambda a: a / 255), "array train_images has dtype float64; allowed: uint8"),
    "float labels": (change("val_labels", lambda a: a / 2), "array val_labels has dtype float64; allowed: whole"),
    "flat labels": (change("val_labels", lambda a: a[:, 0]), r"array val_labels has shape \(5,\); allowed: \(N, 1\)"),
    "objects": (change("train_labels", lambda a: a.astype(object)), "train_labels cannot be read .*pickled objects"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_bad_array_is_named_and_the_file_set_aside(case, server, find, tmp_path, arrays, lines):
    spoil, message = BAD_ARRAYS[case]
    spoil(arrays)
    path = tmp_path / "data" / "pathmnist.npz"
    write(path, arrays)
    spoiled = path.read_bytes()
    assert find().origin == "download", "the search continues"
    assert path.with_name("pathmnist.npz.bad").read_bytes() == spoiled, "renamed, never deleted"
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: ")
    assert lines[0].endswith("; set aside as pathmnist.npz.bad")
    assert re.search(message, lines[0])


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_bad_file_of_ones_own_is_named_and_left_where_it_is(case, find, tmp_path, arrays):
    spoil, message = BAD_ARRAYS[case]
    spoil(arrays)
    path = tmp_path / "data" / "pathmnist.npz"
    write(path, arrays)
    with pytest.raises(DataError, match=message):
        find(verify=False)
    assert path.exists()


BAD_BYTES = {
    "truncated": (truncate, "is truncated or is not an npz file"),
    "empty": (lambda path: path.write_bytes(b""), "is truncated or is not an npz file"),
    "a web page": (lambda path: path.write_text("<html>Not found</html>"), "is truncated or is not an npz file"),
    "bad checksum": (flip_a_byte_of("val_images.npy"), "array val_images cannot be read .Bad CRC-32"),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_broken_bytes_are_named_and_the_file_set_aside(case, server, find, tmp_path, arrays, lines):
    spoil, message = BAD_BYTES[case]
    path = tmp_path / "data" / "pathmnist.npz"
    write(path, arrays)
    spoil(path)
    assert find().origin == "download"
    assert path.with_name("pathmnist.npz.bad").exists()
    assert len(lines) == 1
    assert re.search(message, lines[0])


def test_another_well_formed_file_is_set_aside_with_the_way_to_keep_it(server, find, tmp_path, lines):
    path = tmp_path / "data" / "pathmnist.npz"
    write(path, small_arrays(rows={"train": 9, "val": 4, "test": 2}))
    assert find().origin == "download"
    assert "is well-formed but not the official file (your own? set MEDMNIST_VERIFY=0)" in lines[0]
    path.with_name("pathmnist.npz.bad").rename(path)  # the user takes the advice
    source = find(verify=False)
    assert (source.origin, source.name, source.count("train")) == ("file", "pathmnist-unverified", 9)


def test_the_variable_accepts_a_file_of_ones_own_with_fewer_splits(find, tmp_path, monkeypatch):
    monkeypatch.setenv(medmnist_data.VERIFY_VARIABLE, "0")
    write(tmp_path / "data" / "pathmnist.npz", small_arrays(rows={"train": 9}))
    source = find()
    assert source.name == "pathmnist-unverified"
    assert [split for split in SPLITS if source.has(split)] == ["train"]


def test_a_header_that_claims_more_than_the_file_holds_costs_no_memory(find, tmp_path, arrays):
    path = tmp_path / "data" / "pathmnist.npz"
    write(path, arrays)
    header = io.BytesIO()
    claim = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 28, 28, 3)}  # 2.4 petabytes
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("unlabelled_train_images.npy", header.getvalue() + bytes(1000))
    source = find(verify=False)
    with pytest.raises(DataError, match=r"array unlabelled_train_images does not hold the .* that its header claims"):
        source.read("train", unlabelled=True)


def test_an_array_in_fortran_order_is_read_like_any_other(find, tmp_path, arrays):
    write(tmp_path / "data" / "pathmnist.npz", {name: np.asfortranarray(array) for name, array in arrays.items()})
    images = find(verify=False).read("train").images
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), arrays["train_images"])
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_earlier_files_that_were_set_aside_are_kept(server, find, tmp_path):
    for content in (b"one", b"two", b"three"):
        path = tmp_path / "data" / "pathmnist.npz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        find()
    kept = {path.name: path.read_bytes() for path in path.parent.glob("*.bad*")}
    assert kept == {"pathmnist.npz.bad": b"one", "pathmnist.npz.bad-2": b"two", "pathmnist.npz.bad-3": b"three"}


def test_a_file_that_breaks_after_the_check_is_named_when_read(server, find, tmp_path):
    source = find()
    truncate(source.path)
    with pytest.raises(DataError, match=r"pathmnist\.npz: array train_images cannot be read"):
        source.read("train")
    source.path.unlink()
    source.path.mkdir()
    with pytest.raises(UnreadableError, match=r"pathmnist\.npz: array train_images cannot be read"):
        source.read("train")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that even root cannot read, such as /proc/self/mem")
def test_a_file_that_the_system_does_not_let_us_read_is_not_called_bad(server, find, tmp_path, lines):
    path = tmp_path / "data" / "pathmnist.npz"
    path.parent.mkdir()
    path.symlink_to("/proc/self/mem")
    assert find(download=False).is_sample
    assert lines[0] == f"{path} cannot be read (Input/output error); ignoring it"
    assert path.is_symlink()


# --- the memory of MD5s ----------------------------------------------------------------------------------------------


def count_md5(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note each file whose MD5 is really computed."""
    computed, md5_of = [], medmnist_data.npz_file.md5_of
    monkeypatch.setattr(medmnist_data.npz_file, "md5_of", lambda path: computed.append(path) or md5_of(path))
    return computed


def test_the_md5_is_computed_once_and_again_when_the_file_changes(server, find, tmp_path, monkeypatch, lines):
    path = tmp_path / "data" / "pathmnist.npz"
    path.parent.mkdir()
    path.write_bytes(server.files["pathmnist.npz"])
    computed = count_md5(monkeypatch)
    assert [find().origin, find().origin] == ["file", "file"]
    assert computed == [path]
    flip_a_byte_of("train_images.npy")(path)  # the size stays; only mtime tells
    os.utime(path, ns=(1, 1))
    assert find().origin == "download"
    assert "array train_images" in lines[0]


@pytest.mark.parametrize("damaged", ["", "[]", '{"pathmnist.npz": 3}', '{"pathmnist.npz": {"md5": 5}}', "\0"])
def test_a_damaged_memory_only_costs_time(damaged, server, find, tmp_path):
    path = tmp_path / "data" / "pathmnist.npz"
    path.parent.mkdir()
    path.write_bytes(server.files["pathmnist.npz"])
    path.with_name(".checked.json").write_text(damaged)
    assert find().origin == "file"
    assert json.loads(path.with_name(".checked.json").read_text())["pathmnist.npz"]["md5"]
