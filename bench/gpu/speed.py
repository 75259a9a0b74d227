"""Sections that measure in their own process: the card itself, loading, training steps, torch.compile."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable

import torch

from bench.gpu.commands import attempt
from bench.gpu.plan import Bench
from bench.train import ROWS, Workload, alternate, make_step
from classification_dataset import create_pathmnist_dataloaders
from labs.pathmnist_resnet18.src import fullsize
from toolkit.devices import describe, pick_device, resolve_precision
from toolkit.medmnist_data import VERIFY_VARIABLE

DEVICE = pick_device("auto")
ON_GPU = DEVICE.type == "cuda"


def wait() -> None:
    """Return when the GPU has done what it was given."""
    if ON_GPU:
        torch.cuda.synchronize()


def machine(bench: Bench) -> None:
    """What this is, what it can do at most, and the made sets for the sections that follow."""
    facts = f"{describe(DEVICE)}, torch {torch.__version__}"
    if ON_GPU:
        memory = torch.cuda.get_device_properties(DEVICE).total_memory / 1e9
        facts += f", CUDA {torch.version.cuda}, {memory:.0f} GB"
    bench.add("device", facts, f"{os.cpu_count()} processor cores")
    bench.add("--precision auto", resolve_precision("auto", DEVICE))
    with attempt(bench, "ceilings"):
        copied, multiplied = ceilings(bench.tiny)
        text = f"copy {copied / 1e12:.2f} TB/s (read and written), bfloat16 product {multiplied / 1e12:.0f} TFLOP/s"
        bench.add("ceilings", text, "2 GB; square matrices of 8192, random" if not bench.tiny else "small")
    started = time.perf_counter()
    divisor = 50 if bench.tiny else 1
    counts = {split: n // divisor for split, n in fullsize.FULL.items()}
    for size in (28,) if bench.tiny else (28, 64):
        fullsize.make_set(bench.data, counts, size)
    seconds = time.perf_counter() - started
    bench.add("sets made by repeating the sample", f"{seconds:.1f} s", ", ".join(f"{counts[s]:,} {s}" for s in counts))


def ceilings(tiny: bool) -> tuple[float, float]:
    """(bytes per second of a copy within the device, operations per second of a matrix product), medians of ten."""
    side = 256 if tiny else 8192
    source = torch.rand(2**16 if tiny else 2**28, device=DEVICE)
    target = torch.empty_like(source)
    left, right = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    copy = alternate({"copy": lambda: target.copy_(source), "product": lambda: left @ right}, 3, 10, wait)
    return 2 * source.nbytes / copy["copy"], 2 * side**3 / copy["product"]


def loading(bench: Bench) -> None:
    """Batches on the device per second: images kept there, and images kept by the processor and copied."""
    os.environ[VERIFY_VARIABLE] = "0"  # the made set is not an official file
    batch_size = 64 if bench.tiny else 256
    places = {"images on the device": (DEVICE, 0), "images in main memory, batches copied": ("cpu", 0)}
    places["the same, 4 loader processes"] = ("cpu", 4)
    for augment in ("none", "strong"):
        for name, (device, workers) in places.items():
            if workers and (bench.tiny or augment == "none"):
                continue
            what = f"{name}, augment {augment}"
            with attempt(bench, what):
                root = str(bench.data)
                options = {"dataset": "full", "augment": augment, "device": device}
                loader, _val, _classes = create_pathmnist_dataloaders(batch_size, workers, root, **options)
                rate = statistics.median(images_per_second(loader) for _ in range(1 if bench.tiny else 3))
                bench.add(what, f"{rate:,.0f} images/s", f"{len(loader.dataset):,} images, batches of {batch_size}")


def images_per_second(loader: torch.utils.data.DataLoader) -> float:
    """One pass over a loader, each batch brought to the device."""
    seen, started = 0, time.perf_counter()
    for images, labels in loader:
        images, labels = images.to(DEVICE), labels.to(DEVICE)
        seen += len(labels)
    wait()
    return seen / (time.perf_counter() - started)


def training(bench: Bench) -> None:
    """Steps of three networks: float32 contiguous, our default, and our default compiled; then what compiling took."""
    cases = [(name, row, size) for size in (64, 512) for name, row in ROWS.items()]
    if bench.tiny:
        cases = [("CNN", ROWS["CNN"], 64)]
    default: dict[tuple[str, int], float] = {}
    for name, row, batch_size in cases:
        what = f"{name}, batch {batch_size}"
        with attempt(bench, what):
            default[name, batch_size] = compare_default(bench, what, row, batch_size)
    modes = {"default": {"mode": "default"}, "CUDA graphs": {"mode": "reduce-overhead"}}
    if bench.tiny:
        modes = {"eager backend": {"backend": "eager"}}  # a compiler and half a minute are not worth a tiny run
    for mode, options in modes.items():
        for name, row, batch_size in cases:
            what = f"{name}, batch {batch_size}, torch.compile ({mode})"
            if bench.left_s() < 25 and not bench.tiny:
                bench.add(what, "not run: no time left")
                continue
            with attempt(bench, what):
                compare_compiled(bench, what, row, batch_size, options, default[name, batch_size])


def plan_of(bench: Bench, row: Workload) -> tuple[int, int]:
    """Steps in a block, and blocks."""
    return (1, 1) if bench.tiny else (max(10, round(50 * row.share_of_steps)), 7)


def compare_default(bench: Bench, what: str, row: Workload, batch_size: int) -> float:
    """A row for our default against float32 contiguous → images per second of the default."""
    sides, memory = {}, {}
    for name, is_default in (("float32", False), ("default", True)):
        sides[name], memory[name] = with_memory(lambda d=is_default: make_step(row, batch_size, d, DEVICE))
    seconds = alternate(sides, *plan_of(bench, row), wait)
    rates = {name: batch_size / value for name, value in seconds.items()}
    text = (
        f"{rates['default']:,.0f} images/s against {rates['float32']:,.0f}: {rates['default'] / rates['float32']:.2f} x"
    )
    if ON_GPU:
        text += f"; at most {memory['default']:.2f} GB against {memory['float32']:.2f}"
    tf32 = "; float32 convolutions in TF32, as torch sets it" if ON_GPU else ""
    bench.add(what, text, f"{resolve_precision('auto', DEVICE)} and channels_last against float32 contiguous{tf32}")
    return rates["default"]


def with_memory(build: Callable[[], Callable[[], None]]) -> tuple[Callable[[], None], float]:
    """A training step, and the GB of the device that it took at most, from building the model to its third step."""
    gc.collect()
    if not ON_GPU:
        return build(), 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step = build()
    for _ in range(3):
        step()
    wait()
    return step, (torch.cuda.max_memory_allocated() - before) / 1e9


def compare_compiled(
    bench: Bench, what: str, row: Workload, batch_size: int, options: dict[str, str], default_rate: float
) -> None:
    """A row for the compiled default: its rate against that of the default, and after how many steps it pays."""
    torch.compiler.reset()
    plain, step = (make_step(row, batch_size, True, DEVICE, compiled) for compiled in (None, options))
    started = time.perf_counter()
    step()
    wait()
    first = time.perf_counter() - started
    seconds = alternate({"plain": plain, "compiled": step}, *plan_of(bench, row), wait)
    rate, gain = batch_size / seconds["compiled"], seconds["plain"] - seconds["compiled"]
    text = f"{rate:,.0f} images/s against {default_rate:,.0f}: {seconds['plain'] / seconds['compiled']:.2f} x"
    text += f"; first step {first:.1f} s"
    text += f", pays after {first / gain:,.0f} steps" if gain > 0 else ", never pays"
    bench.add(what, text, "against the same default, not compiled; alternating blocks, median")
