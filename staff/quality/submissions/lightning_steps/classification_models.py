# lightning_steps: a small Trainer, training_step and validation_step, a logger of epoch averages; .view behind convolutions.
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


class LitModule(nn.Module):
    """A LightningModule without Lightning: the network is self.net, and forward only calls it."""

    net: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class LinearModel(LitModule):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, num_classes))


class MLPModel(LitModule):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9, hidden: tuple[int, ...] = (512, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = 3 * 28 * 28
        for units in hidden:
            layers += [nn.Linear(width, units), nn.LeakyReLU(0.1)]
            width = units
        layers.append(nn.Linear(width, num_classes))
        self.net = nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class CNNModel(LitModule):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9, width: int = 32) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            conv_block(3, width),
            nn.MaxPool2d(2),
            ResidualBlock(width),
            conv_block(width, 2 * width),
            nn.MaxPool2d(2),
            ResidualBlock(2 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        features = self.pool(self.backbone(x))
        return self.head(features.view(features.size(0), -1))


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
