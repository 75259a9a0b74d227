"""What all experiments share: flags, the loop over seeds, results.json and the table beside the published figures.

    args = common.parse(common.build_parser(...), argv)
    experiment = common.begin("cnn3d", args, dimensions=3)     # finds the data, settles the machine, makes the folder
    runs = common.run_seeds(experiment, "cnn", train)          # train(seed, run) → facts; finished seeds are read
    test = experiment.open_test({...})                         # once, after every choice
    common.report(experiment, rows, {...})                     # results.json, table.md, table.csv

torch is imported inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labs.medmnist_experiments.tables import (
    PUBLISHED_SOURCE,
    PUBLISHED_TITLE,
    Row,
    data_line,
    published_rows,
    table,
    table_csv,
)
from toolkit.cli import OneLineParser, in_range, not_empty
from toolkit.errors import UserError, check_choice
from toolkit.runs import RunFolder, environment, read_json, started_as, write_bytes, write_json

if TYPE_CHECKING:
    import torch
    from torch import nn

    from toolkit.medmnist_data import Source, Split

OUTPUTS = Path(__file__).resolve().parent / "outputs"
QUICK_EPOCHS, QUICK_STEPS = 2, 3
# These say where and how often, not what is trained: a folder may be gone on with although they differ.
FREE = ("seeds", "data_root", "device", "output_dir", "overwrite")


def build_parser(
    name: str, description: str, *, flag: str, epochs: int, seeds: int = 5, batch_size: int = 64
) -> OneLineParser:
    """The flags of every experiment with this one's defaults; the script adds its own to what is returned."""
    parser = OneLineParser(prog=f"python -m labs.medmnist_experiments.{name}", description=description)
    group = parser.add_argument_group("data")
    group.add_argument("--flag", default=flag, type=not_empty, help="MedMNIST set, such as breastmnist")
    group.add_argument(
        "--size", type=int, default=28, help="side of the images in pixels: 28, 64, 128, 224 (3D: 28, 64)"
    )
    group.add_argument("--data_root", type=not_empty, default="./data", help="folder with MedMNIST files")
    group = parser.add_argument_group("training")
    group.add_argument(
        "--seeds", type=in_range(int, 1, 50), default=seeds, help="trainings of each row: seeds 0, 1, ..."
    )
    group.add_argument("--epochs", type=in_range(int, 1), default=epochs, help="at most")
    group.add_argument("--batch_size", type=in_range(int, 2), default=batch_size, help="images a step")
    group.add_argument("--quick", action="store_true", help="one seed, a few steps: does everything run?")
    group = parser.add_argument_group("machine and output")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="of matrix work"
    )
    group.add_argument("--output_dir", type=not_empty, help=f"default: labs/medmnist_experiments/outputs/{name}-FLAG")
    group.add_argument("--overwrite", action="store_true", help="train anew what the folder holds already")
    return parser


@dataclass
class Experiment:
    """What is settled before anything is trained."""

    name: str
    args: Namespace
    source: Source
    device: torch.device
    precision: str
    folder: Path
    free: tuple[str, ...] = FREE
    started: float = field(default_factory=time.perf_counter)
    visited: set[Path] = field(default_factory=set)
    _test_was_read: bool = False

    @property
    def epochs(self) -> int:
        """Epochs at most; two for --quick."""
        return min(self.args.epochs, QUICK_EPOCHS) if self.args.quick else self.args.epochs

    @property
    def seeds(self) -> range:
        """The seeds of each row; only 0 for --quick."""
        return range(1 if self.args.quick else self.args.seeds)

    @property
    def max_steps(self) -> int | None:
        """Steps an epoch; None for all."""
        return QUICK_STEPS if self.args.quick else None

    def open_test(self, choices: Mapping[str, Any]) -> Split:
        """Write the choices that were made to choices.json, then read the test split; a second call raises.

        So no choice can have seen a test image.
        """
        if self._test_was_read:
            raise RuntimeError("the test split was read before; it is read once, for the final figures")
        self._test_was_read = True
        write_json(self.folder / "choices.json", dict(choices))
        return self.source.read("test")


