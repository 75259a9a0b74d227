"""What all experiments share: flags, data and machine, training on the course's loop, the report.

args = build_parser().parse_args(argv)
experiment = common.begin("cnn3d", vars(args), dimensions=3)    # finds data and machine, makes the folder
runs = experiment.study.train("cnn", train)                     # train(seed, run) → facts; finished seeds are read
test = experiment.open_test({...})                              # once, after every choice is written down
common.report(experiment, rows, metrics, {...})                 # results.json, table.md, table.csv
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from classification_models import count_parameters
from classification_train import train_model
from labs.medmnist_experiments.command_line import FREE, Settings
from labs.medmnist_experiments.published import SOURCE, published_rows
from labs.medmnist_experiments.tasks import Samples, Task
from toolkit import metrics
from toolkit.batches import make_loader
from toolkit.cli import from_flags
from toolkit.devices import describe, pick_device, resolve_precision
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, Split, locate
from toolkit.runs import RunFolder, environment, load_checkpoint, writable_folder, write_bytes, write_json
from toolkit.study import SealedSource, Study, TableRow, write_tables

OUTPUTS = Path(__file__).resolve().parent / "outputs"
QUICK_EPOCHS, QUICK_STEPS = 2, 3
QUICK_NOTE = " QUICK RUN: these numbers mean nothing."
EVALUATION_BATCH = 128


@dataclass
class Experiment:
    """What is known before anything is trained. flags: all of the script's, for results.json."""

    name: str
    settings: Settings
    flags: Mapping[str, Any]
    source: SealedSource
    task: Task
    device: torch.device
    precision: str
    study: Study
    started: float = field(default_factory=time.perf_counter)

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return self.study.folder

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds of each row; only 0 for --quick."""
        return self.study.seeds

    @property
    def epochs(self) -> int:
        """Epochs at most; two for --quick."""
        return min(self.settings.epochs, QUICK_EPOCHS) if self.settings.quick else self.settings.epochs

    @property
    def max_steps(self) -> int | None:
        """Steps per epoch; None for all."""
        return QUICK_STEPS if self.settings.quick else None

    def open_test(self, choices: Mapping[str, Any]) -> Split:
        """Write the choices to choices.json, then read the test split; a second call raises."""
        return self.study.open_test(choices, lambda: self.source.unsealed.read("test"))

    def loaders(self, seed: int, augmentation: Callable | None = None) -> tuple[DataLoader, DataLoader]:
        """Shuffled, augmented training batches and validation batches."""
        split, batch_size = self.source.read("train"), self.settings.batch_size
        train = Samples(split, self.task, augmentation=augmentation, seed=seed, device=self.device)
        while len(train) % batch_size == 1:  # BatchNorm has nothing to compare in a last batch of one
            batch_size += 1
        return make_loader(train, batch_size, shuffle=True, seed=seed), self.evaluation_loader(self.source.read("val"))

    def evaluation_loader(self, split: Split) -> DataLoader:
        """All samples of a split once, in order, as they are."""
        return make_loader(Samples(split, self.task, device=self.device), EVALUATION_BATCH, shuffle=False)

    def predict(self, model: nn.Module, split: Split) -> np.ndarray:
        """Probability of each class, label or grade, float (N, K)."""
        answers, _targets = metrics.predict(model, self.evaluation_loader(split), self.device, self.precision)
        return self.task.probabilities(answers)

    def measure(self, model: nn.Module, split: Split) -> dict[str, Any]:
        """All metrics of the task on a split."""
        return self.task.measure(self.predict(model, split), split.labels.numpy())

    def criterion(self, weighted: bool = False) -> nn.Module:
        """The task's loss; `weighted`: rare classes count as much as frequent ones."""
        return self.task.criterion(self.source.read("train").labels, weighted).to(self.device)

    def steps(self, loader: DataLoader, epochs: int | None = None) -> int:
        """Optimizer steps of a whole training."""
        return (epochs or self.epochs) * min(len(loader), self.max_steps or len(loader))


