# all_convolutions: no dense layer at all: kernels of 28 x 28, strides, PixelShuffle, one _epoch for training and validation.
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


class LinearSegmentation(nn.Module):
    """Every pixel of the mask is one linear function of all pixel values."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        # (B, C, 28, 28) -> (B, out * 784, 1, 1) -> (B, out, 28, 28)
        self.conv = nn.Conv2d(in_channels, out_channels * IMAGE_SIZE**2, kernel_size=IMAGE_SIZE)
        self.shuffle = nn.PixelShuffle(IMAGE_SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return torch.sigmoid(self.shuffle(self.conv(x)))


class MLPSegmentation(nn.Module):
    """A multilayer perceptron from all pixel values to all mask pixels."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 512, kernel_size=IMAGE_SIZE),
            nn.ReLU(),
            nn.Conv2d(512, 512, kernel_size=1),
            nn.ReLU(),
            nn.ConvTranspose2d(512, out_channels, kernel_size=IMAGE_SIZE),  # one vector → a whole image
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return torch.sigmoid(self.layers(x))


class SimpleCNN(nn.Module):
    """An encoder and a decoder without skip connections: all information passes through the narrow middle."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            conv_block(in_channels, 32),
            self.strided(32, 64),
            conv_block(64, 64),
            self.strided(64, 128),
            conv_block(128, 128),
        )
        self.decoder = nn.Sequential(
            self.subpixel(128, 64), conv_block(64, 64), self.subpixel(64, 32), nn.Conv2d(32, out_channels, 1)
        )

    @staticmethod
    def strided(channels: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU())

    @staticmethod
    def subpixel(channels: int, out: int) -> nn.Sequential:
        """Four maps for one of twice the size (Shi et al. 2016)."""
        return nn.Sequential(nn.Conv2d(channels, 4 * out, 3, padding=1), nn.PixelShuffle(2), nn.BatchNorm2d(out), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return torch.sigmoid(self.decoder(self.encoder(x)))


class TinyUNet(nn.Module):
    """A U-Net of two levels (Ronneberger et al. 2015): the decoder also sees the encoder's maps of the same size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16) -> None:
        super().__init__()
        n = base_channels
        self.enc_28 = nn.Sequential(conv_block(in_channels, n), conv_block(n, n))
        self.down_14 = nn.Conv2d(n, 2 * n, 2, stride=2)
        self.enc_14 = conv_block(2 * n, 2 * n)
        self.down_7 = nn.Conv2d(2 * n, 4 * n, 2, stride=2)
        self.middle = nn.Sequential(conv_block(4 * n, 4 * n), conv_block(4 * n, 4 * n))
        self.up_14 = nn.Sequential(nn.Conv2d(4 * n, 8 * n, 1), nn.PixelShuffle(2))  # 2 n maps
        self.dec_14 = conv_block(4 * n, 2 * n)
        self.up_28 = nn.Sequential(nn.Conv2d(2 * n, 4 * n, 1), nn.PixelShuffle(2))  # n maps
        self.dec_28 = conv_block(2 * n, n)
        self.last = nn.Conv2d(n, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        at_28 = self.enc_28(x)
        at_14 = self.enc_14(self.down_14(at_28))
        at_7 = self.middle(self.down_7(at_14))
        back_14 = self.dec_14(torch.hstack([at_14, self.up_14(at_7)]))
        back_28 = self.dec_28(torch.hstack([at_28, self.up_28(back_14)]))
        return torch.sigmoid(self.last(back_28))


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
        # the mean over all pixels of an image instead of the sum; `smooth` is divided by their number then
        pixels = pred[0].numel()
        smooth = self.smooth / pixels
        both = F.adaptive_avg_pool2d(pred * target, 1).flatten(1).mean(1)
        sizes = F.adaptive_avg_pool2d(pred + target, 1).flatten(1).mean(1)
        return (1 - (2 * both + smooth) / (sizes + smooth)).mean()


class CombinedLoss(nn.Module):
    """bce_weight * binary cross-entropy + dice_weight * Dice loss: pixels one by one, and the mask as a whole."""

    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar."""
        loss = self.bce_weight * F.binary_cross_entropy(pred, target)
        loss += self.dice_weight * self.dice(pred, target)
        return loss
