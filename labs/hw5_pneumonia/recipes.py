"""The three models of the comparison and how each is trained. Provided; the settings were chosen on validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labs.hw5_pneumonia import backbones, hw5_dl
from toolkit.devices import place_model

History = dict[str, list[float]]


@dataclass(frozen=True)
class Settings:
    """What all recipes need: epochs at most, the loss, the machine."""

    epochs: int
    resnet_epochs: int
    head_epochs: int
    class_weights: torch.Tensor
    device: torch.device
    precision: str
    say: Callable[[str], None]

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of hw5_dl.train that are the same for every model."""
        return {"class_weights": self.class_weights, "ema_decay": 0.99, "precision": self.precision, "report": self.say}


@dataclass(frozen=True)
class Recipe:
    """A row of the table: `train(loaders)` gives a trained model and its history."""

    name: str
    train: Callable[[Mapping[str, Any]], tuple[nn.Module, History]]
    cam_layer: Callable[[nn.Module], nn.Module] | None = None  # where Grad-CAM has at least 4 x 4 cells


def make_recipes(
    settings: Settings, backbone: str, weights: Mapping[str, torch.Tensor] | None, image_size: int
) -> list[Recipe]:
    """CNN, ResNet-18 from scratch and, if there are weights, the pretrained backbone."""
    recipes = [
        Recipe("CNN", lambda loaders: _train_cnn(loaders, settings), lambda model: model.features),
        Recipe("ResNet-18 from scratch", lambda loaders: _train_resnet(loaders, settings)),
    ]
    if weights is not None:
        network = lambda loaders: _fine_tune(loaders, settings, backbone, dict(weights), image_size)  # noqa: E731
        recipes.append(Recipe(pretrained_name(backbone), network))
    return recipes


def pretrained_name(backbone: str) -> str:
    """What the row of the table is called."""
    return f"{'ResNet-18' if backbone == 'resnet18' else backbone} pretrained on ImageNet"


def _train_cnn(loaders: Mapping[str, Any], settings: Settings) -> tuple[nn.Module, History]:
    model = place_model(hw5_dl.PneumoniaCNN(), settings.device)
    history = hw5_dl.train(
        model, loaders["train"], loaders["val"], settings.epochs, 1e-3, patience=8, **settings.options
    )
    return model, history


def _train_resnet(loaders: Mapping[str, Any], settings: Settings) -> tuple[nn.Module, History]:
    network = hw5_dl.adapt_backbone(backbones.small_image_stem(backbones.build("resnet18")))
    model = place_model(network, settings.device)
    history = hw5_dl.train(
        model, loaders["train"], loaders["val"], settings.resnet_epochs, 1e-3, patience=5, **settings.options
    )
    return model, history


def _fine_tune(
    loaders: Mapping[str, Any], settings: Settings, name: str, weights: dict[str, torch.Tensor], image_size: int
) -> tuple[nn.Module, History]:
    network = backbones.Resized(hw5_dl.adapt_backbone(backbones.build(name, weights)), image_size)
    if backbones.is_folded(network):
        images, _labels = next(iter(loaders["train"]))
        backbones.unfold_batchnorm(network, images)
    model = place_model(network, settings.device)
    epochs = (settings.head_epochs, settings.resnet_epochs)
    history = hw5_dl.fine_tune(model, loaders["train"], loaders["val"], *epochs, 1e-3, patience=5, **settings.options)
    return model, history
