"""PathMNIST loaders of Part 1, on the bundled sample. They need no test images: a student's copy has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from classification_dataset import ImageDataset, create_pathmnist_dataloaders, create_test_dataloader
from toolkit.augment import named_augmentation
from toolkit.errors import UserError
from toolkit.medmnist_data import Split, locate, official_test

pytestmark = pytest.mark.provided


@pytest.fixture(scope="module")
def source():
    return locate("pathmnist", dataset="sample")


def test_batches_are_as_the_contract_says(source):
    train_loader, val_loader, num_classes = create_pathmnist_dataloaders(32, source=source)
    assert num_classes == 9
    for loader in (train_loader, val_loader):
        images, labels = next(iter(loader))
        assert images.shape == (32, 3, 28, 28)
        assert images.dtype == torch.float32
        assert images.is_contiguous(), "images.view(B, -1), which most models say, must work"
        assert -1 <= images.min() < -0.2 < 0.2 < images.max() <= 1
        assert labels.shape == (32,)
        assert labels.dtype == torch.int64
        assert 0 <= labels.min() <= labels.max() <= 8


def test_positional_arguments_are_those_of_earlier_terms(tmp_path):
    train_loader, val_loader, _ = create_pathmnist_dataloaders(16, 0, str(tmp_path), dataset="sample")
    assert train_loader.batch_size == val_loader.batch_size == 16


def test_validation_images_are_those_of_the_file(source):
    """Pixels and labels against NumPy's own reading of the npz, in order and without augmentation."""
    _, val_loader, _ = create_pathmnist_dataloaders(64, source=source)
    images, labels = (torch.cat(parts) for parts in zip(*val_loader, strict=True))
    with np.load(source.path) as file:
        expected = (file["val_images"].astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        assert np.array_equal(images.numpy(), expected.transpose(0, 3, 1, 2))
        assert labels.tolist() == file["val_labels"].ravel().tolist()


def test_only_training_images_are_augmented(source):
    train_loader, val_loader, _ = create_pathmnist_dataloaders(32, source=source)
    assert val_loader.dataset.augmentation is None
    same = ImageDataset(source.read("train"))[3][0]
    seen = torch.stack([train_loader.dataset[3][0] for _ in range(8)])
    assert not all(torch.equal(picture, same) for picture in seen)
    for _ in range(2):
        assert torch.equal(val_loader.dataset[3][0], ImageDataset(source.read("val"))[3][0])


def test_labels_stay_with_their_images():
    """Each image is filled with its label, so a mix-up would show."""
    labels = torch.arange(60) % 9
    images = labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 28, 28).contiguous()
    split = Split(images, labels)
    dataset = ImageDataset(split, augmentation=named_augmentation("standard"), seed=1)
    batch_images, batch_labels = dataset.__getitems__([7, 50, 8, 0]).stacked
    assert ((batch_images + 1) * 127.5).round()[:, 0, 0, 0].tolist() == batch_labels.tolist() == [7, 5, 8, 0]


def test_an_epoch_of_the_sample_has_a_hundred_steps(source):
    train_loader, val_loader, _ = create_pathmnist_dataloaders(32, source=source)
    assert len(train_loader) == 100
    assert len(val_loader) == 5  # 149 images
    assert sum(len(labels) for _, labels in val_loader) == 149


def test_same_seed_same_batches(source):
    first, second, other = (
        next(iter(create_pathmnist_dataloaders(32, source=source, seed=seed)[0])) for seed in (1, 1, 2)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_an_item_alone_equals_its_place_in_a_batch(source):
    dataset = ImageDataset(source.read("val"))
    images, labels = dataset.__getitems__([5, 9]).stacked
    image, label = dataset[9]
    assert torch.equal(image, images[1])
    assert label == labels[1]


def test_batch_larger_than_the_set_is_refused(source):
    with pytest.raises(UserError, match=r"batch_size is 601, but the set has 600 images"):
        create_pathmnist_dataloaders(601, source=source)


def test_the_test_split_comes_whole_or_is_refused(source):
    if official_test(source).has("test"):
        count = official_test(source).count("test")
        assert sum(len(labels) for _, labels in create_test_dataloader(source, 32)) == count
    else:
        with pytest.raises(UserError, match="holds this split back"):
            create_test_dataloader(source, 32)
