"""The tables of the README: three families with and without ImageNet weights, three seeds, official sets and tissue.

    python -m labs.image_classifier.table --weights_root FOLDER                  # BreastMNIST and PneumoniaMNIST
    python -m labs.image_classifier.table --weights_root FOLDER --tissue tissue224_two_centres.npz

Resumable: what is finished is not trained again. Writes table.md and table.csv in a folder per set, after every row.
--weights_root: state dicts called MODEL*.pth; rows that need weights which are not there are left out, and it is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from labs.image_classifier import prepare, train
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError
from toolkit.runs import RunFolder, read_json
from toolkit.study import Study, TableRow, write_tables

METRICS = ("accuracy", "balanced_accuracy", "macro_auc", "seconds")
TISSUE_CLASSES = {5: "smooth muscle", 6: "normal mucosa", 7: "stroma"}  # of PathMNIST's nine; centre A has these alone


@dataclass(frozen=True)
class Variant:
    """One line of a table: a network, how it starts, and further flags of train.py."""

    title: str
    model: str
    image_size: int
    epochs: int
    pretrained: bool = False
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For folders."""
        stain = "-stain" if "--stain" in self.flags else ""
        return f"{self.model}-{'imagenet' if self.pretrained else 'scratch'}{stain}"


def official_variants(epochs: int) -> list[Variant]:
    """At 28 pixels; MobileNetV2 at 64, with and without weights: its filters know larger things."""
    return [
        Variant("ResNet-18 from scratch", "resnet18", 28, epochs),
        Variant("DenseNet-121 from scratch", "densenet121", 28, epochs),
        Variant("EfficientNet-B0 from scratch", "efficientnet_b0", 28, epochs),
        Variant("MobileNetV2 from scratch", "mobilenet_v2", 64, epochs),
        Variant("MobileNetV2, ImageNet weights", "mobilenet_v2", 64, epochs, pretrained=True),
    ]


def tissue_variants(epochs: int) -> list[Variant]:
    """At full size, the cheapest first, so that a stopped table has whole rows.

    Symmetries alone, or with the stains of another laboratory.
    """
    names = {
        "squeezenet1_1": "SqueezeNet 1.1",
        "mobilenet_v2": "MobileNetV2",
        "resnet18_2223": "ResNet-18 (2-2-2-3 blocks)",
    }
    return [
        Variant(
            f"{title}, {'ImageNet weights' if pretrained else 'from scratch'}{', stain augmentation' if stain else ''}",
            model,
            224,
            epochs,
            pretrained,
            ("--augment", "symmetries", "--learning_rate", "0.0003", *(("--stain", "0.2") if stain else ())),
        )
        for model, title in names.items()
        for pretrained in (True, False)
        for stain in (False, True)
    ]


OFFICIAL = {"breastmnist": 12, "pneumoniamnist": 3}  # epochs: about as many steps on 545 images as on 4,698, within 2


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(prog="python -m labs.image_classifier.table", description=__doc__.splitlines()[0])
    parser.add_argument("--weights_root", metavar="FOLDER", help="state dicts MODEL*.pth with ImageNet weights")
    parser.add_argument("--tissue", metavar="NPZ", help="two centres' tiles of 224 pixels: train on A, test on B")
    parser.add_argument("--tissue_epochs", type=in_range(int, 1), default=8, help="of each training on them")
    parser.add_argument("--seeds", type=in_range(int, 1, 20), default=3, help="trainings of each row")
    parser.add_argument("--output_dir", default="runs/image-classifier-table", help="data folders, runs and tables")
    parser.add_argument("--data_root", default="./data", help="folder with MedMNIST files; else the bundled ones")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--quick", action="store_true", help="one set, one seed, two steps: does everything run?")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Prepare each set, train what is missing, write its table after every row."""
    args = build_parser().parse_args(argv)
    folder = Path(args.output_dir)
    if args.quick:
        args.seeds = 1
        folder = folder.with_name(folder.name + "-quick")
    how = (args.weights_root, args.seeds, args.device, args.quick)
    if args.tissue:
        data = prepare_tissue(Path(args.tissue), folder / "tissue")
        fill(data, tissue_variants(1 if args.quick else args.tissue_epochs), *how)
        return
    for name, epochs in list(OFFICIAL.items())[: 1 if args.quick else None]:
        data = folder / name / "data"
        if not (data / "dataset.json").exists():
            prepare.main([name, "--out", str(data), "--data_root", args.data_root, "--overwrite"])
        fill(data, official_variants(1 if args.quick else epochs), *how)


