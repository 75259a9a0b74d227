"""Part 3: a backbone for one channel, fine-tuning in two phases, the table."""

from __future__ import annotations

import numpy as np
import torch

from staff.assignments.hw5.graded_tests import by_hand
from staff.assignments.hw5.graded_tests.test_2_training import (
    LAYERS,
    expect_history,
    expect_weights,
    new_data,
    run_train,
)
from staff.grader import oracle
from staff.grader.client import clean, expect, expect_close
from staff.grader.model import plain_model

BACKBONE = [["conv", 3, 6, 5], ["relu"], ["flatten"], ["linear", 384, 20], ["relu"], ["linear", 20, 7]]


def ask_adapt(student, rng, num_classes):
    """(reply, expected features) for a plain network of three channels and grey images."""
    state = oracle.new_state(BACKBONE, int(rng.integers(2**31)))
    model = plain_model(student, BACKBONE, state)
    images = rng.uniform(-1, 1, (5, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        wanted = oracle.build(BACKBONE, state)[:-1](torch.from_numpy(images).expand(-1, 3, -1, -1)).numpy()
    shapes = {"features": ("float32", (5, 20)), "logits": ("float32", (5, num_classes))}
    args = {"object": model.number, "num_classes": num_classes}
    return student.ask("hw5.adapt", args, {"images": images}, shapes), wanted


def test_adapt(student, rng):
    reply, wanted = ask_adapt(student, rng, 2)
    off = float(np.abs(reply.arrays["features"] - wanted).max())
    expect(off < 1e-4, f"a grey image gives other features than its three equal channels did (off by {off:.2g})")


def test_adapt_head(student, rng):
    reply, _ = ask_adapt(student, rng, 4)
    expect(np.ptp(reply.arrays["logits"], axis=0).max() > 1e-6, "the logits are the same for every image")


def test_fine_tune(student, rng):
    arrays = new_data(rng, contradict=False)
    keywords = {"head_epochs": 2, "epochs": 3, "learning_rate": 0.02}
    history, weights, state = run_train(student, rng, arrays, "fine_tune", **keywords)
    first, middle = by_hand.train(LAYERS, state, arrays, 2, 0.02, only="3.")
    second, last = by_hand.train(LAYERS, middle, arrays, 3, 0.002)
    expect_history(history, {n: first[n] + second[n] for n in first}, "two epochs of the head, three of everything")
    expect_weights(weights, last, "after both phases")


def test_table(student, rng):
    names = ("accuracy", "auc", "precision", "recall", "f1")
    means = rng.uniform(0.6, 0.99, 5).round(3)
    rows = {
        "first": {name: [float(mean), 0.0125] for name, mean in zip(names, means, strict=True)},
        "second": {name: [float(mean), None] for name, mean in zip(names, means[::-1], strict=True)},
        "third": "not run: no weights",
    }
    text = clean(student.ask("hw5.table", {"rows": rows}).result.get("text"), 4000)
    lines = [[c.strip() for c in line.strip().strip("|").split("|")] for line in text.splitlines() if "|" in line]
    expect(len(lines) == 5, f"the table has {len(lines)} lines, expected a head, a rule and three rows")
    expect([cell.lower() for cell in lines[0][1:]] == list(names), "the columns are not accuracy, AUC, ..., F1")
    for row, values in ((lines[2], means), (lines[3], means[::-1])):
        expect(len(row) == 6, f"row {row[0]!r} has {len(row)} cells, expected 6")
        for cell, value in zip(row[1:], values, strict=True):
            number = float(cell.split()[0]) if cell and cell.split()[0].replace(".", "").isdigit() else float("nan")
            expect_close(number, float(value), 6e-4, f"the mean in row {row[0]!r}")
    expect("0.01" in lines[2][1], "the spread over the seeds is not in the table")
    expect("not run" in " ".join(lines[4]), "a model that was not run must say so in its row")
    expect(not any(c.isdigit() for c in "".join(lines[4][1:])), "a model that was not run has numbers in its row")
