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
        # Hint: 3 * 28 * 28 inputs, num_classes outputs.
        # BEGIN SOLUTION 1.0: define the linear layer
        channels, height, width = IMAGE_SHAPE
        self.classifier = nn.Linear(channels * height * width, num_classes)
        # END SOLUTION 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        # BEGIN SOLUTION 1.0: flatten the images and apply the layer
        return self.classifier(x.flatten(start_dim=1))
        # END SOLUTION 1.0


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        # Hint: two hidden layers of a few hundred units; think about what follows each linear layer but the last.
        # BEGIN SOLUTION 1.1: define the layers of the MLP
        channels, height, width = IMAGE_SHAPE
        self.layers = nn.Sequential(
            nn.Linear(channels * height * width, 256, bias=False),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Linear(256, 128, bias=False),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, num_classes),
        )
        # END SOLUTION 1.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        # BEGIN SOLUTION 1.1: flatten the images and apply the layers
        return self.layers(x.flatten(start_dim=1))
        # END SOLUTION 1.1


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        # Hint: conv_block (convolution, BatchNorm, ReLU), or blocks of your own, with pooling between them; more
        # channels where the map is smaller. Where a pattern lies in the image says nothing about its class.
        # BEGIN SOLUTION 1.2: define the layers of the CNN
        self.features = nn.Sequential(
            conv_block(IMAGE_SHAPE[0], 64),
            nn.MaxPool2d(2),  # (B, 64, 14, 14)
            conv_block(64, 128),
            nn.MaxPool2d(2),  # (B, 128, 7, 7)
            conv_block(128, 256),
            # The mean over all positions: it does not matter where in the image a pattern is.
            nn.AdaptiveAvgPool2d(1),  # (B, 256, 1, 1)
        )
        self.classifier = nn.Linear(256, num_classes)
        # END SOLUTION 1.2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        # BEGIN SOLUTION 1.2: features, then logits
        return self.classifier(self.features(x).flatten(start_dim=1))
        # END SOLUTION 1.2


def get_model(model_name: str, num_classes: int = 9, **model_args: object) -> nn.Module:
    """Return a new model called 'linear', 'mlp' or 'cnn'. Raises ValueError for any other name.

    model_args: what --model_args gives, handed to the model's __init__. You need it only to compare designs: give your
        model an argument with a default, such as `channels=32`, and set it from the command line.
    """
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"model_name is {model_name!r}; allowed: {', '.join(MODEL_NAMES)}")
    return models[model_name](num_classes, **model_args)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
