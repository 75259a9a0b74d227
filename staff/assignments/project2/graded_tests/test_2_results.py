"""Part 2: what train_segmentation_model reports, and what the models reach."""

from __future__ import annotations

import pytest

from staff.grader import fresh_data, oracle
from staff.grader.training_checks import (
    Part,
    check_gate,
    check_history,
    check_optimizer,
    check_validation_data_unused,
    checkpoint_model,
    score,
)

PART = Part(
    module="segmentation_train",
    function="train_segmentation_model",
    models="segmentation_models",
    names={"mlp": "MLPSegmentation", "cnn": "SimpleCNN", "unet": "TinyUNet"},
    factory="get_segmentation_model",
    metric="iou",
    layers=[["conv", 3, 6, 1], ["relu"], ["conv", 6, 1, 1], ["sigmoid"]],
    draw=lambda rng, count: (fresh_data.tinted(rng, count), fresh_data.rectangles(rng, count)),
    loss=None,  # which loss train_segmentation_model uses is the student's choice
    criterion=("powered_error", (1.5, 1.0)),
    epochs={"train": "train_segmentation_epoch", "val": "validate_segmentation_epoch"},
    score=oracle.iou,
    answer=lambda probabilities: probabilities > 0.5,
)


def test_history(student, rng):
    check_history(student, rng, PART)


def test_validation_data_unused(student, rng):
    check_validation_data_unused(student, rng, PART)


def test_optimizer(student, rng):
    check_optimizer(student, rng, PART)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "unet"])
def test_gate(student, rng, hidden, gates, record, kind):
    check_gate(student, rng, PART, hidden, gates[f"iou_{kind}"], kind, record)


def test_checkpoint(student, rng, hidden, gates, record, place):
    gate = gates["iou_final"]
    model = checkpoint_model(student, place, "segmentation.pt", PART, "unet")
    gate.apply(lambda attempt: score(model, PART, hidden, rng), record, "the checkpoint")
