"""A release on disk: RELEASE.json, writing a folder whole or not at all, and the zip archive."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from staff.release.starter.sample import zip_bytes
from toolkit.errors import UserError

RELEASE_FILE = "RELEASE.json"
FORMAT = "course starter 1"
LEFT_BY_TOOLS = {"__pycache__", ".ruff_cache", ".pytest_cache", ".git", ".venv", "runs", "logs"}
RENAME_EXCHANGE, AT_FDCWD = 2, -100  # Linux: swap two names in one step


def sha256(content: bytes) -> str:
    """The digest by which a file is named everywhere."""
    return hashlib.sha256(content).hexdigest()


def manifest(files: Mapping[str, bytes], assignment: str, commit: str, **options: Any) -> bytes:
    """RELEASE.json: what this is, where it came from, and the SHA-256 of every other file."""
    hashes = {name: sha256(content) for name, content in sorted(files.items())}
    record = {"format": FORMAT, "assignment": assignment, "commit": commit, **options, "files": hashes}
    return (json.dumps(record, indent=2) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """RELEASE.json of a release in `folder`; None if the folder holds none."""
    try:
        record = json.loads((folder / RELEASE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_release = isinstance(record, dict) and record.get("format") == FORMAT and isinstance(record.get("files"), dict)
    return record if is_release else None


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but what tools leave behind; a link counts as a file with its target as content."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if LEFT_BY_TOOLS & set(name.parts):
            continue
        if path.is_symlink():
            contents[name.as_posix()] = f"link to {os.readlink(path)}".encode()
        elif path.is_file():
            contents[name.as_posix()] = path.read_bytes()
    return contents


def changes_since_release(folder: Path) -> list[str]:
    """Names of the files in `folder` that differ from its RELEASE.json or are not in it."""
    hashes = read_manifest(folder)["files"]
    return [
        name
        for name, content in read_folder(folder).items()
        if name != RELEASE_FILE and sha256(content) != hashes.get(name)
    ]


def check_target(folder: Path) -> None:
    """Raise UserError unless a release may be written to `folder`: nothing there, empty, or an older release."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is not a folder; choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and read_manifest(folder) is None:
        raise UserError(f"{folder} is not empty and no older release (no {RELEASE_FILE}); choose another --out")


def write_release(folder: Path, files: Mapping[str, bytes]) -> Path | None:
    """Write `files` as `folder`, whole or not at all: built next to it, then renamed.

    An older release is replaced. If someone worked in it, it is kept next to the new one; its new name is returned.
    """
    folder = Path(os.path.abspath(folder))
    check_target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in files.items():
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)
        for path in (building, *(item for item in building.rglob("*") if item.is_dir())):
            path.chmod(0o755)
        if not folder.exists():
            building.rename(folder)
            return None
        worked_in = read_manifest(folder) is not None and changes_since_release(folder)
        _exchange(building, folder)  # from here on `building` is the old release
        return _keep(building, folder) if worked_in else None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def archive(files: Mapping[str, bytes], top: str) -> bytes:
    """A zip archive with everything under the folder `top`, the same bytes every time."""
    return zip_bytes({f"{top}/{name}": data for name, data in files.items()})


def write_zip(path: Path, files: Mapping[str, bytes], top: str) -> str:
    """Write the archive with everything under the folder `top`; return its SHA-256."""
    content = archive(files, top)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)
    return sha256(content)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders; in one step where the system can, so that no moment has neither."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and rename(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(old), RENAME_EXCHANGE) == 0:
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{old.name}.", dir=old.parent))
    old.rename(aside)  # an empty folder may be renamed over
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)


def _keep(old: Path, folder: Path) -> Path:
    """Give the replaced release a visible name that is free."""
    number = 1
    while (kept := folder.with_name(f"{folder.name}.replaced-{number}")).exists():
        number += 1
    old.rename(kept)
    return kept
