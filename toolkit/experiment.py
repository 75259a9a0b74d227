"""The steps that both mains take around their training: run folder, optimizer, training call, results."""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit import plots
from toolkit.devices import describe, pick_device, place_model, resolve_precision, seed_everything
from toolkit.errors import UserError
from toolkit.expectations import QUICK
from toolkit.medmnist_data import Source
from toolkit.runs import (
    RunFolder,
    environment,
    free_run_path,
    load_checkpoint,
    started_as,
    supported_arguments,
    write_json,
)


class StepClock:
    """Notes the end of every optimizer step, whatever loop makes them, for steps and milliseconds a step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Count the steps of `optimizer` from now on."""
        optimizer.register_step_post_hook(lambda *_: self.ends.append(time.perf_counter()))

    def facts(self) -> dict[str, float]:
        """steps (of this start) and step_ms: the median time from one step to the next, loading included.

        The median leaves validation between two epochs out. Empty for a loop that makes an optimizer of its own.
        """
        if len(self.ends) < 2:
            return {}
        gaps = [after - before for before, after in itertools.pairwise(self.ends)]
        return {"steps": len(self.ends), "step_ms": round(1000 * statistics.median(gaps), 3)}


@dataclass
class Setup:
    """What is settled before the model is built. `run` is None until `begin` if it was not begun at once."""

    run: RunFolder | None
    device: torch.device
    precision: str
    source: Source
    clock: StepClock = field(default_factory=StepClock)
    make_run: Callable[[], RunFolder] | None = None

    def begin(self) -> RunFolder:
        """The run folder, made at the first call: only then are files of an older run replaced (--overwrite)."""
        if self.run is None:
            self.run = self.make_run()
            print(f"run folder: {self.run.path}")
        return self.run


def prepare(args: argparse.Namespace, task: str, source: Callable[[], Source], *, begin: bool = True) -> Setup:
    """Choose device and precision, seed, locate the data, and make or open the run folder.

    With `begin` false the folder is made by `train`, so that a mistake that shows while loaders and model are built
    leaves nothing behind and takes nothing away.
    """
    device = pick_device(args.device)
    precision = resolve_precision(args.precision, device)
    seed_everything(args.seed)
    found = source()
    if args.evaluate_test and not found.has("test"):
        raise UserError(f"--evaluate_test: {found.path} has no test images; the course holds them back for grading")
    if args.results_path:
        check_writable(args.results_path)
    sizes = f"{found.count('train')} training and {found.count('val')} validation images with labels"
    print(f"data: {found.name} ({sizes})\ndevice: {describe(device)}, {precision}")

    def make_run() -> RunFolder:
        if args.resume:
            run = RunFolder.open(args.resume)
            _check_can_resume(run, found)
            run.prolong(args.num_epochs)
            return run
        path = args.output_dir or free_run_path("runs", f"{task}-{args.model_name}-seed{args.seed}")
        config = {"task": task, "dataset_name": found.name, **vars(args)}
        return RunFolder.create(path, config, overwrite=args.overwrite)

    setup = Setup(None, device, precision, found, make_run=make_run)
    if begin:
        setup.begin()
    return setup


def _check_can_resume(run: RunFolder, source: Source) -> None:
    if not run.file("last.pt").exists():
        raise UserError(f"--resume {run.path}: no epoch was finished there (no last.pt); start the run anew")
    trained_on = run.config.get("dataset_name", source.name)
    if trained_on != source.name:
        raise UserError(f"--resume {run.path}: it was trained on {trained_on}, but {source.name} was found now")


