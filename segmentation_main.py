"""Part 2: train a model that finds boxes drawn over PathMNIST images, and report what it can do. Provided.

python segmentation_main.py --model_name unet --num_epochs 1 --max_steps_per_epoch 100 --seed 3
"""

from __future__ import annotations

import math

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
    parser = OneLineParser(description="Train a model that finds boxes drawn over images (Part 2).")
    add_training_flags(parser, ("linear", "mlp", "cnn", "unet"), model_name="unet", augment="none")
    parser.add_argument("--bce_weight", type=in_range(float, 0), default=0.5, help="cross-entropy's part in the loss")
    parser.add_argument("--dice_weight", type=in_range(float, 0), default=0.5, help="Dice loss's part in the loss")
    parser.add_argument(
        "--border",
        choices=("original", "in_range"),
        default="original",
        help="in_range: colours that the images have too",
    )
    add_data_flags(parser)
    add_machine_and_output_flags(parser)
    return parser


def main() -> None:
    """Parse, seed, build, train, evaluate, report."""
    args = parse(build_parser(), task=TASK)
    if not args.bce_weight + args.dice_weight:
        raise UserError("--bce_weight and --dice_weight are both 0, so there is no loss; allowed: one of them above 0")

    # torch and what needs it are imported here, so that --help answers at once.
    from segmentation_models import CombinedLoss, count_parameters, get_segmentation_model
    from segmentation_train import evaluate_segmentation_model, train_segmentation_model, visualize_predictions
    from synthetic_data import create_box_dataloaders, visualize_box_samples
    from toolkit import experiment, metrics
    from toolkit.devices import pick_device, place_model, resolve_precision, seed_everything
    from toolkit.earlier_terms import accepting_options
    from toolkit.medmnist_data import locate, official_test

    seed_everything(args.seed)
    device = pick_device(args.device)
    precision = resolve_precision(args.precision, device)
    source = locate("pathmnist", data_root=args.data_root, dataset=args.dataset, mirror=args.mirror)
    experiment.check_promises(source, args.evaluate_test, args.results_path)
    print(experiment.describe_start(source, device, precision))

    train_loader, val_loader, test_loader, _num_classes = create_box_dataloaders(
        args.batch_size,
        args.num_workers,
        source=source,
        augment=args.augment,
        border=args.border,
        seed=args.seed,
        device="cpu" if args.num_workers else device,  # a GPU cannot be shared with loader processes
    )
    model = experiment.build_model(get_segmentation_model, args.model_name, model_args=args.model_args)
    place_model(model, device, (source.channels, source.size, source.size))

    run = experiment.open_run(TASK, vars(args), source.name)
    with experiment.saying_how_to_resume(run):
        history = accepting_options(train_segmentation_model, TASK)(
            model,
            train_loader,
            val_loader,
            epochs=args.num_epochs,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            max_steps_per_epoch=args.max_steps_per_epoch,
            criterion=CombinedLoss(args.bce_weight, args.dice_weight),
            optimizer=args.optimizer,
            scheduler=args.schedule,
            device=device,
            precision=precision,
            ema_decay=args.ema_decay,
            patience=args.patience,
            run=run,
            best_extra={"task": TASK, "model_name": args.model_name},
        )

    experiment.load_best(model, run, device)
    facts = {
        "parameters": count_parameters(model),
        "models_digest": experiment.models_digest(get_segmentation_model),
        "border": args.border,
        "val_metrics": evaluate_segmentation_model(model, val_loader, "validation"),
    }
    if args.evaluate_test:
        facts["test_data"] = official_test(source).name
        facts["test_metrics"] = {
            **evaluate_segmentation_model(model, test_loader, "test"),
            **metrics.final_box_report(
                model, test_loader, device, source.class_names, facts["val_metrics"]["mean_iou"]
            ),
        }
        print(metrics.describe_final(facts["test_metrics"], facts["test_data"]))
    visualize_box_samples(val_loader.dataset, save_path=run.file("samples.png"))
    visualize_predictions(model, val_loader.dataset, save_path=run.file("predictions.png"))
    about = {"dataset_name": source.name, "device": device, "precision": precision}
    guessing = ("ln 2 (cross-entropy alone)", math.log(2))  # the loss of a model that answers 1/2 for every pixel
    experiment.report(run, TASK, vars(args), history, facts, guessing=guessing, **about)


if __name__ == "__main__":
    run_script(main)
