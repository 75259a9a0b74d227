"""A quick study of the bundled sample, run once: baseline, search through the dispatcher, final model, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from labs.pathmnist_resnet18.src import pathmnist_resnet18
from labs.pathmnist_resnet18.src.pathmnist_resnet18 import MODULE
from toolkit.medmnist_data import Source

FLAGS = ("--quick", "--dataset", "sample", "--device", "cpu", "--precision", "float32", "--gpus", "none")


@pytest.fixture(scope="session")
def do() -> Callable[..., None]:
    """The study's command in this process: do(folder, "baseline", ...)."""

    def run(folder: Path, command: str, *words: str) -> None:
        pathmnist_resnet18.main([command, *FLAGS, "--output_dir", str(folder), *words])

    return run


@pytest.fixture(scope="session")
def quick_study(do, tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    """Folder of the study, and the splits that each step read in its process; several test processes share one."""
    for package in pathmnist_resnet18.NEEDED["report"]:
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-dev.txt)")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers of this run
    with filelock.FileLock(base / "study.lock"):
        if not (base / "reads.json").exists():
            (base / "reads.json").write_text(json.dumps(run_study(do, base / "study")))
    return base / "study", json.loads((base / "reads.json").read_text())


def run_study(do: Callable[..., None], folder: Path) -> dict[str, list[str]]:
    """Run the steps of the study and return the splits that each read in this process."""
    plain, read = Source.read, {}
    try:
        for step in ("baseline", "search", "final", "report"):
            read[step] = splits = []

            def noting(self: Source, split: str, *rest: bool, splits: list[str] = splits):
                splits.append(split)
                return plain(self, split, *rest)

            Source.read = noting
            if step == "search":  # its own process, as the dispatcher is meant to be started
                words = [sys.executable, "-m", MODULE, step, *FLAGS, "--output_dir", str(folder)]
                subprocess.run(words, check=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"})
            else:
                do(folder, step)
    finally:
        Source.read = plain
    return read
