"""Loaders that fetch whole batches: same seed same batches, epochs of small sets, and bad arguments."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch.utils.data import Dataset, default_collate

from toolkit.batches import StackedBatch, generators_of, make_loader
from toolkit.errors import UserError

pytestmark = pytest.mark.provided


class Numbers(Dataset):
    """The numbers 0 .. length - 1, each with a random number of the dataset's own generator."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> StackedBatch:
        stacked = torch.stack([torch.tensor(indices).double(), torch.rand(len(indices), generator=self.generator)], 1)
        return StackedBatch(stacked, len(indices), lambda i: stacked[i])


def indices_of(loader) -> list[list[int]]:
    return [batch[:, 0].int().tolist() for batch in loader]


def test_without_shuffling_everything_comes_once_in_order():
    assert indices_of(make_loader(Numbers(7), 3, shuffle=False)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_shuffling_draws_without_replacement_and_anew_each_epoch():
    loader = make_loader(Numbers(50), 8, shuffle=True, seed=1)
    first, second = (list(chain.from_iterable(indices_of(loader))) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second != list(range(50))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_seed_same_batches(num_workers):
    first, second, other = (
        torch.cat(list(make_loader(Numbers(12), 3, shuffle=True, num_workers=num_workers, seed=seed)))
        for seed in (5, 5, 6)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_workers_draw_different_random_numbers():
    batches = list(make_loader(Numbers(8), 4, shuffle=False, num_workers=2, seed=0))
    assert not torch.equal(batches[0][:, 1], batches[1][:, 1])


def test_a_small_set_is_gone_over_until_the_batches_are_there():
    loader = make_loader(Numbers(10), 4, shuffle=True, min_batches=6)
    drawn = indices_of(loader)
    assert len(loader) == len(drawn) == 6
    drawn = list(chain.from_iterable(drawn))
    assert len(drawn) == 24
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10))


def test_a_large_set_is_gone_over_once():
    assert len(make_loader(Numbers(10), 2, shuffle=True, min_batches=3)) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; allowed: 1 or more"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"batch_size": 11}, "batch_size is 11, but the set has 10 images"),
        ({"batch_size": 2, "num_workers": -1}, "num_workers is -1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(UserError, match=message):
        make_loader(Numbers(10), shuffle=True, **options)


def test_an_evaluation_batch_may_be_larger_than_the_set():
    assert indices_of(make_loader(Numbers(3), 100, shuffle=False)) == [[0, 1, 2]]


def test_a_whole_batch_is_a_sequence_of_items():
    batch = Numbers(5).__getitems__([4, 2])
    assert len(batch) == 2
    assert [int(item[0]) for item in batch] == [4, 2]
    assert torch.equal(default_collate(list(batch)), batch.stacked)
    with pytest.raises(IndexError):
        batch[2]


def test_all_generators_of_a_loader_are_found():
    dataset = Numbers(4)
    loader = make_loader(dataset, 2, shuffle=True)
    assert generators_of(loader) == [loader.generator, dataset.generator]
    assert generators_of([1, 2]) == []
