"""One training: its data, its network, its schedule; and the set of full size."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from labs.pathmnist_resnet18.src import fitting, fullsize, job, memory
from toolkit import stored_images
from toolkit.cli import from_flags
from toolkit.errors import UserError
from toolkit.medmnist_data import locate

pytestmark = pytest.mark.provided
TINY = ["--dataset", "sample", "--device", "cpu", "--precision", "float32", "--image_size", "32", "--batch_size", "16"]
TINY += ["--max_steps_per_epoch", "2"]


def recipe(*words: str) -> fitting.Recipe:
    return from_flags(fitting.Recipe, vars(job.build_parser().parse_args(list(words))))


def model_of(*words: str):
    one = recipe(*words)
    return fitting.build_model(one.model_name, one.image_size, one.stem, 9)


def test_a_part_is_stratified_and_the_same_each_time() -> None:
    labels = np.repeat(np.arange(9), 100)
    rows = fitting.chosen_rows(labels, 0.2)
    assert np.bincount(labels[rows]).tolist() == [20] * 9
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(rows, fitting.chosen_rows(labels, 0.2))
    assert np.array_equal(fitting.chosen_rows(labels, 1.0), np.arange(900))


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_a_part_must_have_every_class_on_both_sides(share: float) -> None:
    with pytest.raises(UserError, match=f"train_share is {share}"):
        fitting.chosen_rows(np.repeat(np.arange(9), 100), share)


def test_images_are_enlarged_as_pillow_does() -> None:
    """To within the rounding of Pillow, which works on bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    model = model_of()
    seen = []
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    wanted = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR), dtype=np.float32)
    np.testing.assert_allclose(seen[0][0].permute(1, 2, 0).numpy(), wanted, atol=1.01)


def test_native_images_pass_as_they_are() -> None:
    model = model_of()
    seen = []
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        model.eval()(images)
    assert torch.equal(seen[0], images)


def test_a_small_stem_keeps_the_maps_large() -> None:
    sizes = {}
    for stem in ("photo", "small"):
        model = model_of("--stem", stem)
        model.network.network.layer4.register_forward_hook(
            lambda m, i, out, stem=stem: sizes.update({stem: out.shape[2]})
        )
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, 28, 28))
    assert sizes == {"photo": 2, "small": 4}


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """Three epochs in which the rate falls after each; the results and the run folder."""
    folder = tmp_path_factory.mktemp("stepped") / "run"
    words = ["--num_epochs", "3", "--step_epochs", "1", "--step_factor", "0.5", "--patience", "0", "--mixup", "0.2"]
    words += ["--augment", "stain", "--class_weights", "--train_share", "0.5"]
    job.main([*TINY, *words, "--output_dir", str(folder)])
    return folder


def test_the_rate_falls_after_so_many_epochs(stepped) -> None:
    with open(stepped / "history.csv", newline="") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.001, 0.0005, 0.00025])


def test_normalisation_is_that_of_the_training_images_alone(stepped) -> None:
    split = locate("pathmnist", dataset="sample").read("train")
    rows = fitting.chosen_rows(split.labels.numpy(), 0.5)
    pixels = split.images[rows].double() / 127.5 - 1
    state = torch.load(stepped / "best.pt", weights_only=True)["state_dict"]
    torch.testing.assert_close(state["network.mean"].view(-1).double(), pixels.mean(dim=(0, 2, 3)), atol=1e-6, rtol=0)
    wanted = pixels.permute(1, 0, 2, 3).flatten(1).std(dim=1, unbiased=False)
    torch.testing.assert_close(state["network.sd"].view(-1).double(), wanted, atol=1e-6, rtol=0)


def test_class_weights_and_mixup_reach_the_loss() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    loss = fitting.criterion(recipe("--class_weights"), labels, 2, None)
    assert loss.weight.tolist() == pytest.approx([40 / 60, 2.0])
    focal = fitting.criterion(recipe("--class_weights", "--loss", "focal", "--focal_gamma", "1"), labels, 2, None)
    assert focal.gamma == 1
    assert focal.weight.tolist() == pytest.approx([40 / 60, 2.0])


def test_peak_memory_sees_what_was_there_and_is_gone() -> None:
    before = memory.peak_bytes()
    block = np.ones(300_000_000, np.uint8)
    with_block = memory.peak_bytes()
    del block
    assert with_block >= before
    assert with_block > 300_000_000
    assert memory.peak_bytes() > 0.99 * with_block  # the kernel counts pages in batches


def test_the_set_of_full_size_repeats_the_sample(tmp_path) -> None:
    counts = {"train": 1300, "val": 200, "test": 150}
    fullsize.make_set(tmp_path, counts, 28)
    found = locate("pathmnist", data_root=tmp_path, dataset="full", verify=False)
    sample = locate("pathmnist", dataset="sample").read("train")
    assert found.name == "pathmnist-unverified"  # no result of it can pass for an official one
    assert {split: found.count(split) for split in counts} == counts
    train = found.read("train")
    assert torch.equal(train.images[1200:], sample.images[:100])
    assert torch.equal(train.labels[600:1200], sample.labels)


def test_a_large_set_is_packed_and_its_training_reads_it_from_the_disk(tmp_path, monkeypatch) -> None:
    sample = locate("pathmnist", dataset="sample").read("train").images
    fullsize.make_set(tmp_path, {"train": 300, "val": 20, "test": 20}, 128)
    assert (tmp_path / "pathmnist_128.npz").stat().st_size < 300 * 128 * 128 * 3 / 4
    monkeypatch.setattr(stored_images, "MEMORY_LIMIT", 1000)
    found = locate("pathmnist", size=128, data_root=tmp_path, dataset="full", verify=False)
    train = fitting.read(found, "train")
    assert isinstance(train.pixels, stored_images.StoredImages)
    corners = np.arange(28) * 128 // 28 + 1  # one pixel of each enlarged one
    expected = sample[:300].permute(0, 2, 3, 1).numpy()
    assert np.array_equal(train.pixels[:][:, corners][:, :, corners], expected)
    loader = fitting.training_loader(recipe(), train, np.arange(300), "cuda", 0)  # such images never go to the GPU
    images, labels = next(iter(loader))
    assert (images.shape, images.device.type) == ((128, 3, 128, 128), "cpu")
    assert labels.shape == (128,)


def test_a_file_of_somebody_else_is_never_replaced(tmp_path) -> None:
    (tmp_path / "pathmnist.npz").write_bytes(b"precious")
    with pytest.raises(UserError, match="is not this set"):
        fullsize.make_set(tmp_path, {"train": 10, "val": 10, "test": 10}, 28)
    assert (tmp_path / "pathmnist.npz").read_bytes() == b"precious"


def test_full_size_is_the_official_one() -> None:
    assert fullsize.FULL == {"train": 89_996, "val": 10_004, "test": 7_180}


def test_a_run_that_takes_too_much_memory_is_told() -> None:
    figures = {
        "images": fullsize.FULL,
        "stored_size": 28,
        "model_name": "resnet18",
        "batch_size": 128,
        "precision": "float32",
        "device": "cpu",
        "step_ms": 500.0,
        "steps": 20,
        "validation_seconds": 30.0,
        "epoch_seconds": 382.0,
        "steps_of_an_epoch": 704,
        "extrapolated": True,
    }
    assert "3.10 GB (NOT below 3 GB)" in fullsize.describe({**figures, "peak_memory_bytes": 3_100_000_000})
    text = fullsize.describe({**figures, "peak_memory_bytes": 1_500_000_000})
    assert "1.50 GB (below 3 GB)" in text
    assert "an epoch: 382 s (extrapolated: 704 steps" in text
