# faltung_gemischt: German comments, snake and camel case mixed, depthwise separable and dilated convolutions, PReLU.
"""Part 1: a linear model, an MLP and a CNN that tell nine classes of images apart.

GRADED: TODO 1.0 (linear), 1.1 (MLP), 1.2 (CNN). Every model takes images (B, 3, 28, 28) in [-1, 1] and returns logits
(B, num_classes): no softmax, because the cross-entropy loss contains it.
"""

from __future__ import annotations

import torch
from torch import nn

from toolkit.layers import conv_block

IMAGE_SHAPE = (3, 28, 28)  # channels, height, width
MODEL_NAMES = ("linear", "mlp", "cnn")


# Tiefenweise trennbare und gespreizte Faltungen (Xception, MobileNet, DeepLab)


class TrennbareFaltung(nn.Module):
    """Erst jede Karte für sich (groups), dann über die Kanäle gemischt (1 x 1)."""

    def __init__(self, kanaeleEin: int, kanaeleAus: int, spreizung: int = 1) -> None:
        super().__init__()
        self.tiefenweise = nn.Conv2d(
            kanaeleEin, kanaeleEin, 3, padding=spreizung, dilation=spreizung, groups=kanaeleEin, bias=False
        )
        self.punktweise = nn.Conv2d(kanaeleEin, kanaeleAus, 1, bias=False)
        self.norm = nn.BatchNorm2d(kanaeleAus, momentum=0.3)

    def forward(self, x):
        return torch.nn.functional.relu6(self.norm(self.punktweise(self.tiefenweise(x))))


class LinearModel(nn.Module):
    """One linear map from all 2352 pixel values to the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        c, h, w = IMAGE_SHAPE
        self.gewichte = nn.Linear(c * h * w, num_classes, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        flach = torch.reshape(x, (x.shape[0], self.gewichte.in_features))  # alle Pixel in eine Zeile
        return self.gewichte(flach)


class MLPModel(nn.Module):
    """A multilayer perceptron: hidden layers with nonlinearities between the pixels and the logits."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        c, h, w = IMAGE_SHAPE
        self.ersteSchicht = nn.Linear(c * h * w, 400)
        self.zweiteSchicht = nn.Linear(400, 200)
        self.letzteSchicht = nn.Linear(200, num_classes)
        self.knick = nn.PReLU()  # die Steigung links von 0 wird gelernt

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        flach = torch.reshape(x, (x.shape[0], -1))
        versteckt = self.knick(self.ersteSchicht(flach))
        versteckt = self.knick(self.zweiteSchicht(versteckt))
        return self.letzteSchicht(versteckt)  # kein Softmax, das macht der Verlust


class CNNModel(nn.Module):
    """A convolutional network: features from small neighbourhoods, pooled, then classified."""

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.stamm = conv_block(3, 32)
        self.merkmale = nn.Sequential(
            nn.MaxPool2d(2),  # 28 -> 14
            TrennbareFaltung(32, 64),
            TrennbareFaltung(64, 64, spreizung=2),
            nn.MaxPool2d(2),  # 14 -> 7
            TrennbareFaltung(64, 128),
            TrennbareFaltung(128, 128, spreizung=2),
        )
        self.mittelwert = nn.AdaptiveAvgPool2d((1, 1))
        self.ausgabe = nn.Linear(128, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        karten = self.merkmale(self.stamm(x))
        return self.ausgabe(self.mittelwert(karten).squeeze(-1).squeeze(-1))


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
