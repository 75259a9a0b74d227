"""Part 2: the four segmentation models. Their skips are found by what they do, not by what they are called."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pytest

from staff.grader import fresh_data, oracle
from staff.grader.client import StudentError, expect
from staff.grader.model import student_model
from staff.grader.models_of import (
    check_company,
    check_evaluation,
    check_mask_lies_there,
    check_own_network,
    check_sees_all,
    effects_of_values,
    reach,
    seen_from,
    stirred,
    without_effect,
)

MODULE = "segmentation_models"
MODELS = {"linear": "LinearSegmentation", "mlp": "MLPSegmentation", "cnn": "SimpleCNN", "unet": "TinyUNet"}
FIELD_OF_VIEW = 7  # pixels
# 80 steps of 16: right U-Nets reach 0.89 to 0.97, the same without skips 0.46 to 0.70, with each skip at the other
# level 0.78. After more steps that one would pass.
COPIES_WITH_SKIP = 0.85


def logit(probabilities: np.ndarray) -> np.ndarray:
    clipped = probabilities.astype(np.float64).clip(1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def departure_from_affine(model, rng) -> float:
    """As for the classifiers, on the log-odds of the mask. A deep model that is new hardly depends on its input."""
    x, y = (fresh_data.noise(rng, 16, model.channels) for _ in range(2))
    a = rng.uniform(0.2, 0.8, (16, 1, 1, 1)).astype(np.float32)
    f_x, f_y, f_mixed = (logit(model(images)) for images in (x, y, a * x + (1 - a) * y))
    expect(f_x.std(axis=0).max() > 2e-6, "the mask is the same for every image: it does not depend on the input")
    return float(np.abs(f_mixed - (a * f_x + (1 - a) * f_y)).mean() / f_x.std(axis=0).mean())


def built(student, name: str):
    """One of the student's models; a U-Net with base_channels=16, whatever their default is, if it can be given."""
    if name == "TinyUNet":
        with contextlib.suppress(StudentError):
            return student_model(student, MODULE, name, base_channels=16)
    return student_model(student, MODULE, name)


def stirred_model(student, rng, kind: str):
    """One of the student's models after a few steps."""
    return stirred(built(student, MODELS[kind]), rng, "mask")


def learned(student, rng, name, new_task, batch, recipes, enough) -> float:
    """Best mean IoU on fresh images after our own short trainings of the student's model, each on a newly drawn task.

    recipes: (steps, learning rate, training images); the first that reaches `enough` ends it. A right model may miss
    it once by the luck of weights and task, hardly twice.
    """
    best = 0.0
    for steps, learning_rate, count in recipes:
        model, task = built(student, name), new_task(channels=student.channels)
        images, masks = task.draw(count)
        model.fit(images, masks, fresh_data.batches(rng, count, steps, batch), "mask", learning_rate, seed=1)
        images, masks = task.draw(200)
        probabilities = model(images)
        best = max(best, float(np.mean(oracle.iou(probabilities, masks))))
        if best >= enough:
            # A trained model is surer than one half of what lies outside; else an activation stands before the sigmoid.
            expect(probabilities.min() < 0.5, "no probability is ever below one half: what stands before the sigmoid?")
            break
    return best


@pytest.mark.parametrize("kind", MODELS)
def test_shapes(student, rng, kind):
    model = student_model(student, MODULE, MODELS[kind])
    for batch in (1, 5):
        masks = model(fresh_data.noise(rng, batch, model.channels))
        wanted = (batch, 1, fresh_data.SIDE, fresh_data.SIDE)
        expect(masks.shape == wanted, f"the output has shape {masks.shape}, expected {wanted}")
    masks = np.concatenate(
        [model(scale * fresh_data.noise(rng, 4, model.channels)) for scale in (np.float32(4.0), np.float32(0.1))]
    )
    expect(masks.min() >= 0 and masks.max() <= 1, "the output is not a probability in [0, 1]: where is the sigmoid?")


@pytest.mark.parametrize("kind", MODELS)
def test_channels(student, rng, kind):
    other = 1 if student.channels > 1 else 3
    model = student_model(student, MODULE, MODELS[kind], in_channels=other, out_channels=2)
    masks = model(fresh_data.noise(rng, 2, other))
    wanted = (2, 2, fresh_data.SIDE, fresh_data.SIDE)
    said = f"with in_channels={other}, out_channels=2 the output is {masks.shape}, expected {wanted}"
    expect(masks.shape == wanted, said)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "unet"])
def test_evaluation(student, rng, kind):
    check_company(built(student, MODELS[kind]), rng)  # before its answers are sure
    check_evaluation(stirred_model(student, rng, kind), rng)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "unet"])
def test_own_network(place, kind):
    check_own_network(place, MODULE, MODELS[kind], MODELS.values())


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_sees_whole_image(student, rng, kind):
    """Each pixel of the mask depends on all four corners of the image: no convolution, however it is written."""
    model = stirred_model(student, rng, kind)
    images = fresh_data.noise(rng, 8, model.channels)
    last = fresh_data.SIDE - 4
    for place in ((0, 0), (0, last), (last, 0), (last, last)):
        share = float(seen_from(model, images, place).mean())
        expect(
            share > 0.9,
            "the model does not see the whole image: flatten it and use nn.Linear from all values, no convolution\n"
            f"a corner of the image matters for {share:.0%} of the mask's pixels, expected all",
        )
    check_sees_all(model, rng)
    without = without_effect(effects_of_values(model, rng))
    expect(not without, f"{without} have no influence on the mask: flatten the whole image")


