"""What a GPU must give: the same batches as a processor, its own precision, one line when its memory runs out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from classification_dataset import create_pathmnist_dataloaders
from synthetic_data import create_box_dataloaders
from toolkit import devices
from toolkit.cli import run_script

pytestmark = [
    pytest.mark.provided,
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

# A GPU multiplies by the reciprocal where a processor divides: last bits of a pixel may differ, and jitter adds some.
PIXEL_TOLERANCE = 2e-6
BATCHES = 3


def first_batches(loader) -> list:
    return [batch for batch, _ in zip(loader, range(BATCHES), strict=False)]


def test_auto_takes_the_gpu_in_its_own_precision():
    device = devices.pick_device("auto")
    assert device.type == "cuda"
    precision = devices.resolve_precision("auto", device)
    assert precision == ("bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16")
    layer = devices.place_model(nn.Conv2d(3, 4, 3), device)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    with devices.autocast(device, precision):
        assert layer(torch.zeros(2, 3, 8, 8, device=device)).dtype == getattr(torch, precision)


def test_a_seed_settles_the_random_numbers_of_the_gpu():
    def draw(seed: int) -> list[float]:
        devices.seed_everything(seed)
        return torch.rand(4, device="cuda").tolist()

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize("augment", ["none", "flips", "standard", "strong"])
def test_image_batches_of_gpu_and_processor_are_the_same(augment):
    found = {}
    for device in ("cuda", "cpu"):
        loader, val_loader, _ = create_pathmnist_dataloaders(
            32, dataset="sample", augment=augment, seed=5, device=device
        )
        found[device] = first_batches(loader) + first_batches(val_loader)
    for (images, labels), (expected, expected_labels) in zip(found["cuda"], found["cpu"], strict=True):
        assert images.device.type == labels.device.type == "cuda"
        torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=PIXEL_TOLERANCE)
        assert torch.equal(labels.cpu(), expected_labels)
    assert not torch.equal(found["cpu"][0][0], found["cpu"][1][0])  # batches that differ, or equality would say little


def test_box_batches_of_gpu_and_processor_are_the_same():
    found = {}
    for device in ("cuda", "cpu"):
        loaders = create_box_dataloaders(32, dataset="sample", augment="strong", seed=5, device=device)
        found[device] = first_batches(loaders[0]) + first_batches(loaders[1])
    for batch, expected in zip(found["cuda"], found["cpu"], strict=True):
        assert batch["image"].device.type == batch["mask"].device.type == "cuda"
        torch.testing.assert_close(batch["image"].cpu(), expected["image"], rtol=0, atol=PIXEL_TOLERANCE)
        assert torch.equal(batch["mask"].cpu(), expected["mask"])
        assert torch.equal(batch["pathmnist_label"].cpu(), expected["pathmnist_label"])
    assert 0 < found["cpu"][0]["mask"].mean() < 1


def test_memory_that_runs_out_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        run_script(lambda: torch.empty(10**15, dtype=torch.uint8, device="cuda"))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out of GPU memory; use a smaller --batch_size")
    assert error.count("\n") == 1
