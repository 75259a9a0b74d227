"""Small data sets with the names and shapes of the official ones, good and spoiled, and a server that has one."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.misbehaving_server import MisbehavingServer
from toolkit import medmnist_data
from toolkit.medmnist_catalog import medmnist_info
from toolkit.medmnist_data import locate

ROWS = {"train": 12, "val": 5, "test": 3}


def small_arrays(flag: str = "pathmnist", size: int = 28, rows: dict[str, int] = ROWS) -> dict[str, np.ndarray]:
    """Arrays of a whole data set with random pixels, shaped as medmnist documents them."""
    facts, random = medmnist_info()[flag], np.random.default_rng(0)
    image_shape = (size, size, size) if flag.endswith("3d") else (size, size, 3)[: 3 if facts["n_channels"] == 3 else 2]
    classes = len(facts["label"])
    arrays = {}
    for split, n in rows.items():
        arrays[f"{split}_images"] = random.integers(0, 256, (n, *image_shape), np.uint8)
        multi_label = facts["task"].startswith("multi-label")
        labels = random.integers(0, 2, (n, classes)) if multi_label else random.integers(0, classes, (n, 1))
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Write an npz and return its MD5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def lines() -> list[str]:
    """What was announced."""
    return []


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return small_arrays()


@pytest.fixture
def server(tmp_path, arrays, monkeypatch):
    """Serves a small pathmnist.npz that medmnist.INFO names as the official one."""
    md5 = write(tmp_path / "origin" / "pathmnist.npz", arrays)
    content = (tmp_path / "origin" / "pathmnist.npz").read_bytes()
    with MisbehavingServer({"pathmnist.npz": content}) as running:
        monkeypatch.setitem(medmnist_info()["pathmnist"], "MD5", md5)
        monkeypatch.setitem(medmnist_info()["pathmnist"], "url", running.url("pathmnist.npz?download=1"))
        yield running


@pytest.fixture
def find(tmp_path, lines, monkeypatch) -> Callable[..., medmnist_data.Source]:
    """locate() in an own data_root and a clean environment, noting what is announced."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for variable in (medmnist_data.MIRROR_VARIABLE, medmnist_data.VERIFY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(medmnist_data, "_failed_downloads", {})

    def find(flag: str = "pathmnist", **arguments: object) -> medmnist_data.Source:
        return locate(flag, **{"data_root": tmp_path / "data", "announce": lines.append, **arguments})

    return find


def flip_a_byte_of(member: str) -> Callable[[Path], None]:
    """Change one byte of the stored pixels, so that the CRC of that array is wrong."""

    def flip(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(member)
        content = bytearray(path.read_bytes())
        content[info.header_offset + 200 + len(member)] ^= 0xFF
        path.write_bytes(content)

    return flip


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
