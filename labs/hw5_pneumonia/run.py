"""Runs the five parts of Homework 5 and leaves every figure, table and number in outputs/. Provided."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from toolkit.cli import OneLineParser, in_range
from toolkit.errors import UserError

QUICK_IMAGES = 1500
# scratch: the backbone of the pretrained row without its weights; their difference is the gain of transfer
MODELS = ("cnn", "resnet18", "scratch", "pretrained")
OUTPUTS = Path(__file__).resolve().parent / "outputs"


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for them."""
    parser = OneLineParser(prog="hw5_dl", description="Homework 5: pneumonia on chest X-rays, all five parts.")
    parser.add_argument("--quick", action="store_true", help="one seed, few images, two epochs: does everything run?")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["cnn", "resnet18", "pretrained"], help="rows of the table"
    )
    parser.add_argument("--seeds", type=in_range(int, 1, 20), default=5, help="trainings of each model")
    parser.add_argument("--batch_size", type=int, choices=(64, 128), default=128, help="images a step")
    parser.add_argument("--train_images", type=in_range(int, 0), default=0, help="train on so many only; 0: all")
    parser.add_argument("--epochs", type=in_range(int, 1), default=30, help="at most, of the CNN")
    parser.add_argument("--resnet_epochs", type=in_range(int, 1), default=8, help="at most, of the ResNet and backbone")
    parser.add_argument("--head_epochs", type=in_range(int, 1), default=2, help="of the new head alone")
    parser.add_argument("--weights", metavar="PATH", help="ImageNet state dict of the backbone (else: download)")
    parser.add_argument("--backbone", default="resnet18", help="torchvision classifier for the pretrained row")
    parser.add_argument("--image_size", type=in_range(int, 28, 512), default=64, help="pixels, for the backbone alone")
    parser.add_argument("--data_root", default="./data", help="folder with pneumoniamnist.npz; else the bundled copy")
    parser.add_argument("--output_dir", default=str(OUTPUTS), help="for figures, tables and results.json")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of matrix work")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse, settle machine and data, then the parts in order; the test split is opened after Part 3."""
    args = build_parser().parse_args(argv)
    if args.quick:
        args.seeds, args.epochs, args.resnet_epochs, args.head_epochs = 1, 2, 1, 1
        args.train_images = args.train_images or QUICK_IMAGES
    if 0 < args.train_images < args.batch_size:
        raise UserError(
            f"--train_images is {args.train_images}; allowed: 0 (all) or at least one batch, {args.batch_size}"
        )
    folder = writable_folder(args.output_dir)

    from labs.hw5_pneumonia import choices, parts
    from toolkit import backbones
    from toolkit.medmnist_data import locate

    started = time.perf_counter()
    source = locate("pneumoniamnist", data_root=args.data_root)
    if args.train_images:
        source = choices.FewerImages(source, args.train_images)
    backbones.build(args.backbone)  # a wrong name is said before the training
    weights = backbones.find_weights(args.backbone, args.weights) if "pretrained" in args.models else None
    if weights is not None:
        backbones.build(args.backbone, weights)  # so are weights that do not fit
    settings = parts.settle(args, source)
    distribution = parts.part_1(source, args.batch_size, folder)
    trained = parts.train_all(args, settings, source, weights, folder)
    chosen, images, labels = parts.choose_and_open_test(args, settings, source, trained, folder)
    results = parts.part_4(trained, chosen, images, labels, settings, folder)
    results["interpretability"] = parts.part_5(trained, results, images, labels, folder)
    table = parts.table_rows(results, args.backbone, "pretrained" in args.models and weights is None)
    write_tables(table, results, folder)
    parts.write_results(results, distribution, trained, chosen, args, source, settings, started, folder)


def writable_folder(path: str) -> Path:
    """Make the folder; UserError now, not after twenty minutes, if nothing can be written there."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to --output_dir {path}: {error.strerror}") from None
    return folder


def write_tables(rows: dict[str, Any], results: dict[str, Any], folder: Path) -> None:
    """3_table.md from the graded function; 3_table.csv with means, deviations, sensitivity and specificity."""
    from labs.hw5_pneumonia import hw5_dl
    from toolkit.runs import write_bytes

    markdown = hw5_dl.comparison_table(rows)
    write_bytes(folder / "3_table.md", markdown.encode())
    print(f"\n{markdown}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = next(iter(results["models"].values()))["mean"].keys()
    writer.writerow(["model", "seeds", *(f"{name}{kind}" for name in names for kind in ("", "_sd"))])
    for name, row in rows.items():
        if isinstance(row, str):
            writer.writerow([name, row])
            continue
        figures = results["models"][name]
        values = [figures[kind][key] for key in names for kind in ("mean", "sd")]
        writer.writerow([name, len(figures["seeds"]), *(f"{value:.6f}" for value in values)])
    write_bytes(folder / "3_table.csv", text.getvalue().encode())
