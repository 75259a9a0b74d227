"""Images per second of training steps: float32 in contiguous layout compared with our default, in one run.

    python -m bench.train            # reference CNN and U-Net, and ResNet-18 at 64 pixels, batch 32 and 128
    python -m bench.train --quick

Our default is a channels_last model and, where the processor has it, bfloat16 autocast. Steps of the two sides
alternate in blocks, so that both see the same machine. That nothing is lost in accuracy is shown by bench.scores with
`--main_flags "--precision float32"` next to the default.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.table import show_ratio, show_setting
from classification_models import get_model
from labs.image_classifier.models.networks import build
from segmentation_models import CombinedLoss, get_segmentation_model
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.devices import autocast, place_model, resolve_precision

GOAL = 2.0  # on a processor with AVX512_BF16; elsewhere there is none
CPU = torch.device("cpu")


def build_parser() -> OneLineParser:
    """The flags of this benchmark."""
    parser = OneLineParser(prog="python -m bench.train", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=in_range(int, 1), default=20, help="training steps per block")
    parser.add_argument("--blocks", type=in_range(int, 1), default=5, help="blocks per side; the median counts")
    parser.add_argument("--quick", action="store_true", help="two blocks of three steps")
    return parser


@dataclass(frozen=True)
class Workload:
    """A network and the images that it is trained on."""

    build: Callable[[], torch.nn.Module]
    boxes: bool = False  # segmentation, else nine classes
    image_size: int = 28
    share_of_steps: float = 1.0  # a large network needs fewer for the same seconds


def resnet18() -> torch.nn.Module:
    """The network of labs/pathmnist_resnet18, which gets its images at 64 pixels here."""
    return build("resnet18", channels=3, num_classes=9, image_size=64)


ROWS = {
    "CNN": Workload(lambda: get_model("cnn")),
    "U-Net": Workload(lambda: get_segmentation_model("unet"), boxes=True),
    "ResNet-18 64 px": Workload(resnet18, image_size=64, share_of_steps=0.2),
}


def make_step(
    row: Workload, batch_size: int, default: bool, device: torch.device = CPU, compiled: dict[str, Any] | None = None
) -> Callable[[], None]:
    """A function that does one training step, with our default settings or with float32 contiguous.

    compiled: options of torch.compile, by which the model then goes; it compiles during the first step.
    """
    torch.manual_seed(0)
    model = row.build()
    precision = resolve_precision("auto", device) if default else "float32"
    model = place_model(model, device) if default else model.to(device)
    optimizer = torch.optim.Adam(model.parameters())
    run = model if compiled is None else torch.compile(model, **compiled)
    size = row.image_size
    images = torch.rand(batch_size, 3, size, size).mul(2).sub(1).to(device)  # contiguous, as the loaders deliver them
    labels = torch.randint(9, (batch_size,)).to(device)
    masks = torch.rand(batch_size, 1, size, size).round().to(device)
    criterion = CombinedLoss() if row.boxes else torch.nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device, precision):
            output = run(images)
        criterion(output.float(), masks if row.boxes else labels).backward()
        optimizer.step()

    return step


def alternate(
    sides: dict[str, Callable[[], None]], steps: int, blocks: int, wait: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Median seconds per step of each side, measured in alternating blocks after one block that does not count.

    wait: returns when the device has done what it was given, for devices that work while Python goes ahead.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for block in range(blocks + 1):
        for name, step in sides.items():
            wait()
            started = time.perf_counter()
            for _ in range(steps):
                step()
            wait()
            if block:
                seconds[name].append((time.perf_counter() - started) / steps)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Measure every row at two batch sizes."""
    args = build_parser().parse_args()
    steps, blocks = (3, 2) if args.quick else (args.steps, args.blocks)
    precision = resolve_precision("auto", CPU)
    show_setting(f"training steps, forward, backward and Adam; our default here: channels_last, {precision}")
    for name, row in ROWS.items():
        for batch_size in (32, 128):
            sides = {side: make_step(row, batch_size, side == "ours") for side in ("ours", "float32")}
            seconds = alternate(sides, max(2, round(steps * row.share_of_steps)), blocks)
            rates = {side: batch_size / value for side, value in seconds.items()}
            title = f"{name}, batch {batch_size}"
            show_ratio(title, rates["ours"], rates["float32"], "images/s", "ours", "float32 contiguous", GOAL)


if __name__ == "__main__":
    run_script(main)
