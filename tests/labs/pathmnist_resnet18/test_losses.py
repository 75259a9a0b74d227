"""Focal loss against its formula, MixUp against a mixture made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from labs.pathmnist_resnet18.src.losses import FocalLoss, MixUp
from toolkit.schedules import average_weights

pytestmark = pytest.mark.provided


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (16, 9) and labels (16,)."""
    return torch.randn(16, 9), torch.randint(9, (16,))


def test_focal_loss_is_its_formula(batch) -> None:
    logits, labels = batch
    weight = torch.rand(9) + 0.5
    terms = []
    for row, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
        p = np.exp(row[label]) / np.exp(row).sum()
        terms.append(float(weight[label]) * (1 - p) ** 2 * -np.log(p))
    assert FocalLoss(2.0, weight)(logits, labels).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_focal_loss_of_gamma_zero_is_cross_entropy(batch) -> None:
    torch.testing.assert_close(FocalLoss(0.0)(*batch), nn.functional.cross_entropy(*batch))


def test_focal_loss_counts_what_is_right_less(batch) -> None:
    sure = torch.tensor([[5.0, 0, 0]])
    label = torch.tensor([0])
    assert FocalLoss(2.0)(sure, label) < 1e-3 * nn.functional.cross_entropy(sure, label)


class Remembers(nn.Module):
    """Keeps what reached it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return images.flatten(1)[:, :9]


def test_mixup_mixes_images_and_losses_alike() -> None:
    model, mixing, loss = Remembers(), MixUp(0.4), nn.CrossEntropyLoss()
    mixing.attach(model)
    images, labels = torch.randn(8, 3, 4, 4).requires_grad_(), torch.randint(9, (8,))
    logits = model(images)
    share, partners = mixing.share, mixing.partners
    assert 0.5 <= share <= 1
    assert sorted(partners.tolist()) == list(range(8))
    torch.testing.assert_close(model.seen, share * images + (1 - share) * images[partners])
    wanted = share * loss(logits, labels) + (1 - share) * loss(logits, labels[partners])
    torch.testing.assert_close(mixing.criterion(loss)(logits, labels), wanted)


@pytest.mark.parametrize("number", [8, 11], ids=["as_many", "more_than_in_training"])
@pytest.mark.parametrize("averaged", [False, True], ids=["itself", "averaged_weights"])
def test_mixup_leaves_validation_alone(averaged: bool, number: int) -> None:
    model, mixing, loss = nn.Sequential(nn.Flatten(), nn.Linear(48, 9)), MixUp(0.4), nn.CrossEntropyLoss()
    mixing.attach(model)
    validated = average_weights(model, 0.9) if averaged else model  # the average is a deep copy, hook and all
    model(torch.randn(8, 3, 4, 4))  # a training batch before it must leave no trace
    images, labels = torch.randn(number, 3, 4, 4), torch.randint(9, (number,))
    with torch.inference_mode():
        logits = validated.eval()(images)
        torch.testing.assert_close(logits, model[1](images.flatten(1)))
        assert torch.equal(mixing.criterion(loss)(logits, labels), loss(logits, labels))


def test_mixup_draws_other_shares_and_partners_each_time() -> None:
    model, mixing = Remembers(), MixUp(1.0)
    mixing.attach(model)
    shares = set()
    for _ in range(20):
        model(torch.randn(8, 3, 4, 4))
        shares.add(mixing.share)
    assert len(shares) == 20
    assert 0.5 <= min(shares) < max(shares) <= 1  # the label of an image stays that of its larger part
