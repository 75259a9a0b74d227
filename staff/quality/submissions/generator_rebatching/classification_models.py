# generator_rebatching: generators for batches and steps; validation cuts or joins batches; AvgPool.
"""Part 1: a linear model, an MLP and a CNN that tell nine classes of images apart.

GRADED: TODO 1.0 (linear), 1.1 (MLP), 1.2 (CNN). Every model takes images (B, 3, 28, 28) in [-1, 1] and returns logits
(B, num_classes): no softmax, because the cross-entropy loss contains it.
"""

from __future__ import annotations

import torch
from torch import nn

from toolkit.layers import conv_block

IMAGE_SHAPE = (3, 28, 28)  # channels, height, width
MODEL_NAMES = ("linear", "mlp", "cnn")


def layer_stream(sizes, activation):
    """Linear, activation, Linear, activation, ..., Linear."""
    *inner, last = zip(sizes, sizes[1:])
    for pair in inner:
        yield nn.Linear(*pair)
        yield activation()
    yield nn.Linear(*last)


def conv_stream(channels, pools):
    for (a, b), pool in zip(zip(channels, channels[1:]), pools):
        yield conv_block(a, b)
        if pool:
            yield nn.AvgPool2d(2)


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layer_stream([2352, num_classes], nn.Identity))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.layers(torch.stack([image.ravel() for image in x]))


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layer_stream([2352, 512, 256, 128, num_classes], nn.ReLU))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.layers(torch.stack([image.ravel() for image in x]))


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.features = nn.Sequential(*conv_stream([3, 32, 32, 64, 64, 128], [0, 1, 0, 1, 0]))
        self.logits = nn.Sequential(*layer_stream([128, 64, num_classes], nn.ReLU))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        maps = self.features(x)
        return self.logits(maps.flatten(2).mean(2))


def get_model(model_name: str, num_classes: int = 9, **model_args: object) -> nn.Module:
    """Return a new model called 'linear', 'mlp' or 'cnn'. Raises ValueError for any other name.

    `model_args` (the flag --model_args) reach the constructor of the model: arguments with defaults compare designs.
    """
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"model_name is {model_name!r}; allowed: {', '.join(MODEL_NAMES)}")
    return models[model_name](num_classes, **model_args)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
