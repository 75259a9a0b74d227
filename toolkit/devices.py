"""Which device, which precision, which seed: the three things every run settles before it builds a model."""

from __future__ import annotations

import contextlib
import os
import platform
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from toolkit.errors import UserError, check_choice

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`: 'auto' (CUDA, else MPS, else CPU), 'cpu', 'cuda', 'cuda:1', 'mps'.

    Raises UserError for an unknown name and for a device that this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = name.split(":")[0]
    check_choice("device", kind, ("auto", "cpu", "cuda", "mps"))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:0, cuda:1, ..., mps") from None
    if kind in ("cpu", "mps") and name != kind:
        raise UserError(f"device is {name!r}; allowed: {kind} (there is only one)")
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices; try cpu or auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device is 'mps', but torch sees no Apple GPU here; try cpu or auto")
    return device


def cpu_has_bfloat16() -> bool:
    """True if this processor multiplies bfloat16 matrices in hardware (AVX512_BF16 or AMX).

    Elsewhere torch emulates bfloat16, which is slower than float32, so it must be detected and not assumed.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    # torch.cpu has had these under a leading underscore since 2.3; a release without them gets float32, which is safe.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn 'auto' into what is fast and safe on `device`; refuse what the device cannot do.

    auto: bfloat16 on CUDA from compute capability 8.0, float16 on older CUDA, float32 on MPS, and on a CPU bfloat16
    only where the processor has it.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "auto":
        if device.type == "cuda":
            # is_bf16_supported() also says yes where it is emulated, so ask for the hardware generation.
            return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
        return "bfloat16" if device.type == "cpu" and cpu_has_bfloat16() else "float32"
    if precision == "float16" and device.type == "cpu":
        raise UserError("precision is 'float16', which torch trains only on a GPU; allowed on cpu: float32, bfloat16")
    if precision != "float32" and device.type == "mps":
        raise UserError(f"precision is {precision!r}; allowed on mps: float32")
    return precision


def autocast(device: torch.device, precision: str = "float32") -> contextlib.AbstractContextManager:
    """Context in which matrix work runs in `precision` (one of float32, bfloat16, float16); float32 changes nothing."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def uses_channels_last(device: torch.device) -> bool:
    """True where convolutions are faster with channels last in memory (CPU and CUDA; MPS gains nothing)."""
    return device.type in ("cpu", "cuda")


def place_model(
    model: torch.nn.Module, device: torch.device, image_shape: tuple[int, int, int] | None = None
) -> torch.nn.Module:
    """Move `model` to `device`, its 4-D weights in channels_last layout where that is faster.

    image_shape: (C, H, W) of its images. If it is given, a model that cannot work in that layout, because it calls
    `.view` behind a convolution, keeps the usual one, and a line says so; and lazy layers get their shape.
    """
    if image_shape is not None:
        shape_lazy_layers(model, [(torch.zeros(2, *image_shape), None)], torch.device("cpu"))
    if not uses_channels_last(device):
        return model.to(device)
    model.to(device, memory_format=torch.channels_last)
    if image_shape is not None and not _takes_channels_last(model, device, image_shape):
        print("note: the model uses .view behind a convolution; with .reshape or flatten it could train faster")
        model.to(memory_format=torch.contiguous_format)
    return model


def _takes_channels_last(model: torch.nn.Module, device: torch.device, image_shape: tuple[int, int, int]) -> bool:
    """False if a forward pass stumbles over the layout. Other errors are not this function's business."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(2, *image_shape, device=device))
    except Exception as error:
        return "view size is not compatible" not in str(error)
    finally:
        model.train(was_training)
    return True


def shape_lazy_layers(model: torch.nn.Module, batches: Iterable[Any], device: torch.device) -> None:
    """Give LazyLinear and its like their shape by a first forward pass: memory layout and optimizer need it."""
    if not any(torch.nn.parameter.is_lazy(weight) for weight in model.parameters()):
        return
    batch = next(iter(batches))
    images = batch["image"] if isinstance(batch, Mapping) else batch[0]
    with torch.no_grad():
        model(images.to(device))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices). Called once, in main; elsewhere a Generator is passed."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; allowed: 0 .. {2**32 - 1}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- libraries that use NumPy's global state are meant here
    torch.manual_seed(seed)


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model's own mode is given back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def describe(device: torch.device) -> str:
    """One line for results and tables: 'cuda: NVIDIA H100' or 'cpu: Intel(R) Xeon(R) ..., 2 threads'."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {_processor_name()}, {torch.get_num_threads()} threads"


def _processor_name() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
