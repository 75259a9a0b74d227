"""Data that the grader draws for the mechanism checks: fresh for every submission, with an answer known by design."""

from __future__ import annotations

import numpy as np

Generator = np.random.Generator
SIDE = 28


def noise(rng: Generator, count: int, channels: int = 3) -> np.ndarray:
    """Images float32 (count, channels, 28, 28), uniform in [-1, 1]."""
    return rng.uniform(-1, 1, (count, channels, SIDE, SIDE)).astype(np.float32)


def tinted(rng: Generator, count: int) -> np.ndarray:
    """Noise with its own colour for each image: what a loop does to places (flips, turns, shifts) leaves it."""
    return 0.5 * noise(rng, count) + rng.uniform(-0.8, 0.8, (count, 3, 1, 1)).astype(np.float32)


def partly(rng: Generator, share: float, right: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Targets that are `right` for this share of the images, chosen at random, and `other` for the rest."""
    chosen = rng.random(len(right)) < share
    return np.where(chosen.reshape(-1, *[1] * (right.ndim - 1)), right, other).astype(other.dtype)


def labels(rng: Generator, count: int, classes: int = 9) -> np.ndarray:
    """Labels int64 (count,), uniform."""
    return rng.integers(0, classes, count)


def rectangles(rng: Generator, count: int) -> np.ndarray:
    """Masks float32 (count, 1, 28, 28) with one rectangle each, of very different sizes."""
    masks = np.zeros((count, 1, SIDE, SIDE), np.float32)
    for mask in masks:
        height, width = rng.integers(3, 20, 2)
        y, x = rng.integers(0, SIDE - height), rng.integers(0, SIDE - width)
        mask[0, y : y + height, x : x + width] = 1
    return masks


def batches(rng: Generator, count: int, steps: int, batch_size: int) -> np.ndarray:
    """Indices int64 (steps, batch_size): whole passes over `count` samples, each in a new order."""
    passes = -(-steps * batch_size // count)
    order = np.concatenate([rng.permutation(count) for _ in range(passes)])
    return order[: steps * batch_size].reshape(steps, batch_size)


def _patterns(rng: Generator, count: int, channels: int = 3) -> np.ndarray:
    """Smooth random patterns (count, channels, 28, 28) with mean square 1: sums of a few waves."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    result = np.zeros((count, channels, SIDE, SIDE))
    for pattern in result.reshape(-1, SIDE, SIDE):
        for _ in range(4):
            fy, fx, phase = rng.uniform(-2.5, 2.5), rng.uniform(-2.5, 2.5), rng.uniform(0, 2 * np.pi)
            pattern += np.sin(2 * np.pi * (fy * y + fx * x) + phase)
    return result / np.sqrt((result**2).mean(axis=(1, 2, 3), keepdims=True))


class LinearTask:
    """Images made of a few patterns; the class is the largest of as many linear functions of their strengths."""

    def __init__(self, rng: Generator, classes: int = 9, channels: int = 3) -> None:
        dimensions = min(8, classes)
        self.rng, self.patterns = rng, _patterns(rng, dimensions, channels)
        self.directions = np.linalg.qr(rng.standard_normal((classes, classes)))[0][:, :dimensions]

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Fresh images (count, channels, 28, 28) and labels (count,)."""
        strengths = self.rng.standard_normal((count, len(self.patterns)))
        return _mix(strengths, self.patterns, self.rng), (strengths @ self.directions.T).argmax(1).astype(np.int64)


class ProductTask:
    """The class is the pair of signs of two products of strengths: four classes that no linear map can tell apart.

    Sixteen more patterns say nothing about it. Trained layers learn to overlook them; looking up the nearest images of
    the training set, which a cheat could do, gets 0.5 of the classes right instead of 1.0 without those patterns.
    Values have a standard deviation of about 0.4, as normalised images have: larger ones, or a fixed image added to
    all, saturate tanh and sigmoid.
    """

    DISTRACTING = 16

    def __init__(self, rng: Generator, channels: int = 3) -> None:
        self.rng, self.patterns = rng, _patterns(rng, 4 + self.DISTRACTING, channels)

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Fresh images (count, channels, 28, 28) and labels 0..3 (count,)."""
        strengths = self.rng.standard_normal((count, 4))
        strengths = np.sign(strengths) * (0.5 + np.abs(strengths))
        first, second = strengths[:, 0] * strengths[:, 1] > 0, strengths[:, 2] * strengths[:, 3] > 0
        distracting = 1.5 * self.rng.standard_normal((count, self.DISTRACTING))
        images = 0.06 * np.tensordot(np.concatenate([strengths, distracting], axis=1), self.patterns, 1)
        return images.astype(np.float32), (2 * first + second).astype(np.int64)


def _mix(strengths: np.ndarray, patterns: np.ndarray, rng: Generator) -> np.ndarray:
    images = len(patterns) ** -0.5 * np.tensordot(strengths, patterns, 1)
    return (images + 0.1 * rng.standard_normal((1, *patterns.shape[1:]))).astype(np.float32)


class AnywhereTask:
    """The class is which of four 5x5 stamps lies twelve times somewhere in the noise: easy with shared weights.

    The stamps have the same pixels in four orders, so that their colours alone tell nothing. Every place is as likely
    as any other (the image is closed at its edges): the mean image of each class is the same, and no linear map can
    tell them apart. Smooth patterns of 24 kinds lie beneath: the nearest training images tell nothing either.
    """

    SIZE, COPIES = 5, 12

    def __init__(self, rng: Generator, classes: int = 4, channels: int = 3) -> None:
        self.rng = rng
        pixels = rng.choice([-1.0, 1.0], (channels, self.SIZE**2))
        orders = [pixels[:, rng.permutation(self.SIZE**2)] for _ in range(classes)]
        self.stamps = np.stack(orders).reshape(classes, channels, self.SIZE, self.SIZE)
        self.distracting = _patterns(rng, 24, channels)

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Fresh images (count, channels, 28, 28) and labels (count,)."""
        images, wanted = self.stamped(count, self.rng.integers(0, SIDE, (count, self.COPIES, 2)))
        beneath = _mix(self.rng.standard_normal((count, 24)), self.distracting, self.rng)
        return images + np.float32(0.7) * beneath, wanted

    def stamped(self, count: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noise with the class's stamp at `places` (count, COPIES, 2), and the labels (count,)."""
        images = 0.25 * self.rng.standard_normal((count, self.stamps.shape[1], SIDE, SIDE)).astype(np.float32)
        wanted = self.rng.integers(0, len(self.stamps), count)
        within = np.arange(self.SIZE)
        for image, label, corners in zip(images, wanted, places, strict=True):
            for y, x in corners:
                image[:, (y + within[:, None]) % SIDE, (x + within) % SIDE] = self.stamps[label]
        return images, wanted


class ElsewhereTask(AnywhereTask):
    """The stamps on plain noise, first drawn at places with y + x even, later only where it is odd.

    Simpler than AnywhereTask for a net with shared weights. Without them nothing carries over: the nearest training
    images are right for 0.09 of the images, dense nets for at most 0.17 (chance: 0.25).
    """

    def __init__(self, rng: Generator, classes: int = 4, channels: int = 3) -> None:
        super().__init__(rng, classes, channels)
        self.odd = 0

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Fresh images (count, channels, 28, 28) and labels (count,); after the first call at the other places."""
        places = self.rng.integers(0, SIDE, (count, self.COPIES, 2))
        places[..., 1] += (places.sum(axis=-1) + self.odd) % 2
        self.odd = 1
        return self.stamped(count, places)


class FieldTask:
    """The mask is where a channel of smooth images is positive (`linear`), or where two channels agree in sign.

    `distracting`: the channels that do not decide are made of 40 patterns instead of 4. Then the masks of the nearest
    training images reach an IoU of about 0.5 on the nonlinear task and 0.7 on the linear one. A grey image has no such
    channels; its nonlinear task is where it agrees in sign with its own mirror image.
    """

    def __init__(self, rng: Generator, linear: bool, distracting: bool, channels: int = 3) -> None:
        self.rng, self.patterns = rng, _patterns(rng, 4, channels)
        self.linear, self.deciding = linear, min(channels, 1 if linear else 2)
        self.distracting = _patterns(rng, 40, channels)[:, self.deciding :] if distracting else None

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Fresh images (count, channels, 28, 28) and masks (count, 1, 28, 28)."""
        images = np.tensordot(self.rng.standard_normal((count, 4)), self.patterns, 1).astype(np.float32)
        if self.distracting is not None:
            strengths = self.rng.standard_normal((count, 40)) * (0.5 if self.linear else 1.0)
            images[:, self.deciding :] = np.tensordot(strengths, self.distracting, 1)
        signs = images[:, : self.deciding].prod(axis=1, keepdims=True)
        if not self.linear and self.deciding == 1:
            signs = signs * signs[..., ::-1]
        return images, (signs > 0).astype(np.float32)


class TextureTask:
    """The mask is a rectangle of checkerboard in noise of the same brightness: found by looking at neighbours."""

    def __init__(self, rng: Generator, channels: int = 3) -> None:
        self.rng, self.channels = rng, channels

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Fresh images (count, channels, 28, 28) and masks (count, 1, 28, 28)."""
        images = self.rng.choice([-1.0, 1.0], (count, self.channels, SIDE, SIDE)).astype(np.float32)
        board = ((np.indices((SIDE, SIDE)).sum(0) % 2) * 2 - 1).astype(np.float32)
        masks = np.zeros((count, 1, SIDE, SIDE), np.float32)
        for image, mask in zip(images, masks, strict=True):
            height, width = self.rng.integers(10, 21, 2)
            y, x = self.rng.integers(0, SIDE - height + 1), self.rng.integers(0, SIDE - width + 1)
            mask[0, y : y + height, x : x + width] = 1
            inside = mask[0].astype(bool)
            image[:, inside] = board[inside] * self.rng.choice([-1, 1])
        return images, masks


class CopyTask:
    """The mask is the sign of one channel of pure noise, pixel by pixel: trivial with a skip at full resolution."""

    def __init__(self, rng: Generator, channels: int = 3) -> None:
        self.rng, self.channels = rng, channels

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Fresh images (count, channels, 28, 28) and masks (count, 1, 28, 28)."""
        images = noise(self.rng, count, self.channels)
        return images, (images[:, :1] > 0).astype(np.float32)
