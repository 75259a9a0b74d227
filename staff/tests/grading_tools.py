"""What the tests of the grader share: submissions, and grading runs as the staff starts them."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("classification_models.py", "classification_train.py", "segmentation_models.py", "segmentation_train.py")
LEGACY = Path(__file__).parent / "legacy_submission"


def command(*arguments: object, timeout_s: float = 1000, **options) -> subprocess.CompletedProcess:
    """Run `python -m ...` from the root of the repository."""
    words = [sys.executable, "-m", *map(str, arguments)]
    options = {"cwd": ROOT, "timeout": timeout_s, **options}
    return subprocess.run(words, capture_output=True, text=True, check=False, **options)


@dataclass
class Graded:
    """A finished run: what it printed, its folder and its results."""

    run: subprocess.CompletedProcess
    folder: Path

    @property
    def results(self) -> dict:
        return json.loads((self.folder / "results.json").read_text())

    def points(self) -> dict[str, float]:
        """TODO -> points."""
        return {todo["id"]: todo["points"] for todo in self.results["todos"]}

    def status(self) -> dict[str, str]:
        """TODO -> status."""
        return {todo["id"]: todo["status"] for todo in self.results["todos"]}


def grade(submission: Path, folder: Path, *arguments: object) -> Graded:
    """Grade into results.json, gradescope.json, junit.xml and page.html of `folder`."""
    outputs = ["--out", folder / "results.json", "--gradescope", folder / "gradescope.json"]
    outputs += ["--junit", folder / "junit.xml", "--html", folder / "page.html"]
    return Graded(command("staff.grade", submission, *outputs, *arguments), folder)


def reference(folder: Path, checkpoints: bool = True) -> Path:
    """The reference solution as a submission."""
    folder.mkdir(parents=True)
    for name in MODULES:
        shutil.copy(ROOT / name, folder)
    if checkpoints:
        for path in (ROOT / "staff/assignments/project2/checkpoints").glob("*.pt"):
            shutil.copy(path, folder)
    return folder


@functools.cache
def starter(folder: Path) -> Path:
    """The unfilled starter as students get it."""
    made = command("staff.make_starter", "--assignment", "project2", "--out", folder / "starter")
    assert made.returncode == 0, made.stderr
    return folder / "starter"
