# functional_parameters: functional calls on parameter dicts, autograd.grad in place of backward, F.cross_entropy as the loss.
"""Part 2: models that find the box in an image, and the losses they are trained with.

GRADED: TODO 2.0 (linear), 2.1 (MLP), 2.2 (CNN), 2.3 (U-Net), 2.4 (Dice loss), 2.5 (combined loss). Every model takes
images (B, 3, 28, 28) and returns probabilities (B, 1, 28, 28) in [0, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from toolkit.layers import conv_block

IMAGE_SIZE = 28  # pixels, height and width
MODEL_NAMES = ("linear", "mlp", "cnn", "unet")
# What get_segmentation_model gives: after 100 steps, 16 channels reach about 0.94 IoU, 32 about 0.98, 48 about 0.987.
UNET_BASE_CHANNELS = 48


def affine(n_out: int, *n_in: int) -> nn.ParameterDict:
    weight = torch.empty(n_out, *n_in)
    bound = weight[0].numel() ** -0.5
    return nn.ParameterDict(
        {
            "weight": nn.Parameter(weight.uniform_(-bound, bound)),
            "bias": nn.Parameter(torch.empty(n_out).uniform_(-bound, bound)),
        }
    )


def convolution(n_in: int, n_out: int) -> nn.ParameterDict:
    """A 3 x 3 kernel, and scale and shift of the normalisation behind it."""
    return nn.ParameterDict(
        {
            "kernel": nn.Parameter(nn.init.kaiming_normal_(torch.empty(n_out, n_in, 3, 3))),
            "scale": nn.Parameter(torch.ones(n_out)),
            "shift": nn.Parameter(torch.zeros(n_out)),
        }
    )


def convolve(x: torch.Tensor, p: nn.ParameterDict) -> torch.Tensor:
    """Convolution, group normalisation (no running statistics to keep), ReLU."""
    x = F.conv2d(x, p["kernel"], padding=1)
    groups = next(number for number in (8, 4, 2, 1) if x.shape[1] % number == 0)
    return F.relu(F.group_norm(x, groups, p["scale"], p["shift"]))


def upsampling(n_in: int, n_out: int) -> nn.ParameterDict:
    kernel = nn.init.kaiming_normal_(torch.empty(n_in, n_out, 2, 2), mode="fan_out")
    return nn.ParameterDict({"weight": nn.Parameter(kernel), "bias": nn.Parameter(torch.zeros(n_out))})


class LinearSegmentation(nn.Module):
    """Every pixel of the mask is one linear function of all pixel values."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.p = affine(out_channels * IMAGE_SIZE**2, in_channels * IMAGE_SIZE**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return F.sigmoid(F.linear(x.flatten(1), **self.p)).view(-1, self.out_channels, IMAGE_SIZE, IMAGE_SIZE)


