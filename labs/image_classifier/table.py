"""The table of the README: three families from scratch, MobileNetV2 with and without ImageNet weights, three seeds.

    python -m labs.image_classifier.table --mobilenet_weights mobilenet_v2.pth

Resumable: what is finished is not trained again. Writes table.md and table.json; without --mobilenet_weights the row
that needs them says so.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.cli import OneLineParser, in_range, run_script

DATA = {"breastmnist": 12, "pneumoniamnist": 3}  # epochs: about as many steps on 545 images as on 4,698, within 2
METRICS = ("accuracy", "balanced_accuracy", "macro_auc")


@dataclass(frozen=True)
class Row:
    """One line of the table. MobileNetV2 gets 64 pixels, with and without weights: its filters know larger things."""

    title: str
    model: str
    image_size: int = 28
    pretrained: bool = False


ROWS = (
    Row("ResNet-18 from scratch", "resnet18"),
    Row("DenseNet-121 from scratch", "densenet121"),
    Row("EfficientNet-B0 from scratch", "efficientnet_b0"),
    Row("MobileNetV2 from scratch", "mobilenet_v2", 64),
    Row("MobileNetV2, ImageNet weights", "mobilenet_v2", 64, pretrained=True),
)


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = OneLineParser(prog="python -m labs.image_classifier.table", description=__doc__.splitlines()[0])
    parser.add_argument("--mobilenet_weights", metavar="PATH", help="state dict of torchvision's mobilenet_v2")
    parser.add_argument("--seeds", type=in_range(int, 1, 20), default=3, help="trainings of each row")
    parser.add_argument("--output_dir", default="runs/image-classifier-table", help="data folders, runs and the table")
    parser.add_argument("--data_root", default="./data", help="folder with MedMNIST files; else the bundled ones")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--quick", action="store_true", help="BreastMNIST, one seed, two steps: does everything run?")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Prepare, train what is missing, write the table anew after each run."""
    args = build_parser().parse_args(argv)
    folder = Path(args.output_dir)
    if args.quick:
        args.seeds = 1
        folder = folder.with_name(folder.name + "-quick")
    sets = ["breastmnist"] if args.quick else list(DATA)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in sets:
        prepare_set(name, folder / name, args.data_root)
        for seed in range(args.seeds):  # seed by seed, so that an interrupted table has whole rows first
            for row in ROWS:
                found = results.setdefault(name, {}).setdefault(row.title, [])
                if not row.pretrained or args.mobilenet_weights:
                    found.append(run(row, name, seed, folder, args))
                write_table(folder, results, args)
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"files: table.md, table.json in {folder}")


def prepare_set(name: str, folder: Path, data_root: str) -> None:
    """Export the set as PNG files, unless that was done."""
    from labs.image_classifier import prepare

    if not (folder / "dataset.json").exists():
        prepare.main([name, "--out", str(folder), "--data_root", data_root, "--overwrite"])


def run(row: Row, name: str, seed: int, folder: Path, args: Namespace) -> dict[str, Any]:
    """Train one row with one seed and read the test set once, or read what an earlier start left."""
    from labs.image_classifier import train
    from toolkit.runs import read_json

    path = folder / "runs" / f"{name}-{row.model}{'-imagenet' if row.pretrained else ''}-seed{seed}"
    if not (path / "results.json").exists():
        words = ["--data", folder / name, "--model", row.model, "--image_size", row.image_size, "--cache", "disk"]
        words += ["--epochs", 1 if args.quick else DATA[name], "--seed", seed, "--device", args.device]
        words += ["--max_steps_per_epoch", 2 if args.quick else 0, "--evaluate_test"]
        words += ["--output_dir", path, "--overwrite"]
        if row.pretrained:
            words += ["--weights", args.mobilenet_weights]
        train.main([str(word) for word in words])
    return read_json(path / "results.json")


def write_table(folder: Path, results: dict[str, dict[str, list[dict[str, Any]]]], args: Namespace) -> None:
    """table.md and table.json from what there is so far."""
    from toolkit.runs import write_bytes, write_json

    lines = [
        "| data | model | test accuracy | balanced accuracy | AUC | seeds | s a run |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in results.items():
        for title, runs in rows.items():
            if not runs:
                lines.append(f"| {name} | {title} | not run: no --mobilenet_weights | | | 0 | |")
                continue
            cells = [mean_and_sd([run["test_metrics"][metric] for run in runs]) for metric in METRICS]
            seconds = statistics.fmean(run["seconds"] for run in runs)
            lines.append(f"| {name} | {title} | {' | '.join(cells)} | {len(runs)} | {seconds:.0f} |")
    devices = {run["device"] for rows in results.values() for runs in rows.values() for run in runs}
    lines += ["", f"Hardware: {'; '.join(sorted(devices))}. Mean ± sample standard deviation over the seeds."]
    write_bytes(folder / "table.md", ("\n".join(lines) + "\n").encode("utf-8"))
    kept = ("seed", "seconds", "best_val_acc", "val_metrics", "test_metrics", "device", "environment")
    plain = {
        name: {title: [{key: run[key] for key in kept} for run in runs] for title, runs in rows.items()}
        for name, rows in results.items()
    }
    write_json(folder / "table.json", {"quick": args.quick, "results": plain})


def mean_and_sd(values: list[float]) -> str:
    """'0.842 ± 0.011', or the value alone for a single seed."""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    run_script(main)
