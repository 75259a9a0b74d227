"""Loaders over decoded images: the course's dataset, labels as this lab's loss wants them, balanced drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler

from classification_dataset import ImageDataset
from toolkit.augment import Augmentation, normalize
from toolkit.batches import StackedBatch, make_loader, unstack
from toolkit.errors import UserError, check_choice
from toolkit.medmnist_data import Split
from toolkit.stored_images import StoredImages
from toolkit.transforms import CombinedAugmentation, ImageAugmentation

AUGMENTATIONS = ("none", "shift", "mirror", "symmetries", "strong")
STATISTICS_LIMIT = 1024**3  # bytes of stored images that mean and sd are taken from
FLIPS = {"none": False, "left_right": "left_right", "up_down": "up_down", "both": True}


@dataclass(frozen=True)
class AugmentationSettings:
    """What happens to training images: a named set, and what differs from it. None: as in the named set.

    name: 'shift' is a random crop after padding by a fourteenth of the side, the only one that keeps up, down, left and
    right (X-rays: the heart is on one side). 'mirror' also flips left to right (ultrasound: the skin is always on top).
    'symmetries' flips in both directions and turns by quarters (microscopy, dermatoscopy). 'strong': also colour.
    flip: one of FLIPS. rotation: half-range in degrees. intensity: half-range of contrast and brightness on [-1, 1].
    stain: half-range of the gain of each colour channel.
    """

    name: str
    flip: str | None = None
    rotation: float = 0.0
    intensity: float = 0.0
    stain: float | None = None


def augmentation(settings: AugmentationSettings, image_size: int) -> Callable[..., torch.Tensor]:
    """The callable that LabelledImages applies to its batches."""
    check_choice("augment", settings.name, AUGMENTATIONS)
    padding = max(1, image_size // 14)
    named = {
        "none": Augmentation(flips=False),
        "shift": Augmentation(flips=False, crop_padding=padding),
        "mirror": Augmentation(flips="left_right", crop_padding=padding),
        "symmetries": Augmentation(turns=True, crop_padding=padding),
        "strong": Augmentation(turns=True, crop_padding=padding, stain_jitter=0.2, brightness_jitter=0.1),
    }
    exact = named[settings.name]
    if settings.flip is not None:
        check_choice("flip", settings.flip, FLIPS)
        exact = replace(exact, flips=FLIPS[settings.flip])
    if settings.stain is not None:
        exact = replace(exact, stain_jitter=settings.stain)
    if not settings.rotation and not settings.intensity:
        return exact
    return CombinedAugmentation(exact, ImageAugmentation(rotation=settings.rotation, intensity=settings.intensity))


class LabelledImages(ImageDataset):
    """Some rows of decoded images uint8 (N, H, W, C), with labels (N,), or (N, L) of 0 and 1, delivered as (B * L,).

    rows: which images belong to the set; they are not copied, so that folds share one array, and stored images stay
    on the disk. Two sets may share pixels, each has its own augmentation.
    """

    def __init__(
        self,
        pixels: np.ndarray | StoredImages,
        labels: np.ndarray,
        rows: np.ndarray,
        *,
        augmentation: Callable[..., torch.Tensor] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        file = pixels if isinstance(pixels, StoredImages) else None
        images = torch.from_numpy(pixels) if file is None else file.tensor()  # (N, H, W, C)
        split = Split(images.permute(0, 3, 1, 2), torch.from_numpy(labels), file)
        super().__init__(split, augmentation=augmentation, seed=seed, device=device)
        self.rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> StackedBatch:
        """Images float32 (B, C, H, W) in [-1, 1] and labels int64 (B,) or, for multi-label data, (B * L,)."""
        images, labels = super().__getitems__(self.rows[torch.as_tensor(indices)]).stacked
        return StackedBatch((images, labels.flatten()), len(images), lambda i: (images[i], labels[i]))

    def own_labels(self) -> np.ndarray:
        """The labels of the rows of this set."""
        return self.labels.cpu()[self.rows].numpy()


def training_loader(dataset: LabelledImages, batch_size: int, seed: int, oversample: bool = False) -> DataLoader:
    """Shuffled batches; `oversample` draws every class equally often, with replacement.

    A last batch of one image is dropped: BatchNorm has no variance to divide by. Raises UserError for batches of one.
    """
    if batch_size < 2:
        raise UserError(f"batch_size is {batch_size}; allowed: 2 or more, because BatchNorm compares images")
    if batch_size > len(dataset):
        raise UserError(
            f"batch_size is {batch_size}, but the set has {len(dataset)} images; allowed: 2 .. {len(dataset)}"
        )
    count = len(dataset) - (len(dataset) % batch_size == 1)
    generator = torch.Generator().manual_seed(seed)
    if oversample:
        labels = dataset.own_labels()
        if labels.ndim == 2:
            raise UserError("--oversample needs one label per image; for multi-label data use --class_weights")
        weights = class_weights(labels, int(labels.max()) + 1)[labels]
        sampler = WeightedRandomSampler(weights.tolist(), count, generator=generator)
    else:
        sampler = RandomSampler(dataset, num_samples=count, generator=generator)
    return DataLoader(dataset, batch_size, sampler=sampler, collate_fn=unstack, generator=generator)


def evaluation_loader(dataset: LabelledImages, batch_size: int = 64) -> DataLoader:
    """All images once, in order."""
    return make_loader(dataset, batch_size, shuffle=False)


def class_weights(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """Weights float32 (K,) inversely proportional to class counts, mean 1 over images (scikit-learn: 'balanced')."""
    counts = np.bincount(labels, minlength=num_classes)
    return torch.from_numpy(len(labels) / (num_classes * np.maximum(counts, 1))).float()


class WeightedLabels(torch.nn.Module):
    """Cross-entropy of logits (B * L, 2) with a weight for each label and each of its two answers."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)  # (L, 2)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits (B * L, 2), labels int64 (B * L,) → mean loss in nats."""
        weights = self.weights.to(logits.device).repeat(len(labels) // len(self.weights), 1)  # (B * L, 2)
        chosen = weights.gather(1, labels[:, None]).squeeze(1)
        return (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * chosen).mean()


def label_weights(labels: np.ndarray) -> torch.Tensor:
    """For multi-label data (N, L): weights float32 (L, 2) of absent and present, so that both weigh the same in sum."""
    present = labels.mean(axis=0).clip(1 / len(labels), 1 - 1 / len(labels))
    return torch.from_numpy(np.stack([0.5 / (1 - present), 0.5 / present], axis=1)).float()


def statistics(
    pixels: np.ndarray | StoredImages, rows: np.ndarray, chunk_bytes: int = 8 * 1024**2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and sd float32 (C,) of these rows of uint8 images (N, H, W, C) on the [-1, 1] scale, in float64 sums.

    Of stored images at most 1 GiB is read, evenly spread over the rows: that is 7,000 images of 224 pixels in colour.
    chunk_bytes: of pixels at a time; their doubles take eight times as much, twice.
    """
    image_bytes = int(np.prod(pixels.shape[1:]))
    if isinstance(pixels, StoredImages):
        rows = rows[:: -(-len(rows) * image_bytes // STATISTICS_LIMIT)]
    chunk = min(1024, max(1, chunk_bytes // image_bytes))
    total, squares = np.zeros(pixels.shape[3]), np.zeros(pixels.shape[3])
    for start in range(0, len(rows), chunk):
        values = normalize(torch.from_numpy(pixels[rows[start : start + chunk]])).double().numpy()
        total += values.sum(axis=(0, 1, 2))
        squares += (values**2).sum(axis=(0, 1, 2))
    mean = total / (len(rows) * pixels.shape[1] * pixels.shape[2])
    deviation = np.sqrt(np.maximum(squares / (len(rows) * pixels.shape[1] * pixels.shape[2]) - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()
