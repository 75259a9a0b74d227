"""TODO 2.4 and 2.5: Dice loss and combined loss, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from segmentation_models import CombinedLoss, DiceLoss
from tests import helpers

pytestmark = pytest.mark.filterwarnings("default")  # a warning in a student's code is not a failure


def two_images() -> tuple[torch.Tensor, torch.Tensor]:
    """A large and a small mask, predicted unequally well: (2, 1, 4, 4) each."""
    target = torch.zeros(2, 1, 4, 4)
    target[0, 0, :, :3] = 1  # 12 pixels
    target[1, 0, 0, 0] = 1  # 1 pixel
    pred = torch.full((2, 1, 4, 4), 0.1)
    pred[0][target[0] == 1] = 0.9
    pred[1, 0, 0, 0] = 0.3
    return pred, target


def dice_loss_oracle(pred: torch.Tensor, target: torch.Tensor, smooth: float) -> float:
    """1 - mean over images of (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), pixel by pixel."""
    losses = []
    for p, t in zip(pred.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        overlap = sum(a * b for a, b in zip(p, t, strict=True))
        losses.append(1 - (2 * overlap + smooth) / (sum(p) + sum(t) + smooth))
    return sum(losses) / len(losses)


@pytest.mark.todo_2_4
@pytest.mark.parametrize("smooth", [1.0, 0.1, 5.0])
def test_dice_is_averaged_over_images(smooth):
    pred, target = two_images()
    loss = helpers.number(DiceLoss(smooth=smooth)(pred, target), "the Dice loss of a batch")
    expected = dice_loss_oracle(pred, target, smooth)
    overlap, size = (pred * target).sum().item(), (pred.sum() + target.sum()).item()
    over_the_batch = 1 - (2 * overlap + smooth) / (size + smooth)  # is in use, too, and trains as well
    wrong = {
        "this is the Dice coefficient and not 1 minus it": 1 - expected,
        "this is 1 plus the Dice coefficient": 2 - expected,
        "this is the sum over the images instead of their mean": 2 * expected,
        "smooth is not used": dice_loss_oracle(pred, target, 0.0),
        "the 2 before the overlap is missing": _with_overlap_once(pred, target, smooth),
        "a sigmoid is applied again; the predictions are probabilities": dice_loss_oracle(
            pred.sigmoid(), target, smooth
        ),
        "this is the Dice of the background": dice_loss_oracle(1 - pred, 1 - target, smooth),
        "predictions are rounded; use the probabilities": dice_loss_oracle((pred > 0.5).float(), target, smooth),
        "the sums run over single rows instead of each image": dice_loss_oracle(
            pred.flatten(0, 2), target.flatten(0, 2), smooth
        ),
        "the sums below are of squares": _with_squares_below(pred, target, smooth),
        "this is the logarithm of the Dice coefficient": -math.log(1 - expected),
        "its sign is reversed": -expected,
        **_with_other_sums(pred, target, smooth),
    }
    wrong = {cause: value for cause, value in wrong.items() if abs(value - expected) > 1e-3}  # smooth=1 is smooth=1
    assert len(wrong) > 15, "this check could not tell the usual mistakes"
    hint = next((f"; {name}" for name, value in wrong.items() if abs(loss - value) < 1e-5), "")
    right = min(abs(loss - value) for value in (expected, over_the_batch)) < 1e-5
    assert right, f"expected a Dice loss of {expected:.6f}, got {loss:.6f}{hint}"


def _with_other_sums(pred: torch.Tensor, target: torch.Tensor, smooth: float) -> dict[str, float]:
    """Cause -> what sums over other axes, or put together in another way, give."""
    above, sizes = 2 * (pred * target).flatten(1).sum(dim=1), (pred + target).flatten(1).sum(dim=1)
    losses = 1 - (above + smooth) / (sizes + smooth)
    per_pixel = 1 - (2 * (pred * target).sum(dim=0) + smooth) / ((pred + target).sum(dim=0) + smooth)
    return {
        "smooth is always 1, whatever was asked for": (1 - (above + 1) / (sizes + 1)).mean().item(),
        "smooth is missing below the fraction bar": (1 - (above + smooth) / sizes).mean().item(),
        "smooth is missing above the fraction bar": (1 - above / (sizes + smooth)).mean().item(),
        "parentheses are missing around numerator and denominator": (1 - (above + smooth / sizes + smooth))
        .mean()
        .item(),
        "the union stands below instead of the sum of both sizes": (1 - (above + smooth) / (sizes - above / 2 + smooth))
        .mean()
        .item(),
        "the sums run over the images (dim 0) instead of the pixels of each": per_pixel.mean().item(),
        "this is the smallest loss of an image instead of the mean": losses.min().item(),
        "this is the largest loss of an image instead of the mean": losses.max().item(),
    }


def _with_squares_below(pred: torch.Tensor, target: torch.Tensor, smooth: float) -> float:
    overlap = (pred * target).flatten(1).sum(dim=1)
    size = (pred**2 + target**2).flatten(1).sum(dim=1)
    return (1 - (2 * overlap + smooth) / (size + smooth)).mean().item()


def _with_overlap_once(pred: torch.Tensor, target: torch.Tensor, smooth: float) -> float:
    overlap = (pred * target).flatten(1).sum(dim=1)
    size = (pred + target).flatten(1).sum(dim=1)
    return (1 - (overlap + smooth) / (size + smooth)).mean().item()


@pytest.mark.todo_2_4
def test_a_perfect_mask_costs_nothing():
    _, target = two_images()
    helpers.check_close(DiceLoss()(target, target), 0.0, "a Dice loss of", tolerance=1e-6)


@pytest.mark.todo_2_4
def test_a_mask_without_overlap_costs_nearly_one():
    target = torch.zeros(1, 1, 28, 28)
    target[:, :, :10, :10] = 1
    loss = DiceLoss(smooth=1.0)(target.flip(2, 3), target)
    helpers.check_close(loss, 1 - 1 / 201, "a Dice loss of 1 - 1 / 201 =", tolerance=1e-5)


@pytest.mark.todo_2_4
def test_two_empty_masks_cost_nothing():
    empty = torch.zeros(2, 1, 28, 28)
    helpers.check_close(DiceLoss(smooth=1.0)(empty, empty), 0.0, "a Dice loss (smooth / smooth = 1, so) of", 1e-6)


@pytest.mark.todo_2_4
def test_the_dice_loss_is_a_scalar_with_a_gradient():
    pred, target = two_images()
    pred.requires_grad_()
    loss = DiceLoss()(pred, target)
    helpers.check_shape(loss, (), "a loss")
    assert loss.requires_grad, "expected a loss that gradients flow through, got one without (item? detach? rounding?)"
    loss.backward()
    assert (pred.grad[target == 1] < 0).all(), "expected the loss to fall with more probability inside the mask"
    assert (pred.grad[target == 0] > 0).all(), "expected the loss to rise with more probability outside the mask"


@pytest.mark.todo_2_5
@pytest.mark.parametrize(("bce_weight", "dice_weight"), [(0.5, 0.5), (0.2, 0.9), (1.0, 0.0), (0.0, 1.0), (3.0, 2.0)])
def test_the_combined_loss_weighs_both(bce_weight, dice_weight):
    pred, target = two_images()
    loss = CombinedLoss(bce_weight=bce_weight, dice_weight=dice_weight)(pred, target)
    bce = F.binary_cross_entropy(pred, target).item()
    dice = DiceLoss()(pred, target).item()  # of the student's own, so that a wrong Dice loss fails in TODO 2.4 alone
    expected = bce_weight * bce + dice_weight * dice
    with_logits = F.binary_cross_entropy_with_logits(pred, target).item()
    wrong = {
        "this takes the probabilities for logits; use binary_cross_entropy": bce_weight * with_logits
        + dice_weight * dice,
        "the two weights are swapped": dice_weight * bce + bce_weight * dice,
        "the weights are not used": bce + dice,
        "the weights are divided by their sum": expected / (bce_weight + dice_weight),
        "this is half of it": expected / 2,
        "the first part is a squared error; use binary_cross_entropy": bce_weight * F.mse_loss(pred, target).item()
        + dice_weight * dice,
        "the prediction is rounded before the cross-entropy": bce_weight
        * F.binary_cross_entropy((pred > 0.5).float(), target).item()
        + dice_weight * dice,
        "prediction and target are swapped in the cross-entropy": bce_weight
        * F.binary_cross_entropy(target, pred).item()
        + dice_weight * dice,
        "one weight is taken for 1 minus the other": bce_weight * bce + (1 - bce_weight) * dice,
        "both have the weight 0.5, whatever was asked for": 0.5 * bce + 0.5 * dice,
        "the Dice loss is subtracted": bce_weight * bce - dice_weight * dice,
        "the two losses are multiplied": bce_weight * bce * dice_weight * dice,
        "both have the first weight": bce_weight * (bce + dice),
        "both have the second weight": dice_weight * (bce + dice),
        "DiceLoss is 1 minus the coefficient already": bce_weight * bce + dice_weight * (1 - dice),
        "the cross-entropy is summed; take its mean": bce_weight * bce * pred.numel() + dice_weight * dice,
    }
    hint = next((f"; {name}" for name, value in wrong.items() if abs(float(loss) - value) < 1e-5), "")
    assert abs(float(loss) - expected) < 1e-5, (
        f"expected a loss of {bce_weight} x {bce:.4f} (BCE) + {dice_weight} x {dice:.4f} (Dice) = {expected:.4f}, got "
        f"{float(loss):.4f}{hint}"
    )


@pytest.mark.todo_2_5
def test_half_and_half_unless_told_otherwise():
    pred, target = two_images()
    loss = CombinedLoss()(pred, target)
    expected = 0.5 * F.binary_cross_entropy(pred, target).item() + 0.5 * DiceLoss()(pred, target).item()
    helpers.check_close(loss, expected, "a combined loss of", tolerance=1e-5)


@pytest.mark.todo_2_5
def test_the_cross_entropy_part_takes_probabilities_and_not_logits():
    pred = torch.full((1, 1, 2, 2), 0.25)
    loss = CombinedLoss(bce_weight=1.0, dice_weight=0.0)(pred, torch.ones_like(pred))
    assert abs(math.log1p(math.exp(-0.25)) - math.log(4)) > 0.1  # what BCEWithLogitsLoss would give
    helpers.check_close(loss, math.log(4), "a cross-entropy of -log(0.25) =", tolerance=1e-5)


@pytest.mark.todo_2_5
def test_the_combined_loss_is_a_scalar_with_a_gradient():
    pred, target = two_images()
    pred.requires_grad_()
    loss = CombinedLoss()(pred, target)
    helpers.check_shape(loss, (), "a loss")
    assert loss.requires_grad, "expected a loss that gradients flow through, got one without (item? detach?)"
    loss.backward()
    assert (pred.grad[target == 1] < 0).all(), "expected the loss to fall with more probability inside the mask"
