"""Residual networks from scratch: equal to torchvision's, the paper's sizes, skips, gradients, the script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from labs.medmnist_experiments import residual, resnet
from toolkit.errors import UserError
from toolkit.runs import read_json

ROOT = Path(__file__).resolve().parents[3]


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The script as a process."""
    words = [sys.executable, "-m", "labs.medmnist_experiments.resnet", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def with_random_statistics(model: nn.Module) -> nn.Module:
    """BatchNorm layers of a new network have mean 0, variance 1, scale 1: a network that ignores them would pass."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.uniform_(-0.5, 0.5)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_equals_torchvision_given_its_weights(name: str) -> None:
    reference = with_random_statistics(torchvision.models.get_model(name, weights=None)).eval()
    ours = residual.build(name, 1000, width=64, stem="photograph").eval()
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 97, 64)  # an odd side: padding and strides must agree, too
    with torch.inference_mode():
        expected, found = reference(images), ours(images)
    # relative to the size of the logits, which grows with depth for random weights
    assert (found - expected).abs().max() <= 1e-6 * max(1, expected.abs().max())


def test_training_step_equals_torchvisions() -> None:
    reference = torchvision.models.resnet18(weights=None, num_classes=3)
    ours = residual.build("resnet18", 3, width=64, stem="photograph")
    ours.load_state_dict(reference.state_dict())
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    for model in (reference, ours):
        F.cross_entropy(model(images), labels).backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(ours.bn1.running_var, reference.bn1.running_var)


def test_plain_networks_have_the_papers_parameters() -> None:
    # The paper's own shortcuts have no parameters, so its ResNet-20 and -56 (CIFAR-10) count as our plain ones.
    for name, expected in (("plain20", 269_722), ("plain56", 853_018)):
        assert sum(parameter.numel() for parameter in residual.build(name, 10).parameters()) == expected


def test_skip_is_identity_or_projection() -> None:
    x = torch.randn(2, 4, 6, 6)
    for block in (residual.Block(4, 4), residual.Block(4, 8, stride=2)):
        nn.init.zeros_(block.bn2.weight)  # F(x) = 0
        block.eval()
        expected = x if block.downsample is None else block.downsample(x)
        torch.testing.assert_close(block(x), F.relu(expected))
    assert residual.Block(4, 4).downsample is None
    assert residual.Block(4, 8).downsample is not None
    plain = residual.Block(4, 4, skip=False)
    nn.init.zeros_(plain.bn2.weight)
    assert not plain.eval()(x).any()
    assert residual.Block(4, 8, stride=2, skip=False).downsample is None


@pytest.mark.parametrize(("name", "depth"), [("resnet18", 18), ("plain34", 34), ("resnet20", 20), ("plain56", 56)])
def test_depth_counts_the_layers_of_the_main_path(name: str, depth: int) -> None:
    model = residual.build(name, 2, in_channels=1, width=2)
    images = torch.randn(4, 1, 28, 28)
    assert model(images).shape == (4, 2)
    assert len(residual.gradient_norms(model, images, torch.tensor([0, 1, 0, 1]))) == depth


def test_gradient_norms_are_those_of_autograd_and_leave_the_model_alone() -> None:
    model = residual.build("resnet8", 2, in_channels=1, width=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8) % 2
    norms = residual.gradient_norms(model.eval(), images, labels)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.train()
    weights = [model.conv1.weight, model.layer3[0].conv2.weight, model.fc.weight]
    expected = torch.autograd.grad(F.cross_entropy(model(images), labels), weights)
    assert [norms[0], norms[-2], norms[-1]] == pytest.approx([float(one.norm()) for one in expected], rel=1e-5)


def test_skips_keep_the_gradients_of_56_layers_level() -> None:
    # Without skips BatchNorm makes gradients grow from layer to layer towards the input (Yang et al. 2019).
    images, labels = torch.randn(32, 1, 28, 28), torch.arange(32) % 2
    ratios = {}
    for name in ("resnet56", "plain56"):
        norms = residual.gradient_norms(residual.build(name, 2, in_channels=1, width=4), images, labels)
        ratios[name] = norms[1] / norms[-3]
    assert ratios["plain56"] > 10 * ratios["resnet56"]  # 50 to 220 times in ten trials


def test_without_batchnorm_is_a_copy() -> None:
    model = residual.build("resnet8", 2, width=2)
    bare = residual.without_batchnorm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in bare.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert bare.conv1.weight.equal(model.conv1.weight)


@pytest.mark.parametrize(
    "name", ["resnet50", "plain19", "vgg16", "resnet2", "resnet116", "resnet", "RESNET18", "plain-8"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="allowed: resnet or plain"):
        residual.build(name, 2)
    with pytest.raises(UserError, match="photograph"):
        residual.ResNet((1,), 2, stem="large")


def test_script_trains_reports_and_goes_on(tmp_path: Path) -> None:
    words = (
        "--quick",
        "--flag",
        "breastmnist",
        "--models",
        "resnet8",
        "plain8",
        "--width",
        4,
        "--output_dir",
        tmp_path,
    )
    done = script(*words)
    assert done.returncode == 0, done.stderr
    results = read_json(tmp_path / "results.json")
    assert [row["title"].split(" (")[0] for row in results["rows"]] == ["resnet8", "plain8"]
    assert results["data"].startswith("breastmnist (official file")
    assert results["difference_to_torchvision"] <= 1e-6
    first = results["runs"]["resnet8"][0]
    assert len(first["gradient_norms"]["before"]["network"]) == len(first["gradient_norms"]["after"]) == 8
    assert {"auc", "accuracy"} <= set(first["validation"])
    for name in ("curves.png", "gradient_norms.png", "table.md", "choices.json"):
        assert (tmp_path / name).stat().st_size > 0
    resnet.main([str(word) for word in words])  # everything is trained: the same figures, without training
    again = read_json(tmp_path / "results.json")
    assert again["rows"] == results["rows"]
    assert again["runs"] == results["runs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--models", "resnet19"], "allowed: resnet or plain"),
        (["--flag", "adrenalmnist3d"], "resnet takes images"),
        (["--width", "0"], "--width"),
        (["--stem", "big"], "--stem"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    done = script(*words, "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
