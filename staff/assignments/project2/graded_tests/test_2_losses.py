"""Part 2: Dice loss and combined loss, against their formulas."""

from __future__ import annotations

import numpy as np

from staff.grader import fresh_data, oracle
from staff.grader.client import expect, expect_close

MODULE = "segmentation_models"


def probabilities_and_masks(rng, count=6):
    """Random probabilities, and rectangles whose sizes differ much, so that images weigh differently."""
    return rng.uniform(0.02, 0.98, (count, 1, 28, 28)).astype(np.float32), fresh_data.rectangles(rng, count)


def ask_loss(student, name, pred, target, **keywords):
    """(value, gradient with respect to pred)."""
    made = student.ask("new_criterion", {"module": MODULE, "name": name, "keywords": keywords})
    expected = {"value": ("float64", ()), "gradient": ("float32", pred.shape)}
    reply = student.ask("loss", {"object": made.result.get("object")}, {"pred": pred, "target": target}, expected)
    return float(reply.arrays["value"]), reply.arrays["gradient"]


def cross_entropy(pred, target):
    pred = pred.astype(np.float64)
    value = -(target * np.log(pred) + (1 - target) * np.log(1 - pred)).mean()
    return float(value), (pred - target) / (pred * (1 - pred)) / pred.size


def test_dice_value(student, rng):
    for smooth in (1.0, 50.0):
        pred, target = probabilities_and_masks(rng)
        value, _ = ask_loss(student, "DiceLoss", pred, target, smooth=smooth)
        wanted = tuple(oracle.dice_losses(pred, target, smooth).values())
        expect_close(value, wanted, 1e-4, f"DiceLoss(smooth={smooth:g}) of random masks")


def test_dice_ends(student, rng):
    """Perfect, empty and missed masks, next to a random one, so that no right answer is 0 or 1."""
    pred, target = probabilities_and_masks(rng, 2)
    empty = np.zeros_like(target[:1])
    cases = {
        "a perfect prediction": (target[:1], target[:1]),
        "an empty prediction for an empty mask": (empty, empty),
        "a prediction that misses the mask entirely": (1 - target[:1], target[:1]),
        "an empty prediction": (empty, target[:1]),
    }
    for what, (guess, mask) in cases.items():
        both = [np.concatenate(pair).astype(np.float32) for pair in ((guess, pred[1:]), (mask, target[1:]))]
        value, _ = ask_loss(student, "DiceLoss", *both, smooth=1.0)
        wanted = tuple(oracle.dice_losses(*both, 1.0).values())
        expect_close(value, wanted, 1e-4, f"DiceLoss(smooth=1) of {what} and a random one")


def test_dice_gradient(student, rng):
    pred, target = probabilities_and_masks(rng)
    value, gradient = ask_loss(student, "DiceLoss", pred, target, smooth=1.0)
    values, gradients = oracle.dice_losses(pred, target, 1.0), oracle.dice_gradients(pred, target, 1.0)
    kind = min(values, key=lambda name: abs(values[name] - value))
    worst = np.abs(gradient - gradients[kind]).max() / np.abs(gradients[kind]).max()
    expect(worst < 1e-3, "the gradient of DiceLoss is not that of its formula")


def test_combined_weights(student, rng):
    pred, target = probabilities_and_masks(rng)
    bce, _ = cross_entropy(pred, target)
    value, _ = ask_loss(student, "CombinedLoss", pred, target, bce_weight=1.0, dice_weight=0.0)
    expect_close(value, bce, 1e-4, "CombinedLoss(bce_weight=1, dice_weight=0), which is the binary cross-entropy,")
    dice, _ = ask_loss(student, "CombinedLoss", pred, target, bce_weight=0.0, dice_weight=1.0)
    smooth = oracle.smooth_of(dice, pred, target)
    expect(smooth is not None, "CombinedLoss(bce_weight=0, dice_weight=1) is not a Dice loss for any smoothing")
    a, b = (float(w) for w in rng.uniform(0.1, 2.0, 2))
    value, _ = ask_loss(student, "CombinedLoss", pred, target, bce_weight=a, dice_weight=b)
    expect_close(value, a * bce + b * dice, 2e-4, f"CombinedLoss(bce_weight={a:.2f}, dice_weight={b:.2f})")


def test_combined_defaults(student, rng):
    pred, target = probabilities_and_masks(rng)
    bce, _ = cross_entropy(pred, target)
    dice, _ = ask_loss(student, "CombinedLoss", pred, target, bce_weight=0.0, dice_weight=1.0)
    expect(oracle.smooth_of(dice, pred, target) is not None, "its Dice part is not a Dice loss for any smoothing")
    value, _ = ask_loss(student, "CombinedLoss", pred, target)
    expect_close(value, 0.5 * bce + 0.5 * dice, 2e-4, "CombinedLoss() with its default weights of 0.5 and 0.5")


def test_combined_gradient(student, rng):
    pred, target = probabilities_and_masks(rng)
    value, gradient = ask_loss(student, "CombinedLoss", pred, target, bce_weight=1.0, dice_weight=0.0)
    bce, wanted = cross_entropy(pred, target)
    expect_close(value, bce, 1e-4, "CombinedLoss(bce_weight=1, dice_weight=0)")
    expect(np.abs(gradient - wanted).max() < 1e-3 * np.abs(wanted).max(), "its gradient is not that of its formula")