def begin(
    name: str,
    flags: Mapping[str, Any],
    *,
    dimensions: int | None = None,
    free: Sequence[str] = (),
    task_of: Callable[[Source], Task] = Task.of,
    epochs_for: Callable[[Source], int] | None = None,
) -> Experiment:
    """Find the data, choose device and precision, make the folder; says what was found.

    flags: of shared_parser and the script's own.
    dimensions: 2 or 3 for an experiment that takes only such sets.
    free: flags of the script that do not change what a run learns.
    task_of: what the set asks, if it is not Task.of.
    epochs_for: number of epochs where --epochs is not given.
    Raises UserError for what does not fit.
    """
    settings = from_flags(Settings, flags)
    check_dimensions(name, settings.flag, dimensions)
    device = pick_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    source = find_data(settings)
    task = task_of(source)
    if epochs_for is not None and not settings.epochs:
        settings = dataclasses.replace(settings, epochs=epochs_for(source))
        flags = {**flags, "epochs": settings.epochs}
    quick = "-quick" if settings.quick else ""
    folder = writable_folder(settings.output_dir or OUTPUTS / f"{name}-{source.name}{quick}")
    counts = " / ".join(str(source.count(split)) for split in ("train", "val", "test"))
    print(f"data: {data_line(source)}, {counts} images (train / val / test)")
    print(f"device: {describe(device)}, {precision}\nfolder: {folder}")
    trained = {key: value for key, value in flags.items() if key not in (*FREE, *free)}
    study = Study(
        folder,
        {"experiment": name, "dataset": source.name, **trained},
        range(1 if settings.quick else settings.seeds),
        {"experiment": name, "dataset": source.name, "precision": precision, "device": describe(device)},
        settings.overwrite,
    )
    return Experiment(name, settings, flags, SealedSource(source), task, device, precision, study)


def check_dimensions(name: str, flag: str, dimensions: int | None) -> None:
    """Raise UserError for images where the experiment takes volumes, and the other way round."""
    if dimensions is not None and flag.endswith("3d") != (dimensions == 3):
        kinds = {2: "images: a flag without 3d, such as breastmnist", 3: "volumes: adrenalmnist3d, nodulemnist3d, ..."}
        raise UserError(f"--flag is {flag!r}; {name} takes {kinds[dimensions]}")


def find_data(settings: Settings) -> Source:
    """The set of the flags. Raises UserError for one without all three splits or with less than a batch of images."""
    source = locate(settings.flag, size=settings.size, data_root=settings.data_root)
    absent = [split for split in ("train", "val", "test") if not source.has(split)]
    if absent:
        raise UserError(f"{source.path} has no {' and no '.join(absent)} images; an experiment needs all three splits")
    count = source.count("train")
    if settings.batch_size > count:
        raise UserError(f"--batch_size is {settings.batch_size}; allowed: 2 .. {count} (training images)")
    return source


@dataclass(frozen=True)
class Network:
    """One row of a comparison.

    build: () → the network with its first weights, on the device.
    train: run folder → facts for its results.json, "validation" among them.
    """

    build: Callable[[], nn.Module]
    train: Callable[[RunFolder], Mapping[str, Any]]


def train_all(experiment: Experiment, networks: Mapping[str, Network]) -> dict[str, list[dict[str, Any]]]:
    """Train every network with every seed → the results of each seed."""
    return {
        name: experiment.study.train(name, lambda _seed, run, one=one: one.train(run)) for name, one in networks.items()
    }


