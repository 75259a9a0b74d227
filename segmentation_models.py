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
# base_channels of the U-Net in the scripts and in grading; TinyUNet() itself has 16. IoU after 100 steps: about 0.94
# with 16 channels, 0.98 with 32, 0.987 with 48.
UNET_BASE_CHANNELS = 48


class LinearSegmentation(nn.Module):
    """Every pixel of the mask is one linear function of all pixel values."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        # Hint: all pixels in, one value for each pixel and output channel out.
        # BEGIN SOLUTION 2.0: define the linear layer
        pixels = IMAGE_SIZE * IMAGE_SIZE
        self.pixel_map = nn.Linear(in_channels * pixels, out_channels * pixels)
        # END SOLUTION 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        # BEGIN SOLUTION 2.0: flatten, apply the layer, give the shape back, turn into probabilities
        B, _, H, W = x.shape
        logits = self.pixel_map(x.flatten(start_dim=1))  # (B, out_channels * H * W)
        return torch.sigmoid(logits).view(B, self.out_channels, H, W)
        # END SOLUTION 2.0


class MLPSegmentation(nn.Module):
    """A multilayer perceptron from all pixel values to all mask pixels."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        # Hint: as in Part 1, but with one output for each pixel.
        # BEGIN SOLUTION 2.1: define the layers of the MLP
        pixels = IMAGE_SIZE * IMAGE_SIZE
        self.layers = nn.Sequential(
            nn.Linear(in_channels * pixels, 512, bias=False),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 512, bias=False),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, out_channels * pixels),
        )
        # END SOLUTION 2.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        # BEGIN SOLUTION 2.1: flatten, apply the layers, give the shape back, turn into probabilities
        B, _, H, W = x.shape
        logits = self.layers(x.flatten(start_dim=1))  # (B, out_channels * H * W)
        return torch.sigmoid(logits).view(B, self.out_channels, H, W)
        # END SOLUTION 2.1


class SimpleCNN(nn.Module):
    """An encoder and a decoder without skip connections: all information passes through the narrow middle."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        # Hint: convolutions and pooling down to 7 x 7, then transposed convolutions back to 28 x 28.
        # BEGIN SOLUTION 2.2: define encoder and decoder
        self.encoder = nn.Sequential(
            conv_block(in_channels, 48),
            nn.MaxPool2d(2),  # (B, 48, 14, 14)
            conv_block(48, 96),
            nn.MaxPool2d(2),  # (B, 96, 7, 7)
            conv_block(96, 192),
            conv_block(192, 192),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(192, 96, kernel_size=2, stride=2),  # (B, 96, 14, 14)
            conv_block(96, 96),
            nn.ConvTranspose2d(96, 48, kernel_size=2, stride=2),  # (B, 48, 28, 28)
            conv_block(48, 48),
            nn.Conv2d(48, out_channels, kernel_size=1),
        )
        # END SOLUTION 2.2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        # BEGIN SOLUTION 2.2: encode, decode, turn into probabilities
        return torch.sigmoid(self.decoder(self.encoder(x)))
        # END SOLUTION 2.2


class TinyUNet(nn.Module):
    """A U-Net of two levels (Ronneberger et al. 2015): the decoder also sees the encoder's maps of the same size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16) -> None:
        super().__init__()
        # Hint: as the CNN, but keep the encoder's map at each size and concatenate it to the decoder's.
        # BEGIN SOLUTION 2.3: define encoder, middle and decoder

        def double_block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(conv_block(inputs, outputs), conv_block(outputs, outputs))

        narrow, medium, wide = base_channels, 2 * base_channels, 4 * base_channels
        self.encoder_28 = double_block(in_channels, narrow)
        self.encoder_14 = double_block(narrow, medium)
        self.middle = double_block(medium, wide)
        self.up_14 = nn.ConvTranspose2d(wide, medium, kernel_size=2, stride=2)
        self.decoder_14 = double_block(2 * medium, medium)
        self.up_28 = nn.ConvTranspose2d(medium, narrow, kernel_size=2, stride=2)
        self.decoder_28 = double_block(2 * narrow, narrow)
        self.head = nn.Conv2d(narrow, out_channels, kernel_size=1)
        # END SOLUTION 2.3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        # BEGIN SOLUTION 2.3: encode, decode with the skip connections, turn into probabilities
        skip_28 = self.encoder_28(x)  # (B, narrow, 28, 28)
        skip_14 = self.encoder_14(F.max_pool2d(skip_28, 2))  # (B, medium, 14, 14)
        features = self.middle(F.max_pool2d(skip_14, 2))  # (B, wide, 7, 7)
        features = self.decoder_14(torch.cat([self.up_14(features), skip_14], dim=1))  # (B, medium, 14, 14)
        features = self.decoder_28(torch.cat([self.up_28(features), skip_28], dim=1))  # (B, narrow, 28, 28)
        return torch.sigmoid(self.head(features))
        # END SOLUTION 2.3


def get_segmentation_model(
    model_name: str, in_channels: int = 3, out_channels: int = 1, **model_args: object
) -> nn.Module:
    """Return a new model called 'linear', 'mlp', 'cnn' or 'unet'. Raises ValueError for any other name.

    model_args: what --model_args gives, handed to the model's __init__. You need it only to compare designs: give your
        model an argument with a default, such as `depth=2`, and set it from the command line.
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
    mask t. Nothing is squared (in Milletari et al. 2016 p and t are squared in the denominator).

    Why not cross-entropy alone? A box covers about a sixth of the image, so "no box anywhere" has most pixels right.
    Dice compares the predicted with the true area and ignores the background. Why `smooth`? Without it, two empty masks
    would give 0 / 0.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar in [0, 1]."""
        # BEGIN SOLUTION 2.4: the Dice loss of each image, averaged
        pred, target = pred.float().flatten(start_dim=1), target.float().flatten(start_dim=1)  # (B, pixels)
        overlap = (pred * target).sum(dim=1)
        size = pred.sum(dim=1) + target.sum(dim=1)
        dice = (2 * overlap + self.smooth) / (size + self.smooth)
        return 1 - dice.mean()
        # END SOLUTION 2.4


class CombinedLoss(nn.Module):
    """bce_weight * binary cross-entropy + dice_weight * Dice loss: pixels one by one, and the mask as a whole."""

    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar."""
        # BEGIN SOLUTION 2.5: combine the two losses
        # float(): the logarithm of a bfloat16 probability near 0 or 1 is too coarse. No ..._with_logits: the models end
        # with a sigmoid, so `pred` holds probabilities.
        bce = F.binary_cross_entropy(pred.float(), target.float())
        return self.bce_weight * bce + self.dice_weight * self.dice(pred, target)
        # END SOLUTION 2.5
