"""Part 1: train a tissue classifier on PathMNIST and report what it can do. Provided.

python classification_main.py --model_name cnn --num_epochs 1 --max_steps_per_epoch 100 --seed 3
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit.cli import (
    OneLineParser,
    add_data_flags,
    add_machine_and_output_flags,
    add_training_flags,
    in_range,
    parse,
    run_script,
)

if TYPE_CHECKING:
    from argparse import Namespace

    from torch import nn
    from torch.utils.data import DataLoader

    from toolkit.experiment import Setup

TASK = "classification"


def build_parser() -> OneLineParser:
    """The flags of this script; nothing heavy is imported for --help."""
    parser = OneLineParser(description="Train a tissue classifier on PathMNIST (Part 1).")
    add_training_flags(parser, ("linear", "mlp", "cnn"), model_name="mlp", augment="flips")
    parser.add_argument(
        "--label_smoothing",
        type=in_range(float, 0, 0.9),
        default=0.0,
        help="share of each target spread over all classes",
    )
    add_data_flags(parser)
    add_machine_and_output_flags(parser)
    return parser


def main() -> None:
    """Parse, seed, build, train, evaluate, report."""
    args = parse(build_parser(), task=TASK)

    import torch

    from classification_dataset import create_pathmnist_dataloaders
    from classification_models import count_parameters, get_model
    from classification_train import train_model
    from toolkit import experiment
    from toolkit.medmnist_data import locate

    setup = experiment.prepare(
        args,
        TASK,
        lambda: locate("pathmnist", data_root=args.data_root, dataset=args.dataset, mirror=args.mirror),
        begin=False,
    )
    train_loader, val_loader, num_classes = create_pathmnist_dataloaders(
        args.batch_size,
        args.num_workers,
        source=setup.source,
        augment=args.augment,
        seed=args.seed,
        device="cpu" if args.num_workers else setup.device,
    )
    model = get_model(args.model_name, num_classes)
    criterion = {}
    if args.label_smoothing:
        criterion["criterion"] = torch.nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    history, seconds = experiment.train(
        train_model,
        model,
        (train_loader, val_loader),
        args,
        setup,
        best_extra={"task": TASK, "model_name": args.model_name, "num_classes": num_classes},
        **criterion,
    )
    facts = {"parameters": count_parameters(model), **evaluate(model, val_loader, args, setup)}
    experiment.report(args, setup, TASK, history, seconds, facts)


def evaluate(model: nn.Module, val_loader: DataLoader, args: Namespace, setup: Setup) -> dict[str, Any]:
    """Figures and pictures on validation data and, if asked for, the test figures; the keys go into results.json."""
    from classification_dataset import create_test_dataloader
    from toolkit import metrics, plots
    from toolkit.augment import normalize

    probabilities, labels = metrics.predict(model, val_loader, setup.device, setup.precision)
    names = setup.source.class_names
    title = f"{args.model_name} on validation data of {setup.source.name}"
    counts = metrics.confusion_matrix(probabilities, labels)
    plots.confusion(counts, names, title, setup.run.file("confusion.png"))
    images = normalize(setup.source.read("val").images)
    plots.class_predictions(images, probabilities, labels, names, title, setup.run.file("predictions.png"))
    facts = {"val_metrics": metrics.classification_metrics(probabilities, labels), "confusion_matrix": counts.tolist()}
    if args.evaluate_test:
        test_loader = create_test_dataloader(setup.source, batch_size=256, device=setup.device)
        figures = metrics.classification_metrics(*metrics.predict(model, test_loader, setup.device, setup.precision))
        facts["test_metrics"] = figures
        print(f"test accuracy {figures['accuracy']:.4f}, macro AUC {figures['macro_auc']:.4f}")
    return facts


if __name__ == "__main__":
    run_script(main)
