"""What Homework 5 provides: thresholds, the lock on the test images, weights from a file, a whole quick run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from labs.hw5_pneumonia import choices
from labs.hw5_pneumonia import run as lab
from tests.labs.hw5 import helpers
from toolkit import backbones
from toolkit.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.provided


def test_the_threshold_lies_between_classes_that_can_be_separated():
    probabilities = np.concatenate([np.linspace(0, 0.3, 40), np.linspace(0.8, 1, 60)])
    labels = np.repeat([0, 1], [40, 60])
    assert 0.3 < choices.choose_threshold(probabilities, labels) < 0.8


def test_the_threshold_is_near_youdens_of_a_large_sample():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 4000)
    # Two normal densities of the same width cross halfway, where Youden's index is highest.
    probabilities = 0.5 + 0.1 * (2 * labels - 1) + 0.1 * generator.standard_normal(4000)
    assert choices.choose_threshold(probabilities, labels) == pytest.approx(0.5, abs=0.03)


def test_no_threshold_for_a_single_class():
    with pytest.raises(UserError, match="all of one class"):
        choices.choose_threshold(np.linspace(0, 1, 9), np.ones(9, np.int64))


def test_a_missing_class_is_named():
    with pytest.raises(UserError, match="the train split has no image of: normal"):
        choices.check_classes(torch.ones(5, dtype=torch.int64), "train", helpers.CLASS_NAMES)


def test_fewer_images_leave_validation_alone():
    source = choices.FewerImages(helpers.SmallSource(), 20)
    assert len(source.read("train")) == 20
    assert len(source.read("val")) == 19
    assert source.class_names == helpers.CLASS_NAMES


def test_class_weights_balance():
    weights = choices.balanced_weights(torch.tensor([0, 1, 1, 1]))
    assert weights.tolist() == pytest.approx([2.0, 2 / 3])


def test_intervals_hold_the_figure_and_shrink_with_more_images():
    def share(probabilities, labels, threshold):
        return {"accuracy": float(((probabilities >= threshold) == labels).mean())}

    widths = []
    for repeats in (1, 9):
        probabilities, labels = (np.tile(values, repeats) for values in helpers.scores(200))
        found = choices.bootstrap_intervals(probabilities, labels, 0.5, share, ("accuracy",))["accuracy"]
        assert found[0] < share(probabilities, labels, 0.5)["accuracy"] < found[1]
        widths.append(found[1] - found[0])
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.3)  # the root of nine


def test_test_images_come_once_and_after_the_choices(tmp_path):
    loader = [(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))]
    sealed = choices.SealedTest(loader)
    with pytest.raises(RuntimeError, match="stays closed"):
        sealed.open({}, tmp_path / "choices.json")
    images, labels = sealed.open({"threshold": 0.4}, tmp_path / "choices.json")
    assert json.loads((tmp_path / "choices.json").read_text()) == {"threshold": 0.4}
    assert (images.shape, labels.tolist()) == ((2, 1, 4, 4), [0, 1])
    with pytest.raises(RuntimeError, match="read before"):
        sealed.open({"threshold": 0.5}, tmp_path / "choices.json")
    assert json.loads((tmp_path / "choices.json").read_text()) == {"threshold": 0.4}


def test_weights_that_do_not_fit_are_named(tmp_path):
    weights = backbones.build("resnet18").state_dict()
    torch.save(weights, tmp_path / "good.pth")
    assert set(backbones.find_weights("resnet18", str(tmp_path / "good.pth"))) == set(weights)
    weights["odd.key"] = weights.pop("fc.bias")
    weights["conv1.weight"] = weights["conv1.weight"][:, :1]
    torch.save(weights, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"missing: fc\.bias; odd: odd\.key; of another shape: conv1\.weight"):
        backbones.build("resnet18", backbones.find_weights("resnet18", str(tmp_path / "bad.pth")))


@pytest.mark.parametrize("content", [None, "text", [1, 2], {1: 2}], ids=["missing", "text", "list", "odd names"])
def test_files_that_hold_no_weights(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("hello")
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"--weights .*give a state dict"):
        backbones.find_weights("resnet18", str(path))


def test_unknown_backbones_are_refused():
    with pytest.raises(UserError, match="'nonsense'; allowed: resnet18"):
        backbones.build("nonsense")


def folded() -> nn.Module:
    """A network whose BatchNorm layers are folded: scale 1, mean 0, and the bias of the convolution as beta."""
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3)
    )
    for layer in (network[1], network[4]):
        layer.running_var.fill_(1 - layer.eps)
        nn.init.normal_(layer.bias)
    return network


def test_folded_batchnorm_comes_back_without_changing_the_function():
    network, images = folded().eval(), torch.randn(64, 1, 12, 12)
    assert backbones.is_folded(network)
    before = network(images)
    backbones.unfold_batchnorm(network, images)
    assert not backbones.is_folded(network)
    torch.testing.assert_close(network(images), before, atol=1e-4, rtol=1e-3)
    # Now training mode, which normalises with the batch's own statistics, gives nearly the same; before it did not.
    torch.testing.assert_close(network.train()(images), before, atol=1e-2, rtol=1e-2)


def test_the_last_map_is_where_grad_cam_can_see():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8, 2))
    assert backbones.last_map(network, torch.zeros(1, 1, 10, 10)) == "1"  # 8 x 8; the pooled map has 2 x 2
    with pytest.raises(UserError, match="no layer"):
        backbones.last_map(nn.Flatten(), torch.zeros(1, 1, 10, 10))


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess:
    """A run that finds no network: every address goes to a proxy that nobody serves."""
    closed = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment = {
        **os.environ,
        **closed,
        "NO_PROXY": "",
        "no_proxy": "",
        "TORCH_HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "labs.hw5_pneumonia.hw5_dl", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.timeout(200)
def test_a_quick_run_without_network_leaves_everything(tmp_path):
    folder = tmp_path / "outputs"
    arguments = ["--quick", "--train_images", "256", "--models", "cnn", "pretrained", "--output_dir", str(folder)]
    result = run(*arguments, home=tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert "no ImageNet weights for resnet18: the download failed" in result.stdout
    table = (folder / "3_table.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if "pretrained" in line)
    assert "not run: no weights" in row
    assert "0." not in row
    for path in folder.glob("*.png"):
        helpers.check_picture(path)
    names = {path.name for path in folder.iterdir()}
    assert {"1_samples.png", "2_curves_cnn.png", "4_roc_pr.png", "5_grad_cam.png", "3_table.csv"} <= names
    results = json.loads((folder / "results.json").read_text())
    choices_made = json.loads((folder / "choices.json").read_text())
    assert results["models"]["CNN"]["thresholds"] == [row["threshold"] for row in choices_made["CNN"]]
    assert results["interpretability"]["mean_change_with_random_weights"] > 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_dir", "FILE/outputs"], "cannot write to --output_dir"),
        (["--train_images", "100"], "--train_images is 100; allowed: 0 (all) or at least one batch, 128"),
        (["--weights", "FILE"], "torch cannot read it as tensors alone"),
    ],
)
def test_mistakes_are_told_before_the_training(tmp_path, arguments, message):
    (tmp_path / "file").write_text("x")
    given = [
        "--output_dir",
        str(tmp_path / "outputs"),
        *(part.replace("FILE", str(tmp_path / "file")) for part in arguments),
    ]
    with pytest.raises(UserError, match=re.escape(message)):  # toolkit.cli makes one line and exit code 2 of it
        lab.main(given)
