"""Hidden data: moved images stay what they show, answers belong to them, and nothing is found where it is held back."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from staff.grader.hidden import HiddenData, Pool, _passes, moved, normalized
from staff.tests.grading_tools import ROOT


@pytest.fixture(scope="module")
def hidden() -> HiddenData:
    return HiddenData.find(str(ROOT / "data"), announce=lambda text: None)


def variants(image: np.ndarray) -> list[np.ndarray]:
    """All 8 turns and mirror images with all 25 shifts of an image (3, H, W)."""
    made = []
    for turns in range(4):
        turned = np.rot90(image, turns, axes=(1, 2))
        for one in (turned, turned[:, :, ::-1]):
            padded = np.pad(one, ((0, 0), (2, 2), (2, 2)), mode="edge")
            made += [padded[:, y : y + 28, x : x + 28] for y in range(5) for x in range(5)]
    return made


def test_moved_images_are_turned_mirrored_and_shifted():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    possible = {variant.tobytes() for variant in variants(image)}
    assert len(possible) == 200
    seen = {one.tobytes() for one in moved(np.repeat(image[None], 3000, axis=0), rng)}
    assert seen == possible  # all of them, and nothing else


def test_labels_belong_to_the_images(hidden):
    images, labels = hidden.evaluation(np.random.default_rng(1))
    pool = hidden.pool("test")
    assert len(images) == min(1000, 4 * len(pool.images))
    for image, label in zip(images[:5], labels[:5], strict=True):
        made = [normalized(np.stack(variants(original))) for original in pool.images]
        source = next(n for n, ones in enumerate(made) if (ones == image).all(axis=(1, 2, 3)).any())
        assert pool.labels[source] == label
    assert not np.array_equal(labels, hidden.evaluation(np.random.default_rng(2))[1])  # another seed, another order


def test_boxes_and_their_masks(hidden):
    images, masks = hidden.boxes(np.random.default_rng(3), "test", 50)
    assert images.shape == (50, 3, 28, 28)
    assert set(np.unique(masks)) == {0.0, 1.0}
    areas = masks.sum(axis=(1, 2, 3))
    assert areas.min() >= 8 * 8
    assert areas.max() <= 14 * 14
    assert len({mask.tobytes() for mask in masks}) > 40
    again, _ = hidden.boxes(np.random.default_rng(3), "test", 50)
    assert np.array_equal(images, again)


def test_training_data_is_public_data(hidden, monkeypatch):
    """What is sent for training comes from the training split."""
    read = []
    monkeypatch.setattr(hidden, "pool", lambda split, unlabelled=False: read.append(split) or Pool(*_two_images()))
    hidden.training(np.random.default_rng(0), 10)
    hidden.boxes(np.random.default_rng(0), "train", 10)
    assert read == ["train", "train"]


def _two_images():
    return np.zeros((2, 3, 28, 28), np.uint8), np.zeros(2, np.int64)


def test_passes_use_every_image_equally():
    chosen = _passes(np.random.default_rng(0), 10, 25)
    assert len(chosen) == 25
    assert set(np.bincount(chosen)) <= {2, 3}
    assert sorted(chosen[:10]) == list(range(10))


def test_the_students_sample_is_refused(starter_folder):
    """The starter's own sample has no test images; a grader that fell back to it would grade on nothing."""
    code = (
        f"import sys; sys.path[:0] = [{str(starter_folder)!r}]; import toolkit; sys.path.append({str(ROOT)!r})\n"
        "from staff.grader.hidden import HiddenData; from toolkit.errors import UserError\n"
        "try: HiddenData.find('data')\n"
        "except UserError as error: print('refused:', error)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=starter_folder, capture_output=True, text=True, check=True)
    assert "refused:" in run.stdout
    assert "has no test images" in run.stdout
