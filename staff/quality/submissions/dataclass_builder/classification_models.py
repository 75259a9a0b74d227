# dataclass_builder: dataclasses for layers, batches and totals; ELU, BatchNorm with PyTorch's momentum, Flatten at the end.
"""Part 1: a linear model, an MLP and a CNN that tell nine classes of images apart.

GRADED: TODO 1.0 (linear), 1.1 (MLP), 1.2 (CNN). Every model takes images (B, 3, 28, 28) in [-1, 1] and returns logits
(B, num_classes): no softmax, because the cross-entropy loss contains it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from toolkit.layers import conv_block

IMAGE_SHAPE = (3, 28, 28)  # channels, height, width
MODEL_NAMES = ("linear", "mlp", "cnn")


@dataclass(frozen=True)
class ConvSpec:
    """One convolution of the network and what comes behind it."""

    channels: int
    kernel: int = 3
    pool: bool = False
    dropout: float = 0.0

    def build(self, in_channels: int) -> list[nn.Module]:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, self.channels, self.kernel, padding=self.kernel // 2),
            nn.BatchNorm2d(self.channels),
            nn.ELU(),
        ]
        if self.pool:
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        if self.dropout:
            layers.append(nn.Dropout2d(self.dropout))
        return layers


@dataclass
class NetworkPlan:
    in_channels: int = 3
    specs: list[ConvSpec] = field(default_factory=list)

    def build(self) -> nn.Sequential:
        layers, channels = [], self.in_channels
        for spec in self.specs:
            layers.extend(spec.build(channels))
            channels = spec.channels
        return nn.Sequential(*layers)

    @property
    def out_channels(self) -> int:
        return self.specs[-1].channels


@dataclass
class MLPPlan:
    inputs: int
    outputs: int
    hidden: tuple[int, ...] = (256, 256)

    def build(self) -> nn.ModuleList:
        sizes = [self.inputs, *self.hidden, self.outputs]
        return nn.ModuleList([nn.Linear(sizes[i], sizes[i + 1]) for i in range(len(sizes) - 1)])


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.linear = MLPPlan(IMAGE_SHAPE[0] * IMAGE_SHAPE[1] * IMAGE_SHAPE[2], num_classes, hidden=()).build()[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.linear(x.reshape(len(x), self.linear.in_features))


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.plan = MLPPlan(IMAGE_SHAPE[0] * IMAGE_SHAPE[1] * IMAGE_SHAPE[2], num_classes)
        self.layers = self.plan.build()
        self.activation = nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        x = x.reshape(len(x), self.plan.inputs)
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    PLAN = NetworkPlan(
        specs=[
            ConvSpec(32, kernel=5, pool=True),
            ConvSpec(64, pool=True),
            ConvSpec(64),
            ConvSpec(128, pool=True, dropout=0.1),
        ]
    )

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.features = self.PLAN.build()
        # 28 -> 14 -> 7 -> 3
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(self.PLAN.out_channels * 3 * 3, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.classifier(self.features(x))


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
