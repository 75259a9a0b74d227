"""Runs the five parts of Homework 5 and leaves every picture, table and number in outputs/. Provided."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from labs.hw5_pneumonia import choices, hw5_dl, hw5_evaluate, page, parts, recipes
from toolkit import backbones, plots
from toolkit.cli import OneLineParser, in_range
from toolkit.devices import describe, pick_device, resolve_precision
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, locate
from toolkit.runs import environment, read_json, writable_folder, write_json
from toolkit.study import Study

QUICK_IMAGES = 1500
MODELS = ("cnn", "radiologist", "resnet18", "scratch", "pretrained")
MODELS_HELP = (
    "rows of the table (default: cnn resnet18 pretrained): cnn is yours; resnet18 is a ResNet-18 from scratch with a "
    "first layer for 28 x 28 pixels; pretrained is the backbone with ImageNet weights, on enlarged images; scratch is "
    "the same without those weights, so the two show what the weights bring; radiologist is your CNN with the "
    "augmentation of recipes.as_a_radiologist_would"
)
QUICK_HELP = "one seed, few images, two epochs: does everything run? About two minutes on two cores"
OUTPUTS = Path(__file__).resolve().parent / "outputs"
# Flags that say where and how often, and not what is trained.
FREE = ("models", "seeds", "data_root", "output_dir", "device", "precision")


def build_parser() -> OneLineParser:
    """The flags of the command."""
    parser = OneLineParser(prog="hw5_dl", description="Homework 5: pneumonia on chest X-rays, all five parts.")
    parser.add_argument("--quick", action="store_true", help=QUICK_HELP)
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["cnn", "resnet18", "pretrained"], help=MODELS_HELP
    )
    parser.add_argument("--seeds", type=in_range(int, 1, 20), default=5, help="trainings of each model")
    parser.add_argument("--batch_size", type=int, choices=(64, 128), default=128, help="images per step")
    parser.add_argument("--train_images", type=in_range(int, 0), default=0, help="train on this many only; 0: all")
    parser.add_argument("--epochs", type=in_range(int, 1), default=30, help="at most, of the CNN")
    parser.add_argument("--resnet_epochs", type=in_range(int, 1), default=8, help="at most, of the ResNet and backbone")
    parser.add_argument("--head_epochs", type=in_range(int, 1), default=2, help="of the new head alone")
    parser.add_argument("--weights", metavar="PATH", help="ImageNet state dict of the backbone (else: download)")
    parser.add_argument("--backbone", default="resnet18", help="torchvision classifier for the pretrained row")
    parser.add_argument("--image_size", type=in_range(int, 28, 512), default=64, help="pixels, for the backbone alone")
    parser.add_argument("--data_root", default="./data", help="folder with pneumoniamnist.npz; else the bundled copy")
    parser.add_argument("--output_dir", help="for pictures, tables and results.json (default: outputs/ of this lab)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of matrix work")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse, find machine and data, then the parts in order; the test split is opened after Part 3."""
    args = build_parser().parse_args(argv)
    if args.quick:
        args.seeds, args.epochs, args.resnet_epochs, args.head_epochs = 1, 2, 1, 1
        args.train_images = args.train_images or QUICK_IMAGES
    if 0 < args.train_images < args.batch_size:
        raise UserError(
            f"--train_images is {args.train_images}; allowed: 0 (all) or at least one batch, {args.batch_size}"
        )
    started = time.perf_counter()
    folder = writable_folder(args.output_dir or (OUTPUTS / "quick" if args.quick else OUTPUTS))
    results_path = folder / "results.json"
    if args.quick and results_path.exists() and not read_json(results_path)["config"]["quick"]:
        raise UserError(f"--quick: {folder} holds a real run, which a quick one would replace; leave out --output_dir")
    source = find_data(args.data_root, args.train_images)
    device = pick_device(args.device)
    machine = parts.Machine(device, resolve_precision(args.precision, device))
    about = {"dataset": source.name, "device": describe(device), "precision": machine.precision}
    print(f"data: {source.name} from {source.origin}\ndevice: {about['device']}, {machine.precision}")

    weights = find_weights(args.backbone, args.weights, args.models)
    if weights is None and set(args.models) == {"pretrained"}:
        raise UserError(
            f"--models pretrained: no ImageNet weights for {args.backbone}; give a file with --weights PATH"
        )
    settings = recipes.Settings(args.epochs, args.resnet_epochs, args.head_epochs, args.backbone, args.image_size)
    known = recipes.make_recipes(settings, weights)
    flags = {name: value for name, value in vars(args).items() if name not in FREE}
    flags |= {"dataset": source.name, "code": parts.digest_of(Path(hw5_dl.__file__))}
    study = Study(folder, flags, range(args.seeds), about, replace_changed=True)

    missing = "pretrained" in args.models and weights is None
    not_run = {recipes.pretrained_name(args.backbone): "not run: no weights"} if missing else {}
    with plots.stamped("quick run: means nothing" if args.quick else ""):
        results = do_parts(study, machine, source, known, args.models, args.batch_size, not_run)
    results |= {"task": "hw5", **about}
    results |= {"seconds": round(time.perf_counter() - started, 1), "environment": environment(), "config": vars(args)}
    write_json(results_path, results)
    page.write(results, folder, [Path(hw5_dl.__file__), Path(hw5_evaluate.__file__)])
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    print(f"finished in {results['seconds']:.0f} s\nfiles in {folder}: {', '.join(names)}")


def do_parts(
    study: Study,
    machine: parts.Machine,
    source: Source | choices.FewerImages,
    known: dict[str, recipes.Recipe],
    asked: list[str],
    batch_size: int,
    not_run: dict[str, str],
) -> dict[str, Any]:
    """The five parts in order; the test images are read after every threshold is written down."""
    folder = study.folder
    distribution = parts.part_1(source, folder)
    trained = parts.train_all(study, machine, [known[name] for name in known if name in asked], source, batch_size)
    loaders = hw5_dl.make_dataloaders(source, batch_size)
    chosen = parts.choose_thresholds(trained, loaders["val"])
    test = parts.look_at_test(trained, chosen, study.open_test(chosen, lambda: list(loaders["test"])))
    results: dict[str, Any] = {"images_of_each_class": distribution, **parts.part_4(trained, test, folder)}
    results["interpretability"] = parts.part_5(trained, test, folder)
    results["table"] = parts.write_tables(results["models"], not_run, folder)
    histories = {name: [run["history"] for run in row.runs] for name, row in trained.items()}
    return {**results, "choices": chosen, "histories": histories}


def find_data(data_root: str, train_images: int) -> Source | choices.FewerImages:
    """PneumoniaMNIST, with all training images or some of them. Raises UserError if a split lacks a class."""
    source = locate("pneumoniamnist", data_root=data_root)
    found = choices.FewerImages(source, train_images) if train_images else source
    for split in ("train", "val"):
        choices.check_classes(found.read(split).labels, split, source.class_names)
    return found


def find_weights(backbone: str, path: str | None, models: list[str]) -> dict[str, Any] | None:
    """ImageNet weights of the backbone, if a row needs them and they can be had.

    A wrong name and weights that do not fit are reported here, before any training.
    """
    backbones.build(backbone)
    weights = backbones.find_weights(backbone, path) if "pretrained" in models else None
    if weights is not None:
        backbones.build(backbone, weights)
    return weights