def measure_on_test(
    experiment: Experiment, networks: Mapping[str, Network], runs: Mapping[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Write down what validation said, open the test split, and measure every network of every seed on it."""
    test = experiment.open_test({name: [run["validation"] for run in found] for name, found in runs.items()})
    found: dict[str, list[dict[str, Any]]] = {}
    for name, one in networks.items():
        for seed in experiment.seeds:
            probabilities = experiment.predict(trained(experiment, name, seed, one.build()), test)
            measured = experiment.task.measure(probabilities, test.labels.numpy())
            write_predictions(experiment, name, seed, probabilities, measured)
            found.setdefault(name, []).append(measured)
    return found


def write_predictions(
    experiment: Experiment, row: str, seed: int, probabilities: np.ndarray, measured: Mapping[str, Any]
) -> Path:
    """Probabilities (N, K) of the test images in the form that `medmnist.Evaluator.parse_and_evaluate` reads."""
    folder = writable_folder(experiment.folder / "predictions" / row)
    size = "" if experiment.source.size == 28 else f"_{experiment.source.size}"
    accuracy = measured.get("accuracy", measured.get("label_accuracy"))
    name = f"{experiment.source.flag}{size}_test_[AUC]{measured['auc'] or 0:.3f}_[ACC]{accuracy:.3f}@{seed}.csv"
    lines = [",".join([str(index), *(f"{value:.9g}" for value in line)]) for index, line in enumerate(probabilities)]
    write_bytes(folder / name, ("\n".join(lines) + "\n").encode())
    return folder / name


def fit(
    experiment: Experiment,
    run: RunFolder,
    model: nn.Module,
    loaders: Sequence[Any],
    *,
    epochs: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train on the course's one loop → facts for results.json; `model` ends with the weights that are kept.

    options: optimizer, scheduler, criterion, patience, ema_decay, ... of train_model.
    """
    history = train_model(
        model,
        *loaders,
        epochs=experiment.epochs if epochs is None else epochs,
        max_steps_per_epoch=experiment.max_steps,
        device=experiment.device,
        precision=experiment.precision,
        run=run,
        **options,
    )
    restore(model, run)
    return {
        "validation": experiment.measure(model, experiment.source.read("val")),
        "epochs": len(history["val_loss"]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_that_learn": count_parameters(model),
        "history": history,
    }


def restore(model: nn.Module, run: RunFolder) -> nn.Module:
    """Give `model` the weights that a finished run keeps.

    These are those of the epoch with the best validation accuracy or of the last epoch, whichever has the lower
    validation loss: on a hundred validation images the best accuracy may be luck.
    """
    best, last = load_checkpoint(run.file("best.pt")), load_checkpoint(run.file("last.pt"))
    losses = last["history"]["val_loss"]
    if losses[-1] >= losses[best["epoch"] - 1]:
        kept = best["state_dict"]
    else:  # what the last epoch was validated with: averaged weights, if there are any
        kept = last["model"] if last["averaged"] is None else last["averaged"][1]
    model.load_state_dict(kept)
    return model


def trained(experiment: Experiment, row: str, seed: int, model: nn.Module) -> nn.Module:
    """`model` with the weights of a finished run."""
    return restore(model, experiment.study.run(row, seed))


def values_of(found: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[float]]:
    """Metric → its values over the seeds, without those that are not defined."""
    several = list(found)
    return {name: [one[name] for one in several if one.get(name) is not None] for name in names}


def data_line(source: Source) -> str:
    """'breastmnist (official file, bundled)': what the metrics were measured on."""
    kind = "a sample, not comparable with published figures" if source.is_sample else "official file"
    kind = "a file of your own" if source.name.endswith("-unverified") else kind
    return f"{source.name} ({kind}, {source.origin})"


def published_here(experiment: Experiment) -> list[TableRow]:
    """MedMNIST's own figures, if they are of the same images: the official set at 28 pixels."""
    is_official = experiment.source.name == experiment.source.flag
    return published_rows(experiment.source.flag) if is_official else []


def references(experiment: Experiment) -> dict[str, tuple[str, float]]:
    """Metric → name and value of the best published row, for a line in a picture."""
    found: dict[str, tuple[str, float]] = {}
    for one in published_here(experiment):
        for metric, (value,) in one.values.items():
            found[metric] = max(found.get(metric, (one.title, value)), (one.title, value), key=lambda pair: pair[1])
    return found


def report(
    experiment: Experiment,
    rows: Sequence[TableRow],
    names: Sequence[str],
    facts: Mapping[str, Any],
    *,
    with_published: bool = True,
) -> dict[str, Any]:
    """Write results.json, table.md and table.csv, print the table and where the files are; return the results.

    rows: ours; with `with_published` MedMNIST's own are added below.
    names: the metrics that are columns of the table.
    facts: what else results.json shall hold.
    """
    published = published_here(experiment) if with_published else []
    seconds = round(time.perf_counter() - experiment.started, 1)
    results = {
        "experiment": experiment.name,
        "dataset": experiment.source.name,
        "data": data_line(experiment.source),
        "seeds": list(experiment.seeds),
        "quick": experiment.settings.quick,
        "rows": [{"title": row.title, "where": row.where, "values": dict(row.values)} for row in rows],
        "published": [{"title": row.title, "values": dict(row.values)} for row in published],
        "published_source": SOURCE if published else None,
        **facts,
        "seconds_of_this_start": seconds,
        "precision": experiment.precision,
        "device": describe(experiment.device),
        "environment": environment(),
        "config": dict(experiment.flags),
    }
    write_json(experiment.folder / "results.json", results)
    note = f"{data_line(experiment.source)}; mean ± sample standard deviation over n seeds; {results['device']}."
    note += f" Published: {SOURCE}." if published else ""
    note += QUICK_NOTE if experiment.settings.quick else ""
    print(f"\n{write_tables(experiment.folder, [*rows, *published], names, note)}")
    files = sorted(path.name for path in experiment.folder.iterdir() if not path.name.startswith("."))
    print(f"{seconds:.0f} s; files in {experiment.folder}: {', '.join(files)}")
    return results
