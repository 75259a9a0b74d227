"""The steps of the study. Each leaves its results in its own folder; finished work is not repeated."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import dispatcher
from labs.pathmnist_resnet18.src import LAB, job
from toolkit.cli import COMMENT_KEYS, config_to_argv
from toolkit.compare import NOT_A_CHOICE
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, locate
from toolkit.runs import RunFolder, read_json, write_json
from toolkit.study import differing
from toolkit.sweeps import table

JOB = "labs.pathmnist_resnet18.src.job"
METRIC = "best_val_acc"
FINAL_CHOICE = "final_choice.json"  # where the settings of the final model came from
QUICK = {"num_epochs": 1, "max_steps_per_epoch": 2, "min_steps_per_epoch": 0, "batch_size": 16, "bootstrap": 20}
# Settings that a finished run must share with what is asked for now, or it is a run of something else.
FREE = NOT_A_CHOICE - {"seed", "dataset"}


@dataclass(frozen=True)
class Study:
    """Where everything is, what all trainings have in common, and how sweeps are run.

    common: flags of job.py for data, machine and seed.
    jobs, gpus: of the dispatcher, see pathmnist_resnet18.py.
    """

    folder: Path
    pages: Path
    source: Source
    common: Mapping[str, Any]
    quick: bool
    jobs: int
    gpus: str
    final_config: str | None
    ablation_seeds: int

    def forget(self, names: list[str]) -> None:
        """Remove what these steps left. Raises UserError for a folder that a step did not make."""
        for name in names:
            path = self.folder / name
            if not path.exists():
                continue
            if not any((path / mark).exists() for mark in ("config.json", table.INDEX)):
                raise UserError(f"--overwrite: {path} holds neither a run nor a sweep; delete it yourself")
            shutil.rmtree(path)

    def baseline(self) -> None:
        """Train the baseline on all training images."""
        train_once(self.folder / "baseline", self.baseline_settings())

    def search(self) -> None:
        """Train every configuration of the grid on a part of the training images."""
        grids = read_json(LAB / "configs" / "search.json")
        if self.quick:
            grids = [
                {key: value[0] if isinstance(value, list) else value for key, value in grid.items()} for grid in grids
            ]
        sizes = [QUICK["batch_size"]] if self.quick else [size for grid in grids for size in grid["batch_size"]]
        share = sufficient_share(grids[0]["train_share"], max(sizes), self.source.count("train"))
        self._sweep("search", [{**grid, "train_share": share} for grid in grids])

    def final(self) -> None:
        """Train the search's choice, or --final_config, on all training images; then read the test images."""
        settings = self.final_settings()
        train_once(self.folder / "final", settings)
        write_json(self.folder / FINAL_CHOICE, {"final_config": self.final_config, "settings": settings})

    def ablation(self) -> None:
        """Train one change to the baseline at a time, on validation images alone."""
        rows = read_json(LAB / "configs" / "ablation.json")
        self._sweep("ablation", rows[:2] if self.quick else rows, 1 if self.quick else self.ablation_seeds)

    def baseline_settings(self) -> dict[str, Any]:
        """Flags of the baseline."""
        return self._complete(settings_of(LAB / "configs" / "baseline.json"))

    def final_settings(self) -> dict[str, Any]:
        """Flags of the final model: the baseline's schedule with the search's choice, or those of --final_config."""
        if self.final_config:
            return self._complete(settings_of(self.final_config)) | {"evaluate_test": True}
        baseline = self.baseline_settings()
        chosen = best_configuration(self.folder / "search")
        return {**chosen, "num_epochs": baseline["num_epochs"], "train_share": 1.0, "evaluate_test": True}

    def _complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {**settings, **self.common, **(QUICK if self.quick else {})}

    def _sweep(self, name: str, grids: list[dict[str, Any]], seeds: int = 0) -> None:
        """Run a grid over the baseline's settings through the dispatcher; finished jobs are not run again."""
        folder = self.folder / name
        base = self.baseline_settings()
        if seeds:
            del base["seed"]
        quick = QUICK if self.quick else {}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{name}.json", [{**base, **grid, **quick} for grid in grids])
        words = ["--script", JOB, "--config_path", self.folder / f"{name}.json", "--log_dir", folder]
        words += ["--grid_search_results_path", folder / "grid_results.csv", "--metric", "val_acc"]
        jobs = max(2, self.jobs) if self.quick else self.jobs  # two steps each: most of it is imports
        words += ["--num_workers", jobs, "--gpus", self.gpus, "--seeds", seeds]
        code = dispatcher.main([str(word) for word in words])
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise UserError(f"not every job of the {name} is done; {folder / 'report.html'} says why")


