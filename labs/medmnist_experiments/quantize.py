"""Numbers of 8 bits instead of 32: how much smaller, how much faster, and what does it cost?

python -m labs.medmnist_experiments.quantize                                # a 2D CNN on PneumoniaMNIST
python -m labs.medmnist_experiments.quantize --flag adrenalmnist3d          # a 3D CNN: int8 may be slower
python -m labs.medmnist_experiments.quantize --quick

Dynamic range, full integer (static) and quantization-aware training, by ONNX Runtime and by torchao. predict_onnx.py
runs the files without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labs.medmnist_experiments import common, int8_onnx, int8_torch, quantize_report, variants
from labs.medmnist_experiments.command_line import shared_parser
from labs.medmnist_experiments.common import Experiment
from labs.medmnist_experiments.networks import ConvNet, place
from labs.medmnist_experiments.tasks import CLASSES, Task
from labs.medmnist_experiments.variants import Variant
from toolkit.augment import Augmentation, normalize
from toolkit.cli import OneLineParser, from_flags, in_range, run_script
from toolkit.errors import UserError
from toolkit.medmnist_data import Source
from toolkit.runs import RunFolder, writable_folder

# Flags that the float32 runs do not depend on; those of QAT are in the name of its runs.
FREE = ("threads", "latency_batch", "rounds", "calibration", "calibration_images", "reduce_range")
FREE = (*FREE, "qat_epochs", "qat_learning_rate")


def build_parser() -> OneLineParser:
    """The flags of all experiments and those of this one."""
    parser = shared_parser("quantize", __doc__.splitlines()[0], flag="pneumoniamnist", epochs=8, seeds=3)
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
    group.add_argument("--latency_batch", type=in_range(int, 2, 4096), default=64, help="images per timed batch")
    group.add_argument("--rounds", type=in_range(int, 2), default=40, help="timed batches of each variant")
    return parser


@dataclass(frozen=True)
class Recipe:
    """The script's own flags: the network, its training, and how it is quantized and timed."""

    width: int
    learning_rate: float
    qat_epochs: int
    qat_learning_rate: float
    calibration: str
    calibration_images: int
    reduce_range: bool
    threads: int
    latency_batch: int
    rounds: int

    @property
    def aware(self) -> str:
        """Row of quantization-aware training, with what it depends on besides the float32 network."""
        bits = "7bit" if self.reduce_range else "8bit"
        return f"qat-{bits}-{self.qat_epochs}-epochs-{self.qat_learning_rate:g}"

    @property
    def methods(self) -> Sequence[str]:
        """Calibrations to choose from."""
        return tuple(int8_onnx.CALIBRATIONS) if self.calibration == "auto" else (self.calibration,)


def main(argv: list[str] | None = None) -> None:
    """Train, quantize, choose on validation data, read the test split once, time, report."""
    args = build_parser().parse_args(argv)
    for package in (*int8_onnx.PACKAGES, "torchao", "PIL"):
        int8_onnx.require(package)
    args.rounds = min(args.rounds, 5) if args.quick else args.rounds
    recipe = from_flags(Recipe, vars(args))
    experiment = common.begin("quantize", vars(args), free=FREE, task_of=single_label_task)
    floats = experiment.study.train("float32", lambda seed, run: train(experiment, recipe, seed, run))
    students = experiment.study.train(recipe.aware, lambda seed, run: train_student(experiment, recipe, seed, run))
    made, choices, moved = {}, {}, []
    for seed in experiment.seeds:
        made[seed], choices[seed], steps = quantize(experiment, recipe, seed)
        moved.append(steps)
    val = experiment.source.read("val")
    on_val = quantize_report.evaluate(made, val, experiment.task)
    chosen = quantize_report.choose(on_val)
    quantize_report.write_examples(experiment, val, made[0], chosen)
    test = experiment.open_test({"calibration": choices, "validation": on_val, "chosen": chosen})
    on_test = quantize_report.evaluate(made, test, experiment.task)
    batch = normalized(experiment, "train", recipe.latency_batch).numpy()
    timing = quantize_report.Timing(recipe.latency_batch, recipe.threads, recipe.rounds)
    speed = variants.measure(made[0], batch, recipe.rounds, recipe.threads)
    facts = {"runs": {"float32": floats, "qat": students}, "validation": on_val, "chosen": chosen}
    facts["qat_int8_steps_moved"] = moved
    facts["float32_operators"] = {
        variant.kind: int8_onnx.float_operators(variant.path) for variant in made[0] if variant.runtime == variants.ONNX
    }
    quantize_report.report(experiment, made[0], on_test, speed, timing, facts)