@pytest.mark.parametrize("kind", ["cnn", "unet"])
def test_field_of_view(student, rng, kind):
    """What lies 7 pixels away matters. Five 3 x 3 convolutions see 5 pixels far, two strided ones and a decoder 7."""
    model = stirred_model(student, rng, kind)
    check_mask_lies_there(model, rng)
    pixels = reach(model, rng)
    expect(
        pixels >= FIELD_OF_VIEW,
        f"the mask sees only {pixels} pixels far, expected {FIELD_OF_VIEW} at least: an encoder with pooling sees more",
    )


def test_unet_base_channels(student, rng):
    small, large = (student_model(student, MODULE, "TinyUNet", base_channels=c) for c in (8, 16))
    expect(small.trainable < large.trainable, "base_channels does not change the number of parameters")
    expect(
        small(fresh_data.noise(rng, 2, small.channels)).shape == (2, 1, 28, 28),
        "base_channels=8 gives another output shape",
    )


def test_linear_is_affine(student, rng):
    departure = departure_from_affine(stirred_model(student, rng, "linear"), rng)
    expect(departure < 1e-2, f"the log-odds are not linear in the image: they depart by {departure:.2g}")


@pytest.mark.parametrize("kind", ["mlp", "cnn", "unet"])
def test_not_linear(student, rng, kind):
    departure = departure_from_affine(stirred_model(student, rng, kind), rng)
    expect(departure > 5e-3, "the model is a linear function of the image")


def test_linear_learns(student, rng):
    recipes = [(150, 1e-2, 1024), (300, 1e-2, 1024)]
    task = functools.partial(fresh_data.FieldTask, rng, linear=True, distracting=False)
    reached = learned(student, rng, "LinearSegmentation", task, 32, recipes, 0.75)
    expect(reached >= 0.75, f"300 steps on a linear problem reach IoU {reached:.2f}, expected at least 0.75")


def test_mlp_learns(student, rng):
    """Wide tanh layers are right, but need more than 100 steps for a nonlinear problem: they may show an easier one."""
    reached = {}
    for linear, enough in ((False, 0.65), (True, 0.85)):
        task = functools.partial(fresh_data.FieldTask, rng, linear=linear, distracting=True)
        reached[linear] = learned(student, rng, "MLPSegmentation", task, 64, [(100, 1e-3, 1024)], enough)
        if reached[linear] >= enough:
            return
    found = f"IoU {reached[False]:.2f} on a nonlinear problem, expected at least 0.65"
    expect(False, f"100 steps reach {found}; and {reached[True]:.2f} on a linear one, expected at least 0.85")


@pytest.mark.parametrize("kind", ["cnn", "unet"])
def test_convolution_learns(student, rng, kind):
    recipes = [(80, 2e-3, 512), (200, 1e-3, 1024)]
    reached = learned(student, rng, MODELS[kind], functools.partial(fresh_data.TextureTask, rng), 16, recipes, 0.80)
    expect(reached >= 0.80, f"200 steps on textures that may lie anywhere reach IoU {reached:.2f}, expected 0.80")


def test_unet_has_skips(student, rng):
    recipes = 2 * [(80, 3e-3, 512)]
    reached = learned(
        student, rng, "TinyUNet", functools.partial(fresh_data.CopyTask, rng), 16, recipes, COPIES_WITH_SKIP
    )
    expect(
        reached >= COPIES_WITH_SKIP,
        f"fine detail is lost: copying single pixels reaches IoU {reached:.2f}, with skip connections at least "
        f"{COPIES_WITH_SKIP}",
    )


def without_middle(student, rng, kind: str) -> tuple[dict, np.ndarray]:
    """What the worker reports while the smallest maps are alike for all images, and the outputs for two images."""
    model = stirred_model(student, rng, kind)
    reply = student.ask(
        "ablate_smallest", {"object": model.number}, {"images": fresh_data.noise(rng, 2, model.channels)}
    )
    side, output = reply.result.get("smallest_side"), reply.arrays.get("output")
    expect(type(side) is int and output is not None and len(output) == 2, "your process answered nonsense")
    expect(side <= fresh_data.SIDE // 2, "no feature map is smaller than the image: there is no encoder")
    return reply.result, output


@pytest.mark.parametrize("kind", ["cnn", "unet"])
def test_encoder(student, rng, kind):
    """The network has maps at half the image's size or less, as reported by the worker."""
    without_middle(student, rng, kind)


def test_unet_skips_at_every_size(student, rng):
    """With the smallest maps alike for all images, the encoder's layers of every other size still reach the output."""
    sides = without_middle(student, rng, "unet")[0].get("cut_sides")
    expect(isinstance(sides, list), "your process answered nonsense")
    sizes = " and ".join(f"{side} x {side}" for side in sides if type(side) is int)
    expect(not sides, f"the encoder's maps of {sizes} reach the output through the middle alone: no skip at that size")


@pytest.mark.parametrize("kind", ["cnn", "unet"])
def test_middle(student, rng, kind):
    """With the smallest maps alike for all images, only a network with skips still sees its input."""
    output = without_middle(student, rng, kind)[1]
    sees = bool(np.abs(output[0] - output[1]).max() > 1e-6)
    if kind == "unet":
        expect(sees, "with the middle removed the output no longer depends on the image: there are no skip connections")
    else:
        expect(not sees, "with the middle removed the output still depends on the image: there is a skip connection")


@pytest.mark.parametrize("kind", MODELS)
def test_gradients(student, rng, kind):
    model = stirred_model(student, rng, kind)
    expect(model.trainable > 0, "the model has no trainable parameter")
    weights = rng.standard_normal((8, 1, fresh_data.SIDE, fresh_data.SIDE)).astype(np.float32)
    dead = model.dead_parameters(fresh_data.noise(rng, 8, model.channels), weights)
    expect(not dead, f"no gradient reaches {', '.join(dead[:3])}")