def begin(name: str, args: Namespace, *, dimensions: int | None = None, free: Sequence[str] = ()) -> Experiment:
    """Find the data, settle device and precision, make the folder; says what was found.

    dimensions: 2 or 3 for an experiment that takes only such sets. free: flags of the script that do not change what a
    run learns. Raises UserError for what does not fit.
    """
    from toolkit.devices import describe, pick_device, resolve_precision
    from toolkit.medmnist_data import locate

    is_3d = args.flag.endswith("3d")
    if dimensions is not None and is_3d != (dimensions == 3):
        kinds = {2: "images: a flag without 3d, such as breastmnist", 3: "volumes: adrenalmnist3d, nodulemnist3d, ..."}
        raise UserError(f"--flag is {args.flag!r}; {name} takes {kinds[dimensions]}")
    device = pick_device(args.device)
    precision = resolve_precision(args.precision, device)
    source = locate(args.flag, size=args.size, data_root=args.data_root)
    absent = [split for split in ("train", "val", "test") if not source.has(split)]
    if absent:
        raise UserError(f"{source.path} has no {' and no '.join(absent)} images; an experiment needs all three splits")
    if args.batch_size > source.count("train"):
        raise UserError(f"--batch_size is {args.batch_size}; allowed: 2 .. {source.count('train')} (training images)")
    folder = Path(args.output_dir or OUTPUTS / f"{name}-{source.name}{'-quick' if args.quick else ''}")
    make_folder(folder)
    counts = " / ".join(str(source.count(split)) for split in ("train", "val", "test"))
    print(f"data: {data_line(source)}, {counts} images (train / val / test)")
    print(f"device: {describe(device)}, {precision}\nfolder: {folder}")
    return Experiment(name, args, source, device, precision, folder, (*FREE, *free))


def make_folder(folder: Path) -> None:
    """Make the folder; UserError now, not after an hour, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / ".writable", b"")
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(f"cannot write to --output_dir {folder}: {error.strerror}") from None


def run_seeds(
    experiment: Experiment,
    variant: str,
    train: Callable[[int, RunFolder], Mapping[str, Any]],
    seeds: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Train `variant` with each seed → the results of each. What is finished is read; what was stopped goes on.

    train(seed, run) trains into the run folder with `train_model(..., run=run)` and returns facts for results.json.
    Everything is seeded before it is called. Raises UserError where the folder holds runs with other settings.
    """
    from toolkit.devices import describe, seed_everything

    found = []
    for seed in experiment.seeds if seeds is None else seeds:
        run = _open_run(experiment, variant, seed)
        if not run.file("results.json").exists():
            seed_everything(seed)
            before, started = run.seconds_so_far(), time.perf_counter()
            try:
                facts = dict(train(seed, run))
            except KeyboardInterrupt:
                sys.stderr.write(f"\nstopped; what is finished is kept, and the same command goes on: {_command()}\n")
                raise
            results = {
                "experiment": experiment.name,
                "variant": variant,
                "dataset": experiment.source.name,
                "seed": seed,
                **facts,
                "seconds": round(before + time.perf_counter() - started, 1),
                "precision": experiment.precision,
                "device": describe(experiment.device),
                "environment": environment(),
            }
            write_json(run.file("results.json"), results)
        found.append(read_json(run.file("results.json")))
        print(f"{variant}, seed {seed}: {_validation_line(found[-1])}", flush=True)
    return found


def _command() -> str:
    """The command line that goes on where this one was stopped."""
    return " ".join(["python", started_as(), *(word for word in sys.argv[1:] if word != "--overwrite")])


def _validation_line(results: Mapping[str, Any]) -> str:
    """'validation auc 0.9012, accuracy 0.8600 (12 s)'."""
    known = [(name, value) for name, value in (results.get("validation") or {}).items() if isinstance(value, float)]
    return f"validation {', '.join(f'{name} {value:.4f}' for name, value in known)} ({results['seconds']:.0f} s)"


def run_path(experiment: Experiment, variant: str, seed: int) -> Path:
    """Where the run of a variant and a seed lies."""
    return experiment.folder / "runs" / f"{variant}-seed{seed}"


def _open_run(experiment: Experiment, variant: str, seed: int) -> RunFolder:
    """The run folder: as it is if it was made with these settings, else a new one. UserError for other settings."""
    path = run_path(experiment, variant, seed)
    config = {key: value for key, value in vars(experiment.args).items() if key not in experiment.free}
    config = {"experiment": experiment.name, "variant": variant, "dataset": experiment.source.name, **config}
    # With --overwrite every run is made anew once, and then read as usual by later parts of the same script.
    is_to_replace = experiment.args.overwrite and path not in experiment.visited
    experiment.visited.add(path)
    if not (path / "config.json").exists() or is_to_replace:
        return RunFolder.create(path, {**config, "seed": seed}, overwrite=experiment.args.overwrite)
    run = RunFolder.open(path)
    before = {key: value for key, value in run.config.items() if key not in (*experiment.free, "seed")}
    changed = [key for key in {**before, **config} if before.get(key) != config.get(key)]
    if changed:
        raise UserError(
            f"{path} was trained with other settings ({', '.join(sorted(changed))} differ); take another --output_dir, "
            "or --overwrite"
        )
    return run


