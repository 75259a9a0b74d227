"""Colored boxes drawn over PathMNIST images, with their masks, for Part 2. Provided.

The box: sides 8 to 14 pixels, uniform place, a border one pixel thick; the mask is the whole rectangle with its border.
The border's colour is, for each channel, ±(0.7 .. 1.0) written on the [0, 1] image *before* Normalize(0.5, 0.5), so it
lies in [-3, -2.4] or [0.4, 1] afterwards. That looks like a slip of the original course, but its expectations hold only
with it: an MLP gets about 0.46 IoU, but 0.22 if borders stay in range. `border="in_range"` is the harder task.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from toolkit.augment import Augmentation, named_augmentation
from toolkit.batches import MIN_BATCHES, SeededDataset, StackedBatch, make_loader
from toolkit.errors import UserError, check_choice
from toolkit.medmnist_data import SPLITS, Source, locate, official_test
from toolkit.plots import box_samples

BORDERS = ("original", "in_range")
# What each of the random numbers behind a box decides.
SIZE, CORNER, STRENGTH, SIGN = slice(0, 2), slice(2, 4), slice(4, 7), slice(7, 10)
UNIFORMS_PER_BOX = SIGN.stop
BORDER_STRENGTH = (0.7, 1.0)


class SegmentationDataGenerator:
    """Draws boxes. Sides are min_size..max_size pixels; images are image_size x image_size."""

    def __init__(
        self,
        image_size: int = 28,
        min_size: int = 8,
        max_size: int = 14,
        *,
        border: str = "original",
        generator: torch.Generator | None = None,
    ) -> None:
        if not 3 <= min_size <= max_size <= image_size:
            raise UserError(
                f"min_size is {min_size} and max_size {max_size}; allowed: 3 <= min_size <= max_size <= {image_size}"
            )
        check_choice("border", border, BORDERS)
        self.image_size, self.min_size, self.max_size = image_size, min_size, max_size
        self.border, self.generator = border, generator

    def generate_box(self) -> dict[str, int]:
        """A box at random: {'x', 'y', 'width', 'height'} in pixels, (x, y) its upper left corner."""
        boxes = self.place(torch.rand(1, UNIFORMS_PER_BOX, generator=self.generator))
        return dict(zip(("x", "y", "width", "height"), boxes[0].tolist(), strict=True))

    def add_box_to_image(self, image: torch.Tensor, box_info: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one box on `image` (C, H, W) float in [0, 1] → (image (C, H, W), mask (1, H, W) of 0 and 1)."""
        box = torch.tensor([[box_info[name] for name in ("x", "y", "width", "height")]])
        color = self.colors(torch.rand(1, UNIFORMS_PER_BOX, generator=self.generator))
        images, masks = self.draw(torch.as_tensor(image)[None].float(), box, color)
        return images[0], masks[0]

    def place(self, uniforms: torch.Tensor) -> torch.Tensor:
        """Uniform numbers (B, UNIFORMS_PER_BOX) in [0, 1) → boxes int64 (B, 4): x, y, width, height."""
        size = self.min_size + (uniforms[:, SIZE] * (self.max_size - self.min_size + 1)).long()
        corner = (uniforms[:, CORNER] * (self.image_size - size + 1)).long()
        return torch.cat([corner, size], dim=1)

    def colors(self, uniforms: torch.Tensor) -> torch.Tensor:
        """Uniform numbers (B, UNIFORMS_PER_BOX) → border colours float32 (B, 3) on the scale of [0, 1] images."""
        low, high = BORDER_STRENGTH
        strength = low + (high - low) * uniforms[:, STRENGTH]
        negative = uniforms[:, SIGN] < 0.5
        # In range, a strong negative colour is a dark one: 1 - strength lies in 0 .. 0.3.
        return torch.where(negative, -strength if self.border == "original" else 1 - strength, strength)

    def draw(
        self, images: torch.Tensor, boxes: torch.Tensor, colors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a box on each image: (B, C, H, W), (B, 4), (B, 3) → images (B, C, H, W), masks float32 (B, 1, H, W)."""
        outer = self._inside(boxes, inset=0)
        border = outer & ~self._inside(boxes, inset=1)
        colors = colors[:, : images.shape[1], None, None]  # (B, C, 1, 1); a grey image takes the first
        return torch.where(border, colors, images), outer.float()

    def _inside(self, boxes: torch.Tensor, inset: int) -> torch.Tensor:
        """Where the boxes (B, 4), shrunk by `inset` pixels on each side, cover the image: bool (B, 1, H, W)."""
        along = torch.arange(self.image_size, device=boxes.device)
        x, y, width, height = boxes[:, :, None].unbind(dim=1)  # each (B, 1)
        columns = (along >= x + inset) & (along < x + width - inset)  # (B, W)
        rows = (along >= y + inset) & (along < y + height - inset)  # (B, H)
        return rows[:, None, :, None] & columns[:, None, None, :]


class PathMNISTBoxDataset(SeededDataset):
    """PathMNIST images with a box drawn on each.

    An item is a dict: image float32 (3, 28, 28), mask float32 (1, 28, 28) of 0 and 1, pathmnist_label int64 (-1 for the
    sample's images without label, which serve here too), has_box bool. Training boxes are fresh at every access;
    those of validation and test depend only on seed and index.

    transform: turns a float image (3, 28, 28) in [0, 1] with its box into the input of the model; the default is
    Normalize(0.5, 0.5). download: False never touches the network. Keyword-only: seed, border (see the module's text),
    augmentation of the image before the box is drawn, device, and `source` or `dataset` and `mirror` as for locate.
    """

    def __init__(
        self,
        split: str = "train",
        root: str = "./data",
        download: bool = True,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        add_boxes: bool = True,
        *,
        seed: int = 0,
        border: str = "original",
        augmentation: Augmentation | None = None,
        device: torch.device | str = "cpu",
        source: Source | None = None,
        **locate_options: Any,
    ) -> None:
        super().__init__(seed)
        check_choice("split", split, SPLITS)
        self.source = source or locate("pathmnist", data_root=root, download=download, **locate_options)
        self.split, self.transform, self.add_boxes, self.augmentation = split, transform, add_boxes, augmentation
        self.device = torch.device(device)
        self.boxes = SegmentationDataGenerator(border=border)
        self._length = self.source.count(split, unlabelled=True)
        self._pixels: torch.Tensor | None = None
        self._fixed_uniforms: torch.Tensor | None = None
        if split != "train":
            # NumPy fills row by row, so the boxes of image i are the same however many images there are.
            uniforms = np.random.default_rng([seed, SPLITS.index(split)]).random((self._length, UNIFORMS_PER_BOX))
            self._fixed_uniforms = torch.from_numpy(uniforms.astype(np.float32)).clamp(max=1 - 2**-24)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> StackedBatch:
        """Stacked dict of image (B, 3, 28, 28), mask (B, 1, 28, 28), pathmnist_label (B,) and has_box (B,)."""
        self._read()
        chosen = torch.as_tensor(indices)
        images = self._pixels.index_select(0, chosen.to(self.device)).permute(0, 3, 1, 2)  # uint8 (B, C, H, W)
        if self.augmentation is not None:
            images = self.augmentation.geometry(images, self.generator)
        images = torch.div(images.contiguous(), 255)  # contiguous, so that a model may say images.view(B, -1)
        masks = torch.zeros(len(images), 1, *images.shape[2:], device=self.device)
        if self.add_boxes:
            uniforms = self._uniforms(chosen)
            places, colors = self.boxes.place(uniforms), self.boxes.colors(uniforms)
            images, masks = self.boxes.draw(images, places.to(self.device), colors.to(self.device))
        if self.transform is None:
            images = images.mul_(2).sub_(1) if self.add_boxes else images.mul(2).sub_(1)
        else:
            images = torch.stack([self.transform(image) for image in images])
        batch = {
            "image": images,
            "mask": masks,
            "pathmnist_label": self._labels.index_select(0, chosen.to(self.device)),
            "has_box": torch.full((len(images),), self.add_boxes),
        }
        return StackedBatch(batch, len(images), lambda i: {name: value[i] for name, value in batch.items()})

    def _uniforms(self, indices: torch.Tensor) -> torch.Tensor:
        """The random numbers behind the boxes of these images, float32 (B, UNIFORMS_PER_BOX)."""
        if self._fixed_uniforms is None:
            return torch.rand(len(indices), UNIFORMS_PER_BOX, generator=self.generator)
        return self._fixed_uniforms.index_select(0, indices)

    def _read(self) -> None:
        """Read the images at first use, so that a test set is read only if it is used."""
        if self._pixels is None:
            split = self.source.read(self.split, unlabelled=True)
            self._pixels = split.images.permute(0, 2, 3, 1).contiguous().to(self.device)  # (N, H, W, C)
            self._labels = split.labels.to(self.device)


def box_collate_fn(batch: Any) -> dict[str, torch.Tensor]:
    """Stack items of PathMNISTBoxDataset: a list of dicts, or the whole batch that `__getitems__` made."""
    return batch.stacked if isinstance(batch, StackedBatch) else default_collate(batch)


def create_box_dataloaders(
    batch_size: int = 32,
    num_workers: int = 0,
    data_root: str = "./data",
    *,
    dataset: str = "auto",
    mirror: str | None = None,
    augment: str = "none",
    border: str = "original",
    seed: int = 0,
    device: torch.device | str = "cpu",
    source: Source | None = None,
) -> tuple[DataLoader, DataLoader, DataLoader, int]:
    """Return (train_loader, val_loader, test_loader, num_classes); batches are the stacked dicts described above.

    Test images (see toolkit.medmnist_data.official_test) are read when the test loader is first iterated; in a
    student's copy of the sample, which lacks them, that loader has no batch. Arguments as for
    classification_dataset.create_pathmnist_dataloaders; the boxes of validation and test do not depend on `seed`, so
    that runs with different seeds are scored alike.
    """
    source = source or locate("pathmnist", data_root=data_root, dataset=dataset, mirror=mirror)
    options = {"border": border, "device": device}
    augmentation = named_augmentation(augment)
    train = PathMNISTBoxDataset("train", seed=seed, augmentation=augmentation, source=source, **options)
    loaders = [
        make_loader(
            train,
            batch_size,
            shuffle=True,
            num_workers=num_workers,
            seed=seed,
            min_batches=MIN_BATCHES,
            collate_fn=box_collate_fn,
        )
    ]
    for split, images in (("val", source), ("test", official_test(source))):
        evaluation = PathMNISTBoxDataset(split, source=images, **options)
        loaders.append(
            make_loader(evaluation, batch_size, shuffle=False, num_workers=num_workers, collate_fn=box_collate_fn)
        )
    return *loaders, source.num_classes


def visualize_box_samples(dataset: Dataset, num_samples: int = 6, save_path: str | os.PathLike | None = None) -> Any:
    """Draw image, mask and overlay of the first `num_samples` items; saved to `save_path` if given.

    Returns the matplotlib Figure.
    """
    items = [dataset[index] for index in range(min(num_samples, len(dataset)))]  # type: ignore[arg-type]
    return box_samples(items, save_path)
