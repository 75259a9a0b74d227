"""Numbers of 8 bits instead of 32: how much smaller, how much faster, and what does it cost?

python -m labs.medmnist_experiments.quantize                                # a 2D CNN on PneumoniaMNIST
python -m labs.medmnist_experiments.quantize --flag adrenalmnist3d          # a 3D CNN: int8 may be slower
python -m labs.medmnist_experiments.quantize --quick

Dynamic range, full integer (static) and quantization-aware training, by ONNX Runtime and by torchao. predict_onnx.py
runs the files without torch.
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from labs.medmnist_experiments import common
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from labs.medmnist_experiments.common import Experiment
    from labs.medmnist_experiments.int8_torch import QuantizationAware
    from labs.medmnist_experiments.tasks import Task
    from labs.medmnist_experiments.variants import Variant
    from toolkit.runs import RunFolder

KEEP = "lower_loss"  # see common.fit
# Flags that the float32 runs do not depend on; those of QAT are in the name of its runs.
FREE = ("threads", "latency_batch", "rounds", "calibration", "calibration_images", "reduce_range")
FREE = (*FREE, "qat_epochs", "qat_learning_rate")


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = common.build_parser("quantize", __doc__.splitlines()[0], flag="pneumoniamnist", epochs=8, seeds=3)
    group = parser.add_argument_group("network and training")
    group.add_argument(
        "--width", type=in_range(int, 0, 512), default=0, help="channels of the first stage; 0: 32 (2D), 16 (3D)"
    )
    group.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.001, help="of AdamW")
    group.add_argument("--qat_epochs", type=in_range(int, 1), default=2, help="of quantization-aware training")
    group.add_argument("--qat_learning_rate", type=in_range(float, 0, open_low=True), default=2e-6, help="of AdamW")
    group = parser.add_argument_group("quantization")
    group.add_argument(
        "--calibration",
        choices=("auto", "minmax", "percentile"),
        default="auto",
        help="ranges of ONNX Runtime's static quantization; auto: the one closer to float32 on validation data",
    )
    group.add_argument("--calibration_images", type=in_range(int, 2), default=256, help="training images for ranges")
    group.add_argument("--reduce_range", action="store_true", help="weights of 7 bits: for x86 without VNNI")
    group = parser.add_argument_group("speed")
    group.add_argument("--threads", type=in_range(int, 1, 256), default=1, help="of each runtime")
    group.add_argument("--latency_batch", type=in_range(int, 2, 4096), default=64, help="images a timed batch")
    group.add_argument("--rounds", type=in_range(int, 2), default=40, help="timed batches of each variant")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Train, quantize, choose on validation data, read the test split once, time, report."""
    args = build_parser().parse_args(argv)

    from labs.medmnist_experiments import int8_onnx, quantize_report, variants

    int8_onnx.require(*int8_onnx.PACKAGES, "torchao", "PIL")
    args.rounds = min(args.rounds, 5) if args.quick else args.rounds
    experiment = common.begin("quantize", args, free=FREE)
    task = single_label_task(experiment)
    floats = common.run_seeds(experiment, "float32", lambda seed, run: train(experiment, task, run))
    students = common.run_seeds(experiment, aware(args), lambda seed, run: train_student(experiment, task, run))
    made, choices = {}, {}
    for seed in experiment.seeds:
        made[seed], choices[seed] = quantize(experiment, task, seed)
    val = experiment.source.read("val")
    on_val = quantize_report.evaluate(made, val, task)
    chosen = quantize_report.choose(on_val)
    quantize_report.write_examples(experiment, val, made[0], chosen)
    test = experiment.open_test({"calibration": choices, "validation": on_val, "chosen": chosen})
    on_test = quantize_report.evaluate(made, test, task)
    batch = normalized(experiment, "train", args.latency_batch).numpy()
    speed = variants.measure(made[0], batch, args.rounds, args.threads)
    facts = {"runs": {"float32": floats, "qat": students}, "validation": on_val, "chosen": chosen}
    quantize_report.report(experiment, made[0], on_test, speed, facts)


def aware(args: Namespace) -> str:
    """Name of the runs of quantization-aware training, with what they depend on beside the float32 run."""
    bits = "7bit" if args.reduce_range else "8bit"
    return f"qat-{bits}-{args.qat_epochs}-epochs-{args.qat_learning_rate:g}"


def single_label_task(experiment: Experiment) -> Task:
    """One class an image; grades count as classes. UserError for several labels: accuracy would mean nothing."""
    from labs.medmnist_experiments.tasks import CLASSES, Task

    source = experiment.source
    if source.multi_label:
        raise UserError(f"--flag is {source.flag!r}, with several labels an image; quantize takes sets with one")
    return Task(CLASSES, source.class_names)


def build(experiment: Experiment, task: Task) -> nn.Module:
    """The float32 network with random weights: three stages of two convolutions."""
    from labs.medmnist_experiments.networks import ConvNet

    dimensions = 3 if experiment.source.flag.endswith("3d") else 2
    width = experiment.args.width or {2: 32, 3: 16}[dimensions]
    stages = [(width * 2**number,) * 2 for number in range(3)]
    return ConvNet(dimensions, experiment.source.channels, task.outputs, stages, first_stride=dimensions - 1)


