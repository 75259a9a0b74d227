"""PathMNIST loaders for Part 1: images of 28 x 28 pixels in nine classes.

Provided. Images stay one uint8 tensor in memory, on the GPU if there is one; a standard DataLoader fetches whole
batches, and training batches are augmented at once. Sets with more than 2 GiB of pixels stay on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from toolkit.augment import Augmentation, named_augmentation, normalize
from toolkit.batches import MIN_BATCHES, SeededDataset, StackedBatch, make_loader
from toolkit.medmnist_data import Source, Split, locate, official_test


class ImageDataset(SeededDataset):
    """Images and labels of one split, for any MedMNIST set with two-dimensional images.

    An item is (image, label): float32 (C, H, W) in [-1, 1] and int64 () (or (L,) for several labels per image).
    augmentation: for training; None leaves the images as they are.
    """

    def __init__(
        self,
        split: Split,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(seed)
        # Augmentation works on (H, W, C), the network's input is (C, H, W): each is stored as it is needed.
        self._channels_last = augmentation is not None or split.file is not None
        self._file = split.file  # of a set that is too large for memory: a batch reads its images from there
        if self._file is not None:
            device = "cpu"
        else:
            pixels = split.images.permute(0, 2, 3, 1) if self._channels_last else split.images
            self._image_shape = pixels.shape[1:]
            self._flat = pixels.contiguous().to(device).view(len(pixels), -1)  # (N, bytes of an image)
        self.labels = split.labels.to(device)
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> StackedBatch:
        """Stacked images float32 (B, C, H, W) in [-1, 1] and labels int64 (B,); a model may say images.view(B, -1)."""
        where = torch.as_tensor(indices, device=self.labels.device)
        images = self.raw(where)
        labels = self.labels.index_select(0, where)
        if self.augmentation is None:
            images = normalize(images.contiguous())
        else:
            images = self.augmentation(images, self.generator)
        return StackedBatch((images, labels), len(labels), lambda i: (images[i], labels[i]))

    def raw(self, indices: torch.Tensor) -> torch.Tensor:
        """The stored images, uint8 (B, C, H, W)."""
        if self._file is not None:
            picked = torch.from_numpy(self._file[indices.numpy()])
        else:
            picked = self._flat.index_select(0, indices).view(-1, *self._image_shape)  # one memcpy per image
        return picked.permute(0, 3, 1, 2) if self._channels_last else picked


def create_pathmnist_dataloaders(
    batch_size: int = 32,
    num_workers: int = 0,
    data_root: str = "./data",
    *,
    dataset: str = "auto",
    mirror: str | None = None,
    augment: str = "standard",
    seed: int = 0,
    device: torch.device | str = "cpu",
    source: Source | None = None,
) -> tuple[DataLoader, DataLoader, int]:
    """Return (train_loader, val_loader, num_classes) for PathMNIST.

    A batch is (images, labels): float32 (B, 3, 28, 28) normalised with mean 0.5 and sd 0.5 to [-1, 1], int64 (B,).
    Only training batches are augmented. An epoch has at least MIN_BATCHES training batches: a small set (the bundled
    sample has 600 images) is repeated several times per epoch, shuffled again each time.

    dataset: 'auto' (file in data_root, else download, else the bundled sample), 'full' or 'sample'. mirror: base
    address to download from. augment: see toolkit.augment.NAMES. seed: of shuffling and augmentation. device: where
    the images are kept. source: a file located before; then data_root, dataset and mirror are not used.
    Raises UserError (a ValueError) for arguments out of range and for data that are not available.
    """
    source = source or locate("pathmnist", data_root=data_root, dataset=dataset, mirror=mirror)
    train = ImageDataset(source.read("train"), augmentation=named_augmentation(augment), seed=seed, device=device)
    val = ImageDataset(source.read("val"), device=device)
    return (
        make_loader(train, batch_size, shuffle=True, num_workers=num_workers, seed=seed, min_batches=MIN_BATCHES),
        make_loader(val, batch_size, shuffle=False, num_workers=num_workers),
        source.num_classes,
    )


def create_test_dataloader(source: Source, batch_size: int = 32, device: torch.device | str = "cpu") -> DataLoader:
    """The test images of toolkit.medmnist_data.official_test, for the one run that reports them.

    Raises DataError where the copy has no test images.
    """
    return make_loader(ImageDataset(official_test(source).read("test"), device=device), batch_size, shuffle=False)
