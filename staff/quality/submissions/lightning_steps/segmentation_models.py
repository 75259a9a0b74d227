# lightning_steps: a small Trainer, training_step and validation_step, a logger of epoch averages; .view behind convolutions.
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


class LitSegmenter(nn.Module):
    """self.net gives logits; predict turns them into probabilities."""

    net: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return self.net(x).sigmoid()


class LinearSegmentation(LitSegmenter):
    """Every pixel of the mask is one linear function of all pixel values."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        shape = (out_channels, IMAGE_SIZE, IMAGE_SIZE)
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * IMAGE_SIZE**2, out_channels * IMAGE_SIZE**2),
            nn.Unflatten(1, shape),
        )


class MLPSegmentation(LitSegmenter):
    """A multilayer perceptron from all pixel values to all mask pixels."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, hidden_dim: int = 512) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * IMAGE_SIZE**2, hidden_dim),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden_dim, hidden_dim // 2),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden_dim // 2, out_channels * IMAGE_SIZE**2),
            nn.Unflatten(1, (out_channels, IMAGE_SIZE, IMAGE_SIZE)),
        )


class SimpleCNN(LitSegmenter):
    """An encoder and a decoder without skip connections: all information passes through the narrow middle."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        encoder = nn.Sequential(
            conv_block(in_channels, width), nn.MaxPool2d(2), conv_block(width, 2 * width), nn.MaxPool2d(2)
        )
        bottleneck = nn.Sequential(conv_block(2 * width, 4 * width), conv_block(4 * width, 4 * width))
        decoder = nn.Sequential(
            nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2),
            conv_block(2 * width, 2 * width),
            nn.ConvTranspose2d(2 * width, width, 2, stride=2),
            conv_block(width, width),
        )
        self.net = nn.Sequential()
        self.net.add_module("encoder", encoder)
        self.net.add_module("bottleneck", bottleneck)
        self.net.add_module("decoder", decoder)
        self.net.add_module("head", nn.Conv2d(width, out_channels, kernel_size=1))


class DoubleConv(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(conv_block(in_channels, out_channels), conv_block(out_channels, out_channels))


class TinyUNet(nn.Module):
    """A U-Net of two levels (Ronneberger et al. 2015): the decoder also sees the encoder's maps of the same size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16) -> None:
        super().__init__()
        features = [base_channels, 2 * base_channels]
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        channels = in_channels
        for feature in features:
            self.downs.append(DoubleConv(channels, feature))
            channels = feature
        self.middle = DoubleConv(features[-1], 2 * features[-1])
        for feature in reversed(features):
            self.ups.append(nn.ConvTranspose2d(2 * feature, feature, kernel_size=2, stride=2))
            self.ups.append(DoubleConv(2 * feature, feature))
        self.pool = nn.MaxPool2d(2)
        self.final = nn.Conv2d(features[0], out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.middle(x)
        for index in range(0, len(self.ups), 2):
            x = self.ups[index](x)
            x = torch.cat((skips[-1 - index // 2], x), dim=1)
            x = self.ups[index + 1](x)
        return self.final(x).sigmoid()


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
        batch_size = pred.size(0)
        pred, target = pred.reshape(batch_size, -1), target.reshape(batch_size, -1)
        tp = (pred * target).sum(1)
        fp = (pred * (1 - target)).sum(1)
        fn = ((1 - pred) * target).sum(1)
        score = (2 * tp + self.smooth) / (2 * tp + fp + fn + self.smooth)
        return 1 - score.mean()


class CombinedLoss(nn.Module):
    """bce_weight * binary cross-entropy + dice_weight * Dice loss: pixels one by one, and the mask as a whole."""

    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar."""
        return self.bce_weight * F.binary_cross_entropy(pred, target) + self.dice_weight * self.dice(pred, target)
