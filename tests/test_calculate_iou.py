"""The provided IoU, against scikit-learn's Jaccard score and cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from segmentation_models import calculate_iou

pytestmark = pytest.mark.provided


def random_masks(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(6, 1, 10, 10, generator=generator), (torch.rand(6, 1, 10, 10, generator=generator) > 0.6).float()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_equals_scikit_learn_averaged_over_images(threshold):
    pred, true = random_masks(0)
    expected = np.mean(
        [
            jaccard_score(t.flatten().numpy() > 0.5, p.flatten().numpy() > threshold)
            for p, t in zip(pred, true, strict=True)
        ]
    )
    # The true mask holds 0 and 1, so every threshold between them means the same for it.
    assert calculate_iou(pred, true, threshold=threshold) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", ["(B, 1, H, W)", "(B, H, W)"])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_takes_tensors_and_arrays_with_and_without_channel(shape, kind):
    pred, true = random_masks(1)
    expected = calculate_iou(pred, true)
    if shape == "(B, H, W)":
        pred, true = pred[:, 0], true[:, 0]
    if kind == "array":
        pred, true = pred.numpy(), true.numpy()
    result = calculate_iou(pred, true)
    assert type(result) is float
    assert result == pytest.approx(expected)


def test_is_a_mean_over_images_and_not_over_the_pixels_of_the_batch():
    true = torch.zeros(2, 1, 4, 4)
    true[0] = 1  # 16 pixels, all found
    true[1, 0, 0, 0] = 1  # 1 pixel, missed
    pred = true.clone()
    pred[1] = 0
    assert calculate_iou(pred, true) == 0.5  # over the pixels of the batch it would be 16 / 17


def test_two_empty_masks_agree():
    empty = torch.zeros(3, 1, 5, 5)
    assert calculate_iou(empty, empty) == 1.0
    assert calculate_iou(empty + 1, empty) == 0.0
    assert calculate_iou(empty, empty + 1) == 0.0


def test_a_probability_at_the_threshold_is_outside():
    true = torch.ones(1, 1, 2, 2)
    assert calculate_iou(torch.full((1, 1, 2, 2), 0.5), true) == 0.0
    assert calculate_iou(torch.full((1, 1, 2, 2), 0.501), true) == 1.0


def test_no_gradient_is_needed():
    pred, true = random_masks(2)
    assert calculate_iou(pred.requires_grad_(), true) > 0


def test_masks_of_different_size_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        calculate_iou(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 5, 5))
