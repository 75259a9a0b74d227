"""What a run on data of full size takes: memory and time of an epoch, on a set that repeats the bundled sample.

The images are not PathMNIST, so nothing is learned here that anyone should quote; bytes and arithmetic are the same.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import UserError
from toolkit.medmnist_data import VERIFY_VARIABLE, Split, locate
from toolkit.runs import read_json, write_json

FULL = {"train": 89_996, "val": 10_004, "test": 7_180}  # images of the official PathMNIST
QUICK_DIVISOR = 50
BLOCK = 256  # images that are made at once
MEMORY_GOAL = 3e9  # bytes


@dataclass(frozen=True)
class Settings:
    """The flags of `pathmnist_resnet18 fullsize` with these names."""

    steps: int
    size: int
    images: int
    model_name: str
    batch_size: int
    device: str
    quick: bool


def run(settings: Settings, folder: str | None, results_path: str | None) -> None:
    """Make the set, train on it in its own process, report."""
    if settings.steps == 1:
        raise UserError("steps is 1; allowed: 0 (a whole epoch), or 2 and more: time is taken from one to the next")
    with tempfile.TemporaryDirectory(prefix="pathmnist-fullsize-") as temporary:
        place = Path(folder or temporary)
        counts = {split: n // QUICK_DIVISOR if settings.quick else n for split, n in FULL.items()}
        if settings.images:
            counts["train"] = settings.images
        path = make_set(place, counts, settings.size)
        found = measure(settings, place, counts["train"]) | {"images": counts, "file_bytes": path.stat().st_size}
    print("\n" + describe(found))
    if results_path:
        write_json(results_path, found)


def make_set(folder: Path, counts: dict[str, int], size: int) -> Path:
    """An npz with the official names, in which each split repeats the bundled sample's; made once.

    Larger images are the sample's, enlarged by repetition, and written one after the other: the set may be larger than
    memory. Raises UserError if another file has the name already.
    """
    path = folder / ("pathmnist.npz" if size == 28 else f"pathmnist_{size}.npz")
    marker = folder / f"{path.name}.repeats-the-sample"
    wanted = f"{counts} {size}"
    if path.exists():
        if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
            return path
        raise UserError(f"{path} is there already, and is not this set; choose another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    source = locate("pathmnist", dataset="sample")
    print(f"making {path}: {', '.join(f'{n:,} {split}' for split, n in counts.items())} images of {size} pixels")
    # The large ones are packed, as those of MedMNIST+ are.
    packing = zipfile.ZIP_DEFLATED if size > 64 else zipfile.ZIP_STORED
    temporary = path.with_suffix(".part")
    with zipfile.ZipFile(temporary, "w", packing, compresslevel=1) as archive:
        for split, n in counts.items():
            write_split(archive, split, source.read(split), n, size)
    os.replace(temporary, path)
    marker.write_text(wanted, encoding="utf-8")
    return path


def write_split(archive: zipfile.ZipFile, split: str, found: Split, count: int, size: int) -> None:
    """`count` images of `size` pixels, and their labels, in the arrays that MedMNIST has for a split."""
    pixels = found.images.permute(0, 2, 3, 1).numpy()  # (N, 28, 28, 3)
    places = np.arange(size) * 28 // size
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    with archive.open(f"{split}_images.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, count, BLOCK):
            rows = np.arange(start, min(start + BLOCK, count)) % len(pixels)
            stream.write(pixels[rows][:, places][:, :, places].tobytes())  # (B, size, size, 3)
    with archive.open(f"{split}_labels.npy", "w") as stream:
        labels = found.labels.numpy()[np.arange(count) % len(pixels), None].astype(np.uint8)
        np.lib.format.write_array(stream, labels, allow_pickle=False)


def measure(settings: Settings, folder: Path, train_images: int) -> dict[str, Any]:
    """Train for some steps of one epoch, validate on everything, and read from the results what that took."""
    steps = 2 if settings.quick else settings.steps
    with tempfile.TemporaryDirectory(prefix="pathmnist-fullsize-run-") as run:
        words = ["--dataset", "full", "--data_root", folder, "--num_epochs", 1, "--max_steps_per_epoch", steps]
        words += ["--model_name", settings.model_name, "--batch_size", settings.batch_size, "--device", settings.device]
        words += ["--evaluate_test", "--bootstrap", 20, "--output_dir", Path(run) / "run"]
        words += ["--native", "--image_size", settings.size] if settings.size > 28 else []
        command = [sys.executable, "-m", "labs.pathmnist_resnet18.src.job", *map(str, words)]
        code = subprocess.run(command, env={**os.environ, VERIFY_VARIABLE: "0"}).returncode
        if code:
            raise UserError(f"the training ended with exit code {code}; its own message stands above")
        results = read_json(Path(run) / "run" / "results.json")
    steps_of_epoch = math.ceil(train_images / settings.batch_size)
    validation_seconds = max(0.0, results["seconds"] - results["steps"] * results["step_ms"] / 1000)
    return {
        "dataset": results["dataset"],
        "stored_size": settings.size,
        "model_name": settings.model_name,
        "batch_size": settings.batch_size,
        "device": results["device"],
        "precision": results["precision"],
        "steps": results["steps"],
        "step_ms": results["step_ms"],
        "steps_of_an_epoch": steps_of_epoch,
        "validation_seconds": round(validation_seconds, 1),
        "epoch_seconds": round(steps_of_epoch * results["step_ms"] / 1000 + validation_seconds, 1),
        "extrapolated": results["steps"] < steps_of_epoch,
        "peak_memory_bytes": results["peak_memory_bytes"],
    }


def describe(figures: dict[str, Any]) -> str:
    """The figures for people; what was not measured is named so."""
    memory = figures["peak_memory_bytes"]
    verdict = "below" if memory < MEMORY_GOAL else "NOT below"
    kind = "extrapolated" if figures["extrapolated"] else "measured"
    images = ", ".join(f"{n:,} {split}" for split, n in figures["images"].items())
    return (
        f"data: the bundled sample, repeated: {images} images of {figures['stored_size']} pixels\n"
        f"{figures['model_name']}, batches of {figures['batch_size']}, {figures['precision']}, {figures['device']}\n"
        f"peak resident memory: {memory / 1e9:.2f} GB ({verdict} {MEMORY_GOAL / 1e9:g} GB)\n"
        f"a step: {figures['step_ms']:.0f} ms (median of {figures['steps']}); validation: "
        f"{figures['validation_seconds']:.0f} s (measured)\n"
        f"an epoch: {figures['epoch_seconds']:.0f} s ({kind}: {figures['steps_of_an_epoch']} steps and the validation)"
    )
