"""Part 1: loaders, classes, augmentation."""

from __future__ import annotations

import numpy as np

from staff.grader.client import expect

SPLITS = ("train", "val", "test")


def drawn_splits(rng) -> dict[str, np.ndarray]:
    """Images uint8 (N, 1, 28, 28), each of one grey value that says its split and place, and labels."""
    arrays, start = {}, int(rng.integers(0, 20))
    for split, count in zip(SPLITS, (int(rng.integers(70, 100)), 37, 41), strict=True):
        values = (start + np.arange(count)).astype(np.uint8)
        start += count
        arrays[f"{split}_images"] = np.repeat(values, 28 * 28).reshape(count, 1, 28, 28)
        arrays[f"{split}_labels"] = (rng.random(count) < 0.6).astype(np.int64)
    return arrays


def ask_loaders(student, arrays, seed=1, augmented=False) -> dict[str, np.ndarray]:
    """What the loaders give: {split + epoch: (images, labels)}."""
    wanted = {}
    for key in ("train0", "train1", "val0", "test0"):
        wanted |= {f"{key}_images": ("float32", (None, 1, 28, 28)), f"{key}_labels": ("int64", (None,))}
    args = {"batch_size": 16, "seed": seed, "augmented": augmented}
    return student.ask("hw5.loaders", args, arrays, wanted).arrays


def greys(images) -> list[int]:
    return np.rint((images[:, 0, 14, 14] + 1) * 127.5).astype(int).tolist()


def test_loaders(student, rng):
    arrays = drawn_splits(rng)
    found = ask_loaders(student, arrays)
    for key in ("train0", "train1", "val0", "test0"):
        split, labels = key[:-1], arrays[f"{key[:-1]}_labels"]
        by_grey = dict(zip(arrays[f"{split}_images"][:, 0, 0, 0].tolist(), labels.tolist(), strict=True))
        seen = greys(found[f"{key}_images"])
        expect(sorted(seen) == sorted(by_grey), f"an epoch of the {split} loader does not give each image once")
        expect([by_grey[g] for g in seen] == found[f"{key}_labels"].tolist(), f"{split}: labels of other images")
        sizes = found[f"{key}_sizes"]
        expect(sizes.size and sizes.max() <= 16, f"{split}: a batch has {int(sizes.max(initial=0))} images, not 16")


def test_order(student, rng):
    arrays = drawn_splits(rng)
    found, again, other = (ask_loaders(student, arrays, seed) for seed in (1, 1, 2))
    for split in ("val", "test"):
        in_order = greys(found[f"{split}0_images"]) == arrays[f"{split}_images"][:, 0, 0, 0].tolist()
        expect(in_order, f"the {split} loader shuffles")
    first = greys(found["train0_images"])
    expect(first == greys(again["train0_images"]), "the same seed gives another order of the training images")
    expect(first != greys(other["train0_images"]), "another seed gives the same order of the training images")
    expect(first != greys(found["train1_images"]), "two epochs give the training images in the same order")


def test_augmented(student, rng):
    arrays = drawn_splits(rng)
    found = ask_loaders(student, arrays, augmented=True)
    for key in ("val0", "test0", "train0"):
        wanted = np.sort(arrays[f"{key[:-1]}_images"][:, 0, 0, 0] / 127.5 - 1)
        got = np.sort(found[f"{key}_images"][:, 0, 14, 14])
        as_they_were = len(got) == len(wanted) and np.abs(got - wanted).max() < 1e-3
        if key == "train0":
            expect(not as_they_were, "with augmented=True the training images are not augmented")
        else:
            expect(as_they_were, f"with augmented=True the {key[:-1]} images are changed; only training images may be")


def test_counts(student, rng):
    arrays = drawn_splits(rng)
    counts = student.ask("hw5.explore", {}, arrays, {"counts": ("int64", (3, 2))}).arrays["counts"]
    wanted = [np.bincount(arrays[f"{split}_labels"], minlength=2).tolist() for split in SPLITS]
    expect(counts.tolist() == wanted, f"images a class of train, val, test are {counts.tolist()}, expected {wanted}")


