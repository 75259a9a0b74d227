"""Operations that look inside a network while it runs: its kernels, its smallest maps, what its skips carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from staff.student_side.answers import Answer, Arrays, to_array

if TYPE_CHECKING:
    from staff.student_side.worker import Worker

CONVOLUTIONS = (torch.conv2d, torch.conv_transpose2d)


def op_ablate_smallest(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Outputs while every feature map of the smallest spatial size is the mean over the images; and that size.

    `cut_sides`: the sizes of the encoder at which no convolution then gets a gradient.

    A network without skips no longer sees its input, and a level without a skip no longer reaches the output. Works on
    what functions return and so for any style of code.
    """
    model = worker.objects[spec["object"]].eval()
    images = torch.from_numpy(arrays["images"])
    finder = _SmallestMap(None)
    with torch.no_grad(), finder:
        model(images[:1])
    cut = _SmallestMap(finder.smallest)
    with cut:
        output = model(images)
    weights = [weight for weight, _ in cut.encoder]
    if output.requires_grad and weights:
        found = torch.autograd.grad(output.square().sum(), weights, allow_unused=True)
        reached = {area for (_, area), g in zip(cut.encoder, found, strict=True) if g is not None and bool(g.any())}
    else:
        reached = set()
    sides = sorted({round(area**0.5) for _, area in cut.encoder if area not in reached})
    return {"smallest_side": round((finder.smallest or 0) ** 0.5), "cut_sides": sides}, {"output": to_array(output)}


class _SmallestMap(torch.overrides.TorchFunctionMode):
    """Finds the smallest H*W of 4-D results, or (given one) makes all results of that size their mean over the images.

    So they say nothing of a single image, and what follows them sees usual values: zeros can silence it.

    encoder: weight and H*W of the result of each convolution before the first map of that size.
    """

    def __init__(self, area: int | None) -> None:
        super().__init__()
        self.area, self.smallest = area, None
        self.encoder: list[tuple[torch.Tensor, int]] = []
        self.passed = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.ndim == 4 and result.is_floating_point():
            area = result.shape[2] * result.shape[3]
            # One value per channel is a gate (squeeze and excitation), not a feature map.
            if area > 1:
                self.smallest = min(area, self.smallest or area)
            if area == self.area:
                self.passed = True
                return result.detach().mean(dim=0, keepdim=True).expand_as(result).clone()  # inplace=True may follow
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
            if not self.passed and function in CONVOLUTIONS and weight.requires_grad:
                self.encoder.append((weight, area))
        return result


def op_largest_kernel(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Height or width of the largest kernel of the convolutions that a model calls, 0 if it calls none.

    torch.nn.functional.unfold, out of which convolutions can be written by hand, counts with its own kernel.
    """
    model, finder = worker.objects[spec["object"]].eval(), _LargestKernel()
    with torch.no_grad(), finder:
        model(torch.from_numpy(arrays["images"]))
    return {"side": finder.side}, {}


class _LargestKernel(torch.overrides.TorchFunctionMode):
    """Looks at the arguments of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.side = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in CONVOLUTIONS:
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
            self.side = max(self.side, *weight.shape[2:])
        elif function is torch.nn.functional.unfold:
            kernel = kwargs.get("kernel_size", args[1] if len(args) > 1 else 1)
            self.side = max(self.side, *(kernel if isinstance(kernel, (tuple, list)) else (kernel,)))
        return function(*args, **kwargs)
