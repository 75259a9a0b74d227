# match_recursion: match, walrus, map and zip; recursive U-Net with a choice of upsampling, recursive validation.
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
        # no bias of its own for each pixel would be a weaker model, so it stays
        self.layer = nn.Linear((pixels := IMAGE_SIZE * IMAGE_SIZE) * in_channels, pixels * out_channels, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return torch.sigmoid(self.layer(x.flatten(1))).view(len(x), self.out_channels, *x.shape[-2:])


class MLPSegmentation(nn.Module):
    """A multilayer perceptron from all pixel values to all mask pixels."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, width: int = 384) -> None:
        super().__init__()
        self.out_channels = out_channels
        pixels = IMAGE_SIZE * IMAGE_SIZE
        sizes = [pixels * in_channels, width, width, pixels * out_channels]
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        y = x.flatten(1)
        for number, layer in enumerate(self.layers):
            match len(self.layers) - number:
                case 1:
                    y = layer(y).sigmoid()
                case _:
                    y = layer(y).relu()
        return y.view(len(x), self.out_channels, *x.shape[-2:])


def enlarge(kind: str, n_in: int, n_out: int) -> nn.Module:
    """Twice the height and width, in one of three ways."""
    match kind:
        case "transposed":
            return nn.ConvTranspose2d(n_in, n_out, kernel_size=2, stride=2)
        case "shuffle":
            return nn.Sequential(nn.Conv2d(n_in, 4 * n_out, kernel_size=1), nn.PixelShuffle(2))
        case "bilinear":
            return nn.Sequential(nn.UpsamplingBilinear2d(scale_factor=2), nn.Conv2d(n_in, n_out, kernel_size=1))
        case _:
            raise ValueError(f"up is {kind!r}; allowed: transposed, shuffle, bilinear")


class Hourglass(nn.Module):
    """Encoder and decoder of one size, and between them the Hourglass of the next one.

    widths: channels of this size and of the smaller ones. skip: the decoder also sees the encoder's map.
    """

    def __init__(self, n_in: int, widths: list[int], skip: bool, up: str) -> None:
        super().__init__()
        match widths:
            case [width]:
                self.encode = nn.Sequential(conv_block(n_in, width), conv_block(width, width))
                self.inner = None
            case [width, smaller, *_]:
                self.encode = nn.Sequential(conv_block(n_in, width), conv_block(width, width))
                self.inner = Hourglass(width, widths[1:], skip, up)
                self.enlarge = enlarge(up, smaller, width)
                self.decode = conv_block(2 * width if skip else width, width)
        self.skip = skip

    def forward(self, x):
        x = self.encode(x)
        if (inner := self.inner) is None:
            return x
        y = self.enlarge(inner(F.max_pool2d(x, 2)))
        return self.decode(torch.cat([x, y], dim=1) if self.skip else y)


class SimpleCNN(nn.Module):
    """An encoder and a decoder without skip connections: all information passes through the narrow middle."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, up: str = "bilinear") -> None:
        super().__init__()
        self.body = Hourglass(in_channels, [24, 48, 96], skip=False, up=up)
        self.head = nn.Conv2d(24, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return self.head(self.body(x)).sigmoid()


class TinyUNet(nn.Module):
    """A U-Net of two levels (Ronneberger et al. 2015): the decoder also sees the encoder's maps of the same size."""

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16, up: str = "shuffle"
    ) -> None:
        super().__init__()
        self.body = Hourglass(in_channels, [base_channels << level for level in range(3)], skip=True, up=up)
        self.head = nn.Conv2d(base_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return self.head(self.body(x)).sigmoid()


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
        both, p, t = map(lambda map_: map_.sum((1, 2, 3)), (pred * target, pred, target))
        return (1 - (2 * both + self.smooth) / (p + t + self.smooth)).mean()


class CombinedLoss(nn.Module):
    """bce_weight * binary cross-entropy + dice_weight * Dice loss: pixels one by one, and the mask as a whole."""

    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar."""
        match (self.bce_weight, self.dice_weight):
            case (bce, 0):
                return bce * F.binary_cross_entropy(pred, target)
            case (0, dice):
                return dice * self.dice(pred, target)
            case (bce, dice):
                return bce * F.binary_cross_entropy(pred, target) + dice * self.dice(pred, target)
