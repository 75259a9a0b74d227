# closure_inference: optimizer.step(closure), inference_mode, LazyLinear, GroupNorm and Mish, softmax over two maps.
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
        self.fc = nn.LazyLinear(num_classes)  # counts its inputs at the first call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.fc(x.flatten(1))


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2352, 512)
        self.fc2 = nn.Linear(512, 256)
        self.fc3 = nn.Linear(256, num_classes)
        self.hardswish = nn.Hardswish()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        x = self.fc1(x.flatten(1))
        x = self.fc2(self.hardswish(x))
        return self.fc3(self.hardswish(x))


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.norm1, self.norm2, self.norm3 = nn.GroupNorm(8, 32), nn.GroupNorm(8, 64), nn.GroupNorm(8, 128)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(128, 64)
        self.fc2 = nn.Linear(64, num_classes)
        self.act = nn.Mish()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        x = self.pool(self.act(self.norm1(self.conv1(x))))
        x = self.pool(self.act(self.norm2(self.conv2(x))))
        x = self.act(self.norm3(self.conv3(x)))
        x = torch.logsumexp(x.flatten(2), dim=2) - torch.log(torch.tensor(49.0))  # a soft maximum over places
        return self.fc2(self.act(self.fc1(x)))


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