def single_label_task(source: Source) -> Task:
    """One class per image; grades count as classes. UserError for several labels: accuracy would mean nothing."""
    if source.multi_label:
        raise UserError(f"--flag is {source.flag!r}, with several labels per image; quantize takes sets with one")
    return Task(CLASSES, source.class_names)


def build(experiment: Experiment, width: int) -> nn.Module:
    """The float32 network with random weights: three stages of two convolutions."""
    dimensions = 3 if experiment.source.flag.endswith("3d") else 2
    first = width or {2: 32, 3: 16}[dimensions]
    stages = [(first * 2**number,) * 2 for number in range(3)]
    return ConvNet(dimensions, experiment.source.channels, experiment.task.outputs, stages, first_stride=dimensions - 1)


def train(experiment: Experiment, recipe: Recipe, seed: int, run: RunFolder) -> dict[str, Any]:
    """Train one float32 network → facts for its results.json."""
    model = place(build(experiment, recipe.width), experiment.device)
    return fit(experiment, seed, run, model, experiment.epochs, recipe.learning_rate, experiment.criterion())


def train_student(experiment: Experiment, recipe: Recipe, seed: int, run: RunFolder) -> dict[str, Any]:
    """Continue from the float32 network of the same seed, which is also the teacher, with rounding in the forward pass.

    On the CPU in float32: what int8 is for, and what rounding is defined in.
    """
    on_processor = dataclasses.replace(experiment, device=torch.device("cpu"), precision="float32")
    student = make_student(experiment, recipe, seed)
    epochs = 1 if experiment.settings.quick else recipe.qat_epochs
    return fit(on_processor, seed, run, student, epochs, recipe.qat_learning_rate, student.distance)


def fit(
    experiment: Experiment, seed: int, run: RunFolder, model: nn.Module, epochs: int, learning_rate: float, loss: Any
) -> dict[str, Any]:
    """Train on the course's loop with AdamW and a cosine schedule → facts for results.json."""
    is_2d = not experiment.source.flag.endswith("3d")
    shifts = Augmentation(flips=False, crop_padding=2) if is_2d else None  # X-rays have an up and a left
    loaders = experiment.loaders(seed, shifts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, experiment.steps(loaders[0], epochs))
    options = {"optimizer": optimizer, "scheduler": schedule, "criterion": loss}
    return common.fit(experiment, run, model, loaders, epochs=epochs, **options)


def folded_network(experiment: Experiment, width: int, seed: int) -> nn.Module:
    """The trained float32 network with BatchNorm merged into the convolutions."""
    return int8_torch.fold_batchnorm(common.trained(experiment, "float32", seed, build(experiment, width)))


def make_student(experiment: Experiment, recipe: Recipe, seed: int) -> int8_torch.QuantizationAware:
    """The network of quantization-aware training before its first step."""
    images = normalized(experiment, "train", 2)
    folded = folded_network(experiment, recipe.width, seed)
    return int8_torch.QuantizationAware(folded, images, reduce_range=recipe.reduce_range)


def normalized(experiment: Experiment, split: str, count: int | None = None) -> torch.Tensor:
    """Images of a split as the network takes them, float32 (N, C, ...) in [-1, 1]: all, or `count` evenly spread."""
    images = experiment.source.read(split).images
    if count is not None:
        images = images[torch.linspace(0, len(images) - 1, count).long()]
    return normalize(images).contiguous()


def quantize(
    experiment: Experiment, recipe: Recipe, seed: int
) -> tuple[list[Variant], dict[str, float], dict[str, float]]:
    """Write and open all variants of one seed.

    Returns also how far each calibration is from float32 on validation data, and int8_torch.steps_moved.
    """
    folder = writable_folder(experiment.folder / "models" / f"seed{seed}")
    folded = folded_network(experiment, recipe.width, seed)
    student = common.trained(experiment, recipe.aware, seed, make_student(experiment, recipe, seed))
    moved = int8_torch.steps_moved(folded, student)  # before make_all, which uses the student up
    calibration = normalized(experiment, "train", min(recipe.calibration_images, experiment.source.count("train")))
    batch = normalized(experiment, "train", recipe.latency_batch)
    int8_onnx.export(folded, batch[:2], folder / "float32.onnx")
    settings = {"reduce_range": recipe.reduce_range, "threads": recipe.threads}
    validation = normalized(experiment, "val").numpy()
    distances = variants.choose_calibration(folder, calibration.numpy(), validation, recipe.methods, **settings)
    made = variants.make_all(folder, folded, student, calibration, batch, **settings)
    for variant in made:
        if variant.runtime == variants.ONNX:
            int8_onnx.write_facts(variant.path, quantize_report.model_facts(experiment, variant.kind, seed))
    print(f"seed {seed}: {len(made)} variants in {folder}", flush=True)
    return made, distances, moved


if __name__ == "__main__":
    run_script(main)
