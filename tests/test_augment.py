"""Augmentation of whole batches: what comes out is what the description allows, for each image by itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from toolkit.augment import Augmentation, denormalize, named_augmentation, normalize
from toolkit.errors import UserError

pytestmark = pytest.mark.provided


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, size: int = 8) -> torch.Tensor:
    """uint8 (count, 3, size, size), no two pixels alike in a useful sense."""
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator(1))


def symmetries(image: torch.Tensor) -> list[torch.Tensor]:
    """The eight symmetries of the square, made with torch.rot90 and flip."""
    turned = [torch.rot90(image, quarter, (1, 2)) for quarter in range(4)]
    return turned + [picture.flip(2) for picture in turned]


def windows(image: torch.Tensor, padding: int) -> list[torch.Tensor]:
    """Every window of the old size in the image padded by torch's own reflection."""
    size = image.shape[1]
    padded = F.pad(image[None].float(), (padding,) * 4, mode="reflect")[0].to(torch.uint8)
    corners = itertools.product(range(2 * padding + 1), repeat=2)
    return [padded[:, y : y + size, x : x + size] for y, x in corners]


def which(candidates: list[torch.Tensor], picture: torch.Tensor) -> int:
    """The index of `picture` among the candidates, -1 if it is none."""
    return next((index for index, other in enumerate(candidates) if torch.equal(other, picture)), -1)


def test_normalize_equals_to_tensor_and_normalize_bit_for_bit():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = (images.float() / 255 - 0.5) / 0.5  # what torchvision's two transforms compute
    assert torch.equal(normalize(images), expected)
    assert torch.equal((denormalize(normalize(images)) * 255).round().to(torch.uint8), images)


def test_denormalize_clips_the_drawn_boxes():
    assert denormalize(torch.tensor([-3.0, -1.0, 0.0, 1.0, 1.5])).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_flips_give_the_four_mirror_images_about_equally_often():
    image = pictures(1)[0]
    out = Augmentation().geometry(image.expand(400, -1, -1, -1), generator())
    allowed = [image, image.flip(2), image.flip(1), image.flip(1, 2)]
    counts = torch.bincount(torch.tensor([which(allowed, picture) for picture in out]), minlength=4)
    # 100 are expected of each; 4.5 standard deviations are 39.
    assert counts.tolist() == pytest.approx([100] * 4, abs=39)


def test_turns_give_all_eight_symmetries_about_equally_often():
    image = pictures(1)[0]
    out = Augmentation(turns=True).geometry(image.expand(800, -1, -1, -1), generator())
    found = [which(symmetries(image), picture) for picture in out]
    assert min(found) >= 0
    # 100 are expected of each; 4.5 standard deviations are 42.
    assert torch.bincount(torch.tensor(found), minlength=8).tolist() == pytest.approx([100] * 8, abs=42)


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_crop_cuts_a_window_of_the_reflected_image(padding):
    images = pictures(300)
    out = Augmentation(flips=False, crop_padding=padding).geometry(images, generator())
    found = [which(windows(image, padding), picture) for image, picture in zip(images, out, strict=True)]
    assert min(found) >= 0
    rows = {index // (2 * padding + 1) for index in found}
    columns = {index % (2 * padding + 1) for index in found}
    assert rows == columns == set(range(2 * padding + 1))


def test_everything_together_stays_an_image_that_the_description_allows():
    images = pictures(40, size=6)
    out = Augmentation(turns=True, crop_padding=1).geometry(images, generator())
    for image, picture in zip(images, out, strict=True):
        allowed = [window for turned in symmetries(image) for window in windows(turned, 1)]
        assert which(allowed, picture) >= 0


def test_images_of_a_batch_get_independent_random_numbers():
    out = named_augmentation("standard").geometry(pictures(1).expand(64, -1, -1, -1), generator())
    assert len({picture.numpy().tobytes() for picture in out}) > 32  # of 8 x 25 possibilities; the same for all gives 1


def test_images_that_are_not_square_are_cropped_but_not_turned():
    images = torch.randint(0, 256, (5, 3, 6, 9), dtype=torch.uint8, generator=generator())
    assert Augmentation(crop_padding=2).geometry(images, generator()).shape == images.shape
    with pytest.raises(ValueError, match=r"6 x 9"):
        Augmentation(turns=True).geometry(images, generator())


def test_stain_scales_the_distance_from_white():
    images = torch.rand(200, 3, 4, 4, generator=generator()) * 2 - 1
    images[:, :, 0, 0] = 1.0
    out = Augmentation(flips=False, stain_jitter=0.2).color(images.clone(), generator())
    assert torch.equal(out[:, :, 0, 0], torch.ones(200, 3))  # white stays white
    inside = (out > -1) & (images < 0.9)
    gain = torch.where(inside, (out - 1) / (images - 1), torch.nan).flatten(2)
    low, high = gain.nan_to_num(9).amin(dim=2), gain.nan_to_num(-9).amax(dim=2)
    assert ((high - low) < 1e-4).all()  # one gain for each image and channel
    assert 0.8 - 1e-4 <= low.min() < 0.82
    assert 1.18 < high.max() <= 1.2 + 1e-4


def test_brightness_is_one_offset_for_all_channels():
    images = torch.zeros(200, 3, 4, 4)
    out = Augmentation(flips=False, brightness_jitter=0.1).color(images.clone(), generator())
    assert torch.allclose(out, out[:, :1, :1, :1].expand_as(out), atol=1e-7)
    offsets = out[:, 0, 0, 0]
    assert -0.1 - 1e-6 <= offsets.min() < -0.09
    assert 0.09 < offsets.max() <= 0.1 + 1e-6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["flips", "standard", "strong"])
def test_same_seed_same_images_and_the_input_is_left_alone(name, layout):
    images = pictures(16).contiguous(memory_format=layout)
    before = images.clone()
    augmentation = named_augmentation(name)
    first, second, other = (augmentation(images, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)
    assert first.dtype == torch.float32
    assert -1 <= first.min() <= first.max() <= 1


def test_none_does_nothing():
    images = pictures(4)
    assert torch.equal(named_augmentation("none")(images, generator()), normalize(images))


def test_unknown_name_lists_the_allowed_ones():
    with pytest.raises(UserError, match=r"'wild'.*none.*flips.*standard.*strong"):
        named_augmentation("wild")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_makes_no_difference(layout):
    images = pictures(16)
    expected = named_augmentation("strong")(images, generator())
    assert torch.equal(named_augmentation("strong")(images.contiguous(memory_format=layout), generator()), expected)