def published_here(experiment: Experiment) -> list[Row]:
    """MedMNIST's own figures, if they are of the same images: the official set at 28 pixels."""
    is_official = experiment.source.name == experiment.source.flag
    return published_rows(experiment.source.flag) if is_official else []


def references(experiment: Experiment) -> dict[str, tuple[str, float]]:
    """Metric → name and value of the first published row, for a line in a picture."""
    return {key: (one.title, values[0]) for one in published_here(experiment)[:1] for key, values in one.values.items()}


def report(
    experiment: Experiment,
    rows: Sequence[Row],
    metrics: Sequence[str],
    facts: Mapping[str, Any],
    *,
    beside_published: bool = True,
) -> dict[str, Any]:
    """Write results.json, table.md and table.csv, print the table and where the files are; return the results.

    rows: ours; with `beside_published` MedMNIST's own are added below. facts: what else results.json shall hold.
    """
    from toolkit.devices import describe

    source, args = experiment.source, experiment.args
    published = published_here(experiment) if beside_published else []
    seconds = round(time.perf_counter() - experiment.started, 1)
    results = {
        "experiment": experiment.name,
        "dataset": source.name,
        "data": data_line(source),
        "seeds": list(experiment.seeds),
        "quick": args.quick,
        "rows": [{"title": row.title, "where": row.where, "values": dict(row.values)} for row in rows],
        "published": [{"title": row.title, "values": dict(row.values)} for row in published],
        "published_source": PUBLISHED_SOURCE if published else None,
        **facts,
        "seconds_of_this_start": seconds,
        "precision": experiment.precision,
        "device": describe(experiment.device),
        "environment": environment(),
        "config": vars(args),
    }
    write_json(experiment.folder / "results.json", results)
    _write_table(experiment, [*rows, *published], metrics)
    names = sorted(path.name for path in experiment.folder.iterdir() if not path.name.startswith("."))
    print(f"{seconds:.0f} s; files in {experiment.folder}: {', '.join(names)}")
    return results


def _write_table(experiment: Experiment, rows: Sequence[Row], metrics: Sequence[str]) -> None:
    """table.md and table.csv, and the table on the terminal, with what its figures were measured on."""
    from toolkit.devices import describe

    note = (
        f"{data_line(experiment.source)}; mean ± sample standard deviation over n seeds; {describe(experiment.device)}."
    )
    if any(row.title.startswith(PUBLISHED_TITLE) for row in rows):
        note += f" Published: {PUBLISHED_SOURCE}."
    note += " QUICK RUN: these figures mean nothing." if experiment.args.quick else ""
    markdown = f"{table(rows, metrics)}\n\n{note}\n"
    write_bytes(experiment.folder / "table.md", markdown.encode())
    write_bytes(experiment.folder / "table.csv", table_csv(rows, metrics).encode())
    print(f"\n{markdown}")


def fit(
    experiment: Experiment,
    run: RunFolder,
    model: nn.Module,
    loaders: Sequence[Any],
    *,
    epochs: int | None = None,
    keep: str = "best",
    best_extra: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, list[float]]:
    """Train on the course's one loop → history; `model` ends with the weights that are kept.

    options: optimizer, scheduler, criterion, patience, ema_decay, learning_rate, ... of train_model. keep: 'best' for
    the epoch with the best validation accuracy, 'last' for the last one (with ema_decay: the averaged weights),
    'lower_loss' for that of the two with the lower validation loss. On a hundred validation images many epochs have
    the same accuracy, and the first of them need not be a good one.
    """
    from classification_train import train_model

    history = train_model(
        model,
        *loaders,
        epochs=experiment.epochs if epochs is None else epochs,
        max_steps_per_epoch=experiment.max_steps,
        device=experiment.device,
        precision=experiment.precision,
        run=run,
        best_extra=dict(best_extra or {}),
        **options,
    )
    restore(model, run, keep)
    return history


def restore(model: nn.Module, run: RunFolder, keep: str = "best") -> nn.Module:
    """Give `model` the weights that a finished run kept; see `fit`."""
    from toolkit.runs import load_checkpoint

    check_choice("keep", keep, ("best", "last", "lower_loss"))
    best = load_checkpoint(run.file("best.pt"))
    if keep != "best":
        last = load_checkpoint(run.file("last.pt"))
        losses = last["history"]["val_loss"]
        if keep == "last" or losses[-1] < losses[best["epoch"] - 1]:
            model.load_state_dict(last["model"] if last["averaged"] is None else last["averaged"][1])
            return model
    model.load_state_dict(best["state_dict"])
    return model
