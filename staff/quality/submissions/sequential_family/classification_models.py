# sequential_family: every model is an nn.Sequential without a forward of its own; sums kept on the device.
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


class LinearModel(nn.Sequential):
    """One linear map from all 2352 pixel values to the logits.

    Images (B, 3, 28, 28) → logits (B, num_classes).
    """

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 28 * 28, num_classes))


class MLPModel(nn.Sequential):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(3 * 28 * 28, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(512, 256),
            nn.ReLU(inplace=True),
            nn.Linear(256, num_classes),
        )


class Residual(nn.Sequential):
    """What a Sequential computes, added to its input."""

    def forward(self, x):
        return x + super().forward(x)


class Block(nn.Sequential):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(conv_block(n_in, n_out), Residual(conv_block(n_out, n_out)))


class CNNModel(nn.Sequential):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__(
            Block(3, 32),
            nn.MaxPool2d(2),
            Block(32, 64),
            nn.MaxPool2d(2),
            conv_block(64, 128),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(128, num_classes),
        )


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
