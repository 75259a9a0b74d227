# match_recursion: match, walrus, map and zip; recursive U-Net with a choice of upsampling, recursive validation.
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


def stack(sizes: list[int], activation: str = "relu") -> list[nn.Module]:
    """Linear layers from size to size, with an activation between two of them."""
    match sizes:
        case [a, b]:
            return [nn.Linear(a, b)]
        case [a, b, *rest]:
            return [nn.Linear(a, b), act(activation), *stack([b, *rest], activation)]
        case _:
            raise ValueError(f"sizes is {sizes}; at least two are needed")


def act(name: str) -> nn.Module:
    match name:
        case "relu":
            return nn.ReLU()
        case "silu" | "swish":
            return nn.SiLU()
        case "celu":
            return nn.CELU()
        case other:
            raise ValueError(f"unknown activation {other!r}")


def trunk(plan: tuple, channels: int) -> list[nn.Module]:
    """A plan of numbers (a convolution with so many channels) and "pool"."""
    match plan:
        case ():
            return []
        case ("pool", *rest):
            return [nn.MaxPool2d(2), *trunk(tuple(rest), channels)]
        case (int() as width, *rest):
            return [conv_block(channels, width), *trunk(tuple(rest), width)]
        case _:
            raise ValueError(plan)


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        (self.layer,) = stack([3 * 28 * 28, num_classes])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.layer(x.reshape(-1, 3 * 28 * 28))


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9, hidden: tuple[int, ...] = (256, 128, 64)) -> None:
        super().__init__()
        self.layers = nn.Sequential(*stack([3 * 28 * 28, *hidden, num_classes], "celu"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.layers(x.reshape(-1, 3 * 28 * 28))


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9, plan: tuple = (32, "pool", 64, 64, "pool", 128, "pool", 128)) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*trunk(tuple(plan), 3))
        last = [width for width in plan if width != "pool"][-1]
        self.head = nn.Linear(last, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.head((maps := self.trunk(x)).sum((2, 3)) / maps[0, 0].numel())


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
