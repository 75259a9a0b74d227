"""The models of the comparison and how each is trained. Provided; the settings were chosen on validation data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from labs.hw5_pneumonia import hw5_dl
from toolkit import backbones
from toolkit.augment import normalize
from toolkit.devices import place_model
from toolkit.errors import UserError
from toolkit.precision import compute_in

History = dict[str, list[float]]
RESNET_PATIENCE = 5
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Settings:
    """Epochs at most: of the CNN, of the ResNet and the backbone, and of the backbone's new head alone."""

    epochs: int
    resnet_epochs: int
    head_epochs: int
    backbone: str
    image_size: int  # pixels that the backbone sees


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    build: () → the model with its first weights, on the CPU.
    train: (model, train_loader, val_loader) → history; the model ends with the weights that are kept.
    augmentation: of training images instead of the graded `augment`.
    """

    name: str
    build: Callable[[], nn.Module]
    train: Callable[[nn.Module, Any, Any], History]
    augmentation: Callable[..., torch.Tensor] | None = None

    def build_on(self, device: torch.device, precision: str) -> nn.Module:
        """The model on `device`, computing in `precision` whatever loop calls it."""
        model = place_model(self.build(), device)
        compute_in(precision, model, device)
        return model

    def fit(self, model: nn.Module, loaders: Mapping[str, Any], title: str) -> History:
        """Train with the student's functions, with a progress bar, and check the history that they return."""
        return checked(self.train(model, Watched(loaders["train"], title), loaders["val"]))


def make_recipes(settings: Settings, weights: Mapping[str, torch.Tensor] | None) -> dict[str, Recipe]:
    """Flag of --models → recipe, in the order of the table; "pretrained" only if there are weights."""
    resnet = (settings.resnet_epochs, LEARNING_RATE, RESNET_PATIENCE)
    both = (settings.head_epochs + settings.resnet_epochs, LEARNING_RATE, RESNET_PATIENCE)

    def small_resnet() -> nn.Module:
        return hw5_dl.adapt_backbone(backbones.small_image_stem(backbones.build("resnet18")))

    def backbone(given: Mapping[str, torch.Tensor] | None) -> nn.Module:
        network = hw5_dl.adapt_backbone(backbones.build(settings.backbone, None if given is None else dict(given)))
        return backbones.Resized(network, settings.image_size)

    def fine_tune(model: nn.Module, train_loader: Any, val_loader: Any) -> History:
        if backbones.is_folded(model):
            backbones.unfold_batchnorm(model, train_loader.first_images().to(next(model.parameters()).device))
        epochs = (settings.head_epochs, settings.resnet_epochs)
        return hw5_dl.fine_tune(model, train_loader, val_loader, *epochs, LEARNING_RATE, patience=RESNET_PATIENCE)

    def cnn(*given: Any) -> History:
        return hw5_dl.train(*given, settings.epochs, LEARNING_RATE)

    recipes = {
        "cnn": Recipe("CNN", hw5_dl.PneumoniaCNN, cnn),
        "radiologist": Recipe("CNN, radiologist's augmentation", hw5_dl.PneumoniaCNN, cnn, as_a_radiologist_would),
        "resnet18": Recipe("ResNet-18 from scratch", small_resnet, lambda *given: hw5_dl.train(*given, *resnet)),
        "scratch": Recipe(
            f"{called(settings.backbone)} from scratch, {settings.image_size} pixels",
            lambda: backbone(None),
            lambda *given: hw5_dl.train(*given, *both),
        ),
        "pretrained": Recipe(pretrained_name(settings.backbone), lambda: backbone(weights), fine_tune),
    }
    return {name: recipe for name, recipe in recipes.items() if name != "pretrained" or weights is not None}


def as_a_radiologist_would(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """uint8 (B, 1, H, W) → float32 in [-1, 1]: what another hospital changes, which is framing and exposure.

    Zoom from 0.65 to 1.3, shift by up to 15 % of the side, contrast and brightness; never a mirror image, which would
    put the heart on the right. That reason was there beforehand: validation images, which come from the same hospital
    as the training images, do not prefer this augmentation.
    """
    B = len(images)
    zoom, across, down, gain, offset = torch.rand(5, B, generator=generator).to(images.device)  # (B,) each, in [0, 1)
    zoom = 0.65 * (1.3 / 0.65) ** zoom  # as likely halfway up as halfway down
    zero = torch.zeros_like(zoom)
    # The sampling grid runs from -1 to 1, so a shift of 15 % of the side is 0.3 of it.
    row_x = torch.stack([1 / zoom, zero, 0.3 * (2 * across - 1)], dim=1)
    row_y = torch.stack([zero, 1 / zoom, 0.3 * (2 * down - 1)], dim=1)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), list(images.shape), align_corners=False)
    framed = F.grid_sample(normalize(images), grid, padding_mode="reflection", align_corners=False)
    gain, offset = 1 + 0.3 * (2 * gain - 1), 0.3 * (2 * offset - 1)
    return (framed * gain.view(B, 1, 1, 1) + offset.view(B, 1, 1, 1)).clamp(-1, 1)


def pretrained_name(backbone: str) -> str:
    """What the row of the table is called."""
    return f"{called(backbone)} pretrained on ImageNet"


def called(backbone: str) -> str:
    """A backbone's name for people."""
    names = {"resnet18": "ResNet-18", "resnet18_2223": "ResNet-18 (2-2-2-3 blocks, ML.NET)"}
    return names.get(backbone, backbone)


def checked(history: Any) -> History:
    """The history as floats, tensors and NumPy numbers included. Raises UserError for one that cannot be drawn."""
    if not isinstance(history, Mapping) or any(not isinstance(history.get(name), Sequence) for name in hw5_dl.HISTORY):
        raise UserError(f"hw5_dl.train must return a dict with the lists {', '.join(hw5_dl.HISTORY)} (TODO 2.2)")
    found = {name: [float(value) for value in history[name]] for name in hw5_dl.HISTORY}
    lengths = {len(values) for values in found.values()}
    if len(lengths) != 1 or not lengths.pop():
        raise UserError(f"the lists of hw5_dl.train's history need one value per epoch: {found} (TODO 2.2)")
    if not all(math.isfinite(value) for values in found.values() for value in values):
        raise UserError("the loss became NaN or infinite; likely cure: a learning rate ten times smaller (TODO 2.2)")
    return found


class Watched:
    """A loader with a progress bar and the number of the epoch on a terminal; the loop that draws it knows nothing."""

    def __init__(self, loader: Any, title: str) -> None:
        self.loader, self.title, self.epoch = loader, title, 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        yield from tqdm(self.loader, f"{self.title}, epoch {self.epoch}", leave=False, disable=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def first_images(self) -> torch.Tensor:
        """The images of one batch, outside any epoch."""
        return next(iter(self.loader))[0]
