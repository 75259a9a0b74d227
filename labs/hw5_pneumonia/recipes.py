"""The three models of the comparison and how each is trained. Provided; the settings were chosen on validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labs.hw5_pneumonia import hw5_dl
from labs.hw5_pneumonia.run import MODELS
from toolkit import backbones
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


def make_recipes(
    models: Sequence[str],
    settings: Settings,
    backbone: str,
    weights: Mapping[str, torch.Tensor] | None,
    image_size: int,
) -> list[Recipe]:
    """Those of MODELS that were asked for; "pretrained" only if there are weights."""
    known = {
        "cnn": Recipe("CNN", lambda loaders: _train_cnn(loaders, settings)),
        "resnet18": Recipe("ResNet-18 from scratch", lambda loaders: _train_resnet(loaders, settings)),
        "scratch": Recipe(
            f"{_called(backbone)} from scratch, {image_size} pixels",
            lambda loaders: _train_scratch(loaders, settings, backbone, image_size),
        ),
        "pretrained": Recipe(
            pretrained_name(backbone),
            lambda loaders: _fine_tune(loaders, settings, backbone, dict(weights or {}), image_size),
        ),
    }
    return [known[name] for name in MODELS if name in models and (name != "pretrained" or weights is not None)]


def pretrained_name(backbone: str) -> str:
    """What the row of the table is called."""
    return f"{_called(backbone)} pretrained on ImageNet"


def _called(backbone: str) -> str:
    return "ResNet-18" if backbone == "resnet18" else backbone


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


def _train_scratch(
    loaders: Mapping[str, Any], settings: Settings, name: str, image_size: int
) -> tuple[nn.Module, History]:
    network = backbones.Resized(hw5_dl.adapt_backbone(backbones.build(name)), image_size)
    model = place_model(network, settings.device)
    epochs = settings.head_epochs + settings.resnet_epochs  # as many as the pretrained one has
    history = hw5_dl.train(model, loaders["train"], loaders["val"], epochs, 1e-3, patience=5, **settings.options)
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
