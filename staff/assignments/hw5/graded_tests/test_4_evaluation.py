"""Parts 4 and 5: metrics, curves, cases, filters, Grad-CAM."""

from __future__ import annotations

import numpy as np

from staff.assignments.hw5.graded_tests import by_hand
from staff.assignments.hw5.operations import set_geometry
from staff.grader import oracle
from staff.grader.client import expect, expect_close
from staff.grader.model import plain_model
from staff.grader.oracle import new_state

LAYERS = [["conv", 1, 5, 3], ["relu"], ["batchnorm2d", 5], ["conv", 5, 6, 3], ["relu"], ["dropout", 0.5]]
LAYERS += [["flatten"], ["linear", 150, 2]]
STRIDED = 3  # this convolution halves the image, so that maps behind it have to be enlarged


def scores(rng, count=80, ties=True) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels that agree more often than not."""
    labels = (rng.random(count) < 0.6).astype(np.int64)
    labels[:2] = 0, 1
    probabilities = 1 / (1 + np.exp(-1.5 * (labels - 0.5) - rng.standard_normal(count)))
    return (probabilities.round(2) if ties else probabilities), labels


def test_metrics(student, rng):
    for _ in range(3):
        probabilities, labels = scores(rng)
        threshold = float(np.sort(probabilities)[int(rng.integers(20, 60))])  # a value that occurs: at it means above
        args = {"threshold": threshold, "names": list(by_hand.METRICS)}
        arrays = {"probabilities": probabilities, "labels": labels}
        values = student.ask("hw5.evaluate", args, arrays, {"values": ("float64", (10,))}).arrays["values"]
        wanted = by_hand.metrics(probabilities, labels, threshold)
        for name, got, value in zip(by_hand.METRICS, values, wanted, strict=True):
            expect_close(float(got), float(value), 1e-6, name)


def test_areas(student, rng):
    (first, labels), (second, _) = scores(rng, ties=False), scores(rng, ties=False)
    arrays = {"first": first, "second": second, "labels": labels}
    areas = student.ask("hw5.areas", {}, arrays, {"areas": ("float64", (2, 2))}).arrays["areas"]
    for row, values in zip(areas, (first, second), strict=True):
        expect_close(float(row[0]), by_hand.auc(values, labels), 1e-6, "AUC")
        expect_close(float(row[1]), by_hand.average_precision(values, labels), 1e-6, "average precision")


def test_cases(student, rng):
    probabilities, labels = scores(rng, ties=False)
    threshold = float(np.sort(probabilities)[int(rng.choice([20, 24, 56, 60]))])  # not 0.5, and an image lies at it
    found = student.ask(
        "hw5.cases",
        {"threshold": threshold},
        {"probabilities": probabilities, "labels": labels},
        dict.fromkeys(("TP", "TN", "FP", "FN"), ("int64", (None,))),
    ).arrays
    called = probabilities >= threshold
    for kind, chosen in {
        "TP": called & (labels == 1),
        "TN": ~called & (labels == 0),
        "FP": called & (labels == 0),
        "FN": ~called & (labels == 1),
    }.items():
        indices = np.flatnonzero(chosen)
        expect(sorted(found[kind].tolist()) == indices.tolist(), f"{kind} holds other images than it should")
        wanted = indices[np.argsort(-np.abs(probabilities[indices] - threshold), kind="stable")]
        expect(
            found[kind].tolist() == wanted.tolist(), f"{kind} is not sorted with the farthest from the threshold first"
        )


def test_filters(student, rng):
    state = new_state(LAYERS, int(rng.integers(2**31)))
    model = plain_model(student, LAYERS, state)
    reply = student.ask("hw5.filters", {"object": model.number}, {}, {"weights": ("float32", (5, 1, 3, 3))})
    expect(np.array_equal(reply.arrays["weights"], state["0.weight"]), "not the weights of the first convolution")


def ask_grad_cam(student, rng, layer, frozen=False):
    """(reply, expected maps) of a plain model with random weights; expected with and without aligned corners."""
    state = new_state(LAYERS, int(rng.integers(2**31)))
    model = plain_model(student, LAYERS, state)
    images = rng.standard_normal((6, 1, 10, 10)).astype(np.float32)
    targets = rng.integers(0, 2, 6)
    args = {"object": model.number, "layer": layer, "frozen": frozen, "strided": STRIDED}
    arrays = {"images": images, "targets": targets}
    reply = student.ask("hw5.grad_cam", args, arrays, {"maps": ("float32", (6, 10, 10))})
    network = oracle.build(LAYERS, state)
    set_geometry(network[STRIDED], {"stride": [2, 2]})
    return reply, [by_hand.grad_cam(network, layer, images, targets, aligned) for aligned in (False, True)]


def expect_maps(reply, wanted, what) -> None:
    off = min(float(np.abs(reply.arrays["maps"] - maps).max()) for maps in wanted)
    expect(off < 1e-4, f"{what} are off by {off:.2g} (each in [0, 1], in evaluation mode, divided by its largest)")


def test_grad_cam(student, rng):
    for layer in (1, 4):
        expect_maps(*ask_grad_cam(student, rng, layer), "the maps")


def test_grad_cam_of_a_frozen_model(student, rng):
    expect_maps(*ask_grad_cam(student, rng, 4, frozen=True), "the maps of a frozen model")


def test_grad_cam_is_tidy(student, rng):
    reply, _ = ask_grad_cam(student, rng, 4)
    expect(reply.result.get("clean") is True, "the model is left in another mode, or with gradients")
    expect(reply.result.get("hooks") == 0, "a hook is left behind")


def test_overlays(student, rng):
    model = plain_model(student, LAYERS, new_state(LAYERS, int(rng.integers(2**31))))
    probabilities, labels = scores(rng, ties=False)
    threshold = float(np.sort(probabilities)[int(rng.choice([20, 60]))])
    images = rng.uniform(-1, 1, (len(labels), 1, 10, 10)).astype(np.float32)
    arrays = {"images": images, "labels": labels, "probabilities": probabilities}
    args = {"object": model.number, "layer": 1, "threshold": threshold}
    wanted = {"indices": ("int64", (None,)), "images": ("float32", (None, 1, 10, 10)), "targets": ("int64", (None,))}
    found = student.ask("hw5.overlays", args, arrays, wanted).arrays
    indices, called = found["indices"].tolist(), (probabilities >= threshold).astype(int)
    expect(all(0 <= i < len(labels) for i in indices), "there are indices of no image")
    expect(len(set(indices)) == len(indices), "an image is shown twice")
    right = sum(int(called[i] == labels[i]) for i in indices)
    for kind, count in (("right", right), ("wrong", len(indices) - right)):
        expect(1 <= count <= 3, f"{count} {kind} images are shown, expected up to three; the threshold decides")
    for image, target in zip(found["images"], found["targets"], strict=False):
        same = np.flatnonzero(np.abs(images - image).max(axis=(1, 2, 3)) < 1e-6)
        for index in same:
            expect(called[index] == target, "the map is not that of the class that was called at the threshold")
