"""A model computes in bfloat16 or float16 and returns float32, whatever loop calls it, by hooks on its forward pass."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from toolkit.devices import autocast

FIRST_LOSS_SCALE = 2.0**16  # PyTorch's GradScaler starts there too
STEPS_UNTIL_LARGER = 2000  # good steps after which a larger scale is tried


def compute_in(precision: str, model: nn.Module, device: torch.device) -> contextlib.ExitStack:
    """Let `model` run its forward pass in `precision` from now on; float32 changes nothing.

    Args:
        precision: float32, bfloat16 or float16.
        model: its output, one tensor, is returned as float32, so that a loss or a metric never sees the precision.

    Returns:
        A stack of the hooks; closing it makes the model what it was. A deep copy of the model keeps them.
    """
    hooks = contextlib.ExitStack()
    if precision == "float32":
        return hooks
    contexts: list[Any] = []

    def enter(_module: nn.Module, _inputs: Any) -> None:
        contexts.append(autocast(device, precision))
        contexts[-1].__enter__()

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        contexts.pop().__exit__(None, None, None)
        return output.float() if isinstance(output, torch.Tensor) else output

    hooks.callback(model.register_forward_pre_hook(enter).remove)
    # always_call: a forward pass that raises must not leave the rest of the program in bfloat16.
    hooks.callback(model.register_forward_hook(leave, always_call=True).remove)
    return hooks


class LossScale:
    """Keeps small float16 gradients from becoming 0, as torch.amp.GradScaler does, but from outside the loop.

    float16 has no number below 6e-8, and gradients of a mean over many pixels are smaller. The gradient is multiplied
    by `value` where it enters the model and divided by it where it reaches a weight, so the loop only ever sees true
    gradients. If one is too large for float16, the step is left out and the scale halved (Micikevicius et al. 2018).
    """

    def __init__(self, model: nn.Module) -> None:
        self.value, self._good_steps = FIRST_LOSS_SCALE, 0
        self._hooks = [model.register_forward_hook(self._scale_output)]
        self._hooks += [w.register_hook(lambda g: g / self.value) for w in model.parameters() if w.requires_grad]

    def _scale_output(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: gradient * self.value)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the gradients away if one overflowed: an optimizer leaves weights without a gradient alone."""
        weights = [w for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
        if all(torch.isfinite(weight.grad).all() for weight in weights):
            self._good_steps += 1
            if self._good_steps % STEPS_UNTIL_LARGER == 0:
                self.value *= 2
            return
        self.value, self._good_steps = self.value / 2, 0
        for weight in weights:
            weight.grad = None

    def remove(self) -> None:
        """Take all hooks off the model."""
        for hook in self._hooks:
            hook.remove()
