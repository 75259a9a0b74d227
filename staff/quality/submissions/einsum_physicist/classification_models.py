# einsum_physicist: einsum and bare parameters, block maxima by unflatten, cross-entropy from logits in a stable form.
"""Part 1: a linear model, an MLP and a CNN that tell nine classes of images apart.

GRADED: TODO 1.0 (linear), 1.1 (MLP), 1.2 (CNN). Every model takes images (B, 3, 28, 28) in [-1, 1] and returns logits
(B, num_classes): no softmax, because the cross-entropy loss contains it.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from toolkit.layers import conv_block

IMAGE_SHAPE = (3, 28, 28)  # channels, height, width
MODEL_NAMES = ("linear", "mlp", "cnn")


class Tensor2(nn.Module):
    """A rank-2 map v_j = W_jk u_k + b_j, written as a contraction."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        a = 1 / math.sqrt(n_in)
        self.W = nn.Parameter(torch.empty(n_out, n_in).uniform_(-a, a))
        self.b = nn.Parameter(torch.empty(n_out).uniform_(-a, a))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return torch.einsum("jk,nk->nj", self.W, u) + self.b


class Kernel(nn.Module):
    """Discrete convolution with a learned 3 x 3 kernel; variance of the output = variance of the input (He)."""

    def __init__(self, n_in: int, n_out: int, size: int = 3) -> None:
        super().__init__()
        sigma = math.sqrt(2 / (n_in * size * size))
        self.K = nn.Parameter(sigma * torch.randn(n_out, n_in, size, size))
        self.norm = nn.BatchNorm2d(n_out, momentum=0.3)

    def forward(self, phi: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(F.conv2d(phi, self.K, padding=self.K.shape[-1] // 2)))


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        # L_nk = x_nchw M_kchw + b_k: no need to flatten anything
        a = 1 / math.sqrt(math.prod(IMAGE_SHAPE))
        self.M = nn.Parameter(a * (2 * torch.rand(num_classes, *IMAGE_SHAPE) - 1))
        self.b = nn.Parameter(torch.zeros(num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return torch.einsum("nchw,kchw->nk", x, self.M) + self.b


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.f1 = Tensor2(math.prod(IMAGE_SHAPE), 300)
        self.f2 = Tensor2(300, 100)
        self.f3 = Tensor2(100, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        u = x.flatten(1)
        u = self.f1(u)
        u = u * torch.sigmoid(u)
        u = self.f2(u)
        u = u * torch.sigmoid(u)
        return self.f3(u)


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.k = nn.ModuleList([Kernel(3, 32), Kernel(32, 64), Kernel(64, 96), Kernel(96, 128)])
        self.observable = Tensor2(128, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        phi = self.k[0](x)
        # coarse graining: block spins of 2 x 2
        phi = phi.unflatten(3, (14, 2)).unflatten(2, (14, 2)).amax((3, 5))
        phi = self.k[1](phi)
        phi = phi.unflatten(3, (7, 2)).unflatten(2, (7, 2)).amax((3, 5))
        phi = self.k[3](self.k[2](phi))
        mean_field = torch.einsum("nchw->nc", phi) / (phi.shape[2] * phi.shape[3])
        return self.observable(mean_field)


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
