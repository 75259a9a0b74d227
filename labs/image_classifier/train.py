"""Train a classifier on a prepared data folder, once or by cross-validation.

python -m labs.image_classifier.train --data data/breast --model resnet18 --epochs 15
python -m labs.image_classifier.train --data data/breast --model densenet121 --folds 5
"""

from __future__ import annotations

from labs.image_classifier.models import NAMES
from labs.image_classifier.utils import datafolder
from labs.image_classifier.utils.options import Settings
from toolkit.cli import OneLineParser, add_machine_and_output_flags, in_range, parse, run_script
from toolkit.errors import UserError


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = OneLineParser(prog="python -m labs.image_classifier.train", description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="made by labs.image_classifier.prepare; not with --resume")
    parser.add_argument("--image_size", type=in_range(int, 28, 1024), default=224, help="side in pixels")
    parser.add_argument("--fit", choices=("pad", "stretch", "crop"), default="pad", help="how an image becomes square")
    parser.add_argument(
        "--cache", choices=("auto", "memory", "disk"), default="auto", help="decoded images; auto: disk above 2 GiB"
    )
    add_model_flags(parser)
    add_augmentation_flags(parser)
    add_machine_and_output_flags(parser)
    return parser


def add_model_flags(parser: OneLineParser) -> None:
    """What is trained, and how. Second names are those of the course's other mains."""
    group = parser.add_argument_group("model and training")
    group.add_argument(
        "--model", "--model_name", dest="model_name", choices=NAMES, default="resnet18", help="of torchvision"
    )
    group.add_argument("--weights", default="none", help="none, imagenet, or a run or a file with a state dict")
    group.add_argument(
        "--epochs", "--num_epochs", dest="num_epochs", type=in_range(int, 1), default=20, help="passes over the images"
    )
    group.add_argument("--batch_size", type=in_range(int, 2), default=32, help="images per step")
    group.add_argument("--max_steps_per_epoch", type=in_range(int, 0), default=0, help="0: all batches")
    group.add_argument("--optimizer", choices=("adam", "adamw", "sgd"), default="adamw", help="sgd: Nesterov, 0.9")
    group.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.001, help="highest one")
    group.add_argument("--weight_decay", type=in_range(float, 0), default=0.01, help="of the optimizer")
    group.add_argument(
        "--scheduler",
        "--schedule",
        dest="schedule",
        choices=("constant", "cosine", "onecycle"),
        default="onecycle",
        help="learning rate over all epochs",
    )
    group.add_argument("--ema_decay", type=in_range(float, 0, 0.99999), default=0.0, help="averaged weights; 0: none")
    group.add_argument("--patience", type=in_range(int, 1), help="stop after this many epochs without a better one")
    balance = group.add_mutually_exclusive_group()
    balance.add_argument("--class_weights", action="store_true", help="weigh rare classes more in the loss")
    balance.add_argument("--oversample", action="store_true", help="draw every class equally often")
    group.add_argument("--folds", type=in_range(int, 0, 100), default=0, help="cross-validate on training + validation")
    group.add_argument("--seed", type=in_range(int, 0, 2**32 - 1), default=0, help="of weights, order and augmentation")


def add_augmentation_flags(parser: OneLineParser) -> None:
    """What happens to training images: a named set, and each part by itself."""
    group = parser.add_argument_group("augmentation of training images")
    group.add_argument(
        "--augment",
        choices=("none", "shift", "mirror", "symmetries", "strong"),
        default="shift",
        help="shift: X-rays; mirror: left to right, too (ultrasound); symmetries: both flips and quarter turns "
        "(microscopy); strong: also colour",
    )
    group.add_argument(
        "--flip", choices=("none", "left_right", "up_down", "both"), help="instead of the flips of --augment"
    )
    group.add_argument("--rotation", type=in_range(float, 0, 180), default=0.0, help="degrees at most, either way")
    group.add_argument(
        "--intensity", type=in_range(float, 0, 1), default=0.0, help="contrast and brightness, half-range"
    )
    group.add_argument("--stain", type=in_range(float, 0, 1), help="gain of each colour channel, half-range")


def main(argv: list[str] | None = None) -> None:
    """Parse, read the data, decode, train once or for each fold, report."""
    settings = Settings(**vars(parse(build_parser(), argv)))
    check(settings)
    data = datafolder.read(settings.data)  # a mistake in the data is told before torch is imported, which takes seconds

    from labs.image_classifier.utils import fitting  # imports torch

    setup = fitting.prepare(settings, data)
    images = fitting.decode(settings, data, data.of("train", "val"))
    if settings.folds:
        fitting.cross_validate(settings, setup, data, images)
        return
    fitting.train_once(settings, setup, data, images)


def check(settings: Settings) -> None:
    """Combinations that argparse cannot refuse."""
    if not settings.data:
        raise UserError("--data is missing: name a folder that labs.image_classifier.prepare has made")
    if settings.folds == 1:
        raise UserError("folds is 1; allowed: 0 (the splits of the data folder), or 2 and more")
    if settings.folds and settings.evaluate_test:
        raise UserError(
            "--folds and --evaluate_test exclude each other: a fold is not a final model; train one, test that"
        )


if __name__ == "__main__":
    run_script(main)
