"""Part 1: the three classifiers. Each must answer in the right shape and learn something that its kind can learn."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from staff.grader import fresh_data
from staff.grader.client import expect
from staff.grader.model import student_model
from staff.grader.models_of import (
    check_company,
    check_evaluation,
    check_own_network,
    effects_of_values,
    stirred,
    without_effect,
)

MODULE = "classification_models"
MLP_LEARNS = 0.7
CNN_LEARNS, CNN_LEARNS_SIMPLE = 0.6, 0.9
MODELS = {"linear": "LinearModel", "mlp": "MLPModel", "cnn": "CNNModel"}


def stirred_model(student, rng, kind: str):
    """One of the student's models after a few steps."""
    return stirred(student_model(student, MODULE, MODELS[kind]), rng, "cross_entropy")


def departure_from_affine(model, rng) -> float:
    """How far f(a x + (1-a) y) is from a f(x) + (1-a) f(y), in standard deviations of the outputs."""
    x, y = (fresh_data.noise(rng, 32, model.channels) for _ in range(2))
    a = rng.uniform(0.2, 0.8, (32, 1)).astype(np.float32)
    weight = a[..., None, None]
    f_x, f_y, f_mixed = (model(images, model.num_classes) for images in (x, y, weight * x + (1 - weight) * y))
    expect(f_x.std(axis=0).max() > 1e-6, "the logits are the same for every image: they do not depend on the input")
    return float(np.abs(f_mixed - (a * f_x + (1 - a) * f_y)).mean() / f_x.std(axis=0).mean())


def learned(student, rng, name, new_task, batch, recipes, enough) -> float:
    """Best accuracy on fresh images after our own short trainings of the student's model, each on a newly drawn task.

    recipes: (steps, learning rate, training images). Models without normalisation or with dropout need the later ones;
    the first that reaches `enough` ends it. The tasks have at least 4 classes; for fewer the model is made for 4.
    """
    best, more = 0.0, {"num_classes": 4} if student.num_classes < 4 else {}
    for steps, learning_rate, count in recipes:
        model, task = student_model(student, MODULE, name, **more), new_task(channels=student.channels)
        images, labels = task.draw(count)
        order = fresh_data.batches(rng, count, steps, batch)
        model.fit(images, labels, order, "cross_entropy", learning_rate, seed=1)
        images, labels = task.draw(400)
        logits = model(images, model.num_classes)
        best = max(best, float((logits.argmax(axis=1) == labels).mean()))
        if best >= enough:
            expect_logits(logits)
            break
    return best


def expect_logits(logits: np.ndarray) -> None:
    """Trained logits are on both sides of zero and beyond 1; else an activation follows the last layer."""
    expect(
        logits.min() < 0, "no output is ever negative: these are not logits; which activation follows the last layer?"
    )
    bounded = np.abs(logits).max() <= 1.0
    expect(
        not bounded, "all outputs lie between -1 and 1: these are not logits; which activation follows the last layer?"
    )


@pytest.mark.parametrize("kind", MODELS)
def test_shapes(student, rng, kind):
    for batch in (1, 7):
        model = student_model(student, MODULE, MODELS[kind])
        model(fresh_data.noise(rng, batch, model.channels), model.num_classes)


@pytest.mark.parametrize("kind", MODELS)
def test_num_classes(student, rng, kind):
    other = 4 if student.num_classes != 4 else 6
    model = student_model(student, MODULE, MODELS[kind], num_classes=other)
    model(fresh_data.noise(rng, 2, model.channels), other)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_evaluation(student, rng, kind):
    check_company(student_model(student, MODULE, MODELS[kind]), rng, student.num_classes)  # before it is sure
    check_evaluation(stirred_model(student, rng, kind), rng, student.num_classes)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_own_network(place, kind):
    check_own_network(place, MODULE, MODELS[kind], MODELS.values())


def test_linear_is_affine(student, rng):
    model = stirred_model(student, rng, "linear")
    departure = departure_from_affine(model, rng)
    expect(departure < 1e-3, f"the model is not linear: it departs from a straight line by {departure:.2g}")
    moved = effects_of_values(model, rng, model.num_classes)
    expect(not (without := without_effect(moved)), f"{without} have no influence on the logits")
    expect(model.channels == 1 or np.ptp(moved, axis=1).max() > 1e-6, "the model cannot tell the colour channels apart")


def test_mlp_sees_every_pixel(student, rng):
    model = stirred_model(student, rng, "mlp")
    moved = effects_of_values(model, rng, model.num_classes)
    expect(
        not (without := without_effect(moved)), f"{without} have no influence on the logits: flatten the whole image"
    )
    apart = np.ptp(moved, axis=0).max()
    expect(apart > 1e-3 * np.abs(moved).max(), "all pixels have the same influence: flatten the image, pool nothing")


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_not_linear(student, rng, kind):
    departure = departure_from_affine(stirred_model(student, rng, kind), rng)
    expect(departure > 1e-3, "the model is a linear function of the image")


