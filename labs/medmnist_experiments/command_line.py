"""The flags that every experiment has."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.cli import OneLineParser, in_range, not_empty

# Flags that say where and how often, and not what is trained: a folder can be continued although they differ.
FREE = ("seeds", "data_root", "device", "output_dir", "overwrite")


def shared_parser(
    name: str, description: str, *, flag: str, epochs: int | None, seeds: int = 5, batch_size: int = 64
) -> OneLineParser:
    """The flags of every experiment with this one's defaults; the script adds its own to what is returned."""
    parser = OneLineParser(prog=f"python -m labs.medmnist_experiments.{name}", description=description)
    group = parser.add_argument_group("data")
    group.add_argument("--flag", default=flag, type=not_empty, help="MedMNIST set, such as breastmnist")
    group.add_argument(
        "--size", type=int, default=28, help="side of the images in pixels: 28, 64, 128, 224 (3D: 28, 64)"
    )
    group.add_argument("--data_root", type=not_empty, default="./data", help="folder with MedMNIST files")
    group = parser.add_argument_group("training")
    group.add_argument(
        "--seeds", type=in_range(int, 1, 50), default=seeds, help="trainings of each row: seeds 0, 1, ..."
    )
    group.add_argument("--epochs", type=in_range(int, 1), default=epochs, help="at most")
    group.add_argument("--batch_size", type=in_range(int, 2), default=batch_size, help="images per step")
    group.add_argument("--quick", action="store_true", help="one seed, a few steps: does everything run?")
    group = parser.add_argument_group("machine and output")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="of matrix work"
    )
    group.add_argument("--output_dir", type=not_empty, help=f"default: labs/medmnist_experiments/outputs/{name}-FLAG")
    group.add_argument("--overwrite", action="store_true", help="train again what the folder holds already")
    return parser


@dataclass(frozen=True)
class Settings:
    """The flags that every experiment has, see shared_parser."""

    flag: str
    size: int
    data_root: str
    seeds: int
    epochs: int
    batch_size: int
    quick: bool
    device: str
    precision: str
    output_dir: str | None
    overwrite: bool
