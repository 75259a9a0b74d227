"""Small modules built from plain descriptions, the same on both sides of the pipe.

The grader asks the student's loop to train one of these on known arrays, computes by itself what must come out, and
compares. So the answer is checked against arithmetic and not against anything that the student's process claims.
A description is a list of layers, each `[name, *arguments]`, for instance `[["flatten"], ["linear", 2352, 9]]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import nn

LAYERS = {
    "flatten": nn.Flatten,
    "linear": nn.Linear,
    "conv": lambda c_in, c_out, size: nn.Conv2d(c_in, c_out, size, padding=size // 2),
    "relu": nn.ReLU,
    "pool": lambda: nn.AdaptiveAvgPool2d(1),
    "sigmoid": nn.Sigmoid,
    "dropout": nn.Dropout,
    "batchnorm1d": nn.BatchNorm1d,
    "batchnorm2d": nn.BatchNorm2d,
}


def build_plain(layers: Sequence[Sequence]) -> nn.Sequential:
    """The module of a description, with PyTorch's default initial weights (the caller overwrites them)."""
    return nn.Sequential(*(LAYERS[name](*arguments) for name, *arguments in layers))


class ScaledCrossEntropy(nn.Module):
    """Cross-entropy with a scale on the logits, times `weight`: (B, C) logits, (B,) labels -> mean over the batch.

    It is an unusual loss, so a loop that ignores the criterion it was given cannot get the numbers right. A small
    weight keeps gradients below the norms that loops clip at.
    """

    def __init__(self, scale: float, weight: float = 1.0) -> None:
        super().__init__()
        self.scale, self.weight = scale, weight

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.weight * nn.functional.cross_entropy(self.scale * logits, labels)


class PoweredError(nn.Module):
    """Mean of |probability - mask|**power over all pixels of the batch, times `weight`; `bias` weighs the mask more."""

    def __init__(self, power: float, bias: float, weight: float = 1.0) -> None:
        super().__init__()
        self.power, self.bias, self.weight = power, bias, weight

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        error = (pred - target).abs().clamp_min(1e-6) ** self.power
        return self.weight * (error * (1 + self.bias * target)).mean()


CRITERIA = {
    "cross_entropy": nn.CrossEntropyLoss,
    "scaled_cross_entropy": ScaledCrossEntropy,
    "powered_error": PoweredError,
    "bce": nn.BCELoss,
}


def _without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimizer without what torch wraps around its methods for torch.compile.

    The first call of a wrapper imports torch._dynamo: 1.0 s of processor time in the grader and as much in the worker,
    more than most checks take (torch 2.15, time.process_time around the import). Where a torch has no such wrappers,
    nothing is taken off.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "step")}
    methods["step"] = torch.no_grad()(methods["step"])  # one of the wrappers did that
    return type(kind.__name__, (kind,), methods)


OPTIMIZERS = {"sgd": _without_compiler(torch.optim.SGD), "adam": _without_compiler(torch.optim.Adam)}


def build_criterion(name: str, arguments: Sequence[float] = ()) -> nn.Module:
    """A criterion by name; see CRITERIA."""
    return CRITERIA[name](*arguments)


def build_optimizer(name: str, model: nn.Module, settings: dict) -> torch.optim.Optimizer:
    """An optimizer by name over all parameters of the model."""
    return OPTIMIZERS[name](model.parameters(), **settings)
