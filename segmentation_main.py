"""Part 2: train a model that finds boxes drawn over PathMNIST tissue, and report what it can do. Provided.

python segmentation_main.py --model_name unet --num_epochs 1 --max_steps_per_epoch 100 --seed 3
"""

from __future__ import annotations

from toolkit.cli import (
    OneLineParser,
    add_data_flags,
    add_machine_and_output_flags,
    add_training_flags,
    in_range,
    parse,
    run_script,
)
from toolkit.errors import UserError

TASK = "segmentation"


def build_parser() -> OneLineParser:
    """The flags of this script; nothing heavy is imported for --help."""
    parser = OneLineParser(description="Train a model that finds boxes drawn over tissue (Part 2).")
    add_training_flags(parser, ("linear", "mlp", "cnn", "unet"), model_name="unet", augment="none")
    parser.add_argument("--bce_weight", type=in_range(float, 0), default=0.5, help="cross-entropy's part in the loss")
    parser.add_argument("--dice_weight", type=in_range(float, 0), default=0.5, help="Dice loss's part in the loss")
    parser.add_argument(
        "--border", choices=("original", "in_range"), default="original", help="in_range: colours that tissue has too"
    )
    add_data_flags(parser)
    add_machine_and_output_flags(parser)
    return parser


def main() -> None:
    """Parse, seed, build, train, evaluate, report."""
    args = parse(build_parser(), task=TASK)
    if not args.bce_weight + args.dice_weight:
        raise UserError("--bce_weight and --dice_weight are both 0, so there is no loss; allowed: one of them above 0")

    from segmentation_models import CombinedLoss, count_parameters, get_segmentation_model
    from segmentation_train import evaluate_segmentation_model, train_segmentation_model, visualize_predictions
    from synthetic_data import create_box_dataloaders, visualize_box_samples
    from toolkit import experiment
    from toolkit.medmnist_data import locate

    setup = experiment.prepare(
        args,
        TASK,
        lambda: locate("pathmnist", data_root=args.data_root, dataset=args.dataset, mirror=args.mirror),
        begin=False,
    )
    train_loader, val_loader, test_loader, _num_classes = create_box_dataloaders(
        args.batch_size,
        args.num_workers,
        source=setup.source,
        augment=args.augment,
        border=args.border,
        seed=args.seed,
        device="cpu" if args.num_workers else setup.device,
    )
    model = get_segmentation_model(args.model_name)
    history, seconds = experiment.train(
        train_segmentation_model,
        model,
        (train_loader, val_loader),
        args,
        setup,
        best_extra={"task": TASK, "model_name": args.model_name},
        criterion=CombinedLoss(args.bce_weight, args.dice_weight),
    )
    facts = {"parameters": count_parameters(model), "border": args.border}
    facts["val_metrics"] = evaluate_segmentation_model(model, val_loader, "validation")
    if args.evaluate_test:
        facts["test_metrics"] = evaluate_segmentation_model(model, test_loader, "test")
    visualize_box_samples(val_loader.dataset, save_path=setup.run.file("samples.png"))
    visualize_predictions(model, val_loader.dataset, save_path=setup.run.file("predictions.png"))
    experiment.report(args, setup, TASK, history, seconds, facts)


if __name__ == "__main__":
    run_script(main)
