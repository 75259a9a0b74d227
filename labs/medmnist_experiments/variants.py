"""What quantization compares: float32, dynamic, static and QAT, each in ONNX Runtime and (by torchao) in torch."""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from labs.medmnist_experiments import int8_onnx, int8_torch

KINDS = ("float32", "dynamic", "static", "qat")
ONNX, TORCH = "ONNX Runtime", "torch"
WARM_UP = 3  # rounds that do not count: memory is allocated, caches fill


@dataclass(frozen=True)
class Variant:
    """One network in one runtime.

    path: its file. predict: float32 images (N, C, ...) → probabilities (N, K). step: what is timed, one batch of the
    size that was settled before; None where only the arithmetic can be simulated, not the speed. note: for the table.
    """

    runtime: str
    kind: str
    path: Path
    predict: Callable[[np.ndarray], np.ndarray]
    step: Callable[[np.ndarray], Any] | None
    note: str = ""

    @property
    def title(self) -> str:
        """'ONNX Runtime, static'."""
        return f"{self.runtime}, {self.kind}"


def onnx_variant(path: Path, kind: str, threads: int, note: str = "") -> Variant:
    """A file in ONNX Runtime."""
    session = int8_onnx.open_session(path, threads)
    return Variant(
        ONNX,
        kind,
        path,
        lambda images: int8_onnx.run_session(session, images),
        lambda batch: session.run([int8_onnx.OUTPUT], {int8_onnx.INPUT: batch}),
        note,
    )


def torch_variant(graph: nn.Module, kind: str, path: Path, batch: torch.Tensor, note: str = "") -> Variant:
    """A float32 network or an int8 graph in torch; int8 with the kernels of the machine if torch has them for it."""
    int8_torch.save_program(graph, batch, path)
    run: Callable[[torch.Tensor], torch.Tensor] = graph
    is_real = kind == "float32" or int8_torch.can_lower()
    if kind == "float32" and batch.dim() == 4:
        run = copy.deepcopy(graph).to(memory_format=torch.channels_last)  # int8 must not win against a slow layout
    elif kind != "float32" and is_real:
        run = int8_torch.lower(graph, batch)

    @torch.inference_mode()
    def step(images: np.ndarray) -> torch.Tensor:
        return run(torch.from_numpy(images))

    def predict(images: np.ndarray) -> np.ndarray:
        return int8_torch.run_graph(run, torch.from_numpy(images), len(batch)).numpy()

    note = note if is_real else f"{note}, simulated: torch has no int8 kernels for this processor".lstrip(", ")
    return Variant(TORCH, kind, path, predict, step if is_real else None, note)


def choose_calibration(
    folder: Path,
    images: np.ndarray,
    validation: np.ndarray,
    methods: Sequence[str],
    *,
    reduce_range: bool,
    threads: int,
) -> dict[str, float]:
    """Quantize folder/float32.onnx to static.onnx by each method; keep the one whose answers stay closest to float32's.

    images: training images, for the ranges. validation: images to choose by. Returns method → mean absolute difference
    of the probabilities on `validation`, the chosen one first.
    """
    reference = onnx_variant(folder / "float32.onnx", "float32", threads).predict(validation)
    found = {}
    for method in methods:
        path = folder / f"static-{method}.onnx"
        int8_onnx.quantize_static(folder / "float32.onnx", path, images, method, reduce_range=reduce_range)
        answers = onnx_variant(path, "static", threads).predict(validation)
        found[method] = float(np.abs(answers - reference).mean())
    order = sorted(found, key=found.__getitem__)
    for method in order:
        path = folder / f"static-{method}.onnx"
        path.replace(folder / "static.onnx") if method == order[0] else path.unlink()
    return {method: found[method] for method in order}


def make_all(
    folder: Path,
    folded: nn.Module,
    student: int8_torch.QuantizationAware,
    calibration: torch.Tensor,
    batch: torch.Tensor,
    *,
    reduce_range: bool,
    threads: int,
) -> list[Variant]:
    """Every variant, float32 first in each runtime; folder holds float32.onnx and static.onnx already.

    calibration: training images (N, C, ...). batch: as large as the batches that are timed.
    """
    graphs = {
        "dynamic": int8_torch.post_training(folded, [calibration], dynamic=True, reduce_range=reduce_range),
        "static": int8_torch.post_training(folded, calibration.split(64), reduce_range=reduce_range),
        "qat": student.converted(),
    }
    int8_onnx.quantize_dynamic(folder / "float32.onnx", folder / "dynamic.onnx")
    int8_onnx.export(graphs["qat"], batch[:2], folder / "qat.onnx")
    is_3d = batch.dim() == 5
    aware = "trained by torchao" + (", which leaves 3D convolutions in float32" if is_3d else "")
    found = [onnx_variant(folder / f"{kind}.onnx", kind, threads, aware if kind == "qat" else "") for kind in KINDS]
    found.append(torch_variant(folded, "float32", folder / "float32.pt2", batch))
    for kind, graph in graphs.items():
        note = "convolutions compute in float32" if kind == "dynamic" else ""
        note = "3D convolutions stay in float32" if is_3d else note
        found.append(torch_variant(graph, kind, folder / f"{kind}.pt2", batch, note))
    return found


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with this many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleaved(steps: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each step in each round. One after the other, a round begins with another one than the last.

    So whatever else the machine does hits all of them alike, and the ratio within a round means something.
    """
    names, times = list(steps), {name: [] for name in steps}
    for number in range(-WARM_UP, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            steps[name]()
            if number >= 0:
                times[name].append(1000 * (time.perf_counter() - started))
    return times


def measure(variants: Sequence[Variant], batch: np.ndarray, rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """title → median_ms and quartiles_ms of a batch, times_faster than float32 in the same runtime (and quartiles).

    Each runtime's variants are timed side by side; the ratio is the median over rounds of the ratio within a round.
    """
    found: dict[str, dict[str, Any]] = {}
    for runtime in dict.fromkeys(variant.runtime for variant in variants):
        several = [variant for variant in variants if variant.runtime == runtime and variant.step is not None]
        with torch_threads(threads):
            times = interleaved({one.title: lambda one=one: one.step(batch) for one in several}, rounds)
        reference = times[several[0].title]
        for title, own in times.items():
            ratios = [there / here for there, here in zip(reference, own, strict=True)]
            found[title] = {
                "median_ms": statistics.median(own),
                "quartiles_ms": quartiles(own),
                "times_faster": statistics.median(ratios),
                "times_faster_quartiles": quartiles(ratios),
            }
    return found


def quartiles(values: Sequence[float]) -> list[float]:
    """The first and the third."""
    return [float(value) for value in np.quantile(values, (0.25, 0.75))]
