"""The drawn boxes of Part 2: geometry, colours, masks, seeds. They need no test images: a student's copy has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from synthetic_data import (
    PathMNISTBoxDataset,
    SegmentationDataGenerator,
    box_collate_fn,
    create_box_dataloaders,
    visualize_box_samples,
)
from toolkit.errors import UserError
from toolkit.medmnist_data import locate, official_test

pytestmark = pytest.mark.provided


@pytest.fixture(scope="module")
def source():
    return locate("pathmnist", dataset="sample")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_by_hand(image: np.ndarray, box: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """(where the border is, where the mask is), pixel by pixel, for an image (3, H, W)."""
    border, mask = np.zeros(image.shape[1:], bool), np.zeros(image.shape[1:], bool)
    right, bottom = box["x"] + box["width"] - 1, box["y"] + box["height"] - 1
    for y in range(box["y"], bottom + 1):
        for x in range(box["x"], right + 1):
            mask[y, x] = True
            border[y, x] = x in (box["x"], right) or y in (box["y"], bottom)
    return border, mask


def test_boxes_lie_inside_and_take_every_allowed_size_and_place():
    boxes = SegmentationDataGenerator(generator=generator())
    drawn = [boxes.generate_box() for _ in range(3000)]
    assert {frozenset(box) for box in drawn} == {frozenset({"x", "y", "width", "height"})}
    for side, corner in (("width", "x"), ("height", "y")):
        assert {box[side] for box in drawn} == set(range(8, 15))
        assert min(box[corner] for box in drawn) == 0
        assert max(box[corner] + box[side] for box in drawn) == 28
        of_eight = [box[corner] for box in drawn if box[side] == 8]
        assert set(of_eight) == set(range(21))  # 3000 / 7 boxes over 21 places: about 20 each


def test_border_and_mask_equal_those_drawn_by_hand():
    boxes = SegmentationDataGenerator(generator=generator(1))
    image = torch.rand(3, 28, 28, generator=generator(2)) * 0.5 + 0.1  # no border colour lies in 0.1 .. 0.6
    before = image.clone()
    for _ in range(50):
        box = boxes.generate_box()
        drawn, mask = boxes.add_box_to_image(image, box)
        border, expected_mask = draw_by_hand(image.numpy(), box)
        assert mask.shape == (1, 28, 28)
        assert np.array_equal(mask[0].numpy(), expected_mask.astype(np.float32))
        assert np.array_equal((drawn != image).all(dim=0).numpy(), border)
        assert torch.equal(drawn[:, ~torch.from_numpy(border)], image[:, ~torch.from_numpy(border)])
        assert (drawn[:, torch.from_numpy(border)].std(dim=1) < 1e-6).all()  # one colour
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("border", "allowed"),
    [("original", ((-1.0, -0.7), (0.7, 1.0))), ("in_range", ((0.0, 0.3), (0.7, 1.0)))],
)
def test_border_colours(border, allowed):
    colors = SegmentationDataGenerator(border=border).colors(torch.rand(4000, 10, generator=generator()))
    inside = [(low - 1e-6 <= colors) & (colors <= high + 1e-6) for low, high in allowed]
    assert (inside[0] | inside[1]).all()
    for part in inside:
        assert part.float().mean().item() == pytest.approx(0.5, abs=0.02)  # 12000 signs: 4 standard deviations
        share_of_channels = part.float().mean(dim=0)
        assert share_of_channels.tolist() == pytest.approx([0.5] * 3, abs=0.04)


def test_after_normalising_the_border_is_outside_what_tissue_can_be(source):
    """[-3, -2.4] or [0.4, 1]: the published expectations hold with these colours."""
    dataset = PathMNISTBoxDataset("val", source=source)
    plain = PathMNISTBoxDataset("val", source=source, add_boxes=False)
    with_box, without = dataset.__getitems__(range(60)).stacked, plain.__getitems__(range(60)).stacked
    changed = with_box["image"][(with_box["image"] != without["image"]) & (with_box["mask"] > 0)]
    assert (((changed >= -3 - 1e-5) & (changed <= -2.4 + 1e-5)) | ((changed >= 0.4 - 1e-5) & (changed <= 1))).all()
    assert not without["mask"].any()
    assert not without["has_box"].any()


def test_items_are_as_the_contract_says(source):
    for split in ("train", "val"):
        item = PathMNISTBoxDataset(split, source=source)[0]
        assert set(item) == {"image", "mask", "pathmnist_label", "has_box"}
        assert item["image"].shape == (3, 28, 28)
        assert item["mask"].shape == (1, 28, 28)
        assert item["image"].dtype == item["mask"].dtype == torch.float32
        assert set(item["mask"].unique().tolist()) == {0.0, 1.0}
        assert item["pathmnist_label"].dtype == torch.int64
        assert bool(item["has_box"]) is True


def test_unlabelled_images_serve_too(source):
    labels = PathMNISTBoxDataset("train", source=source).__getitems__(range(2351)).stacked["pathmnist_label"]
    assert (labels[:600] >= 0).all()
    assert (labels[600:] == -1).all()


def test_training_boxes_are_fresh_at_every_access(source):
    dataset = PathMNISTBoxDataset("train", source=source)
    masks = [dataset[0]["mask"] for _ in range(8)]
    assert len({mask.numpy().tobytes() for mask in masks}) > 4


def test_validation_boxes_depend_on_seed_and_index_alone(source):
    first, second, other = (PathMNISTBoxDataset("val", source=source, seed=seed) for seed in (0, 0, 1))
    backwards = [second[index] for index in (9, 4, 0)]
    for index, item in zip((9, 4, 0), backwards, strict=True):
        for name in ("image", "mask"):
            assert torch.equal(first[index][name], item[name])
            assert torch.equal(first[index][name], first[index][name])
    assert any(not torch.equal(first[index]["mask"], other[index]["mask"]) for index in range(5))


def test_a_transform_of_ones_own_gets_the_image_with_its_box(source):
    dataset = PathMNISTBoxDataset("val", source=source, transform=lambda image: (image - 0.5) / 0.5)
    usual = PathMNISTBoxDataset("val", source=source)
    assert torch.allclose(dataset[2]["image"], usual[2]["image"], atol=1e-6)


def test_loaders_are_as_the_contract_says(source):
    train_loader, val_loader, test_loader, num_classes = create_box_dataloaders(16, source=source)
    assert num_classes == 9
    assert len(train_loader) >= 100
    for loader in (train_loader, val_loader):
        batch = next(iter(loader))
        assert batch["image"].shape == (16, 3, 28, 28)
        assert batch["image"].is_contiguous(), "images.view(B, -1), which most models say, must work"
        assert batch["mask"].shape == (16, 1, 28, 28)
        assert batch["has_box"].shape == batch["pathmnist_label"].shape == (16,)
    assert len(test_loader.dataset) == official_test(source).count("test", unlabelled=True)
    assert sum(len(batch["image"]) for batch in test_loader) == len(test_loader.dataset)


def test_validation_boxes_do_not_depend_on_the_seed_of_the_run(source):
    batches = [next(iter(create_box_dataloaders(8, source=source, seed=seed)[1])) for seed in (0, 5)]
    assert torch.equal(batches[0]["image"], batches[1]["image"])


def test_same_seed_same_training_batches(source):
    first, second, other = (
        next(iter(create_box_dataloaders(8, source=source, seed=seed, augment="standard")[0])) for seed in (3, 3, 4)
    )
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["mask"], second["mask"])
    assert not torch.equal(first["image"], other["image"])


def test_collate_takes_items_and_whole_batches(source):
    dataset = PathMNISTBoxDataset("val", source=source)
    from_items = box_collate_fn([dataset[0], dataset[1]])
    whole = box_collate_fn(dataset.__getitems__([0, 1]))
    for name in whole:
        assert torch.equal(from_items[name], whole[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": 15}, "min_size is 15 and max_size 14"),
        ({"max_size": 29}, "max_size 29"),
        ({"min_size": 2}, "min_size is 2"),
        ({"border": "dotted"}, r"'dotted'.*original.*in_range"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(UserError, match=message):
        SegmentationDataGenerator(**options)


def test_unknown_split_lists_the_allowed_ones(source):
    with pytest.raises(UserError, match=r"'validation'.*train.*val.*test"):
        PathMNISTBoxDataset("validation", source=source)


def test_samples_are_drawn_to_a_file(source, tmp_path):
    visualize_box_samples(PathMNISTBoxDataset("val", source=source), num_samples=3, save_path=tmp_path / "boxes.png")
    assert (tmp_path / "boxes.png").read_bytes().startswith(b"\x89PNG")
