"""transforms.py: turned, flipped and shifted volumes against torch's own, images against exact cases."""

from __future__ import annotations

import itertools

import pytest
import torch

from toolkit import transforms
from toolkit.augment import normalize
from toolkit.errors import UserError
from toolkit.transforms import ImageAugmentation, VolumeAugmentation


def symmetries(volume: torch.Tensor) -> list[torch.Tensor]:
    """All 48 of one volume (S, S, S), by torch.permute and torch.flip."""
    subsets = [axes for size in range(4) for axes in itertools.combinations(range(3), size)]
    return [volume.permute(order).flip(axes) for order in itertools.permutations(range(3)) for axes in subsets]


def test_turns_and_flips_are_the_48_symmetries_of_the_cube_equally_often():
    volume = torch.randint(0, 256, (5, 5, 5), dtype=torch.uint8)
    known = torch.stack(symmetries(volume)).flatten(1)
    generator = torch.Generator().manual_seed(0)
    result = VolumeAugmentation(shift=0).geometry(volume.expand(4800, 1, 5, 5, 5), generator)
    which = (result.flatten(1)[:, None] == known).all(dim=2)  # (4800, 48)
    assert (which.sum(dim=1) == 1).all()
    counts = which.sum(dim=0)
    assert counts.min() > 60  # 100 expected, standard deviation 10
    assert counts.max() < 140


def test_flips_alone_leave_the_axes_in_order():
    volume = torch.randint(0, 256, (4, 4, 4), dtype=torch.uint8)
    known = torch.stack([volume.flip(axes) for size in range(4) for axes in itertools.combinations(range(3), size)])
    augmentation = VolumeAugmentation(turns=False, shift=0)
    result = augmentation.geometry(volume.expand(200, 1, 4, 4, 4), torch.Generator().manual_seed(0))
    which = (result[:, 0, None] == known).flatten(2).all(dim=2)
    assert (which.sum(dim=1) == 1).all()
    assert (which.sum(dim=0) > 0).all()


def test_shifts_repeat_the_border():
    volume = torch.randint(0, 256, (6, 6, 6), dtype=torch.uint8)
    padded = torch.nn.functional.pad(volume[None, None].float(), (2,) * 6, mode="replicate")[0, 0].byte()
    known = torch.stack([padded[i : i + 6, j : j + 6, k : k + 6] for i, j, k in itertools.product(range(5), repeat=3)])
    augmentation = VolumeAugmentation(flips=False, turns=False, shift=2)
    result = augmentation.geometry(volume.expand(1500, 1, 6, 6, 6), torch.Generator().manual_seed(0))
    which = (result[:, 0, None] == known).flatten(2).all(dim=2)
    assert (which.sum(dim=1) == 1).all()
    assert (which.sum(dim=0) > 0).all()


def test_channels_move_together_and_the_input_stays():
    volumes = torch.randint(0, 256, (3, 1, 5, 5, 5), dtype=torch.uint8).expand(3, 2, 5, 5, 5).clone()
    before = volumes.clone()
    result = VolumeAugmentation().geometry(volumes, torch.Generator().manual_seed(1))
    torch.testing.assert_close(result[:, 0], result[:, 1])
    torch.testing.assert_close(volumes, before)


def test_nothing_is_done_without_strength():
    volumes = torch.randint(0, 256, (3, 1, 5, 5, 5), dtype=torch.uint8)
    nothing = VolumeAugmentation(flips=False, turns=False, shift=0, intensity=0.0)
    torch.testing.assert_close(nothing(volumes), normalize(volumes))
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(ImageAugmentation()(images), normalize(images))


def test_volumes_that_are_no_cubes_are_refused():
    with pytest.raises(UserError, match="need cubes"):
        VolumeAugmentation()(torch.zeros(2, 1, 4, 4, 5, dtype=torch.uint8))


def test_mirror_images_are_exact():
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    plain = normalize(images)
    result = ImageAugmentation(mirror=True, upside_down=True)(images, torch.Generator().manual_seed(0))
    known = torch.stack([plain, plain.flip(3), plain.flip(2), plain.flip((2, 3))])
    which = (result - known).abs().amax(dim=(2, 3, 4)) < 1e-5  # (4, 64)
    assert (which.sum(dim=0) >= 1).all()
    assert (which.sum(dim=1) > 5).all()


def test_a_quarter_turn_is_torchs_quarter_turn(monkeypatch):
    monkeypatch.setattr(transforms, "_uniform", lambda batch, columns, generator: torch.ones(batch, columns))
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    turned = ImageAugmentation(rotation=90.0)(images)
    torch.testing.assert_close(turned, normalize(images).rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_a_shift_moves_by_the_share_of_the_side(monkeypatch):
    monkeypatch.setattr(transforms, "_uniform", lambda batch, columns, generator: torch.ones(batch, columns))
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    shifted = ImageAugmentation(shift=0.25)(images)  # two pixels
    torch.testing.assert_close(shifted[:, :, :-2, :-2], normalize(images)[:, :, 2:, 2:], atol=1e-5, rtol=0)


def test_scaling_zooms_about_the_middle(monkeypatch):
    monkeypatch.setattr(transforms, "_uniform", lambda batch, columns, generator: -torch.ones(batch, columns))
    ramp = torch.arange(8, dtype=torch.uint8).mul(30).expand(1, 1, 8, 8)
    wide = ImageAugmentation(scaling=0.5)(ramp)[0, 0, 0]
    slope, plain = wide.diff()[2:5].mean(), normalize(ramp)[0, 0, 0].diff().mean()
    assert slope / plain == pytest.approx(torch.tensor(-0.5).exp().item(), rel=1e-3)
    assert wide.mean() == pytest.approx(normalize(ramp).mean().item(), abs=1e-5)


def test_every_image_gets_its_own_numbers_and_a_seed_repeats_them():
    images = torch.randint(0, 256, (1, 1, 12, 12), dtype=torch.uint8).expand(16, 1, 12, 12)
    augmentation = ImageAugmentation(rotation=15, scaling=0.1, shift=0.1, intensity=0.2, erasing=0.25)
    first = augmentation(images, torch.Generator().manual_seed(3))
    torch.testing.assert_close(augmentation(images, torch.Generator().manual_seed(3)), first)
    differences = (first[:, None] - first[None]).abs().amax(dim=(2, 3, 4))
    assert (differences + torch.eye(16) > 0.05).all()


def test_erased_squares_have_their_size():
    images = torch.full((200, 1, 28, 28), 255, dtype=torch.uint8)
    erased = ImageAugmentation(erasing=0.25)(images, torch.Generator().manual_seed(0)) == 0
    sizes = erased.flatten(1).sum(dim=1)
    assert sizes.max() == 49  # 7 x 7; smaller only where the square leaves the image
    assert (sizes > 0).all()


def test_intensity_stays_within_its_range():
    images = torch.full((500, 1, 4, 4), 191, dtype=torch.uint8)  # 0.498 in [-1, 1]
    values = ImageAugmentation(intensity=0.2)(images, torch.Generator().manual_seed(0))[:, 0, 0, 0]
    assert 0.19 < values.min() < 0.25
    assert 0.75 < values.max() < 0.80
