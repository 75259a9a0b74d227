"""A small data folder and a small trained model, made once by the lab's own commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labs.image_classifier import prepare

ROOT = Path(__file__).resolve().parents[3]


def command(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m labs.image_classifier.MODULE arguments` from the root of the repository."""
    words = [sys.executable, "-m", f"labs.image_classifier.{module}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def make_images(folder: Path, count: int, seed: int = 0) -> None:
    """Two classes that are easy to tell: `left` is bright on the left side, `right` on the right; 32 x 32 grey PNG."""
    generator = np.random.default_rng(seed)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = generator.integers(0, 60, (32, 32), dtype=np.uint8)
            pixels[:, :16] += 120 if name == "left" else 0
            pixels[:, 16:] += 120 if name == "right" else 0
            Image.fromarray(pixels).save(folder / name / f"p{number // 2:02d}_{number}.png")


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The lab's commands as processes."""
    return command


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 40 images of 20 patients; left/p00_0.png and left/p00_1.png are of one patient."""
    folder = tmp_path_factory.mktemp("prepared")
    make_images(folder / "images", 20)

    prepare.main([str(folder / "images"), "--out", str(folder / "data"), "--group_pattern", "^p[0-9]+", "--val", "0.3"])
    return folder / "data"


@pytest.fixture(scope="session")
def trained_run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two epochs of the smallest network."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = command("train", "--data", prepared, *QUICK, "--epochs", 2, "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


QUICK = (
    "--model",
    "mobilenet_v3_small",
    "--image_size",
    28,
    "--batch_size",
    8,
    "--device",
    "cpu",
    "--precision",
    "float32",
)
