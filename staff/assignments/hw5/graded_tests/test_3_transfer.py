"""Part 3: a backbone for one channel, fine-tuning in two phases, the table."""

from __future__ import annotations

import re

import numpy as np
import torch

from staff.assignments.hw5.graded_tests import by_hand
from staff.assignments.hw5.graded_tests.test_2_training import (
    LAYERS,
    expect_history,
    expect_weights,
    new_data,
    run_train,
    with_their_loss,
)
from staff.assignments.hw5.operations import set_geometry
from staff.grader import oracle
from staff.grader.client import clean, expect, expect_close
from staff.grader.model import plain_model

BACKBONE = [["conv", 3, 6, 5], ["relu"], ["flatten"], ["linear", 144, 20], ["relu"], ["linear", 20, 7]]
COLUMNS = ("accuracy", "auc", "precision", "recall", "f1")
GEOMETRY = {"stride": [2, 1], "padding": [1, 2]}  # 8 x 8 pixels become 3 x 8


def ask_adapt(student, rng, num_classes):
    """(reply, expected features) for a plain network of three channels and grey images."""
    state = oracle.new_state(BACKBONE, int(rng.integers(2**31)))
    model = plain_model(student, BACKBONE, state)
    images = rng.uniform(-1, 1, (5, 1, 8, 8)).astype(np.float32)
    plain = oracle.build(BACKBONE, state)
    set_geometry(plain[0], GEOMETRY)
    with torch.no_grad():
        wanted = plain[:-1](torch.from_numpy(images).expand(-1, 3, -1, -1)).numpy()
    shapes = {"features": ("float32", (5, 20)), "logits": ("float32", (5, num_classes))}
    args = {"object": model.number, "num_classes": num_classes, "geometry": GEOMETRY}
    return student.ask("hw5.adapt", args, {"images": images}, shapes), wanted


def test_adapt(student, rng):
    reply, wanted = ask_adapt(student, rng, 2)
    off = float(np.abs(reply.arrays["features"] - wanted).max())
    expect(off < 1e-4, f"a grey image gives other features than its three equal channels did (off by {off:.2g})")


def test_adapt_head(student, rng):
    reply, _ = ask_adapt(student, rng, 4)
    expect(np.ptp(reply.arrays["logits"], axis=0).max() > 1e-6, "the logits are the same for every image")


def expect_two_phases(student, rng, contradict, head_epochs, epochs, patience, what):
    """Fine-tune a plain model and compare with both phases by hand; returns the student's model."""
    arrays = new_data(rng, contradict)
    keywords = {"head_epochs": head_epochs, "epochs": epochs, "learning_rate": 0.02, "patience": patience}
    history, model, state = run_train(student, rng, arrays, "fine_tune", **keywords)

    def both(loss):
        first, middle = by_hand.train(LAYERS, state, arrays, head_epochs, 0.02, patience, "3.", loss)
        second, last = by_hand.train(LAYERS, middle, arrays, epochs, 0.002, patience, loss_of=loss)
        return {name: first[name] + second[name] for name in first}, last

    wanted, last = with_their_loss(history, both)
    expect_history(history, wanted, what)
    expect_weights(model.state()[1], last, f"{what}: weights after both phases")
    return model


def test_fine_tune(student, rng):
    expect_two_phases(student, rng, False, 2, 3, 8, "two epochs of the head, three of everything")


def test_fine_tune_ends(student, rng):
    model = expect_two_phases(student, rng, True, 9, 12, 2, "both phases stop early, patience=2")
    frozen = student.ask("hw5.trainable", {"object": model.number}).result.get("frozen")
    expect(frozen == [], "afterwards there are parameters without requires_grad")


def test_table(student, rng):
    means = rng.uniform(0.6, 0.99, 5).round(3)
    rows = {
        "first": {name: [float(mean), 0.0125] for name, mean in zip(COLUMNS, means, strict=True)},
        "second": {name: [float(mean), None] for name, mean in zip(COLUMNS, means[::-1], strict=True)},
        "third": "not run: no weights",
    }
    text = clean(student.ask("hw5.table", {"rows": rows}).result.get("text"), 4000)
    lines = [cells_of(line) for line in text.splitlines() if "|" in line]
    expect(len(lines) == 5, f"the table has {len(lines)} lines, expected a head, a rule and three rows")
    expect(len(lines[0]) == 6, f"the head has {len(lines[0])} cells, expected 6")
    named = all(name in cell.lower() for name, cell in zip(COLUMNS, lines[0][1:], strict=True))
    expect(named, "the columns are not accuracy, AUC, precision, recall, F1")
    for row, values, spread in ((lines[2], means, 0.0125), (lines[3], means[::-1], None)):
        expect(len(row) == 6, f"row {row[0]!r} has {len(row)} cells, expected 6")
        for cell, head, value in zip(row[1:], lines[0][1:], values, strict=True):
            scale = 100 if "%" in cell + head else 1
            found = numbers_in(cell)
            expect(found, f"row {row[0]!r} has a cell without a number")
            expect_close(found[0] / scale, float(value), 6e-4, f"the mean in row {row[0]!r}")
            shown = any(abs(number / scale - 0.0125) < 3e-3 for number in found[1:])
            expect(shown or spread is None, "the spread over the seeds is not in the table")
    expect("not run" in " ".join(lines[4]), "a model that was not run must say so in its row")
    expect(not any(c.isdigit() for c in "".join(lines[4][1:])), "a model that was not run has numbers in its row")


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table, with or without bars at its ends."""
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def numbers_in(cell: str) -> list[float]:
    """The numbers of a cell: of "0.851±0.012", "85.1 (1.2)" or "**0.851** +/- 0.012" both."""
    return [float(number) for number in re.findall(r"\d*\.?\d+", cell)]
