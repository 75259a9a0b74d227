# numpy_bookkeeper: numpy and sklearn for the averages, one loss over the whole validation set, xlogy, unpadded CNN.
"""Part 1: a linear model, an MLP and a CNN that tell nine classes of images apart.

GRADED: TODO 1.0 (linear), 1.1 (MLP), 1.2 (CNN). Every model takes images (B, 3, 28, 28) in [-1, 1] and returns logits
(B, num_classes): no softmax, because the cross-entropy loss contains it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from toolkit.layers import conv_block

IMAGE_SHAPE = (3, 28, 28)  # channels, height, width
MODEL_NAMES = ("linear", "mlp", "cnn")


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        n_features = int(np.prod(IMAGE_SHAPE))
        self.coef_ = nn.Linear(n_features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        X = x.reshape(x.shape[0], -1)
        return self.coef_(X)


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9, hidden_layer_sizes: tuple[int, ...] = (512, 256, 128)) -> None:
        super().__init__()
        sizes = np.concatenate([[np.prod(IMAGE_SHAPE)], hidden_layer_sizes, [num_classes]]).astype(int).tolist()
        self.coefs_ = nn.ModuleList()
        for i in range(len(sizes) - 1):
            self.coefs_.append(nn.Linear(sizes[i], sizes[i + 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        X = x.reshape(x.shape[0], -1)
        for i in range(len(self.coefs_) - 1):
            X = torch.nn.functional.softplus(self.coefs_[i](X), beta=5)
        return self.coefs_[-1](X)


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=(5, 5))  # 24
        self.bn1 = nn.BatchNorm2d(32)
        self.pool1 = nn.MaxPool2d((2, 2))  # 12
        self.conv2 = nn.Conv2d(32, 64, kernel_size=(3, 3))  # 10
        self.bn2 = nn.BatchNorm2d(64)
        self.pool2 = nn.MaxPool2d((2, 2))  # 5
        self.conv3 = nn.Conv2d(64, 128, kernel_size=(3, 3))  # 3
        self.bn3 = nn.BatchNorm2d(128)
        self.pool3 = nn.AvgPool2d((3, 3))  # 1
        self.fc = nn.Linear(128, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        x = self.pool1(torch.relu(self.bn1(self.conv1(x))))
        x = self.pool2(torch.relu(self.bn2(self.conv2(x))))
        x = self.pool3(torch.relu(self.bn3(self.conv3(x))))
        return self.fc(x.reshape(x.shape[0], 128))


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
