"""Grad-CAM for images and volumes, through captum, which is imported when the first map is asked for."""

from __future__ import annotations

import copy

import torch
from torch import nn

from toolkit.errors import UserError


def grad_cam(
    model: nn.Module, layer: nn.Module | str, inputs: torch.Tensor, targets: torch.Tensor | int
) -> torch.Tensor:
    """Where do the features of `layer` speak for class `targets`? (Selvaraju et al. 2017)

    inputs: float32 images (B, C, H, W) or volumes (B, C, D, H, W), on the device of `model`. layer: a module of
    `model` or its name, such as "features"; its output must keep two (three) dimensions of space. targets: int64 (B,),
    or one class for all. Returns float32 (B, H, W) or (B, D, H, W) in [0, 1], each map divided by its largest value; a
    map without any positive value is 0. The mode and the gradients of `model` stay as they are.
    Raises UserError if captum is missing, for an unknown layer, and for a layer without dimensions of space.
    """
    LayerAttribution, LayerGradCam = _captum()
    dimensions = inputs.dim() - 2
    if dimensions not in (2, 3):
        raise UserError(f"inputs have shape {tuple(inputs.shape)}; allowed: (B, C, H, W) or (B, C, D, H, W)")
    layer = named_layer(model, layer) if isinstance(layer, str) else layer
    was_training = model.training
    model.eval()
    try:
        # The inputs require a gradient so that a frozen network has a graph, too.
        maps = LayerGradCam(model, layer).attribute(
            inputs.detach().clone().requires_grad_(), target=targets, relu_attributions=True
        )  # (B, 1, h, w) or (B, 1, d, h, w)
    finally:
        model.train(was_training)
    if maps.dim() != inputs.dim():
        raise UserError(f"the output of the layer has shape {tuple(maps.shape)}: no dimensions of space to draw")
    mode = {2: "bilinear", 3: "trilinear"}[dimensions]
    maps = LayerAttribution.interpolate(maps.detach().float(), inputs.shape[2:], mode)[:, 0]
    highest = maps.amax(dim=tuple(range(1, maps.dim())), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=torch.finfo(maps.dtype).tiny), 0)


def randomised(model: nn.Module) -> nn.Module:
    """A copy of `model` with new random weights in every layer, drawn as at its making.

    A map that looks the same with them shows edges of the image and nothing that was learned (Adebayo et al. 2018).
    """
    copied = copy.deepcopy(model)
    for module in copied.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return copied


def named_layer(model: nn.Module, name: str) -> nn.Module:
    """The module called `name`. Raises UserError that lists the outermost names."""
    modules = dict(model.named_modules())
    if not name or name not in modules:
        known = ", ".join(known for known in modules if known and "." not in known)
        raise UserError(f"layer is {name!r}; allowed: {known}, or one inside them (named_modules lists all)")
    return modules[name]


def _captum() -> tuple:
    try:
        from captum.attr import LayerAttribution, LayerGradCam
    except ImportError:
        raise UserError("Grad-CAM needs captum, which is not installed: pip install captum") from None
    return LayerAttribution, LayerGradCam
