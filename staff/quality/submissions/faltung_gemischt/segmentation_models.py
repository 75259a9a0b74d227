# faltung_gemischt: German comments, snake and camel case mixed, depthwise separable and dilated convolutions, PReLU.
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
        anzahlPixel = IMAGE_SIZE * IMAGE_SIZE
        self.gewichte = nn.Linear(in_channels * anzahlPixel, out_channels * anzahlPixel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        flach = torch.reshape(x, (x.shape[0], -1))
        maske = self.gewichte(flach).reshape(x.shape[0], self.out_channels, IMAGE_SIZE, IMAGE_SIZE)
        return torch.special.expit(maske)  # = Sigmoid


class MLPSegmentation(nn.Module):
    """A multilayer perceptron from all pixel values to all mask pixels."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        anzahlPixel = IMAGE_SIZE * IMAGE_SIZE
        self.ersteSchicht = nn.Linear(in_channels * anzahlPixel, 600)
        self.zweiteSchicht = nn.Linear(600, 300)
        self.letzteSchicht = nn.Linear(300, out_channels * anzahlPixel)
        self.knick1, self.knick2 = nn.PReLU(), nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        flach = torch.reshape(x, (x.shape[0], -1))
        versteckt = self.knick1(self.ersteSchicht(flach))
        versteckt = self.knick2(self.zweiteSchicht(versteckt))
        maske = self.letzteSchicht(versteckt).reshape(x.shape[0], self.out_channels, IMAGE_SIZE, IMAGE_SIZE)
        return torch.special.expit(maske)


class GespreizteFaltung(nn.Sequential):
    """3 x 3 mit Löchern: größeres Sichtfeld ohne mehr Gewichte."""

    def __init__(self, kanaele: int, spreizung: int) -> None:
        super().__init__(
            nn.Conv2d(kanaele, kanaele, 3, padding=spreizung, dilation=spreizung, bias=False),
            nn.BatchNorm2d(kanaele, momentum=0.3),
            nn.ReLU6(),
        )


def trennbar(kanaele_ein: int, kanaele_aus: int) -> nn.Sequential:
    """tiefenweise 3 x 3, dann punktweise 1 x 1"""
    return nn.Sequential(
        nn.Conv2d(kanaele_ein, kanaele_ein, 3, padding=1, groups=kanaele_ein, bias=False),
        nn.Conv2d(kanaele_ein, kanaele_aus, 1, bias=False),
        nn.BatchNorm2d(kanaele_aus, momentum=0.3),
        nn.ReLU6(),
    )


class SimpleCNN(nn.Module):
    """An encoder and a decoder without skip connections: all information passes through the narrow middle."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.kodierer = nn.Sequential(
            conv_block(in_channels, 32),
            nn.MaxPool2d(2),
            conv_block(32, 64),
            nn.MaxPool2d(2),
            conv_block(64, 96),
            GespreizteFaltung(96, spreizung=2),
            GespreizteFaltung(96, spreizung=1),
        )
        self.dekodierer = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            trennbar(96, 64),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            trennbar(64, 64),
            conv_block(64, 32),
            nn.Conv2d(32, out_channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        return torch.special.expit(self.dekodierer(self.kodierer(x)))


class TinyUNet(nn.Module):
    """A U-Net of two levels (Ronneberger et al. 2015): the decoder also sees the encoder's maps of the same size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16) -> None:
        super().__init__()
        k = base_channels
        self.abwaerts1 = nn.Sequential(conv_block(in_channels, k), conv_block(k, k))
        self.abwaerts2 = nn.Sequential(trennbar(k, 2 * k), conv_block(2 * k, 2 * k))
        self.mitte = nn.Sequential(conv_block(2 * k, 4 * k), GespreizteFaltung(4 * k, spreizung=2))
        self.aufwaerts2 = nn.Sequential(trennbar(6 * k, 2 * k), conv_block(2 * k, 2 * k))
        self.aufwaerts1 = nn.Sequential(trennbar(3 * k, k), conv_block(k, k))
        self.verkleinern = nn.MaxPool2d(2)
        self.vergroessern = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.ausgabe = nn.Conv2d(k, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, in_channels, 28, 28) → probabilities (B, out_channels, 28, 28)."""
        gross = self.abwaerts1(x)
        mittel = self.abwaerts2(self.verkleinern(gross))
        klein = self.mitte(self.verkleinern(mittel))
        y = self.aufwaerts2(torch.concat([mittel, self.vergroessern(klein)], dim=1))
        y = self.aufwaerts1(torch.concat([gross, self.vergroessern(y)], dim=1))
        return torch.special.expit(self.ausgabe(y))


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
        anzahlBilder = pred.shape[0]
        # je Bild eine Zeile, damit jedes Bild gleich viel zählt
        vorhersage = pred.reshape(anzahlBilder, -1)
        wahrheit = target.reshape(anzahlBilder, -1)
        schnitt = torch.sum(vorhersage * wahrheit, dim=1)
        zaehler = 2.0 * schnitt + self.smooth
        nenner = torch.sum(vorhersage, dim=1) + torch.sum(wahrheit, dim=1) + self.smooth
        return torch.mean(1.0 - zaehler / nenner)


class CombinedLoss(nn.Module):
    """bce_weight * binary cross-entropy + dice_weight * Dice loss: pixels one by one, and the mask as a whole."""

    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probabilities and masks, both (B, 1, H, W) → loss, a scalar."""
        kreuzentropie = F.binary_cross_entropy(pred, target)
        diceVerlust = self.dice(pred, target)
        return self.bce_weight * kreuzentropie + self.dice_weight * diceVerlust
