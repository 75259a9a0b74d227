# gelu_layernorm: ConvNeXt blocks with LayerNorm and GELU, InstanceNorm and SiLU in Part 2, AverageMeter.
"""Part 1: a linear model, an MLP and a CNN that tell nine classes of images apart.

GRADED: TODO 1.0 (linear), 1.1 (MLP), 1.2 (CNN). Every model takes images (B, 3, 28, 28) in [-1, 1] and returns logits
(B, num_classes): no softmax, because the cross-entropy loss contains it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from toolkit.layers import conv_block

IMAGE_SHAPE = (3, 28, 28)  # channels, height, width
MODEL_NAMES = ("linear", "mlp", "cnn")


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each pixel, as in ConvNeXt."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FeedForward(nn.Module):
    """Linear, LayerNorm, GELU."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, dim_out)
        self.norm = nn.LayerNorm(dim_out)
        self.act = nn.GELU()

    def forward(self, x):
        return self.act(self.norm(self.proj(x)))


class ConvNeXtBlock(nn.Module):
    """x + MLP(norm(conv(x))) with an expansion of 2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm = LayerNorm2d(dim)
        self.up = nn.Conv2d(dim, 2 * dim, 1)
        self.act = nn.GELU()
        self.down = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, x):
        return x + self.down(self.act(self.up(self.norm(self.conv(x)))))


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 28 * 28, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.head(x.flatten(start_dim=1))


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.body = nn.Sequential(FeedForward(3 * 28 * 28, 384), FeedForward(384, 384))
        self.head = nn.Linear(384, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.head(self.body(x.flatten(start_dim=1)))


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 48, kernel_size=3, stride=2, padding=1), LayerNorm2d(48))  # 14
        self.stage1 = ConvNeXtBlock(48)
        self.downsample = nn.Sequential(LayerNorm2d(48), nn.Conv2d(48, 96, kernel_size=2, stride=2))  # 7
        self.stage2 = ConvNeXtBlock(96)
        self.norm = nn.LayerNorm(96)
        self.head = nn.Linear(96, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        x = self.stage1(self.stem(x))
        x = self.stage2(self.downsample(x))
        return self.head(self.norm(x.mean([-2, -1])))


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
