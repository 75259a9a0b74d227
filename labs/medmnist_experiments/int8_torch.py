"""int8 by torchao's PT2E: the graph that torch.export captures gets quantization put around its layers.

    converted = post_training(folded, batches)             # observers see training images, then int8 weights
    student = QuantizationAware(folded, images)            # trains on the course's loop, with rounding in the forward
    converted = student.converted()
    fast = lower(converted, images)                        # real int8 kernels (x86 alone)

torchao is imported when it is first needed. Nothing of torch.ao, which torch gives up, is called here.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from labs.medmnist_experiments.int8_onnx import quiet, require

PT2E = "torchao.quantization.pt2e.quantize_pt2e"


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with each BatchNorm taken into the convolution before it: the same function, faster.

    So training with rounding changes what will be rounded, and the statistics stay those of the float32 network.
    """
    return fuse(model.cpu().to(memory_format=torch.contiguous_format).eval())


def _capture(model: nn.Module, images: torch.Tensor) -> torch.fx.GraphModule:
    """The graph of a copy of `model` for batches of any size; images (B, C, ...) with B of at least 2.

    Of a copy, because a captured graph shares its weights: training it would change `model`.
    """
    batch = torch.export.Dim("batch")
    return torch.export.export(copy.deepcopy(model), (images,), dynamic_shapes=({0: batch},)).module()


def _quantizer(**settings: bool) -> Any:
    """Weights int8 a channel, activations uint8 a tensor: what x86 computes with, and what ONNX Runtime reads."""
    x86 = require("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    return x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(**settings))


def post_training(
    folded: nn.Module, batches: Iterable[torch.Tensor], *, dynamic: bool = False, reduce_range: bool = False
) -> torch.fx.GraphModule:
    """Post-training quantization; `batches` of training images (B, C, ...) tell the ranges of the activations.

    dynamic: ranges are found at run time. torch has such int8 kernels for dense layers alone; convolutions round their
    weights and inputs and then compute in float32.
    """
    batches = list(batches)
    with quiet(), torch.no_grad():
        quantizer = _quantizer(is_dynamic=dynamic, reduce_range=reduce_range)
        graph = require(PT2E).prepare_pt2e(_capture(folded, batches[0]), quantizer)
        for batch in batches:
            graph(batch)
        return _converted(graph)


def _converted(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """int8 weights instead of observers; the float32 weights, which nothing uses any longer, are taken out."""
    graph = require(PT2E).convert_pt2e(graph)
    nn.Module.train(graph, False)  # PT2E forbids .eval(), which could not change a captured graph anyway
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [*dict(graph.named_parameters()), *dict(graph.named_buffers())]:
        if name not in used:
            owner, _dot, leaf = name.rpartition(".")
            delattr(graph.get_submodule(owner), leaf)
    return graph


class QuantizationAware(nn.Module):
    """A network whose forward pass rounds as int8 will, and whose backward pass ignores the rounding.

    folded: see fold_batchnorm; it stays as it is and is the teacher, see `distance`. images (B, C, ...): an example.
    The ranges follow the batches of training mode and stand still in evaluation mode: no validation image moves them.
    """

    def __init__(self, folded: nn.Module, images: torch.Tensor, *, reduce_range: bool = False) -> None:
        super().__init__()
        with quiet():
            quantizer = _quantizer(is_qat=True, reduce_range=reduce_range)
            self.graph = require(PT2E).prepare_qat_pt2e(_capture(folded, images), quantizer)
        self._teacher = (folded,)  # in a tuple, so that it is not a part of what is trained and saved
        self._wanted = torch.empty(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (B, C, ...) → logits (B, K); what the teacher says of the same images is kept for `distance`."""
        with torch.no_grad():
            self._wanted = self._teacher[0](images)
        return self.graph(images)

    def distance(self, logits: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
        """The loss: mean squared difference of the last batch's logits to the teacher's (Hinton et al. 2015).

        So the network learns to cope with rounding and nothing else of the task: labels would keep changing the answers
        of a network that has all training images right.
        """
        return F.mse_loss(logits, self._wanted)

    def train(self, mode: bool = True) -> QuantizationAware:
        """Let the ranges follow, or hold them."""
        self.training = mode
        observers = require("torchao.quantization.pt2e")
        self.graph.apply(observers.enable_observer if mode else observers.disable_observer)
        return self

    def converted(self) -> torch.fx.GraphModule:
        """The int8 graph; this network is used up."""
        self.eval()
        with quiet():
            return _converted(self.graph)


def steps_moved(folded: nn.Module, student: QuantizationAware) -> dict[str, float]:
    """How far quantization-aware training moved the weights, in steps of int8: mean and largest absolute difference.

    A step is what rounding to int8 can tell apart in that output channel, its largest weight over 127. Far below half a
    step most integers are the same with and without the training.
    """
    after, moved = dict(student.graph.named_parameters()), []
    for name, before in folded.named_parameters():
        if before.dim() > 1:
            step = before.detach().abs().amax(dim=tuple(range(1, before.dim())), keepdim=True) / 127
            moved.append(((after[name].detach() - before.detach()).abs() / step).flatten())
    steps = torch.cat(moved)
    return {"mean": steps.mean().item(), "largest": steps.max().item()}


def can_lower() -> bool:
    """True where torch has int8 kernels for such graphs: oneDNN on x86."""
    return platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()


def lower(converted: torch.fx.GraphModule, images: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The graph with real int8 kernels, for batches of exactly the size of `images`. Call only if can_lower()."""
    lowering = require("torchao.quantization.pt2e.lowering")
    with quiet(), torch.no_grad():
        return lowering.lower_pt2e_quantized_to_x86(converted, (images,))


def save_program(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    """Write a float32 network or an int8 graph as .pt2, the file of torch.export."""
    images = images[:2].clone()  # the examples are kept in the file, with all the memory that they are a view of
    with quiet():
        program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for node in program.graph.nodes:  # notes on where in which source file a layer was called
            for note in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
                node.meta.pop(note, None)
        torch.export.save(program, str(path))


@torch.inference_mode()
def run_graph(run: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """float32 images (N, C, ...) → probabilities (N, K); the last batch is filled up to `batch_size` images."""
    found = []
    for batch in images.split(batch_size):
        missing = batch_size - len(batch)
        filled = torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])]) if missing else batch
        found.append(run(filled)[: len(batch)].softmax(dim=1))
    return torch.cat(found)
