# all_convolutions: no dense layer at all: kernels of 28 x 28, strides, PixelShuffle, one _epoch for training and validation.
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


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        # a kernel as large as the image is the linear layer, and needs no flattening before it
        self.conv = nn.Conv2d(3, num_classes, kernel_size=28)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.conv(x).flatten(1)


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.hidden1 = nn.Conv2d(3, 400, kernel_size=28)
        self.hidden2 = nn.Conv2d(400, 200, kernel_size=1)
        self.logits = nn.Conv2d(200, num_classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        x = torch.relu(self.hidden1(x))
        x = torch.relu(self.hidden2(x))
        return self.logits(x).flatten(1)


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        # "Striving for simplicity": strides instead of pooling in between, and a vote of all places at the end
        self.net = nn.Sequential(
            conv_block(3, 48),
            nn.Conv2d(48, 48, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            conv_block(48, 96),
            nn.Conv2d(96, 96, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            conv_block(96, 96),
            nn.Conv2d(96, num_classes, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        votes = self.net(x)  # (B, num_classes, 7, 7)
        return votes.mean(dim=(-2, -1))


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
