"""Part 1: what train_model reports, and what the models reach."""

from __future__ import annotations

import numpy as np
import pytest

from staff.grader import fresh_data
from staff.grader.client import expect
from staff.grader.training_checks import (
    Part,
    check_gate,
    check_history,
    check_optimizer,
    check_validation_data_unused,
    checkpoint_model,
    score,
)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).mean())


PART = Part(
    module="classification_train",
    function="train_model",
    models="classification_models",
    names={"mlp": "MLPModel", "cnn": "CNNModel"},
    factory="get_model",
    metric="acc",
    layers=[["conv", 3, 10, 1], ["relu"], ["pool"], ["flatten"], ["linear", 10, 9]],
    draw=lambda rng, count: (fresh_data.tinted(rng, count), fresh_data.labels(rng, count)),
    loss=cross_entropy,
    criterion=("scaled_cross_entropy", (1.0,)),
    epochs={"train": "train_epoch", "val": "validate_epoch"},
    score=lambda logits, labels: logits.argmax(axis=1) == labels,
    answer=lambda logits: logits.argmax(axis=1),
)


def test_history(student, rng):
    check_history(student, rng, PART)


def test_validation_data_unused(student, rng):
    check_validation_data_unused(student, rng, PART)


def test_optimizer(student, rng):
    check_optimizer(student, rng, PART)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_gate(student, rng, hidden, gates, record, kind):
    check_gate(student, rng, PART, hidden, gates[f"acc_{kind}"], kind, record)


def test_checkpoint(student, rng, hidden, gates, record, place):
    gate = gates["acc_final"]
    model = checkpoint_model(student, place, "classification.pt", PART, "cnn")
    gate.apply(lambda attempt: score(model, PART, hidden, rng), record, "the checkpoint")


def test_extra_credit(student, rng, hidden, gates, record, place):
    expect(
        "acc_extra" in gates,
        "more than 99% cannot be shown on the bundled sample; grade with the full set for extra credit",
    )
    model = checkpoint_model(student, place, "classification.pt", PART, "cnn")
    gates["acc_extra"].apply(
        lambda attempt: score(model, PART, hidden, rng, "val", hidden.source.count("val")), record, "the checkpoint"
    )
