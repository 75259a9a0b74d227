"""Whole batches for the standard DataLoader: what `Dataset.__getitems__` returns, and loaders that draw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from toolkit.errors import UserError

# An epoch of a smaller set repeats it several times, so that "100 steps of 32" means the same on every set.
MIN_BATCHES = 100


class StackedBatch(Sequence):
    """A batch that is stacked already, and still a sequence of items for collate functions that expect one.

    stacked: what the DataLoader delivers. item: (index) → that item alone, made only when it is asked for.
    """

    def __init__(self, stacked: Any, length: int, item: Callable[[int], Any]) -> None:
        self.stacked, self._length, self._item = stacked, length, item

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._item(index)


def unstack(batch: StackedBatch) -> Any:
    """Collate function for datasets that return a StackedBatch: nothing is left to do."""
    return batch.stacked


class SeededDataset(Dataset):
    """A dataset with its own random generator, which travels to loader processes on every system.

    torch passes a Generator's state through shared memory, which fails where processes are spawned and not forked
    (macOS, Windows; torch 2.15): it is sent as bytes instead.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "generator": self.generator.get_state().numpy().tobytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.generator = torch.Generator()
        self.generator.set_state(torch.frombuffer(bytearray(state["generator"]), dtype=torch.uint8))


def make_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    shuffle: bool,
    num_workers: int = 0,
    seed: int = 0,
    min_batches: int = 0,
    collate_fn: Callable = unstack,
) -> DataLoader:
    """A standard DataLoader over a dataset with `__getitems__`; the same seed draws the same batches.

    shuffle: draw without replacement; a set of fewer than `min_batches` batches is repeated until they are full.
    Raises UserError for a batch size that is not positive or larger than the set that is shuffled.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; allowed: 1 or more")
    if num_workers < 0:
        raise UserError(f"num_workers is {num_workers}; allowed: 0 (load in the main process) or more")
    length = len(dataset)  # type: ignore[arg-type]
    if shuffle and batch_size > length:
        raise UserError(f"batch_size is {batch_size}, but the set has {length} images; allowed: 1 .. {length}")
    # Its own generator: the order of the images depends on the seed alone. With PyTorch's global one, a model with
    # one layer more would draw more initial weights, see other batches, and could not be compared.
    generator = torch.Generator().manual_seed(seed)
    sampler = None
    if shuffle:
        # Not shuffle=True: an epoch of a small set draws more images than the set has, reshuffled each time through.
        sampler = RandomSampler(dataset, num_samples=max(length, min_batches * batch_size), generator=generator)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn,
        generator=generator,
        worker_init_fn=_seed_worker,
    )


def _seed_worker(_worker_id: int) -> None:
    """Give the worker's copy of the dataset its own generator, seeded from the loader's generator.

    Each process has a copy of the dataset: without this, all of them would flip and crop in the same way.
    """
    info = torch.utils.data.get_worker_info()
    generator = getattr(info.dataset, "generator", None)
    if generator is not None:
        generator.manual_seed(info.seed)


def generators_of(loader: Any) -> list[torch.Generator]:
    """Every random generator that decides what `loader` delivers; resuming a run restores their states."""
    found = [getattr(loader, "generator", None), getattr(getattr(loader, "dataset", None), "generator", None)]
    return [generator for generator in found if isinstance(generator, torch.Generator)]
