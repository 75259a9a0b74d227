"""TODO 1.1 to 1.3: loaders, classes, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labs.hw5_pneumonia import hw5_dl
from tests.labs.hw5 import helpers

pytestmark = pytest.mark.filterwarnings("default")  # a warning in a student's code is not a failure


def values_of(loader) -> list[int]:
    """The byte of each image in the order of the loader."""
    return [round(float((value + 1) * 127.5)) for images, _ in loader for value in images[:, 0, 14, 14]]


@pytest.mark.hw5_1_1
def test_loaders_give_every_image_once():
    source = helpers.SmallSource()
    loaders = hw5_dl.make_dataloaders(source, batch_size=16, seed=3, augmented=False)
    assert set(loaders) == {"train", "val", "test"}
    for split, loader in loaders.items():
        expected = source.read(split)
        assert sorted(values_of(loader)) == sorted(expected.images[:, 0, 0, 0].tolist()), f"images of {split}"
        images, labels = next(iter(loader))
        assert images.shape == (min(16, len(expected)), 1, 28, 28)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64


@pytest.mark.hw5_1_1
def test_images_keep_their_labels():
    source = helpers.SmallSource()
    for split, loader in hw5_dl.make_dataloaders(source, batch_size=16, augmented=False).items():
        expected = source.read(split)
        by_value = dict(zip(expected.images[:, 0, 0, 0].tolist(), expected.labels.tolist(), strict=True))
        batches = list(loader)
        labels = [int(label) for _, batch in batches for label in batch]
        assert labels == [by_value[value] for value in values_of(batches)], f"labels of {split} belong to other images"


@pytest.mark.hw5_1_1
def test_only_training_images_are_shuffled():
    source = helpers.SmallSource()
    same, again, other = (hw5_dl.make_dataloaders(source, 16, seed, False) for seed in (3, 3, 4))
    for split in ("val", "test"):
        assert values_of(same[split]) == source.read(split).images[:, 0, 0, 0].tolist(), f"{split} stays in order"
    first = values_of(same["train"])
    assert first == values_of(again["train"]), "the same seed gives the same order"
    assert first != values_of(other["train"]), "another seed gives another order"
    assert first != values_of(same["train"]), "each epoch has its own order"


@pytest.mark.hw5_1_2
def test_classes_are_counted_and_drawn(tmp_path):
    source = helpers.SmallSource()
    splits = {name: source.read(name) for name in source.counts}
    counts = hw5_dl.explore(splits, helpers.CLASS_NAMES, tmp_path)
    found = {name: list(value) for name, value in counts.items()}
    wanted = {name: list(value) for name, value in source.counts.items()}
    assert found == wanted, f"expected images a class {wanted}, got {found}"
    helpers.check_picture(tmp_path / "1_samples.png")
    helpers.check_picture(tmp_path / "1_distribution.png")


@pytest.mark.hw5_1_2
def test_answer_on_imbalance():
    helpers.check_answer(hw5_dl.explore, "1.2")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(count: int, down: bool) -> torch.Tensor:
    """Images that grow brighter to the right, or downwards."""
    line = torch.linspace(-0.6, 0.6, 28)
    image = line.view(28, 1).expand(28, 28) if down else line.view(1, 28).expand(28, 28)
    return image.repeat(count, 1, 1, 1)


@pytest.mark.hw5_1_3
def test_augmented_images_are_images():
    images = torch.rand(9, 1, 28, 28, generator=generator()) * 2 - 1
    before = images.clone()
    changed = hw5_dl.augment(images, generator())
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= -1
    assert changed.max() <= 1
    assert torch.equal(images, before), "the input stays as it is"
    assert torch.equal(changed, hw5_dl.augment(images, generator())), "the same generator state gives the same images"
    assert not torch.equal(changed, hw5_dl.augment(images, generator(1)))


@pytest.mark.hw5_1_3
def test_half_of_the_images_are_mirrored_and_none_stands_on_its_head():
    sideways = hw5_dl.augment(ramp(400, down=False), generator())
    share = (sideways[..., 14:].mean(dim=(1, 2, 3)) < sideways[..., :14].mean(dim=(1, 2, 3))).float().mean()
    assert 0.4 < share < 0.6, f"{share:.0%} of the images are mirrored; about half should be"
    upright = hw5_dl.augment(ramp(100, down=True), generator())
    assert (upright[..., 14:, :].mean(dim=(1, 2, 3)) > upright[..., :14, :].mean(dim=(1, 2, 3))).all()


@pytest.mark.hw5_1_3
def test_images_turn_by_up_to_ten_degrees_either_way():
    changed = hw5_dl.augment(ramp(400, down=True), generator())[:, 0, 8:20, 8:20]  # the middle knows no border
    slope_y = (changed[:, 1:] - changed[:, :-1]).mean(dim=(1, 2))
    slope_x = (changed[:, :, 1:] - changed[:, :, :-1]).mean(dim=(1, 2))
    degrees = torch.atan2(slope_x, slope_y) * 180 / torch.pi
    assert degrees.abs().max() <= 10.5, f"an image turned by {degrees.abs().max():.1f} degrees"
    assert degrees.max() > 8, "no image turned one way by more than 8 degrees"
    assert degrees.min() < -8, "no image turned the other way by more than 8 degrees"


@pytest.mark.hw5_1_3
def test_contrast_and_brightness_change_a_little():
    y, x = torch.meshgrid(torch.arange(28) - 13.5, torch.arange(28) - 13.5, indexing="ij")
    rings = 0.4 * torch.cos((x**2 + y**2).sqrt() / 3)  # mirrored and turned they are the same
    changed = hw5_dl.augment(rings.repeat(300, 1, 1, 1), generator())[:, 0, 6:22, 6:22]
    contrast = changed.std(dim=(1, 2)) / rings[6:22, 6:22].std()
    brightness = changed.mean(dim=(1, 2)) - rings[6:22, 6:22].mean()
    assert 0.72 < contrast.min() < 0.86, f"lowest contrast {contrast.min():.2f}; 0.8 is asked for"
    assert 1.1 < contrast.max() < 1.25, f"highest contrast {contrast.max():.2f}; 1.2 is asked for"
    assert -0.25 < brightness.min() < -0.15, f"lowest brightness {brightness.min():+.2f}; -0.2 is asked for"
    assert 0.15 < brightness.max() < 0.25, f"highest brightness {brightness.max():+.2f}; +0.2 is asked for"


@pytest.mark.hw5_1_3
def test_each_image_changes_on_its_own():
    changed = hw5_dl.augment(ramp(50, down=True), generator())
    assert len({image.numpy().tobytes() for image in changed}) == 50, "images of a batch are changed alike"


@pytest.mark.hw5_1_3
def test_answer_on_augmentation():
    helpers.check_answer(hw5_dl.augment, "1.3")


@pytest.mark.hw5_1_3
def test_only_training_batches_are_augmented():
    hw5_dl.augment(ramp(1, down=True), generator())  # before 1.1 can be missing
    loaders = hw5_dl.make_dataloaders(helpers.SmallSource(), batch_size=16)
    changed = np.concatenate([images[:, 0, 14, 14].numpy() for images, _ in loaders["train"]])
    steps = (changed + 1) * 127.5
    assert np.abs(steps - steps.round()).max() > 0.1, "training images are as they were"
    for split in ("val", "test"):
        assert values_of(loaders[split]) == helpers.SmallSource().read(split).images[:, 0, 0, 0].tolist()
