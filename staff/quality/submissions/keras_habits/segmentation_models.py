# keras_habits: classes named as in Keras, NHWC flattening, metric objects, cross-entropy with the Keras epsilon.
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


def keras_flatten(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.permute(0, 2, 3, 1).reshape(inputs.shape[0], -1)


def keras_reshape(outputs: torch.Tensor, channels: int) -> torch.Tensor:
    """(B, 28 * 28 * C) → (B, 28, 28, C) → (B, C, 28, 28)."""
    return outputs.reshape(-1, IMAGE_SIZE, IMAGE_SIZE, channels).permute(0, 3, 1, 2)


class LinearSegmentation(nn.Module):
    """Every pixel of the mask is one linear function of all pixel values."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.dense = nn.Linear(IMAGE_SIZE * IMAGE_SIZE * in_channels, IMAGE_SIZE * IMAGE_SIZE * out_channels)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return torch.sigmoid(keras_reshape(self.dense(keras_flatten(x)), self.out_channels))


class MLPSegmentation(nn.Module):
    """A multilayer perceptron from all pixel values to all mask pixels."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        pixels = IMAGE_SIZE * IMAGE_SIZE
        self.dense_1 = nn.Linear(pixels * in_channels, 512)
        self.dense_2 = nn.Linear(512, 512)
        self.dense_3 = nn.Linear(512, pixels * out_channels)
        for layer in (self.dense_1, self.dense_2, self.dense_3):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        x = keras_flatten(x)
        x = torch.relu(self.dense_1(x))
        x = torch.relu(self.dense_2(x))
        x = torch.sigmoid(self.dense_3(x))
        return keras_reshape(x, self.out_channels)


class SimpleCNN(nn.Module):
    """An encoder and a decoder without skip connections: all information passes through the narrow middle."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            conv_block(in_channels, 32),
            conv_block(32, 32),
            nn.MaxPool2d(2),  # 14
            conv_block(32, 64),
            conv_block(64, 64),
            nn.MaxPool2d(2),  # 7
            conv_block(64, 128),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(128, 64, kernel_size=3, stride=2, padding=1, output_padding=1),  # 14, padding="same"
            nn.ReLU(),
            conv_block(64, 64),
            nn.ConvTranspose2d(64, 32, kernel_size=3, stride=2, padding=1, output_padding=1),  # 28
            nn.ReLU(),
            conv_block(32, 32),
            nn.Conv2d(32, out_channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        encoded = self.encoder(x)
        decoded = self.decoder(encoded)
        return torch.sigmoid(decoded)


class TinyUNet(nn.Module):
    """A U-Net of two levels (Ronneberger et al. 2015): the decoder also sees the encoder's maps of the same size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16) -> None:
        super().__init__()
        c = base_channels
        self.conv1 = nn.Sequential(conv_block(in_channels, c), conv_block(c, c))
        self.conv2 = nn.Sequential(conv_block(c, 2 * c), conv_block(2 * c, 2 * c))
        self.conv3 = nn.Sequential(conv_block(2 * c, 4 * c), conv_block(4 * c, 4 * c))
        self.up_sampling2d = nn.Upsample(scale_factor=2, mode="nearest")
        self.up4 = conv_block(4 * c, 2 * c)
        self.conv4 = conv_block(4 * c, 2 * c)
        self.up5 = conv_block(2 * c, c)
        self.conv5 = conv_block(2 * c, c)
        self.conv6 = nn.Conv2d(c, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        conv1 = self.conv1(x)
        pool1 = F.max_pool2d(conv1, 2)
        conv2 = self.conv2(pool1)
        pool2 = F.max_pool2d(conv2, 2)
        conv3 = self.conv3(pool2)
        up4 = self.up4(self.up_sampling2d(conv3))
        merge4 = torch.cat([conv2, up4], axis=1)  # concatenate([conv2, up4], axis=3) in Keras
        conv4 = self.conv4(merge4)
        up5 = self.up5(self.up_sampling2d(conv4))
        merge5 = torch.cat([conv1, up5], axis=1)
        return torch.sigmoid(self.conv6(self.conv5(merge5)))


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
        y_true = target.flatten(start_dim=1)
        y_pred = pred.flatten(start_dim=1)
        intersection = (y_true * y_pred).sum(axis=-1)
        sums = y_true.sum(axis=-1) + y_pred.sum(axis=-1)
        return (1.0 - (2.0 * intersection + self.smooth) / (sums + self.smooth)).mean()


class CombinedLoss(nn.Module):
    """bce_weight * binary cross-entropy + dice_weight * Dice loss: pixels one by one, and the mask as a whole."""

    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar."""
        epsilon = 1e-7  # keras.backend.epsilon()
        p = torch.clamp(pred, epsilon, 1.0 - epsilon)
        binary_crossentropy = -(target * torch.log(p) + (1.0 - target) * torch.log(1.0 - p)).mean()
        return self.bce_weight * binary_crossentropy + self.dice_weight * self.dice(pred, target)
