# functional_parameters: functional calls on parameter dicts, autograd.grad in place of backward, F.cross_entropy as the loss.
"""Part 1: a linear model, an MLP and a CNN that tell nine classes of images apart.

GRADED: TODO 1.0 (linear), 1.1 (MLP), 1.2 (CNN). Every model takes images (B, 3, 28, 28) in [-1, 1] and returns logits
(B, num_classes): no softmax, because the cross-entropy loss contains it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, linear, max_pool2d, relu

from toolkit.layers import conv_block

IMAGE_SHAPE = (3, 28, 28)  # channels, height, width
MODEL_NAMES = ("linear", "mlp", "cnn")


# No layers here: the weights are parameters, and forward says what is done with them.


def affine(n_out: int, *n_in: int) -> nn.ParameterDict:
    """Weights of a linear map or convolution, drawn as nn.Linear and nn.Conv2d draw them."""
    weight = torch.empty(n_out, *n_in)
    bound = weight[0].numel() ** -0.5
    return nn.ParameterDict(
        {
            "weight": nn.Parameter(weight.uniform_(-bound, bound)),
            "bias": nn.Parameter(torch.empty(n_out).uniform_(-bound, bound)),
        }
    )


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.p = affine(num_classes, 3 * 28 * 28)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return linear(x.flatten(1), **self.p)


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.p1 = affine(512, 3 * 28 * 28)
        self.p2 = affine(256, 512)
        self.p3 = affine(num_classes, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return linear(relu(linear(relu(linear(x.flatten(1), **self.p1)), **self.p2)), **self.p3)


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    WIDTHS = (32, 64, 128)

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.kernels, self.scales = nn.ParameterList(), nn.ParameterList()
        before = 3
        for number, width in enumerate(self.WIDTHS):
            kernel = torch.empty(width, before, 3, 3)
            self.kernels.append(nn.Parameter(nn.init.kaiming_normal_(kernel)))
            self.scales.append(nn.Parameter(torch.stack([torch.ones(width), torch.zeros(width)])))
            self.register_buffer(f"mean{number}", torch.zeros(width))
            self.register_buffer(f"var{number}", torch.ones(width))
            before = width
        self.out = affine(num_classes, before)

    def block(self, x: torch.Tensor, number: int) -> torch.Tensor:
        scale, shift = self.scales[number]
        running = getattr(self, f"mean{number}"), getattr(self, f"var{number}")
        x = conv2d(x, self.kernels[number], padding=1)
        return relu(batch_norm(x, *running, scale, shift, training=self.training, momentum=0.2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        x = max_pool2d(self.block(x, 0), 2)
        x = max_pool2d(self.block(x, 1), 2)
        x = adaptive_avg_pool2d(self.block(x, 2), 1)
        return linear(x.flatten(1), **self.out)


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