def ask_augment(student, rng, images, seed=None, other_seed=0) -> np.ndarray:
    wanted = {"output": ("float32", images.shape), "input": ("float32", images.shape)}
    seed = int(rng.integers(2**31)) if seed is None else seed
    reply = student.ask("hw5.augment", {"seed": seed, "other_seed": other_seed}, {"images": images}, wanted)
    expect(np.array_equal(reply.arrays["input"], images), "augment changes the images that it was given")
    return reply.arrays["output"]


def ramp(count, down) -> np.ndarray:
    """Images that grow brighter to the right or downwards."""
    image = np.linspace(-0.6, 0.6, 28, dtype=np.float32)
    image = np.broadcast_to(image[:, None] if down else image[None, :], (28, 28))
    return np.ascontiguousarray(np.broadcast_to(image, (count, 1, 28, 28)))


def test_augment_output(student, rng):
    images = rng.uniform(-1, 1, (40, 1, 28, 28)).astype(np.float32)
    output = ask_augment(student, rng, images)
    expect(output.min() >= -1 and output.max() <= 1, "augmented images leave [-1, 1]")
    same = ask_augment(student, rng, ramp(40, down=True))
    expect(len({image.tobytes() for image in same}) == 40, "images of a batch are changed alike")


def test_generator(student, rng):
    images = rng.uniform(-1, 1, (20, 1, 28, 28)).astype(np.float32)
    first, again, other = (ask_augment(student, rng, images, *seeds) for seeds in ((1, 2), (1, 3), (4, 2)))
    expect(np.array_equal(first, again), "the same `generator` gives two different results: not all is drawn from it")
    expect(not np.array_equal(first, other), "two generators with other seeds give the same images")


def test_flip(student, rng):
    output = ask_augment(student, rng, ramp(500, down=False))
    share = float((output[..., 14:].mean(axis=(1, 2, 3)) < output[..., :14].mean(axis=(1, 2, 3))).mean())
    expect(0.4 < share < 0.6, f"{share:.0%} of the images are mirrored, expected about half")
    output = ask_augment(student, rng, ramp(200, down=True))
    upright = output[..., 14:, :].mean(axis=(1, 2, 3)) > output[..., :14, :].mean(axis=(1, 2, 3))
    expect(upright.all(), "some images stand on their heads")


def test_turn(student, rng):
    middle = ask_augment(student, rng, ramp(500, down=True))[:, 0, 8:20, 8:20]
    slope_y = np.diff(middle, axis=1).mean(axis=(1, 2))
    slope_x = np.diff(middle, axis=2).mean(axis=(1, 2))
    degrees = np.degrees(np.arctan2(slope_x, slope_y))
    lowest, highest = float(degrees.min()), float(degrees.max())
    expect(-10.5 < lowest < -8 and 8 < highest < 10.5, f"turned by {lowest:.1f} ... {highest:.1f} degrees, not 10")


def test_contrast_and_brightness(student, rng):
    y, x = np.mgrid[0:28, 0:28] - 13.5
    rings = (0.4 * np.cos(np.hypot(x, y) / 3)).astype(np.float32)  # mirrored and turned they are the same
    output = ask_augment(student, rng, np.tile(rings, (400, 1, 1, 1)))[:, 0, 6:22, 6:22]
    contrast = output.std(axis=(1, 2)) / rings[6:22, 6:22].std()
    brightness = output.mean(axis=(1, 2)) - rings[6:22, 6:22].mean()
    what = f"contrast times {contrast.min():.2f} ... {contrast.max():.2f}"
    expect(0.72 < contrast.min() < 0.86 and 1.1 < contrast.max() < 1.25, f"{what}, expected 0.8 ... 1.2")
    what = f"brightness {brightness.min():+.2f} ... {brightness.max():+.2f}"
    expect(-0.25 < brightness.min() < -0.15 and 0.15 < brightness.max() < 0.25, f"{what}, expected -0.2 ... +0.2")
