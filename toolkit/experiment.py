"""What both mains do before and after their training: check, open the run folder, and report."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit import plots
from toolkit.devices import describe
from toolkit.errors import UserError
from toolkit.expectations import QUICK
from toolkit.medmnist_data import Source, official_test
from toolkit.runs import RunFolder, best_epoch_of, environment, free_run_path, load_checkpoint, started_as, write_json
from toolkit.step_log import read_steps


def check_promises(source: Source, evaluate_test: bool, results_path: str | None) -> None:
    """Raise UserError now, not after the training, for what could not be done after it."""
    if evaluate_test and not official_test(source).has("test"):
        raise UserError(f"--evaluate_test: {source.path} has no test images; the course holds them back for grading")
    if results_path:
        check_writable(results_path)


def check_writable(path: str) -> None:
    """Raise UserError if the file `path` of --results_path cannot be written."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            raise UserError(f"--results_path {path} is a folder or a device; name a file")
        with tempfile.TemporaryFile(dir=target.parent):  # write_json writes to a second file there and renames it
            pass
    except OSError as error:
        raise UserError(f"cannot write --results_path {path}: {error.strerror}") from None


def describe_start(source: Source, device: torch.device, precision: str) -> str:
    """Two lines: which images, which machine."""
    sizes = f"{source.count('train')} training and {source.count('val')} validation images with labels"
    return f"data: {source.name} ({sizes})\ndevice: {describe(device)}, {precision}"


def build_model(get_model: Callable[..., nn.Module], *arguments: Any, model_args: dict[str, Any] | None) -> nn.Module:
    """The model that `get_model` returns for `arguments`, with --model_args as further keyword arguments.

    Raises UserError if neither it nor the model's constructor has such an argument.
    """
    try:
        return get_model(*arguments, **(model_args or {}))
    except TypeError as error:
        if not model_args or "unexpected keyword argument" not in str(error):
            raise
        raise UserError(
            f"model_args is {json.dumps(model_args)}: {error}; give {get_model.__name__} **model_args, and the model's "
            "__init__ an argument of that name with a default"
        ) from None


def models_digest(get_model: Callable[..., nn.Module]) -> str:
    """Tells designs apart whose code differs: a digest of the file that defines the models."""
    return hashlib.sha256(Path(inspect.getfile(get_model)).read_bytes()).hexdigest()[:12]


def open_run(task: str, settings: Mapping[str, Any], dataset_name: str) -> RunFolder:
    """Make the run folder, or open that of --resume.

    Call it after loaders and model have been built: a mistake that shows there then leaves nothing behind, and
    --overwrite has not yet removed anything.

    Args:
        task: classification or segmentation.
        settings: all flags; they become config.json. --resume, --output_dir, --overwrite, --num_epochs, --model_name
            and --seed decide which folder it is.
        dataset_name: a resumed run must have been trained on the same data.
    """
    if settings["resume"]:
        run = RunFolder.open(settings["resume"])
        if not run.file("last.pt").exists():
            raise UserError(f"--resume {run.path}: no epoch was finished there (no last.pt); start a new run")
        trained_on = run.config.get("dataset_name", dataset_name)
        if trained_on != dataset_name:
            raise UserError(f"--resume {run.path}: it was trained on {trained_on}, but {dataset_name} was found now")
        run.prolong(settings["num_epochs"])
    else:
        default = f"{task}-{settings['model_name']}-seed{settings['seed']}"
        path = settings["output_dir"] or free_run_path("runs", default)
        config = {"task": task, "dataset_name": dataset_name, **settings}
        run = RunFolder.create(path, config, overwrite=settings["overwrite"])
    print(f"run folder: {run.path}")
    return run


@contextlib.contextmanager
def saying_how_to_resume(run: RunFolder) -> Iterator[None]:
    """If the training ends before its time, print the command that continues it; without a finished epoch, clean up."""
    try:
        yield
    except BaseException as error:
        if run.remove_unfinished():
            print(f"no epoch was finished: nothing to resume, {run.path} is removed", flush=True)
        elif isinstance(error, KeyboardInterrupt) and run.file("last.pt").exists():
            command = f"python {started_as()} --resume {run.path}"
            sys.stderr.write(f"\nstopped; the last finished epoch is kept: {command}\n")
        raise


def load_best(model: nn.Module, run: RunFolder, device: torch.device) -> None:
    """Give `model` the weights of its best epoch."""
    model.load_state_dict(load_checkpoint(run.file("best.pt"), device)["state_dict"])


def step_facts(run: RunFolder) -> dict[str, float]:
    """steps, and step_ms: the median milliseconds from one step to the next, loading included."""
    steps = read_steps(run)
    if not steps.get("step"):
        return {}
    return {"steps": int(steps["step"][-1]), "step_ms": round(statistics.median(steps["milliseconds"]), 3)}


def report(
    run: RunFolder,
    task: str,
    settings: Mapping[str, Any],
    history: Mapping[str, list[float]],
    facts: Mapping[str, Any],
    *,
    dataset_name: str,
    device: torch.device,
    precision: str,
    guessing: tuple[str, float] | None = None,
) -> dict[str, Any]:
    """Write results.json (also to --results_path) and curves.png, print the summary, and return the results.

    Args:
        history: lists train_loss, train_acc (or train_iou), val_loss, val_acc with one value per epoch.
        facts: what results.json holds on top of history and settings: metrics, number of parameters, ...
        guessing: see plots.learning_curves.
    """
    metric = "acc" if task == "classification" else "iou"
    values = history[f"val_{metric}"]
    best_epoch = best_epoch_of(history, f"val_{metric}")
    results = {
        "task": task,
        "dataset": dataset_name,
        "model_name": settings["model_name"],
        "seed": settings["seed"],
        f"best_val_{metric}": values[best_epoch - 1],
        "best_epoch": best_epoch,
        "history": history,
        "seconds": round(run.seconds_so_far(), 2),
        **step_facts(run),
        **facts,
        "precision": precision,
        "device": describe(device),
        "environment": environment(),
        "config": dict(settings),
    }
    title = f"{task}, {settings['model_name']}, seed {settings['seed']}, {dataset_name}"
    plots.learning_curves(history, metric, title, run.file("curves.png"), steps=read_steps(run), guessing=guessing)
    for path in filter(None, (run.file("results.json"), settings["results_path"])):
        write_json(path, results)
    print(_summary(task, settings["model_name"], metric, results))
    print(f"files: {', '.join(sorted(path.name for path in run.path.iterdir()))} in {run.path}")
    return results


def _summary(task: str, model_name: str, metric: str, results: Mapping[str, Any]) -> str:
    value = results[f"best_val_{metric}"]
    name = {"acc": "validation accuracy", "iou": "validation IoU"}[metric]
    line = f"best {name} {value:.4f} (epoch {results['best_epoch']}) in {results['seconds']:.1f} s"
    expectation = QUICK.get((task, model_name))
    if expectation is None:
        return line
    verdict = "met" if expectation.is_met(value) else "not met"
    if "-sample" in results["dataset"]:
        return f"{line}; what to expect of the bundled sample: the last column of the tables in README.md"
    return f"{line}; the course expects {expectation} after 100 steps of 32 on the full set: {verdict}"
