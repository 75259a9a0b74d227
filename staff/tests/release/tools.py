"""What the tests of the starter share: a copy of the sources, and the release and the evidence made from it."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

from staff.release.starter import build as building
from staff.release.starter import leaks, markers, recipe, release

COPIED = ("toolkit", "tests", "configs", "data/bundled", "staff/assignments")


def copy_sources(folder: Path) -> Path:
    """Copy what a release is made from, without git."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        shutil.copytree(recipe.ROOT / name, folder / name, ignore=ignored)
    for path in recipe.ROOT.iterdir():
        if path.is_file() and path.name != ".git":  # in a git worktree .git is a file that points to the real index
            shutil.copy(path, folder)
    return folder


@functools.cache
def built(root: Path, flag: str | None = None) -> building.Build:
    """The release of `root` in memory, on a data set, with RELEASE.json; do not change it."""
    made = building.build(recipe.load("project2", root, flag))
    made.files[release.RELEASE_FILE] = release.manifest(made.files, "project2", made.commit)
    return made


@functools.cache
def evidence(root: Path) -> leaks.Evidence:
    """What would give the solutions of `root` away."""
    loaded = recipe.load("project2", root)
    provided = {
        name: data.decode()
        for name, data in built(root).files.items()
        if name.endswith(".py") and not name.startswith("tests/") and name not in loaded.graded
    }
    return leaks.collect({item.name: item.original for item in markers.read_graded(loaded)}, provided, ())


def command(*arguments: object) -> subprocess.CompletedProcess:
    """Run a staff tool as the staff does."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=recipe.ROOT,
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