def test_linear_learns(student, rng):
    recipes = [(100, 1e-3, 2048), (200, 1e-3, 4096)]
    task = functools.partial(fresh_data.LinearTask, rng, min(9, max(4, student.num_classes)))
    reached = learned(student, rng, "LinearModel", task, 64, recipes, 0.75)
    expect(reached >= 0.75, f"200 steps on a linear problem reach accuracy {reached:.2f}, expected at least 0.75")


def test_mlp_learns(student, rng):
    """ReLU nets reach 1.0 in 100 steps, three layers with tanh 0.98 in 300, one of tanh or sigmoid 0.83 in 3000 (n=2).

    A linear model has 0.25, the vote of the nearest images of the training set 0.7 at most.
    """
    recipes = [(100, 1e-3, 2048), (300, 3e-3, 4096), (3000, 3e-3, 8192)]
    reached = learned(student, rng, "MLPModel", functools.partial(fresh_data.ProductTask, rng), 64, recipes, MLP_LEARNS)
    expect(
        reached >= MLP_LEARNS,
        f"3000 steps on a nonlinear problem reach accuracy {reached:.2f}, expected at least {MLP_LEARNS}",
    )


def largest_kernel(student, rng, kind: str) -> int:
    """Side of the largest kernel of the model's convolutions, 0 if there is none; reported by the worker."""
    model = student_model(student, MODULE, MODELS[kind])
    reply = student.ask(
        "largest_kernel", {"object": model.number}, {"images": fresh_data.noise(rng, 2, model.channels)}
    )
    side = reply.result.get("side")
    expect(type(side) is int, "your process answered nonsense about its convolutions")
    return side


def test_mlp_is_dense(student, rng):
    """A convolution as large as the image, or of single pixels, is a dense layer written another way. Reported."""
    side = largest_kernel(student, rng, "mlp")
    expect(
        not 1 < side < fresh_data.SIDE,
        f"an MLP has dense layers (nn.Linear) and no convolutions; found a kernel of {side} x {side}",
    )


def test_cnn_convolves(student, rng):
    """Pooling alone lets 1 x 1 convolutions see a little of what lies side by side. Reported by the worker."""
    side = largest_kernel(student, rng, "cnn")
    found = f"the largest kernel is {side} x {side}" if side else "it has none"
    expect(
        1 < side < fresh_data.SIDE, f"the model needs convolutions that look at neighbouring pixels, 3 x 3 say; {found}"
    )


def test_cnn_learns(student, rng):
    """A bound above what nets without convolutions reach, and far below what a CNN does: chance is 0.25.

    Best accuracy of the three trainings, seeds from 0 on: three conv-BatchNorm-ReLU blocks and two dense layers 0.98 to
    1.0 (n = 7, in the first training), two 5 x 5 convolutions without padding 0.81 and 0.97 (n = 2), ConvNeXt 1.0
    (n = 1); an MLP with BatchNorm 0.32 (n = 1). LeNet with tanh and average pooling is too weak for it (0.24, n = 2)
    and has the simpler task: 0.985 to 1.0 (n = 10), where dense nets reach at most 0.17 (n = 4) and 1 x 1 convolutions
    with pooling and dense layers 0.60 and 0.83 (n = 2).
    """
    recipes = [(80, 2e-3, 1024), (300, 2e-3, 4096), (1000, 1e-3, 4096)]
    reached = learned(
        student, rng, "CNNModel", functools.partial(fresh_data.AnywhereTask, rng), 16, recipes, CNN_LEARNS
    )
    if reached >= CNN_LEARNS:
        return
    simple = learned(
        student, rng, "CNNModel", functools.partial(fresh_data.ElsewhereTask, rng), 16, recipes[-1:], CNN_LEARNS_SIMPLE
    )
    expect(
        simple >= CNN_LEARNS_SIMPLE,
        f"1000 steps on patterns that may lie anywhere reach accuracy {reached:.2f}, expected at least {CNN_LEARNS}; "
        f"on simpler ones {simple:.2f}, expected {CNN_LEARNS_SIMPLE}: are there convolutions larger than 1 x 1?",
    )


@pytest.mark.parametrize("kind", MODELS)
def test_gradients(student, rng, kind):
    model = stirred_model(student, rng, kind)
    expect(model.trainable > 0, "the model has no trainable parameter")
    weights = rng.standard_normal((16, model.num_classes)).astype(np.float32)
    dead = model.dead_parameters(fresh_data.noise(rng, 16, model.channels), weights)
    expect(not dead, f"no gradient reaches {', '.join(dead[:3])}")
