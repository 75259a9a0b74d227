"""What tests of the release share: a copy of the sources, what is made from it, a root file system as on Gradescope."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from staff.grader import sandbox
from staff.release.starter import build as building
from staff.release.starter import leaks, markers, recipe, release

SYSTEM = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64")  # folders of a root file system
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


def needs_root() -> None:
    """Skip a test that needs a root file system of its own where there can be none; with everything installed, fail."""
    reason = sandbox.check_layer("bwrap") or ("" if os.geteuid() == 0 else "a root file system needs root")
    if reason:
        if os.environ.get("COURSE_CI") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


class Site:
    """A root file system with the system's folders, Python, and /autograder as Gradescope lays it out; no network."""

    def __init__(self, folder: Path, archive: Path) -> None:
        self.autograder = folder / "autograder"
        (self.autograder / "submission").mkdir(parents=True)
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(self.autograder / "source")
        shutil.copy(self.autograder / "source/run_autograder", self.autograder)
        for path in (self.autograder / "run_autograder", self.autograder / "source/setup.sh"):
            path.chmod(0o755)

    def run(self, script: str) -> subprocess.CompletedProcess:
        """Run a script of /autograder as root of that system."""
        words = ["bwrap", "--unshare-net", "--unshare-pid", "--die-with-parent", "--cap-add", "ALL"]
        words += ["--perms", "1777", "--tmpfs", "/tmp"]  # first: Python may lie in the real /tmp
        for path in SYSTEM:
            words += ["--ro-bind-try", path, path]
        for path in sandbox.interpreter_folders():
            words += ["--ro-bind", path, path]
        words += ["--proc", "/proc", "--dev", "/dev"]
        words += ["--bind", str(self.autograder), "/autograder", "--chdir", "/", f"/autograder/{script}"]
        environment = {"PATH": "/usr/bin:/bin", "GRADER_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=400, check=False)

    def results(self) -> dict:
        return json.loads((self.autograder / "results/results.json").read_text())
