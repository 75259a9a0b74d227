"""Loader processes, started in every way that a system may start them."""

from __future__ import annotations

import multiprocessing
import pickle
import sys

import pytest
import torch

from synthetic_data import PathMNISTBoxDataset, create_box_dataloaders

pytestmark = pytest.mark.provided


@pytest.mark.parametrize("method", ["spawn"] if sys.platform == "win32" else ["fork", "spawn"])
def test_worker_processes_deliver_the_same_batches_for_the_same_seed(method):
    """macOS and Windows spawn; torch's own way of sending a Generator fails there."""

    def first_batch() -> torch.Tensor:
        loader = create_box_dataloaders(dataset="sample", num_workers=1, seed=4, augment="flips")[0]
        loader.multiprocessing_context = multiprocessing.get_context(method)
        return next(iter(loader))["image"]

    once = first_batch()
    assert once.shape == (32, 3, 28, 28)
    assert torch.equal(first_batch(), once)


def test_a_dataset_continues_its_random_numbers_after_the_journey():
    dataset = PathMNISTBoxDataset("train", dataset="sample", seed=7)
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(dataset[1]["mask"], copy[1]["mask"])
