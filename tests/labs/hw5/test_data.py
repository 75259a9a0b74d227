"""TODO 1.1 to 1.3: loaders, classes, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labs.hw5_pneumonia import hw5_dl
from tests import checks
from tests.labs.hw5 import helpers

pytestmark = pytest.mark.filterwarnings("default")  # a warning in a student's code is not a failure


def values_of(loader) -> list[int]:
    """The byte of each image in the order of the loader; fail if the images are not what the model expects."""
    for images, labels in loader:
        checks.check_shape(images, (len(labels), 1, 28, 28), "the images of a batch")
        assert images.dtype == torch.float32, f"expected float32 images, got {images.dtype}; ImageDataset makes them so"
        assert labels.dtype == torch.int64, f"expected int64 labels, got {labels.dtype}"
    return [round(float((value + 1) * 127.5)) for images, _ in loader for value in images[:, 0, 14, 14]]


@pytest.mark.hw5_1_1
def test_loaders_give_every_image_once():
    source = helpers.SmallSource()
    loaders = hw5_dl.make_dataloaders(source, batch_size=16, seed=3, augmented=False)
    helpers.check_keys(loaders, ("train", "val", "test"), "the loaders")
    for split, loader in loaders.items():
        expected = source.read(split).images[:, 0, 0, 0].tolist()
        found = values_of(loader)
        assert len(found) == len(expected), (
            f"the {split} loader gives {len(found)} images of {len(expected)}; is the smaller last batch left out, or "
            "another split read?"
        )
        assert sorted(found) == sorted(expected), (
            f"the {split} loader gives other images than source.read({split!r}), each once in [-1, 1]; are pixels "
            "scaled twice or augmented although augmented=False, or is another split read?"
        )
        sizes = [len(labels) for _, labels in loader]
        assert sizes[0] == min(16, len(expected)), f"expected batches of batch_size=16 images, got {sizes[0]}"


@pytest.mark.hw5_1_1
def test_images_keep_their_labels():
    source = helpers.SmallSource()
    loaders = hw5_dl.make_dataloaders(source, batch_size=16, augmented=False)
    helpers.check_keys(loaders, ("train", "val", "test"), "the loaders")
    for split, loader in loaders.items():
        expected = source.read(split)
        by_value = dict(zip(expected.images[:, 0, 0, 0].tolist(), expected.labels.tolist(), strict=True))
        batches = list(loader)
        labels = [int(label) for _, batch in batches for label in batch]
        assert labels == [by_value[value] for value in values_of(batches)], f"labels of {split} belong to other images"


@pytest.mark.hw5_1_1
def test_only_training_images_are_shuffled():
    source = helpers.SmallSource()
    same, again, other = (hw5_dl.make_dataloaders(source, 16, seed, False) for seed in (3, 3, 4))
    helpers.check_keys(same, ("train", "val", "test"), "the loaders")
    for split in ("val", "test"):
        assert values_of(same[split]) == source.read(split).images[:, 0, 0, 0].tolist(), (
            f"the {split} images come in another order than source.read({split!r}) gives them; shuffle only training"
        )
    first = values_of(same["train"])
    assert first != source.read("train").images[:, 0, 0, 0].tolist(), "the training images are not shuffled"
    assert first == values_of(again["train"]), "seed=3 gave two different orders of training; is the seed handed on?"
    assert first != values_of(other["train"]), (
        "seed=3 and seed=4 gave the same order of training; hand `seed` on to make_loader"
    )
    assert first != values_of(same["train"]), "two epochs came in the same order; each epoch is shuffled again"


@pytest.mark.hw5_1_1
def test_only_training_images_are_augmented(monkeypatch):
    monkeypatch.setattr(hw5_dl, "augment", lambda images, generator=None: images / 2)  # TODO 1.3 may be missing
    source = helpers.SmallSource()
    loaders = hw5_dl.make_dataloaders(source, batch_size=16, augmented=True)
    helpers.check_keys(loaders, ("train", "val", "test"), "the loaders")
    for split, loader in loaders.items():
        same = sorted(values_of(loader)) == sorted(source.read(split).images[:, 0, 0, 0].tolist())
        if split == "train":
            assert not same, (
                "with augmented=True the training images are as they were; do they go through augment_bytes?"
            )
        else:
            assert same, f"with augmented=True the {split} images are changed; only training images are augmented"


@pytest.mark.hw5_1_2
def test_classes_are_counted_and_drawn(tmp_path):
    source = helpers.SmallSource()
    splits = {name: source.read(name) for name in source.counts}
    counts = hw5_dl.explore(splits, helpers.CLASS_NAMES, tmp_path)
    helpers.check_keys(counts, source.counts, "the images of each class")
    for name, wanted in source.counts.items():
        mistakes = {
            "the classes are swapped, normal is class 0": wanted[::-1],
            "these are shares, not counts": [count / sum(wanted) for count in wanted],
        }
        helpers.check_values(counts[name], wanted, f"images of each class, {name}", mistakes)
    helpers.check_picture(tmp_path / "1_samples.png")
    helpers.check_picture(tmp_path / "1_distribution.png")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turned(images: torch.Tensor) -> torch.Tensor:
    """By how many degrees each image (N, 1, 28, 28) of ramp(down=True) was turned."""
    middle = images[:, 0, 8:20, 8:20]  # it knows no border
    slope_y = (middle[:, 1:] - middle[:, :-1]).mean(dim=(1, 2))
    slope_x = (middle[:, :, 1:] - middle[:, :, :-1]).mean(dim=(1, 2))
    return torch.atan2(slope_x, slope_y) * 180 / torch.pi


def check_turned_little(degrees: torch.Tensor) -> None:
    """Fail if an image was turned by more than 10 degrees; the test allows for the grid of pixels."""
    most, mirrored = degrees.abs().max().item(), (degrees.abs() > 169).sum().item()
    far = ((degrees.abs() > 10.5) & (degrees.abs() <= 169)).sum().item()
    assert not far, (
        f"{far} of {len(degrees)} images are turned by more than 10 degrees, one by {most:.0f}; sin and cos take "
        "radians (degrees times pi / 180)"
    )
    assert not mirrored, f"{mirrored} of {len(degrees)} images stand on their head; mirror left to right only"


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
    checks.check_shape(changed, tuple(images.shape), "augmented images")
    assert changed.dtype == torch.float32, f"expected float32 images, got {changed.dtype}"
    low, high = changed.min().item(), changed.max().item()
    assert -1 <= low <= high <= 1, (
        f"augmented images reach from {low:.2f} to {high:.2f}; contrast and brightness leave [-1, 1]: clamp at the end"
    )
    assert torch.equal(images, before), "augment changed its input; work on a copy, without in-place operations"
    assert torch.equal(changed, hw5_dl.augment(images, generator())), (
        "the same generator gave two different results; hand `generator` to everything that draws random numbers"
    )
    assert not torch.equal(changed, hw5_dl.augment(images, generator(1))), (
        "generators with other seeds gave the same images; are the random numbers drawn from `generator`?"
    )


@pytest.mark.hw5_1_3
def test_each_image_changes_on_its_own():
    changed = hw5_dl.augment(ramp(50, down=True), generator())
    assert len({image.numpy().tobytes() for image in changed}) == 50, (
        "the images of a batch are changed alike; draw one random number for each image, not one per batch"
    )


@pytest.mark.hw5_1_3
def test_half_of_the_images_are_mirrored_and_none_stands_on_its_head():
    check_turned_little(turned(hw5_dl.augment(ramp(100, down=True), generator())))
    sideways = hw5_dl.augment(ramp(400, down=False), generator())
    share = (sideways[..., 14:].mean(dim=(1, 2, 3)) < sideways[..., :14].mean(dim=(1, 2, 3))).float().mean()
    assert 0.4 < share < 0.6, f"{share:.0%} of the images are mirrored left to right; about half should be"


@pytest.mark.hw5_1_3
def test_images_turn_by_up_to_ten_degrees_either_way():
    degrees = turned(hw5_dl.augment(ramp(400, down=True), generator()))
    check_turned_little(degrees)
    low, high = degrees.min().item(), degrees.max().item()
    assert low < -8 < 8 < high, (
        f"the images are turned by {low:.1f} to {high:.1f} degrees; about -10 to 10 is asked for, either way"
    )


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
def test_only_training_batches_are_augmented():
    hw5_dl.augment(ramp(1, down=True), generator())  # before 1.1 can be missing
    loaders = hw5_dl.make_dataloaders(helpers.SmallSource(), batch_size=16)
    changed = np.concatenate([images[:, 0, 14, 14].numpy() for images, _ in loaders["train"]])
    steps = (changed + 1) * 127.5
    assert np.abs(steps - steps.round()).max() > 0.1, (
        "the training images are as they were; TODO 1.1 hands augment_bytes to ImageDataset if `augmented`"
    )
    for split in ("val", "test"):
        assert values_of(loaders[split]) == helpers.SmallSource().read(split).images[:, 0, 0, 0].tolist(), (
            f"the {split} images are changed or in another order; only training images are augmented (TODO 1.1)"
        )


@helpers.answers("1.2", "1.3")
def test_answer(number):
    helpers.check_answer(hw5_dl, number)