def train(experiment: Experiment, task: Task, run: RunFolder) -> dict[str, Any]:
    """Train one float32 network → facts for its results.json."""
    from labs.medmnist_experiments.networks import place

    model = place(build(experiment, task), experiment.device)
    return fit(experiment, task, run, model, experiment.epochs, experiment.args.learning_rate)


def train_student(experiment: Experiment, task: Task, run: RunFolder) -> dict[str, Any]:
    """Go on from the float32 network of the same seed, with rounding in the forward pass; it is the teacher, too."""
    student = make_student(experiment, task, run.config["seed"])
    epochs = 1 if experiment.args.quick else experiment.args.qat_epochs
    rate = experiment.args.qat_learning_rate
    return fit(on_processor(experiment), task, run, student, epochs, rate, criterion=student.distance)


def on_processor(experiment: Experiment) -> Experiment:
    """The same experiment on the CPU in float32: what int8 is for, and what rounding is defined in."""
    import torch

    return dataclasses.replace(experiment, device=torch.device("cpu"), precision="float32")


def fit(
    experiment: Experiment,
    task: Task,
    run: RunFolder,
    model: nn.Module,
    epochs: int,
    rate: float,
    criterion: Any = None,
) -> dict[str, Any]:
    """Train on the course's loop → facts for results.json."""
    import torch

    from labs.medmnist_experiments import tasks
    from toolkit.augment import Augmentation

    is_2d = not experiment.source.flag.endswith("3d")
    shifts = Augmentation(flips=False, crop_padding=2) if is_2d else None  # X-rays have an up and a left
    loaders = tasks.loaders(experiment, task, run.config["seed"], shifts)
    steps = epochs * min(len(loaders[0]), experiment.max_steps or len(loaders[0]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = common.fit(
        experiment,
        run,
        model,
        loaders,
        epochs=epochs,
        keep=KEEP,
        optimizer=optimizer,
        scheduler=schedule,
        criterion=criterion,
    )
    found = tasks.predict(experiment, task, model, loaders[1])
    figures = task.figures(found, experiment.source.read("val").labels.numpy())
    return {"validation": figures, "history": history}


def folded_network(experiment: Experiment, task: Task, seed: int) -> nn.Module:
    """The trained float32 network with BatchNorm taken into the convolutions."""
    from labs.medmnist_experiments import int8_torch
    from toolkit.runs import RunFolder

    run = RunFolder.open(common.run_path(experiment, "float32", seed))
    return int8_torch.fold_batchnorm(common.restore(build(experiment, task), run, KEEP))


def make_student(experiment: Experiment, task: Task, seed: int) -> QuantizationAware:
    """The network of quantization-aware training before its first step."""
    from labs.medmnist_experiments import int8_torch

    images = normalized(experiment, "train", 2)
    folded = folded_network(experiment, task, seed)
    return int8_torch.QuantizationAware(folded, images, reduce_range=experiment.args.reduce_range)


def normalized(experiment: Experiment, split: str, count: int | None = None) -> torch.Tensor:
    """Images of a split as the network takes them, float32 (N, C, ...) in [-1, 1]: all, or `count` evenly spread."""
    import torch

    from toolkit.augment import normalize

    images = experiment.source.read(split).images
    if count is not None:
        images = images[torch.linspace(0, len(images) - 1, count).long()]
    return normalize(images).contiguous()


def quantize(experiment: Experiment, task: Task, seed: int) -> tuple[list[Variant], dict[str, float]]:
    """Write and open all variants of one seed; also how far each calibration is from float32 on validation data."""
    from labs.medmnist_experiments import int8_onnx, quantize_report, variants
    from toolkit.runs import RunFolder

    args = experiment.args
    folder = experiment.folder / "models" / f"seed{seed}"
    common.make_folder(folder)
    folded = folded_network(experiment, task, seed)
    student = make_student(experiment, task, seed)
    common.restore(student, RunFolder.open(common.run_path(experiment, aware(args), seed)), KEEP)
    calibration = normalized(experiment, "train", min(args.calibration_images, experiment.source.count("train")))
    batch = normalized(experiment, "train", args.latency_batch)
    int8_onnx.export(folded, batch[:2], folder / "float32.onnx")
    settings = {"reduce_range": args.reduce_range, "threads": args.threads}
    methods = int8_onnx.CALIBRATIONS if args.calibration == "auto" else (args.calibration,)
    validation = normalized(experiment, "val").numpy()
    found = variants.choose_calibration(folder, calibration.numpy(), validation, methods, **settings)
    made = variants.make_all(folder, folded, student, calibration, batch, **settings)
    for variant in made:
        if variant.runtime == variants.ONNX:
            int8_onnx.write_facts(variant.path, quantize_report.model_facts(experiment, variant.kind, seed))
    print(f"seed {seed}: {len(made)} variants in {folder}", flush=True)
    return made, found


if __name__ == "__main__":
    run_script(main)
