"""What the labs that train on the course's loop do around it: settings from flags, run folder, training, results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from toolkit import experiment
from toolkit.devices import pick_device, place_model, resolve_precision, seed_everything
from toolkit.medmnist_data import Source
from toolkit.runs import RunFolder
from toolkit.training import make_optimizer


@dataclass
class Setup:
    """What is settled before the model is built. `run` is None until `begin` if it was not begun at once."""

    run: RunFolder | None
    device: torch.device
    precision: str
    source: Source
    make_run: Callable[[], RunFolder] | None = None

    def begin(self) -> RunFolder:
        """The run folder, made at the first call: only then are files of an older run replaced (--overwrite)."""
        if self.run is None:
            self.run = self.make_run()
        return self.run


def prepare(settings: Any, task: str, source: Callable[[], Source], *, begin: bool = True) -> Setup:
    """Choose device and precision, seed, locate the data, and make or open the run folder.

    settings: an object with the flags of the course's mains as attributes.
    With `begin` false the folder is made by `train`, so that a mistake that shows while loaders and model are built
    leaves nothing behind and takes nothing away.
    """
    device = pick_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    seed_everything(settings.seed)
    found = source()
    experiment.check_promises(found, settings.evaluate_test, settings.results_path)
    print(experiment.describe_start(found, device, precision))
    setup = Setup(None, device, precision, found, lambda: experiment.open_run(task, vars(settings), found.name))
    if begin:
        setup.begin()
    return setup


def train(
    train_function: Callable[..., dict[str, list[float]]],
    model: nn.Module,
    loaders: tuple[Any, Any],
    settings: Any,
    setup: Setup,
    *,
    best_extra: Mapping[str, Any],
    **more: Any,
) -> tuple[dict[str, list[float]], float]:
    """Call the training function with the flags' settings; return its history and its seconds."""
    run = setup.begin()
    place_model(model, setup.device, (setup.source.channels, setup.source.size, setup.source.size))
    with experiment.saying_how_to_resume(run):
        history = train_function(
            model,
            *loaders,
            epochs=settings.num_epochs,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            max_steps_per_epoch=settings.max_steps_per_epoch,
            optimizer=make_optimizer(settings.optimizer, model, settings.learning_rate, settings.weight_decay),
            scheduler=settings.schedule,
            device=setup.device,
            precision=setup.precision,
            ema_decay=settings.ema_decay,
            patience=settings.patience,
            run=run,
            best_extra=best_extra,
            **more,
        )
    experiment.load_best(model, run, setup.device)
    return history, run.seconds_so_far()


def report(
    settings: Any,
    setup: Setup,
    task: str,
    history: dict[str, list[float]],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write results.json and curves.png and print the summary."""
    machine = {"device": setup.device, "precision": setup.precision}
    return experiment.report(setup.run, task, vars(settings), history, facts, dataset_name=setup.source.name, **machine)
