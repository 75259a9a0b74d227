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

OF_THE_STAFF = ("shows", "drawn_from", "cite", "source_md5", "seed")  # entries of the manifest for the documents
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


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as an npz file, the same bytes every time."""
    return zip_bytes({f"{name}.npy": _npy(array) for name, array in arrays.items()})


def bundled_data(recipe: Recipe) -> dict[str, bytes]:
    """The data sets of the recipe and a manifest of them alone: {path: bytes}; nothing if the recipe names none."""
    settings = recipe.settings.get("data")
    if settings is None:
        return {}
    every_record = json.loads(recipe.read_text(settings["manifest"]))["files"]
    contents, records = {}, []
    for item in recipe.data_sets:
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
    for item in recipe.data_sets:
        path = recipe.root / item["file"]
        names = [name for name in read_headers(path) if item.get("hold_back")]
        hidden = {name for name in names if item["hold_back"] in name}
        arrays |= hidden
        pixels = {name: {image.tobytes() for image in read_array(path, name)} for name in names if "images" in name}
        kept = [value for name, value in pixels.items() if name not in hidden]
        # An official set may hold one image twice: BreastMNIST has a test image in its training split, too.
        images.update(*(pixels[name] for name in hidden & set(pixels)))
        images.difference_update(*kept)
    for path in _test_files(recipe):
        images.update(image.tobytes() for image in read_array(path, "test_images"))
    return arrays, images


def _test_files(recipe: Recipe) -> list[Path]:
    """The bundled test images of sets that the recipe ships."""
    settings = recipe.settings.get("data")
    if settings is None:
        return []
    records = json.loads(recipe.read_text(settings["manifest"]))["files"]
    files = {Path(item["file"]).name for item in recipe.data_sets}
    names = {record["name"] for record in records if record["file"] in files}
    folder = recipe.root / Path(settings["manifest"]).parent
    return [folder / record["file"] for record in records if record.get("test_of") in names]


def _for_students(recipe: Recipe, item: Mapping[str, str], record: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """A data set and its entry in the manifest. UserError if it has nothing of what is to be held back."""
    record = {name: value for name, value in record.items() if name not in OF_THE_STAFF}
    if "hold_back" not in item:
        return recipe.read(item["file"]), record
    path = recipe.root / item["file"]
    names = list(read_headers(path))
    kept = [name for name in names if item["hold_back"] not in name]
    if len(kept) == len(names):
        raise UserError(f"{item['file']} has no array to hold back; is it a student's copy?")
    archive = npz_bytes({name: read_array(path, name) for name in kept})
    md5 = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    name = f"{record['flag']}-sample"  # also of an official set: without its test images it is not the official file
    what = f"{_what(path, kept)}; test images are held back"
    return archive, {**record, "name": name, "official": False, "md5": md5, "what": what}


def image_counts(path: Path) -> dict[str, int]:
    """Array of images -> how many, for each in a bundled file: train_images, unlabelled_train_images, ..."""
    return {name: header.shape[0] for name, header in read_headers(path).items() if name.endswith("images")}


def _what(path: Path, kept: list[str]) -> str:
    """What the student's copy holds, for the line that says that it is used."""
    counts = {name: count for name, count in image_counts(path).items() if name in kept}
    labelled = " / ".join(str(count) for name, count in counts.items() if not name.startswith("unlabelled"))
    others = " / ".join(str(count) for name, count in counts.items() if name.startswith("unlabelled"))
    unlabelled = f" and {others} unlabelled" if others else ""
    return f"{labelled} labelled{unlabelled} images for training / validation"


def _npy(array: np.ndarray) -> bytes:
    """One array in NumPy's file format, version 1.0."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
