"""The bundled sample without its test arrays, as the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from staff.starter.recipe import Recipe
from toolkit.errors import UserError
from toolkit.npz_file import read_array, read_headers

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip archive can hold
HELD_BACK = "test_"


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """A zip archive that depends on names and contents alone: sorted, no dates, one mode.

    Stored, not deflated: what deflate makes of the same bytes differs between versions of zlib.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # Unix, whatever this machine is
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def without_test_arrays(recipe: Recipe) -> dict[str, bytes]:
    """The sample and its manifest for students: {path: bytes}. UserError if there is no test array to hold back."""
    settings = recipe.settings["sample"]
    path = recipe.root / settings["file"]
    names = list(read_headers(path))
    kept = [name for name in names if HELD_BACK not in name]
    if len(kept) == len(names):
        raise UserError(f"{settings['file']} has no test arrays; is it a student's copy?")
    archive = zip_bytes({f"{name}.npy": _npy(read_array(path, name)) for name in kept})
    manifest = json.loads(recipe.read_text(settings["manifest"]))
    records = [record for record in manifest["files"] if settings["file"].endswith("/" + record["file"])]
    if len(records) != 1:
        raise UserError(f"{settings['manifest']} has {len(records)} entries for {settings['file']}; it must have one")
    record = records[0]
    record["md5"] = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    record["what"] = _what(path, kept)
    text = json.dumps({"files": records}, indent=2, ensure_ascii=False) + "\n"
    return {settings["file"]: archive, settings["manifest"]: text.encode()}


def hidden_images(recipe: Recipe) -> list[bytes]:
    """The bytes of every image and label array that is held back: one item an image, for the proof of absence."""
    path = recipe.root / recipe.settings["sample"]["file"]
    arrays = [read_array(path, name) for name in read_headers(path) if HELD_BACK in name and "images" in name]
    return [image.tobytes() for images in arrays for image in images]


def _what(path: Path, kept: list[str]) -> str:
    """What the student's copy holds, for the line that says that it is used."""
    headers = read_headers(path)
    counts = {name: headers[name].shape[0] for name in kept if name.endswith("images")}
    labelled = " / ".join(str(count) for name, count in counts.items() if not name.startswith("unlabelled"))
    others = " / ".join(str(count) for name, count in counts.items() if name.startswith("unlabelled"))
    return (
        f"{labelled} labelled images for training and validation, and {others} without labels, all of the official "
        "training split; the test images are held back for grading"
    )


def _npy(array: np.ndarray) -> bytes:
    """One array in NumPy's file format, version 1.0."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
