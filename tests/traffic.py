"""What a student's epoch gives to model and loss, next to what the loader gave: it names what made a result wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


class WatchedLoss(nn.Module):
    """The criterion that is handed in; it notes what it is called with."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion
        self.calls: list[tuple[Any, Any]] = []

    def forward(self, outputs: Any, targets: Any) -> torch.Tensor:
        """The loss, as without this class."""
        self.calls.append((_copy(outputs), _copy(targets)))
        return self.criterion(outputs, targets)


@dataclass
class Traffic:
    """What went through the model, call by call. It explains a wrong result and fails nothing itself."""

    images: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    def note(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """For `register_forward_hook`."""
        self.images.append(_copy(inputs[0] if inputs else None))
        self.outputs.append(_copy(output))

    def difference(self, batches: list[tuple[torch.Tensor, torch.Tensor]], loss_calls: list[tuple[Any, Any]]) -> str:
        """What a plain loop does differently with these batches, as the end of a message; "" if nothing is known."""
        if not loss_calls:
            return "; the given criterion was never called: use it instead of a loss of your own"
        if len(self.images) > len(loss_calls):
            return "; the model is called more often than the loss: take loss and score from the same outputs"
        for batch, images, outputs, arguments in zip(batches, self.images, self.outputs, loss_calls, strict=False):
            if found := _difference(batch, images, outputs, arguments):
                return f"; {found}"
        return ""


def _difference(
    batch: tuple[torch.Tensor, torch.Tensor], images: Any, outputs: torch.Tensor, arguments: tuple[Any, Any]
) -> str:
    first, second = arguments
    if not _same(images, batch[0]):
        return "the model got other images than the loader gave (changed, or in another order)"
    if _same(first, batch[1]):
        return "the arguments of the criterion are swapped: first the outputs, then the targets"
    if any(_same(first, again) for again in (outputs.softmax(1), outputs.sigmoid())):
        return "the criterion got a softmax or sigmoid of the outputs: pass them as they come from the model"
    if not _same(first, outputs):
        return "the criterion got something else than the model's outputs"
    if not _same(second, batch[1]):
        return "the criterion got other targets than the loader gave"
    return ""


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _same(value: Any, other: torch.Tensor) -> bool:
    """Equal but for dtype and dimensions of size 1, which may be right either way."""
    if not isinstance(value, torch.Tensor) or value.numel() != other.numel():
        return False
    return torch.allclose(value.detach().double().flatten(), other.detach().double().flatten(), atol=1e-5)
