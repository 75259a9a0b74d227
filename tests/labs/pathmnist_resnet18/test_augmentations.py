"""Stain jitter against the formula pixel by pixel, RandAugment against torchvision image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import hed_from_rgb, rgb_from_hed

from labs.pathmnist_resnet18.src import augmentations
from labs.pathmnist_resnet18.src.augmentations import OPERATIONS, RandAugment, StainJitter, jitter_stains, named
from labs.pathmnist_resnet18.src.job import AUGMENTATIONS
from toolkit.augment import Augmentation, normalize

pytestmark = pytest.mark.provided
STILL = Augmentation(flips=False)


@pytest.fixture
def images() -> torch.Tensor:
    """Random pixels, uint8 (6, 3, 28, 28)."""
    return torch.randint(256, (6, 3, 28, 28), dtype=torch.uint8)


def by_hand(light: np.ndarray, gains: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """One image (3, H, W), one pixel after the other, with the stains of scikit-image."""
    made = np.empty_like(light)
    for y, x in np.ndindex(light.shape[1:]):
        density = -np.log(np.maximum(light[:, y, x], augmentations.DARKEST))
        amounts = density @ hed_from_rgb * gains + offsets
        made[:, y, x] = np.clip(np.exp(-(amounts @ rgb_from_hed)), 0, 1)
    return made


def test_stain_jitter_is_the_formula_of_each_pixel(images: torch.Tensor) -> None:
    light = images / 255
    gains, offsets = torch.rand(6, 3) + 0.5, torch.rand(6, 3) * 0.2 - 0.1
    made = jitter_stains(light, gains, offsets)
    for i in range(6):
        wanted = by_hand(light[i].double().numpy(), gains[i].double().numpy(), offsets[i].double().numpy())
        np.testing.assert_allclose(made[i].numpy(), wanted, atol=2e-5)


def test_stain_jitter_by_nothing_changes_nothing(images: torch.Tensor) -> None:
    light = images / 255
    same = jitter_stains(light, torch.ones(6, 3), torch.zeros(6, 3))
    torch.testing.assert_close(same, light, atol=2e-5, rtol=0)


def test_glass_stays_white_however_strong_the_stains() -> None:
    white = torch.ones(2, 3, 4, 4)
    made = jitter_stains(white, torch.tensor([[0.5, 1.5, 1.2], [2, 2, 2]]), torch.zeros(2, 3))
    torch.testing.assert_close(made, white)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_keeps_its_promises(name: str, images: torch.Tensor) -> None:
    before = images.clone()
    augment = named(name, 28)
    first = augment(images, torch.Generator().manual_seed(1))
    again = augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(images, before)
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert first.min() >= -1
    assert first.max() <= 1
    assert torch.equal(first, again)
    if name != "none":
        assert not torch.equal(first, augment(images, torch.Generator().manual_seed(2)))


def test_equal_images_get_different_numbers() -> None:
    one = torch.randint(256, (1, 3, 28, 28), dtype=torch.uint8).expand(8, -1, -1, -1)
    made = StainJitter(STILL)(one, torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in made}) == 8


def test_randaugment_is_torchvision_for_each_image(images: torch.Tensor) -> None:
    """The oracle draws the same numbers and gives each image to its operations alone."""
    augment = RandAugment(count=2, magnitude=0.4, geometry=STILL)
    many = images.repeat(10, 1, 1, 1)
    made = augment(many, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randint(2 * len(OPERATIONS), (len(many),), generator=generator) for _ in range(2)]
    used = set()
    for i, image in enumerate(many):
        wanted = image[None]
        for numbers in drawn:
            name = list(OPERATIONS)[int(numbers[i]) // 2]
            used.add(name)
            wanted = OPERATIONS[name](wanted, 0.4 if numbers[i] % 2 else -0.4)
        torch.testing.assert_close(made[i], normalize(wanted)[0])
    assert used == set(OPERATIONS)


def test_what_is_moved_in_is_glass() -> None:
    black = torch.zeros(1, 3, 28, 28, dtype=torch.uint8)
    moved = OPERATIONS["move across"](black, 1.0)
    assert set(moved.unique().tolist()) == {0, 255}
    assert (moved[..., :8] == 255).all()
    assert (moved[..., 8:] == 0).all()
