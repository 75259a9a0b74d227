"""Part 1: the three classifiers. Each must answer in the right shape and learn something that its kind can learn."""

from __future__ import annotations

import numpy as np
import pytest

from staff.grader import fresh_data
from staff.grader.client import expect, student_model

MODULE = "classification_models"
MODELS = {"linear": "LinearModel", "mlp": "MLPModel", "cnn": "CNNModel"}


def check_shapes(student, rng, name):
    for classes, batch in ((9, 1), (9, 7), (4, 2)):
        student_model(student, MODULE, name, num_classes=classes)(fresh_data.noise(rng, batch), classes)


def departure_from_affine(model, rng) -> float:
    """How far f(a x + (1-a) y) is from a f(x) + (1-a) f(y), in standard deviations of the outputs."""
    x, y, a = fresh_data.noise(rng, 32), fresh_data.noise(rng, 32), rng.uniform(0.2, 0.8, (32, 1)).astype(np.float32)
    weight = a[..., None, None]
    f_x, f_y, f_mixed = (model(images, 9) for images in (x, y, weight * x + (1 - weight) * y))
    expect(f_x.std(axis=0).max() > 1e-6, "the logits are the same for every image: they do not depend on the input")
    return float(np.abs(f_mixed - (a * f_x + (1 - a) * f_y)).mean() / f_x.std(axis=0).mean())


def learned(student, rng, name, task, classes, batch, recipes, enough) -> float:
    """Best accuracy on fresh images of a task after our own short trainings of the student's model.

    recipes: (steps, learning rate, training images). Models without normalisation or with dropout need the later ones;
    the first that reaches `enough` ends it.
    """
    best = 0.0
    for steps, learning_rate, count in recipes:
        model = student_model(student, MODULE, name, num_classes=classes)
        images, labels = task.draw(count)
        order = fresh_data.batches(rng, count, steps, batch)
        model.fit(images, labels, order, "cross_entropy", learning_rate, seed=1)
        images, labels = task.draw(400)
        logits = model(images, classes)
        best = max(best, float((logits.argmax(axis=1) == labels).mean()))
        if best >= enough:
            # Trained logits lie on both sides of zero; what is never negative went through an activation.
            expect(logits.min() < 0, "no output is ever negative: these are no logits; what follows the last layer?")
            return best
    return best


@pytest.mark.parametrize("kind", MODELS)
def test_shapes(student, rng, kind):
    check_shapes(student, rng, MODELS[kind])


def test_linear_is_affine(student, rng):
    model = student_model(student, MODULE, "LinearModel")
    departure = departure_from_affine(model, rng)
    expect(departure < 1e-3, f"the model is not linear: it departs from a straight line by {departure:.2g}")
    base = fresh_data.noise(rng, 1)
    places = rng.integers(0, fresh_data.SIDE, (8, 2))
    changed = np.repeat(base, 24, axis=0)  # 8 places, 3 colour channels each
    for number, image in enumerate(changed):
        image[(number % 3, *places[number // 3])] += 1.0
    moved = model(changed, 9) - model(base, 9)
    without = int((np.abs(moved).max(axis=1) == 0).sum())
    expect(not without, f"{without} of 24 pixel values tried have no influence")
    by_place = moved.reshape(8, 3, -1)
    expect(np.ptp(by_place, axis=1).max() > 1e-6, "the model cannot tell the colour channels apart")


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_not_linear(student, rng, kind):
    departure = departure_from_affine(student_model(student, MODULE, MODELS[kind]), rng)
    expect(departure > 1e-3, "the model is a linear function of the image")


def test_linear_learns(student, rng):
    reached = learned(student, rng, "LinearModel", fresh_data.LinearTask(rng), 9, 64, [(100, 1e-3, 2048)], 0.75)
    expect(reached >= 0.75, f"100 steps on a linear problem reach accuracy {reached:.2f}, expected at least 0.75")


def test_mlp_learns(student, rng):
    recipes = [(100, 1e-3, 2048), (300, 3e-4, 4096)]
    reached = learned(student, rng, "MLPModel", fresh_data.ProductTask(rng), 4, 64, recipes, 0.80)
    expect(reached >= 0.80, f"300 steps on a nonlinear problem reach accuracy {reached:.2f}, expected at least 0.80")


def test_cnn_learns(student, rng):
    recipes = [(80, 2e-3, 1024), (400, 7e-4, 4096)]
    reached = learned(student, rng, "CNNModel", fresh_data.AnywhereTask(rng), 4, 16, recipes, 0.85)
    expect(
        reached >= 0.85,
        f"400 steps on patterns that may lie anywhere reach accuracy {reached:.2f}, expected at least 0.85",
    )


@pytest.mark.parametrize("kind", MODELS)
def test_gradients(student, rng, kind):
    model = student_model(student, MODULE, MODELS[kind])
    expect(model.trainable > 0, "the model has no trainable parameter")
    dead = model.dead_parameters(fresh_data.noise(rng, 16), rng.standard_normal((16, 9)).astype(np.float32))
    expect(not dead, f"no gradient reaches {', '.join(dead[:3])}")
