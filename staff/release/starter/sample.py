"""The bundled data of a starter, without the arrays that are held back, as the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from staff.release.starter.recipe import Recipe
from toolkit.errors import UserError
from toolkit.npz_file import read_array, read_headers

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip archive can hold


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


def bundled_data(recipe: Recipe) -> dict[str, bytes]:
    """The data sets of the recipe and a manifest of them alone: {path: bytes}; nothing if the recipe names none."""
    settings = recipe.settings.get("data")
    if settings is None:
        return {}
    every_record = json.loads(recipe.read_text(settings["manifest"]))["files"]
    contents, records = {}, []
    for item in settings["set"]:
        found = [record for record in every_record if item["file"].endswith("/" + record["file"])]
        if len(found) != 1:
            raise UserError(f"{settings['manifest']} has {len(found)} entries for {item['file']}; it must have one")
        contents[item["file"]], record = _for_students(recipe, item, found[0])
        records.append(record)
    text = json.dumps({"files": records}, indent=2, ensure_ascii=False) + "\n"
    return contents | {settings["manifest"]: text.encode()}


def held_back(recipe: Recipe) -> tuple[set[str], set[bytes]]:
    """Names of the arrays that are held back, and the bytes of each of their images, for the proof of absence.

    Test images that are a file of their own ("test_of" in the manifest) are held back whole.
    """
    arrays, images = set(), set()
    for item in recipe.settings.get("data", {}).get("set", ()):
        path = recipe.root / item["file"]
        hidden = [name for name in read_headers(path) if item.get("hold_back") and item["hold_back"] in name]
        arrays.update(hidden)
        images.update(image.tobytes() for name in hidden if "images" in name for image in read_array(path, name))
    for path in _test_files(recipe):
        images.update(image.tobytes() for image in read_array(path, "test_images"))
    return arrays, images


def _test_files(recipe: Recipe) -> list[Path]:
    """The bundled test images of sets that the recipe ships."""
    settings = recipe.settings.get("data")
    if settings is None:
        return []
    records, shipped = json.loads(recipe.read_text(settings["manifest"]))["files"], settings["set"]
    files = {Path(item["file"]).name for item in shipped}
    names = {record["name"] for record in records if record["file"] in files}
    folder = recipe.root / Path(settings["manifest"]).parent
    return [folder / record["file"] for record in records if record.get("test_of") in names]


def _for_students(recipe: Recipe, item: Mapping[str, str], record: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """A data set and its entry in the manifest. UserError if it has nothing of what is to be held back."""
    if "hold_back" not in item:
        return recipe.read(item["file"]), record
    path = recipe.root / item["file"]
    names = list(read_headers(path))
    kept = [name for name in names if item["hold_back"] not in name]
    if len(kept) == len(names):
        raise UserError(f"{item['file']} has no array to hold back; is it a student's copy?")
    archive = zip_bytes({f"{name}.npy": _npy(read_array(path, name)) for name in kept})
    md5 = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    return archive, {**record, "md5": md5, "what": f"{_what(path, kept)}, {item['origin']}"}


def _what(path: Path, kept: list[str]) -> str:
    """What the student's copy holds, for the line that says that it is used."""
    headers = read_headers(path)
    counts = {name: headers[name].shape[0] for name in kept if name.endswith("images")}
    labelled = " / ".join(str(count) for name, count in counts.items() if not name.startswith("unlabelled"))
    others = " / ".join(str(count) for name, count in counts.items() if name.startswith("unlabelled"))
    unlabelled = f" and {others} unlabelled" if others else ""
    return f"{labelled} labelled{unlabelled} images for training / validation"


def _npy(array: np.ndarray) -> bytes:
    """One array in NumPy's file format, version 1.0."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
