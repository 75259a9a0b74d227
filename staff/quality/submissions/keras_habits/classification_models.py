# keras_habits: classes named as in Keras, NHWC flattening, metric objects, cross-entropy with the Keras epsilon.
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


class Dense(nn.Module):
    """What keras.layers.Dense does: glorot_uniform for the kernel, zeros for the bias, then an activation."""

    def __init__(self, input_dim: int, units: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(input_dim, units)
        nn.init.xavier_uniform_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.activation = activation if activation is not None else nn.Identity()

    def forward(self, inputs):
        return self.activation(self.layer(inputs))


class Conv2D(nn.Module):
    """keras.layers.Conv2D(filters, kernel_size, padding="same") + BatchNormalization + Activation("relu")."""

    def __init__(self, in_filters: int, filters: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_filters, filters, kernel_size, padding="same", bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        # momentum=0.99 of Keras is 0.01 here, and far too slow for 100 steps; epsilon is the Keras one
        self.bn = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.2)

    def forward(self, inputs):
        return torch.relu(self.bn(self.conv(inputs)))


def flatten_channels_last(inputs: torch.Tensor) -> torch.Tensor:
    """NHWC order as in Keras: (B, C, H, W) → (B, H * W * C)."""
    batch_size = inputs.shape[0]
    return inputs.permute(0, 2, 3, 1).reshape(batch_size, -1)


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        height_width_channels = 28 * 28 * 3
        self.dense = Dense(height_width_channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.dense(flatten_channels_last(x))


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.dense_1 = Dense(28 * 28 * 3, 384, activation=nn.ReLU())
        self.dense_2 = Dense(384, 192, activation=nn.ReLU())
        self.dropout = nn.Dropout(0.1)
        self.dense_out = Dense(192, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        x = flatten_channels_last(x)
        x = self.dense_1(x)
        x = self.dense_2(x)
        x = self.dropout(x)
        return self.dense_out(x)


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        # model = keras.Sequential([Conv2D(32), Conv2D(32), MaxPooling2D(), Conv2D(64), ..., GlobalAveragePooling2D()])
        self.conv2d = Conv2D(3, 32)
        self.conv2d_1 = Conv2D(32, 32)
        self.conv2d_2 = Conv2D(32, 64)
        self.conv2d_3 = Conv2D(64, 128)
        self.max_pooling2d = nn.MaxPool2d(2)
        self.dense = Dense(128, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        x = self.max_pooling2d(self.conv2d_1(self.conv2d(x)))
        x = self.max_pooling2d(self.conv2d_2(x))
        x = self.conv2d_3(x)
        x = x.mean(dim=(2, 3))  # GlobalAveragePooling2D
        return self.dense(x)


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