def check_writable(path: str) -> None:
    """Raise UserError now, not after the training, if `path` cannot be written."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            raise UserError(f"--results_path {path} is a folder or a device; name a file")
        with tempfile.TemporaryFile(dir=target.parent):  # the file is written beside its place and renamed
            pass
    except OSError as error:
        raise UserError(f"cannot write --results_path {path}: {error.strerror}") from None


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """The optimizer of the flags --optimizer, --learning_rate and --weight_decay."""
    settings = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    if args.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **settings)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.optimizer](model.parameters(), **settings)


def make_scheduler(optimizer: torch.optim.Optimizer, args: argparse.Namespace, loader_length: int) -> Any:
    """The schedule of --schedule, stepped after every batch; None for a constant learning rate."""
    steps = args.num_epochs * min(args.max_steps_per_epoch or loader_length, loader_length)
    if args.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if args.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=max(steps, 2))
    return None


def train(
    train_function: Callable[..., dict[str, list[float]]],
    model: nn.Module,
    loaders: tuple[Any, Any],
    args: argparse.Namespace,
    setup: Setup,
    *,
    best_extra: Mapping[str, Any],
    **more: Any,
) -> tuple[dict[str, list[float]], float]:
    """Call the training function with the flags' settings; return its history and its seconds, earlier starts included.

    A function with the base signature alone (a submission of an earlier term) gets that; what it cannot do is said.
    Ctrl-C says how to go on and raises KeyboardInterrupt again.
    """
    run = setup.begin()
    seconds_before = run.seconds_so_far()
    place_model(model, setup.device, (setup.source.channels, setup.source.size, setup.source.size))
    optimizer = make_optimizer(model, args)
    setup.clock.watch(optimizer)
    extras, missing = supported_arguments(
        train_function,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, args, len(loaders[0])),
        device=setup.device,
        precision=setup.precision,
        ema_decay=args.ema_decay,
        patience=args.patience,
        run=run,
        best_extra=dict(best_extra),
        **more,
    )
    if missing:
        print(f"note: {train_function.__name__} takes no {', '.join(missing)}; they stay unused")
    started = time.perf_counter()
    try:
        history = train_function(
            model,
            *loaders,
            epochs=args.num_epochs,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            max_steps_per_epoch=args.max_steps_per_epoch or len(loaders[0]),
            **extras,
        )
    except KeyboardInterrupt:
        _say_how_to_resume(run)
        raise
    seconds = seconds_before + time.perf_counter() - started
    if "run" in missing:
        run.write_history(history)
    elif run.file("best.pt").exists():
        model.load_state_dict(load_checkpoint(run.file("best.pt"), setup.device)["state_dict"])
    return history, seconds


def _say_how_to_resume(run: RunFolder) -> None:
    if run.file("last.pt").exists():
        command = f"python {started_as()} --resume {run.path}"
        sys.stderr.write(f"\nstopped; the last finished epoch is kept: {command}\n")
    else:
        sys.stderr.write(f"\nstopped before the first epoch was finished; nothing to resume in {run.path}\n")


def report(
    args: argparse.Namespace,
    setup: Setup,
    task: str,
    history: dict[str, list[float]],
    seconds: float,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write results.json (also to --results_path) and curves.png, print the summary, and return the results."""
    metric = "acc" if task == "classification" else "iou"
    values = history[f"val_{metric}"]
    best_epoch = 1 + max(range(len(values)), key=values.__getitem__)
    results = {
        "task": task,
        "dataset": setup.source.name,
        "model_name": args.model_name,
        "seed": args.seed,
        f"best_val_{metric}": values[best_epoch - 1],
        "best_epoch": best_epoch,
        "history": history,
        "seconds": round(seconds, 2),
        **setup.clock.facts(),
        **facts,
        "precision": setup.precision,
        "device": describe(setup.device),
        "environment": environment(),
        "config": vars(args),
    }
    title = f"{task}, {args.model_name}, seed {args.seed}, {setup.source.name}"
    plots.learning_curves(history, metric, title, setup.run.file("curves.png"))
    for path in filter(None, (setup.run.file("results.json"), args.results_path)):
        write_json(path, results)
    print(_summary(args, task, metric, results))
    print(f"files: {', '.join(sorted(path.name for path in setup.run.path.iterdir()))} in {setup.run.path}")
    return results


def _summary(args: argparse.Namespace, task: str, metric: str, results: Mapping[str, Any]) -> str:
    value = results[f"best_val_{metric}"]
    name = {"acc": "validation accuracy", "iou": "validation IoU"}[metric]
    line = f"best {name} {value:.4f} (epoch {results['best_epoch']}) in {results['seconds']:.1f} s"
    expectation = QUICK.get((task, args.model_name))
    if expectation is None:
        return line
    verdict = "met" if expectation.is_met(value) else "not met"
    return f"{line}; the course expects {expectation} after 100 steps of 32 on the full set: {verdict}"