class MLPSegmentation(nn.Module):
    """A multilayer perceptron from all pixel values to all mask pixels."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.p1 = affine(512, in_channels * IMAGE_SIZE**2)
        self.p2 = affine(512, 512)
        self.p3 = affine(out_channels * IMAGE_SIZE**2, 512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        x = F.relu(F.linear(x.flatten(1), **self.p1))
        x = F.relu(F.linear(x, **self.p2))
        x = F.sigmoid(F.linear(x, **self.p3))
        return x.view(-1, self.out_channels, IMAGE_SIZE, IMAGE_SIZE)


class SimpleCNN(nn.Module):
    """An encoder and a decoder without skip connections: all information passes through the narrow middle."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.e1 = convolution(in_channels, 32)
        self.e2 = convolution(32, 64)
        self.m1 = convolution(64, 96)
        self.m2 = convolution(96, 96)
        self.u1 = upsampling(96, 64)
        self.d1 = convolution(64, 64)
        self.u2 = upsampling(64, 32)
        self.d2 = convolution(32, 32)
        self.out = affine(out_channels, 32, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        x = F.max_pool2d(convolve(x, self.e1), 2)
        x = F.max_pool2d(convolve(x, self.e2), 2)
        x = convolve(convolve(x, self.m1), self.m2)
        x = convolve(F.conv_transpose2d(x, **self.u1, stride=2), self.d1)
        x = convolve(F.conv_transpose2d(x, **self.u2, stride=2), self.d2)
        return F.sigmoid(F.conv2d(x, **self.out))


class TinyUNet(nn.Module):
    """A U-Net of two levels (Ronneberger et al. 2015): the decoder also sees the encoder's maps of the same size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16) -> None:
        super().__init__()
        a, b, c = base_channels, 2 * base_channels, 4 * base_channels
        self.p = nn.ModuleDict(
            {
                "down1": convolution(in_channels, a),
                "down1b": convolution(a, a),
                "down2": convolution(a, b),
                "down2b": convolution(b, b),
                "middle": convolution(b, c),
                "middle_b": convolution(c, c),
                "up2": convolution(c + b, b),
                "up2b": convolution(b, b),
                "up1": convolution(b + a, a),
                "out": affine(out_channels, a, 1, 1),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        p = self.p
        full = convolve(convolve(x, p["down1"]), p["down1b"])
        half = convolve(convolve(F.max_pool2d(full, 2), p["down2"]), p["down2b"])
        x = convolve(convolve(F.max_pool2d(half, 2), p["middle"]), p["middle_b"])
        x = torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), half], dim=1)
        x = convolve(convolve(x, p["up2"]), p["up2b"])
        x = torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), full], dim=1)
        return F.sigmoid(F.conv2d(convolve(x, p["up1"]), **p["out"]))


def get_segmentation_model(
    model_name: str, in_channels: int = 3, out_channels: int = 1, **model_args: object
) -> nn.Module:
    """Return a new model called 'linear', 'mlp', 'cnn' or 'unet'. Raises ValueError for any other name.

    `model_args` (the flag --model_args) reach the constructor of the model: arguments with defaults compare designs.
    """
    models = {"linear": LinearSegmentation, "mlp": MLPSegmentation, "cnn": SimpleCNN, "unet": TinyUNet}
    if model_name not in models:
        raise ValueError(f"model_name is {model_name!r}; allowed: {', '.join(MODEL_NAMES)}")
    if model_name == "unet":
        model_args = {"base_channels": UNET_BASE_CHANNELS, **model_args}
    return models[model_name](in_channels, out_channels, **model_args)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def calculate_iou(
    pred_mask: torch.Tensor | np.ndarray, true_mask: torch.Tensor | np.ndarray, threshold: float = 0.5
) -> float:
    """Intersection over union, averaged over the images of a batch. Provided.

    Both masks are (B, 1, H, W) or (B, H, W), tensors or arrays; pixels above `threshold` belong to the mask. Two
    empty masks agree completely and count as 1.
    """
    return iou_per_image(pred_mask, true_mask, threshold).mean().item()


def iou_per_image(
    pred_mask: torch.Tensor | np.ndarray, true_mask: torch.Tensor | np.ndarray, threshold: float = 0.5
) -> torch.Tensor:
    """The IoU of each image, float32 (B,). Provided; arguments as for calculate_iou."""
    predicted = (torch.as_tensor(pred_mask).detach() > threshold).flatten(start_dim=1)  # (B, pixels)
    true = (torch.as_tensor(true_mask).to(predicted.device) > threshold).flatten(start_dim=1)
    if predicted.shape != true.shape:
        raise ValueError(f"the masks differ in size: {tuple(pred_mask.shape)} and {tuple(true_mask.shape)}")
    intersection = (predicted & true).sum(dim=1)
    union = (predicted | true).sum(dim=1)
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


class DiceLoss(nn.Module):
    """1 - Dice coefficient, averaged over the images of a batch.

    For one image the coefficient is (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), with probabilities p and true
    mask t (Milletari et al. 2016 have squares in the denominator; this is the more usual form without).

    Why not cross-entropy alone? A box covers about a sixth of the image, so "no box anywhere" has most pixels right.
    Dice compares the predicted with the true area and ignores the background. Why `smooth`? Without it, two empty masks
    would give 0 / 0.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar in [0, 1]."""
        inside = torch.linalg.vecdot(pred.flatten(1), target.flatten(1))
        areas = pred.sum((1, 2, 3)) + target.sum((1, 2, 3))
        return torch.mean((areas - 2 * inside) / (areas + self.smooth))


class CombinedLoss(nn.Module):
    """bce_weight * binary cross-entropy + dice_weight * Dice loss: pixels one by one, and the mask as a whole."""

    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar."""
        return torch.add(
            torch.mul(F.binary_cross_entropy(pred, target), self.bce_weight),
            torch.mul(self.dice(pred, target), self.dice_weight),
        )
