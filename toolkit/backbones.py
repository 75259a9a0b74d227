"""Networks of torchvision with ImageNet weights: from the network, from a file, or an honest "no weights"."""

from __future__ import annotations

import http.client
import socket
import urllib.error
from collections.abc import Callable, Collection
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet

from toolkit.devices import evaluating
from toolkit.errors import UserError
from toolkit.runs import load_checkpoint

CONNECT_TIMEOUT_S = 15  # of each socket operation: a firewall that drops packets would stop the run for minutes


class Resized(nn.Module):
    """Enlarges images (B, C, H, W) to size x size before the network sees them: ImageNet networks shrink by 32."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) → what the network returns."""
        if images.shape[-1] != self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return self.network(images)


def build(name: str, weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """The torchvision classifier `name` for ImageNet, with random weights or `weights`.

    resnet18_2223: a ResNet-18 with a third block in its last stage, of which ML.NET has ImageNet weights without a
        classifier: its last layer stays random, and whoever fine-tunes puts a new one there anyway.
    Raises UserError for a name that torchvision does not have and for weights with missing or odd keys or shapes.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in (*names, "resnet18_2223"):
        raise UserError(f"--backbone is {name!r}; allowed: resnet18, mobilenet_v2 and torchvision's other classifiers")
    if name == "resnet18_2223":
        network = ResNet(BasicBlock, [2, 2, 2, 3])
    else:
        network = torchvision.models.get_model(name, weights=None)
    if weights is not None:
        expected = network.state_dict()
        optional = {key for key in expected if key.endswith("num_batches_tracked")}
        optional |= {"fc.weight", "fc.bias"} if name == "resnet18_2223" else set()
        check_keys(name, expected, weights, optional=optional)
        network.load_state_dict(expected | weights)
    return network


def check_keys(
    name: str,
    expected: dict[str, torch.Tensor],
    found: dict[str, Any],
    origin: str = "the weights",
    optional: Collection[str] = (),
) -> None:
    """Raise UserError that names missing and odd keys and wrong shapes, the first three of each.

    optional: keys that may be missing. origin: what the message calls the weights.
    """
    faults = {
        "missing": [key for key in expected if key not in found and key not in optional],
        "odd": [key for key in found if key not in expected],
        "of another shape": [key for key in expected if key in found and not _fits(found[key], expected[key])],
    }
    told = [f"{kind}: {_shortened(keys)}" for kind, keys in faults.items() if keys]
    if told:
        raise UserError(f"{origin} do not fit {name}; keys {'; '.join(told)}")


def _fits(value: Any, wanted: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == wanted.shape


def _shortened(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def find_weights(name: str, path: str | None, say: Callable[[str], None] = print) -> dict[str, torch.Tensor] | None:
    """State dict of `path` if given, else torchvision's own by download, else None, which is said in one line.

    Raises UserError for a file that is not a state dict.
    """
    if path is not None:
        return _read_weights(path)
    if name not in torchvision.models.list_models(module=torchvision.models):
        say(f"no ImageNet weights for {name}: torchvision offers none; --weights PATH takes a file")
        return None
    try:
        with _socket_timeout(CONNECT_TIMEOUT_S):
            weights = torchvision.models.get_model_weights(name).DEFAULT
            return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (urllib.error.URLError, http.client.HTTPException, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        say(f"no ImageNet weights for {name}: the download failed ({reason}); --weights PATH takes a file")
        return None


def _read_weights(path: str) -> dict[str, torch.Tensor]:
    """The state dict in a file; UserError for anything else. No code of the file is run."""
    try:
        content = load_checkpoint(Path(path))
    except UserError as error:
        reason = "no such file" if not Path(path).exists() else "torch cannot read it as tensors alone"
        raise UserError(f"--weights {path}: {reason}; give a state dict that torch.save wrote") from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError(f"--weights {path} holds a {type(content).__name__}; give a state dict (name to tensor)")
    return weights


@contextmanager
def _socket_timeout(seconds: float) -> Any:
    """torch.hub opens its address without a timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the first convolution."""
    return next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last linear layer: the head. Raises UserError for networks without one (squeezenet)."""
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise UserError(f"{type(network).__name__} has no linear head; choose another --backbone")
    return found[-1]


def head_of(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of what makes class scores: the last linear layer, or the last convolution of a SqueezeNet."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    linear = [(name, module) for name, module in layers if isinstance(module, nn.Linear)]
    return (linear or layers)[-1]


def new_head(network: nn.Module, num_classes: int) -> None:
    """Replace the head by one with random weights for `num_classes` scores."""
    name, old = head_of(network)
    if isinstance(old, nn.Linear):
        replace_module(network, name, nn.Linear(old.in_features, num_classes))
    else:
        replace_module(network, name, nn.Conv2d(old.in_channels, num_classes, old.kernel_size))


def last_map(network: nn.Module, images: torch.Tensor, cells: int = 4) -> str:
    """Name of the last layer whose output still has cells x cells places: where Grad-CAM can show something.

    images: (B, 1, H, W) to try it with. Raises UserError if no layer has such an output.
    """
    found: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.dim() == 4 and min(output.shape[2:]) >= cells:
                found.append(name)

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with evaluating(network):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise UserError(f"no layer of {type(network).__name__} has an output of {cells} x {cells} places for Grad-CAM")
    return found[-1]


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place that `named_modules` calls `name`."""
    parent, _dot, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def small_image_stem(network: nn.Module) -> nn.Module:
    """Give a ResNet of torchvision a stem for small images, in place: 3 x 3, stride 1. The max pooling stays.

    The stem for photographs, 7 x 7 with stride 2, leaves 1 x 1 of a 28 x 28 image; this one leaves 2 x 2.
    """
    name, old = first_convolution(network)
    replace_module(network, name, nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False))
    return network


def is_folded(network: nn.Module) -> bool:
    """True if every BatchNorm was folded into its convolution (mean 0, scale 1), as converted int8 weights have it."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return bool(layers) and all(
        not layer.running_mean.any() and torch.allclose(layer.weight, (layer.running_var + layer.eps).sqrt(), atol=1e-3)
        for layer in layers
    )


def unfold_batchnorm(network: nn.Module, images: torch.Tensor) -> None:
    """Give folded BatchNorm layers the statistics of `images`, and weights that leave the network's function as it is.

    A folded layer is x + beta. In training mode it would normalise x and so change every feature. With the mean m and
    the deviation s of x as statistics, weight s and bias m + beta it is the same function, and one that can be trained.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(_take_statistics) for layer in layers]
    try:
        with evaluating(network):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _take_statistics(layer: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    """Rewrite one layer for its input (B, C, H, W) before it is applied."""
    gain = layer.weight / (layer.running_var + layer.eps).sqrt()  # y = gain * (x - mean) + bias, at present
    shift = layer.bias - gain * layer.running_mean
    mean = inputs[0].mean(dim=(0, 2, 3))
    variance = inputs[0].var(dim=(0, 2, 3), unbiased=False)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    layer.weight.copy_(gain * (variance + layer.eps).sqrt())
    layer.bias.copy_(shift + gain * mean)
