"""Small files in the official layout, for sets that are not bundled, and the experiments run on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.medmnist_files import small_arrays, write
from toolkit.medmnist_catalog import official_entry
from toolkit.medmnist_data import Source, locate

ROWS = {"train": 33, "val": 14, "test": 11}  # 33 = 4 batches of 8 and one image over


def small_set(flag: str, folder: Path, rows: dict[str, int] = ROWS) -> Path:
    """Write FLAG.npz with random pixels into `folder`; every class or label occurs in every split. Returns `folder`."""
    arrays = small_arrays(flag, rows=rows)
    for split, count in rows.items():
        labels = arrays[f"{split}_labels"]
        if labels.shape[1] == 1:
            labels[:, 0] = np.arange(count) % official_entry(flag, 28).layout.num_classes
        else:
            labels[0], labels[1] = 0, 1
    if flag == "adrenalmnist3d":
        for split in rows:  # masks, as in the official set
            arrays[f"{split}_images"] = np.where(arrays[f"{split}_images"] > 250, 255, 0).astype(np.uint8)
    write(folder / f"{flag}.npz", arrays)
    return folder


def source_of(flag: str, folder: Path) -> Source:
    """The small set as the experiments find it."""
    return locate(flag, data_root=small_set(flag, folder), verify=False)


def words(flag: str, folder: Path, *more: object) -> list[str]:
    """A command line for one seed and one epoch on a small set, on the CPU."""
    settings = ["--flag", flag, "--data_root", folder, "--output_dir", folder / "out", "--device", "cpu"]
    settings += ["--precision", "float32", "--seeds", 1, "--epochs", 1, "--batch_size", 8, *more]
    return [str(word) for word in settings]
