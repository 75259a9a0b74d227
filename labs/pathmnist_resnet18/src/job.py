"""One training of the study: what its every step runs, and what the dispatcher runs for the search and the ablation.

python -m labs.pathmnist_resnet18.src.job --config labs/pathmnist_resnet18/configs/baseline.json --output_dir runs/one
"""

from __future__ import annotations

from toolkit.cli import OneLineParser, add_data_flags, add_machine_and_output_flags, in_range, parse, run_script
from toolkit.errors import UserError

MODELS = ("resnet18", "resnet34", "resnet50", "densenet121")
NATIVE_SIZES = (64, 128, 224)  # pixels of the files of MedMNIST+
AUGMENTATIONS = ("none", "flips", "standard", "strong", "stain", "randaugment")


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help. The defaults are the baseline's."""
    parser = OneLineParser(prog="python -m labs.pathmnist_resnet18.src.job", description=__doc__.splitlines()[0])
    add_model_flags(parser)
    add_schedule_flags(parser)
    add_regularisation_flags(parser)
    add_data_flags(parser)
    parser.add_argument(
        "--native", action="store_true", help="of --image_size 64, 128 or 224: MedMNIST+, not enlarged 28 pixels"
    )
    parser.add_argument(
        "--train_share", type=in_range(float, 0, 1, open_low=True), default=1.0, help="stratified part to train on"
    )
    add_machine_and_output_flags(parser)
    parser.add_argument(
        "--bootstrap", type=in_range(int, 20), default=1000, help="samples for the intervals of the test figures"
    )
    return parser


def add_model_flags(parser: OneLineParser) -> None:
    """What is trained."""
    group = parser.add_argument_group("model")
    group.add_argument("--model_name", choices=MODELS, default="resnet18", help="of torchvision, random weights")
    group.add_argument("--image_size", type=in_range(int, 32, 256), default=64, help="side that the network sees")
    group.add_argument(
        "--stem", choices=("photo", "small"), default="photo", help="first layer: 7x7 stride 2, or 3x3 stride 1"
    )


def add_schedule_flags(parser: OneLineParser) -> None:
    """How it is trained."""
    group = parser.add_argument_group("training")
    group.add_argument("--optimizer", choices=("adam", "adamw", "sgd"), default="adam", help="sgd: Nesterov, 0.9")
    group.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.001, help="highest one")
    group.add_argument("--batch_size", type=in_range(int, 2), default=128, help="images per step")
    group.add_argument("--num_epochs", type=in_range(int, 1), default=10, help="at most")
    group.add_argument("--weight_decay", type=in_range(float, 0), default=1e-4, help="of the optimizer")
    group.add_argument(
        "--schedule", choices=("constant", "step", "cosine", "onecycle"), default="step", help="of the learning rate"
    )
    group.add_argument("--step_epochs", type=in_range(int, 1), default=5, help="step: epochs between two steps")
    group.add_argument("--step_factor", type=in_range(float, 0, 1, open_low=True), default=0.1, help="step: its factor")
    group.add_argument(
        "--patience",
        type=in_range(int, 0),
        default=3,
        help="stop after this many epochs without a better one; 0: never",
    )
    group.add_argument(
        "--min_steps_per_epoch", type=in_range(int, 0), default=20, help="a small set is gone over until it has these"
    )
    group.add_argument("--max_steps_per_epoch", type=in_range(int, 0), default=0, help="0: all batches")
    group.add_argument("--ema_decay", type=in_range(float, 0, 0.99999), default=0.0, help="averaged weights; 0: none")
    group.add_argument("--seed", type=in_range(int, 0, 2**32 - 1), default=0, help="of weights, order and augmentation")


def add_regularisation_flags(parser: OneLineParser) -> None:
    """What goes beyond the baseline."""
    group = parser.add_argument_group("beyond the baseline")
    group.add_argument(
        "--augment",
        choices=AUGMENTATIONS,
        default="none",
        help="standard: symmetries and crop; strong: and colour; stain: and HED jitter; randaugment: flips and two "
        "random operations",
    )
    group.add_argument("--mixup", type=in_range(float, 0, 10), default=0.0, help="alpha of MixUp; 0: none")
    group.add_argument("--loss", choices=("cross_entropy", "focal"), default="cross_entropy", help="training loss")
    group.add_argument("--focal_gamma", type=in_range(float, 0, 10), default=2.0, help="focal: weight of hard images")
    group.add_argument("--label_smoothing", type=in_range(float, 0, 0.9), default=0.0, help="share for all classes")
    group.add_argument("--class_weights", action="store_true", help="rare classes weigh more in the loss")


def main(argv: list[str] | None = None) -> None:
    """Parse, seed, read, build, train, measure, report."""
    args = parse(build_parser(), argv, task="classification")
    check(args.loss, args.label_smoothing, args.native, args.image_size)

    from labs.pathmnist_resnet18.src import fitting

    fitting.run(vars(args))


def check(loss: str, label_smoothing: float, native: bool, image_size: int) -> None:
    """Combinations that argparse cannot refuse."""
    if loss == "focal" and label_smoothing:
        raise UserError("--loss focal and --label_smoothing exclude each other: give one of them")
    if native and image_size not in NATIVE_SIZES:
        raise UserError(f"image_size is {image_size}; allowed with --native: {', '.join(map(str, NATIVE_SIZES))}")


if __name__ == "__main__":
    run_script(main)