def prepare_tissue(source: Path, folder: Path) -> Path:
    """Tiles as folders of PNG, train (centre A) and test (centre B); → the data folder that prepare makes of them."""
    data = folder / "data"
    if (data / "dataset.json").exists():
        return data
    try:
        arrays = np.load(source)
        centres = {"train": "centre_a", "test": "centre_b"}
        tiles = {split: (arrays[f"{name}_images"], arrays[f"{name}_labels"].ravel()) for split, name in centres.items()}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--tissue {source}: {error}; give tissue224_two_centres.npz") from None
    for split, (images, labels) in tiles.items():
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            if int(label) in TISSUE_CLASSES:
                path = folder / "png" / split / TISSUE_CLASSES[int(label)] / f"{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    prepare.main([str(folder / "png"), "--out", str(data), "--overwrite"])
    return data


def fill(
    data: Path, variants: Sequence[Variant], weights_root: str | None, seeds: int, device: str, quick: bool
) -> None:
    """Train every variant with every seed and read the test set once per training; the table follows each row."""
    folder = data.parent
    known = [(variant, weights_of(variant, weights_root)) for variant in variants]
    ready = [(variant, weights) for variant, weights in known if weights]
    left_out = [variant.title for variant, weights in known if not weights]
    steps = 2 if quick else 0
    settings = {"data": str(data), "max_steps_per_epoch": steps}
    study = Study(folder, settings=settings, seeds=range(seeds))
    found: dict[str, list[dict[str, Any]]] = {}
    for variant, weights in ready:

        def train_one(seed: int, run: RunFolder, variant: Variant = variant, weights: str = weights) -> dict[str, Any]:
            return train_variant(variant, weights, seed, data, run, steps, device)

        found[variant.title] = study.train(variant.name, train_one)
        write(folder, found, left_out, quick)
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"files: table.md, table.csv in {folder}")


def weights_of(variant: Variant, root: str | None) -> str:
    """'none', or the file to start from; '' if it is needed and not there."""
    if not variant.pretrained:
        return "none"
    found = sorted(Path(root).glob(f"{variant.model}*.pth")) if root else []
    return str(found[0]) if found else ""


def train_variant(
    variant: Variant, weights: str, seed: int, data: Path, run: RunFolder, steps: int, device: str
) -> dict[str, Any]:
    """One training through train.py's own command; → the facts of its results that the table needs."""
    words = ["--data", data, "--model", variant.model, "--image_size", variant.image_size, "--cache", "disk"]
    words += ["--epochs", variant.epochs, "--seed", seed, "--device", device, "--weights", weights, *variant.flags]
    words += ["--max_steps_per_epoch", steps, "--evaluate_test", "--output_dir", run.path / "training", "--overwrite"]
    train.main([str(word) for word in words])
    results = read_json(run.path / "training" / "results.json")
    kept = {name: results[name] for name in ("val_metrics", "test_metrics", "device", "precision")}
    return {**kept, "validation": results["val_metrics"]}


def write(folder: Path, found: dict[str, list[dict[str, Any]]], left_out: list[str], quick: bool) -> None:
    """table.md and table.csv from what there is so far."""
    rows = [
        TableRow(title, {name: [run["test_metrics"].get(name, run.get(name)) for run in runs] for name in METRICS})
        for title, runs in found.items()
    ]
    devices = sorted({f"{run['device']}, {run['precision']}" for runs in found.values() for run in runs})
    note = f"Mean ± sample standard deviation over the seeds. Hardware: {'; '.join(devices)}."
    if left_out:
        note += f" Left out, because --weights_root has no file for them: {'; '.join(left_out)}."
    write_tables(folder, rows, METRICS, f"Quick check of two steps, not a result. {note}" if quick else note)


if __name__ == "__main__":
    run_script(main)
