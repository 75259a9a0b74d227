"""The reference solution on a GPU: it learns there, in every precision, and its files serve a processor."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from classification_dataset import create_pathmnist_dataloaders
from classification_models import get_model
from classification_train import train_model, validate_epoch
from segmentation_models import get_segmentation_model
from segmentation_train import train_segmentation_model
from synthetic_data import create_box_dataloaders
from toolkit.runs import load_checkpoint, read_json

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

ROOT = Path(__file__).resolve().parents[2]


def run_main(folder: Path, *flags: object) -> dict[str, Any]:
    """Train the CNN on the sample → results.json."""
    words = [sys.executable, "classification_main.py", *map(str, flags)]
    finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    return read_json(folder / "results.json")


def new_run(folder: Path, *flags: object) -> dict[str, Any]:
    return run_main(folder, "--model_name", "cnn", "--dataset", "sample", "--output_dir", folder, *flags)


def test_the_plain_call_trains_a_classifier_on_the_gpu():
    train_loader, val_loader, _ = create_pathmnist_dataloaders(64, dataset="sample")
    model = get_model("cnn")
    history = train_model(model, train_loader, val_loader, 2, max_steps_per_epoch=60)
    assert next(model.parameters()).device.type == "cuda"
    assert history["train_loss"][1] < history["train_loss"][0]
    assert 0.3 < history["val_acc"][-1] < 1  # chance is 0.11


def test_the_plain_call_trains_a_segmenter_on_the_gpu():
    train_loader, val_loader, *_ = create_box_dataloaders(32, dataset="sample")
    model = get_segmentation_model("unet")
    history = train_segmentation_model(model, train_loader, val_loader, 1, max_steps_per_epoch=100)
    assert next(model.parameters()).device.type == "cuda"
    assert 0.6 < history["val_iou"][-1] < 1  # the whole image as a box would have 0.15


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_network_trained_on_the_gpu_serves_a_processor(tmp_path, precision):
    folder = tmp_path / "run"
    results = new_run(folder, "--precision", precision, "--device", "cuda")
    assert results["precision"] == precision
    assert results["device"].startswith("cuda")
    assert all(math.isfinite(value) for values in results["history"].values() for value in values)
    model = get_model("cnn")
    model.load_state_dict(load_checkpoint(folder / "best.pt", device="cpu")["state_dict"])
    _, val_loader, _ = create_pathmnist_dataloaders(32, dataset="sample")
    loss, accuracy = validate_epoch(model, val_loader, torch.nn.CrossEntropyLoss(), torch.device("cpu"))
    assert loss == pytest.approx(results["history"]["val_loss"][0], rel=0.05)
    assert accuracy == pytest.approx(results["best_val_acc"], abs=0.03)  # of 149 images
    assert accuracy > 0.4


def test_a_run_of_the_gpu_resumes_there_and_on_a_processor(tmp_path):
    whole = new_run(tmp_path / "whole", "--num_epochs", 2)
    first = new_run(tmp_path / "parts")
    resumed = run_main(tmp_path / "parts", "--resume", tmp_path / "parts", "--num_epochs", 2)
    losses = [run["history"]["train_loss"] for run in (whole, resumed)]
    assert resumed["history"]["train_loss"][0] == first["history"]["train_loss"][0]
    # The order of sums differs between two runs of a GPU: not bit for bit, but far closer than epochs are.
    assert losses[1][1] == pytest.approx(losses[0][1], rel=0.05)
    assert losses[0][1] < 0.9 * losses[0][0]
    moved = run_main(tmp_path / "parts", "--resume", tmp_path / "parts", "--num_epochs", 3, "--device", "cpu")
    assert moved["device"].startswith("cpu")
    assert moved["history"]["train_loss"][:2] == losses[1]
    assert moved["history"]["train_loss"][2] < losses[1][1]
