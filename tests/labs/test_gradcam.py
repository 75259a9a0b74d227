"""toolkit/gradcam.py: maps in 2D and 3D, the same as the homework's own, and none that ignores what was learned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labs.hw5_pneumonia import hw5_dl
from toolkit import gradcam
from toolkit.errors import UserError

pytest.importorskip("captum", reason="captum is not installed (requirements-dev.txt)")


def network(dimensions: int) -> nn.Module:
    """Convolutions, mean over all places, one linear layer, for images or volumes."""
    torch.manual_seed(dimensions)
    convolution, pool = {2: (nn.Conv2d, nn.AdaptiveAvgPool2d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}[dimensions]
    return nn.Sequential(
        convolution(1, 6, 3, stride=2), nn.ReLU(), pool(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 2)
    )


def closed_form(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """For a mean over all places the weights of Grad-CAM are the head's, up to a factor that the scaling removes."""
    features = model[1](model[0](inputs))
    shape = (*features.shape[:2], *[1] * (features.dim() - 2))
    summed = (model[5].weight[targets].view(shape) * features).sum(dim=1, keepdim=True).relu()
    mode = "bilinear" if inputs.dim() == 4 else "trilinear"
    maps = nn.functional.interpolate(summed, inputs.shape[2:], mode=mode)[:, 0]
    return (maps / maps.flatten(1).amax(dim=1).clamp(min=1e-30).view(-1, *[1] * (maps.dim() - 1))).detach()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_maps_in_closed_form(dimensions):
    model = network(dimensions).train()
    inputs = torch.randn(5, 1, *[13] * dimensions)
    targets = torch.tensor([0, 1, 1, 0, 1])
    maps = gradcam.grad_cam(model, "1", inputs, targets)
    assert maps.shape == (5, *[13] * dimensions)
    torch.testing.assert_close(maps, closed_form(model, inputs, targets), atol=1e-5, rtol=0)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("place", ["features.2", "features.6", "features.10"])
def test_the_homeworks_own_maps_are_the_same(place):
    model = hw5_dl.PneumoniaCNN()
    with torch.no_grad():
        for _ in range(3):  # lively BatchNorm statistics
            model(torch.randn(32, 1, 28, 28))
    images, targets = torch.rand(8, 1, 28, 28) * 2 - 1, torch.arange(8) % 2
    by_hand = hw5_dl.grad_cam(model, model.get_submodule(place), images, targets)
    assert by_hand.amax() == pytest.approx(1)
    torch.testing.assert_close(gradcam.grad_cam(model, place, images, targets), by_hand, atol=1e-5, rtol=0)


def test_random_weights_change_the_map():
    model = hw5_dl.PneumoniaCNN().eval()
    images, targets = torch.rand(8, 1, 28, 28) * 2 - 1, torch.ones(8, dtype=torch.int64)
    maps = gradcam.grad_cam(model, "features.6", images, targets)
    torch.testing.assert_close(gradcam.grad_cam(model, "features.6", images, targets), maps)
    other = gradcam.randomised(model)
    assert not torch.equal(other.features[0].weight, model.features[0].weight)
    change = (gradcam.grad_cam(other, "features.6", images, targets) - maps).abs().mean()
    assert change > 0.05, f"with random weights the maps change by {change:.3f}: they do not show what was learned"


def test_one_class_for_all_images():
    model, images = network(2).eval(), torch.randn(3, 1, 9, 9)
    every = gradcam.grad_cam(model, model[1], images, torch.ones(3, dtype=torch.int64))
    torch.testing.assert_close(gradcam.grad_cam(model, model[1], images, 1), every)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        ("nothing", (2, 1, 9, 9), "layer is 'nothing'; allowed: 0, 1, 2"),
        ("3", (2, 1, 9, 9), "no dimensions of space"),
        ("1", (1, 9, 9), r"inputs have shape \(1, 9, 9\)"),
    ],
)
def test_mistakes_are_named(layer, shape, message):
    with pytest.raises(UserError, match=message):
        gradcam.grad_cam(network(2), layer, torch.zeros(shape), 0)
