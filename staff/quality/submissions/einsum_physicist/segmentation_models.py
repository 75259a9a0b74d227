# einsum_physicist: einsum and bare parameters, block maxima by unflatten, cross-entropy from logits in a stable form.
"""Part 2: models that find the box in an image, and the losses they are trained with.

GRADED: TODO 2.0 (linear), 2.1 (MLP), 2.2 (CNN), 2.3 (U-Net), 2.4 (Dice loss), 2.5 (combined loss). Every model takes
images (B, 3, 28, 28) and returns probabilities (B, 1, 28, 28) in [0, 1].
"""

from __future__ import annotations

import numpy as np
import math

import torch
from torch import nn
from torch.nn import functional as F

from toolkit.layers import conv_block

IMAGE_SIZE = 28  # pixels, height and width
MODEL_NAMES = ("linear", "mlp", "cnn", "unet")
# What get_segmentation_model gives: after 100 steps, 16 channels reach about 0.94 IoU, 32 about 0.98, 48 about 0.987.
UNET_BASE_CHANNELS = 48


def fermi(z: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-z)), in the form that cannot overflow."""
    return 0.5 * (1 + torch.tanh(0.5 * z))


class LinearSegmentation(nn.Module):
    """Every pixel of the mask is one linear function of all pixel values."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        n = in_channels * IMAGE_SIZE**2
        # a Green's function: what pixel (c, h, w) does to pixel (o, i, j)
        self.G = nn.Parameter(torch.randn(out_channels * IMAGE_SIZE**2, n) / math.sqrt(3 * n))
        self.source = nn.Parameter(torch.zeros(out_channels, IMAGE_SIZE, IMAGE_SIZE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        G = self.G.reshape(self.out_channels, IMAGE_SIZE, IMAGE_SIZE, -1, IMAGE_SIZE, IMAGE_SIZE)
        return fermi(torch.einsum("oijchw,nchw->noij", G, x) + self.source)


class MLPSegmentation(nn.Module):
    """A multilayer perceptron from all pixel values to all mask pixels."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        sizes = (in_channels * IMAGE_SIZE**2, 400, 400, out_channels * IMAGE_SIZE**2)
        self.W = nn.ParameterList(torch.randn(b, a) * math.sqrt(2 / a) for a, b in zip(sizes, sizes[1:]))
        self.b = nn.ParameterList(torch.zeros(b) for b in sizes[1:])
        with torch.no_grad():
            self.W[-1] *= 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        u = x.flatten(1)
        for layer, (W, b) in enumerate(zip(self.W, self.b)):
            u = torch.einsum("jk,nk->nj", W, u) + b
            if layer < len(self.W) - 1:
                u = u.clamp(min=0)
        return fermi(u).unflatten(1, (self.out_channels, IMAGE_SIZE, IMAGE_SIZE))


class SimpleCNN(nn.Module):
    """An encoder and a decoder without skip connections: all information passes through the narrow middle."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.renormalise = nn.Sequential(
            conv_block(in_channels, 32),
            nn.AvgPool2d(2),
            conv_block(32, 64),
            nn.AvgPool2d(2),
            conv_block(64, 128),
            conv_block(128, 128),
        )
        self.refine = nn.Sequential(
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.BatchNorm2d(64, momentum=0.3),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.BatchNorm2d(32, momentum=0.3),
            nn.ReLU(),
            nn.Conv2d(32, out_channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return fermi(self.refine(self.renormalise(x)))


class TinyUNet(nn.Module):
    """A U-Net of two levels (Ronneberger et al. 2015): the decoder also sees the encoder's maps of the same size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16) -> None:
        super().__init__()
        n = base_channels
        self.A = nn.Sequential(conv_block(in_channels, n), conv_block(n, n))
        self.B = nn.Sequential(conv_block(n, 2 * n), conv_block(2 * n, 2 * n))
        self.C = nn.Sequential(conv_block(2 * n, 4 * n), conv_block(4 * n, 4 * n))
        self.B_ = conv_block(4 * n + 2 * n, 2 * n)
        self.A_ = conv_block(2 * n + n, n)
        self.out = nn.Conv2d(n, out_channels, 1)

    @staticmethod
    def coarser(phi: torch.Tensor) -> torch.Tensor:
        return phi.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))

    @staticmethod
    def finer(phi: torch.Tensor) -> torch.Tensor:
        one = torch.ones(2, 2, dtype=phi.dtype, device=phi.device)
        return torch.einsum("nchw,ij->nchiwj", phi, one).flatten(4, 5).flatten(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        a = self.A(x)
        b = self.B(self.coarser(a))
        c = self.C(self.coarser(b))
        b = self.B_(torch.cat([self.finer(c), b], 1))
        a = self.A_(torch.cat([self.finer(b), a], 1))
        return fermi(self.out(a))


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
        overlap = torch.einsum("nchw,nchw->n", pred, target)
        norm = torch.einsum("nchw->n", pred) + torch.einsum("nchw->n", target)
        dice = (2 * overlap + self.smooth) / (norm + self.smooth)
        return torch.einsum("n->", 1 - dice) / len(dice)


class CombinedLoss(nn.Module):
    """bce_weight * binary cross-entropy + dice_weight * Dice loss: pixels one by one, and the mask as a whole."""

    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar."""
        # Back to z = ln(p / (1 - p)), where the cross-entropy is ln(1 + exp(z)) - z t, written so that exp never
        # sees a positive number.
        tiny = torch.finfo(pred.dtype).eps / 2
        p = pred.clamp(tiny, 1 - tiny)
        z = torch.log(p) - torch.log1p(-p)
        bce = z.clamp(min=0) - z * target + torch.log1p(torch.exp(-z.abs()))
        return self.bce_weight * bce.mean() + self.dice_weight * self.dice(pred, target)
