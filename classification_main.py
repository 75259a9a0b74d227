"""Part 1: train a classifier on PathMNIST and report what it can do. Provided.

python classification_main.py --model_name cnn --num_epochs 1 --max_steps_per_epoch 100 --seed 3
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

TASK = "classification"


def build_parser() -> OneLineParser:
    """The flags of this script; nothing heavy is imported for --help."""
    parser = OneLineParser(description="Train a classifier on PathMNIST (Part 1).")
    add_training_flags(parser, ("linear", "mlp", "cnn"), model_name="mlp", augment="flips")
    parser.add_argument(
        "--label_smoothing", type=in_range(float, 0, 0.9), default=0.0, help="share of each target given to all classes"
    )
    add_data_flags(parser)
    add_machine_and_output_flags(parser)
    return parser


def main() -> None:
    """Parse, seed, build, train, evaluate, report."""
    args = parse(build_parser(), task=TASK)

    # torch and what needs it are imported here, so that --help answers at once.
    from torch import nn

    from classification_dataset import create_pathmnist_dataloaders, create_test_dataloader
    from classification_models import count_parameters, get_model
    from classification_train import train_model
    from toolkit import experiment, metrics, plots
    from toolkit.augment import normalize
    from toolkit.devices import pick_device, place_model, resolve_precision, seed_everything
    from toolkit.earlier_terms import accepting_options
    from toolkit.medmnist_data import locate, official_test

    seed_everything(args.seed)
    device = pick_device(args.device)
    precision = resolve_precision(args.precision, device)
    source = locate("pathmnist", data_root=args.data_root, dataset=args.dataset, mirror=args.mirror)
    experiment.check_promises(source, args.evaluate_test, args.results_path)
    print(experiment.describe_start(source, device, precision))

    train_loader, val_loader, num_classes = create_pathmnist_dataloaders(
        args.batch_size,
        args.num_workers,
        source=source,
        augment=args.augment,
        seed=args.seed,
        device="cpu" if args.num_workers else device,  # a GPU cannot be shared with loader processes
    )
    model = experiment.build_model(get_model, args.model_name, num_classes, model_args=args.model_args)
    place_model(model, device, (source.channels, source.size, source.size))
    criterion = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing) if args.label_smoothing else None

    run = experiment.open_run(TASK, vars(args), source.name)
    with experiment.saying_how_to_resume(run):
        history = accepting_options(train_model, TASK)(
            model,
            train_loader,
            val_loader,
            epochs=args.num_epochs,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            max_steps_per_epoch=args.max_steps_per_epoch,
            criterion=criterion,
            optimizer=args.optimizer,
            scheduler=args.schedule,
            device=device,
            precision=precision,
            ema_decay=args.ema_decay,
            patience=args.patience,
            run=run,
            best_extra={"task": TASK, "model_name": args.model_name, "num_classes": num_classes},
        )

    experiment.load_best(model, run, device)
    probabilities, labels = metrics.predict(model, val_loader, device, precision)
    counts = metrics.confusion_matrix(probabilities, labels)
    title = f"{args.model_name} on validation data of {source.name}"
    plots.confusion(counts, source.class_names, title, run.file("confusion.png"))
    images = normalize(source.read("val").images)
    plots.class_predictions(images, probabilities, labels, source.class_names, title, run.file("predictions.png"))
    facts = {
        "parameters": count_parameters(model),
        "models_digest": experiment.models_digest(get_model),
        "val_metrics": metrics.classification_metrics(probabilities, labels),
        "confusion_matrix": counts.tolist(),
    }
    if args.evaluate_test:
        test_loader = create_test_dataloader(source, batch_size=256, device=device)
        answers = metrics.predict(model, test_loader, device, precision)
        facts["test_data"] = official_test(source).name
        facts["test_metrics"] = metrics.final_report(*answers, source.class_names, facts["val_metrics"])
        print(metrics.describe_final(facts["test_metrics"], facts["test_data"]))
    about = {"dataset_name": source.name, "device": device, "precision": precision}
    guessing = (f"ln {num_classes}", math.log(num_classes))  # the loss of a model that gives all classes 1/K
    experiment.report(run, TASK, vars(args), history, facts, guessing=guessing, **about)


if __name__ == "__main__":
    run_script(main)