def sufficient_share(wanted: float, batch_size: int, images: int) -> float:
    """The share of the training images to search on: the wanted one, or on a small set as many as two batches need."""
    needed = min(math.ceil(100 * 2 * batch_size / images) / 100, 1.0)
    if needed > wanted:
        print(f"{needed:.0%} of the {images} training images, not {wanted:.0%}: two batches of {batch_size} must fit")
    return max(wanted, needed)


def open_study(flags: Mapping[str, Any], folder: Path, pages: Path) -> Study:
    """Find the data once, so that every job takes the same. flags: of pathmnist_resnet18.py."""
    size = flags["image_size"] if flags["native"] else 28
    source = locate("pathmnist", size=size, **{name: flags[name] for name in ("data_root", "dataset", "mirror")})
    common: dict[str, Any] = {"dataset": "sample" if source.is_sample else "full"}
    if not source.is_sample:
        common["data_root"] = flags["data_root"]
    common |= {name: flags[name] for name in ("native", "image_size", "num_workers", "seed", "device", "precision")}
    own = {name: flags[name] for name in ("quick", "jobs", "gpus", "final_config", "ablation_seeds")}
    return Study(folder, pages, source, common, **own)


def settings_of(path: Path | str) -> dict[str, Any]:
    """The flags in a configuration file, without what is there for people. UserError for keys that are not flags."""
    content = read_json(path)
    config_to_argv(job.build_parser(), content, str(path))
    return {key: value for key, value in content.items() if key not in COMMENT_KEYS}


def train_once(path: Path, settings: Mapping[str, Any]) -> None:
    """Train in `path`, resume what an earlier start left there, or say that it is done.

    Raises UserError if the folder holds a run with other settings.
    """
    parser = job.build_parser()
    words = config_to_argv(parser, dict(settings), "the study")
    wanted = vars(parser.parse_args(words))
    if (path / "config.json").exists():
        there = RunFolder.open(path).config
        changed = [key for key in differing(there, wanted, FREE) if key in wanted]  # config.json holds more than flags
        if changed:
            changes = ", ".join(f"{key} {there.get(key)!r} → {wanted[key]!r}" for key in changed)
            raise UserError(f"{path} holds a run with other settings ({changes}); delete it, or choose an --output_dir")
    if (path / "results.json").exists():
        print(f"done before: {path}")
    elif (path / "last.pt").exists():
        job.main(["--resume", str(path)])
    else:
        job.main([*words, "--output_dir", str(path), "--overwrite"])


@dataclass(frozen=True)
class Setting:
    """The finished jobs of a sweep that differ in nothing but the seed."""

    config: dict[str, Any]
    rows: list[table.Row]

    @property
    def mean(self) -> float:
        """Mean validation accuracy over the seeds."""
        return fmean(row.metrics[METRIC] for row in self.rows)


def finished_settings(folder: Path) -> list[Setting]:
    """The settings of a sweep in the order of its grid. Raises UserError for no sweep or a job without a result."""
    if not (folder / table.INDEX).exists():
        raise UserError(f"{folder} holds no sweep; run the {folder.name} first")
    listed = read_json(folder / table.INDEX)["jobs"]
    rows = [row for row in table.read_rows(str(folder)) if row.name in listed]
    missing = [row.name for row in rows if row.status.state != "done"]
    if missing:
        raise UserError(
            f"{len(missing)} jobs in {folder} have no result yet; run the {folder.name} again, which resumes it"
        )
    settings: dict[str, Setting] = {}
    for row in rows:
        config = {name: value for name, value in row.config.items() if name != "seed"}
        settings.setdefault(repr(sorted(config.items())), Setting(row.config, [])).rows.append(row)
    return list(settings.values())


def best_configuration(folder: Path) -> dict[str, Any]:
    """Flags with the best validation accuracy of a search; of equal ones those that come first in the grid."""
    return dict(max(finished_settings(folder), key=lambda one: one.mean).config)
