"""The steps of the study. Each leaves its results in a folder of its own; what is there is not made again."""

from __future__ import annotations

import math
import shutil
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dispatcher
from labs.pathmnist_resnet18.src import job
from labs.pathmnist_resnet18.src.pathmnist_resnet18 import LAB
from toolkit.cli import COMMENT_KEYS, config_to_argv
from toolkit.compare import NOT_A_CHOICE
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, locate
from toolkit.runs import RunFolder, read_json, write_json
from toolkit.sweeps import table

JOB = "labs.pathmnist_resnet18.src.job"
METRIC = "best_val_acc"
FINAL_CHOICE = "final_choice.json"  # where the settings of the final model came from
QUICK = {"num_epochs": 1, "max_steps_per_epoch": 2, "min_steps_per_epoch": 0, "batch_size": 16, "bootstrap": 20}
# Settings that a finished run must share with what is asked for now, or it is a run of something else.
FREE = NOT_A_CHOICE - {"seed", "dataset"}


@dataclass(frozen=True)
class Study:
    """Where everything is, and what all trainings have in common."""

    folder: Path
    pages: Path
    source: Source
    quick: bool
    common: Mapping[str, Any]  # flags of job.py: data, machine, seed
    options: Namespace

    def run(self, name: str) -> None:
        """One step, by its name; it says what it does, or that it was done."""
        print(f"\n== {name}: {self.source.name}", flush=True)
        started = time.perf_counter()
        getattr(self, f"_{name}")()
        print(f"== {name}: {time.perf_counter() - started:.0f} s", flush=True)

    def forget(self, names: list[str]) -> None:
        """Remove what these steps left. Raises UserError for a folder that a step did not make."""
        for name in names:
            path = self.folder / name
            if not path.exists():
                continue
            if not any((path / mark).exists() for mark in ("config.json", table.INDEX)):
                raise UserError(f"--overwrite: {path} holds neither a run nor a sweep; delete it yourself")
            shutil.rmtree(path)

    def _baseline(self) -> None:
        train_once(self.folder / "baseline", self.baseline_settings())

    def _search(self) -> None:
        grids = read_json(LAB / "configs" / "search.json")
        if self.quick:
            grids = [
                {key: value[0] if isinstance(value, list) else value for key, value in grid.items()} for grid in grids
            ]
        sizes = [QUICK["batch_size"]] if self.quick else [size for grid in grids for size in grid["batch_size"]]
        share = sufficient_share(grids[0]["train_share"], max(sizes), self.source.count("train"))
        self._sweep("search", [{**grid, "train_share": share} for grid in grids])

    def _final(self) -> None:
        settings = self.final_settings()
        train_once(self.folder / "final", settings)
        write_json(self.folder / FINAL_CHOICE, {"final_config": self.options.final_config, "settings": settings})

    def _ablation(self) -> None:
        rows = read_json(LAB / "configs" / "ablation.json")
        self._sweep("ablation", rows[:2] if self.quick else rows, 1 if self.quick else self.options.ablation_seeds)

    def _report(self) -> None:
        from labs.pathmnist_resnet18.src import attention, collect, figures, report

        results = collect.collect(self)
        if not any(results[name] for name in ("baseline", "search", "final", "ablation")):
            raise UserError(f"nothing of the study is in {self.folder} yet; run the baseline first, or all")
        write_json(self.folder / "results.json", results)
        print(f"results: {self.folder / 'results.json'}")
        (self.pages / "figures").mkdir(parents=True, exist_ok=True)
        figures.draw_all(results, self.pages / "figures")
        attention.draw(self, self.pages / "figures")
        report.from_file(self.folder / "results.json", self.pages)

    def _notebook(self) -> None:
        from labs.pathmnist_resnet18.src import notebook

        notebook.execute(self.folder, self.pages / "notebooks")

    def baseline_settings(self) -> dict[str, Any]:
        """Flags of the baseline."""
        return self._complete(settings_of(LAB / "configs" / "baseline.json"))

    def final_settings(self) -> dict[str, Any]:
        """Flags of the final model: the baseline's schedule with the search's choice, or those of --final_config."""
        if self.options.final_config:
            return self._complete(settings_of(self.options.final_config)) | {"evaluate_test": True}
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
        jobs = max(2, self.options.jobs) if self.quick else self.options.jobs  # two steps each: most of it is imports
        words += ["--num_workers", jobs, "--gpus", self.options.gpus, "--seeds", seeds]
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


def open_study(args: Namespace, folder: Path, pages: Path) -> Study:
    """Find the data once, so that every job takes the same, and refuse a folder with results of other data."""
    size = 64 if args.native else 28
    source = locate("pathmnist", size=size, data_root=args.data_root, dataset=args.dataset, mirror=args.mirror)
    common: dict[str, Any] = {"dataset": "sample" if source.is_sample else "full"}
    if not source.is_sample:
        common["data_root"] = args.data_root
    common |= {"native": args.native, "num_workers": args.num_workers, "seed": args.seed}
    common |= {"device": args.device, "precision": args.precision}
    return Study(folder, pages, source, args.quick, common, args)


def settings_of(path: Path | str) -> dict[str, Any]:
    """The flags in a configuration file, without what is there for people. UserError for keys that are no flags."""
    content = read_json(path)
    config_to_argv(job.build_parser(), content, str(path))
    return {key: value for key, value in content.items() if key not in COMMENT_KEYS}


def train_once(path: Path, settings: Mapping[str, Any]) -> None:
    """Train in `path`, go on with what an earlier start left there, or say that it is done.

    Raises UserError if the folder holds a run with other settings.
    """
    parser = job.build_parser()
    words = config_to_argv(parser, dict(settings), "the study")
    wanted = vars(parser.parse_args(words))
    if (path / "config.json").exists():
        there = RunFolder.open(path).config
        differing = [key for key in wanted if key not in FREE and there.get(key) != wanted[key]]
        if differing:
            changes = ", ".join(f"{key} {there.get(key)!r} → {wanted[key]!r}" for key in differing)
            raise UserError(f"{path} holds a run with other settings ({changes}); delete it, or choose an --output_dir")
    if (path / "results.json").exists():
        print(f"done before: {path}")
    elif (path / "last.pt").exists():
        job.main(["--resume", str(path)])
    else:
        job.main([*words, "--output_dir", str(path), "--overwrite"])


def finished_rows(folder: Path) -> list[table.Row]:
    """The jobs of a sweep in the order of its grid. Raises UserError if there is none, or one without a result."""
    if not (folder / table.INDEX).exists():
        raise UserError(f"{folder} holds no sweep; run the {folder.name} first")
    listed = read_json(folder / table.INDEX)["jobs"]
    rows = [row for row in table.read_rows(str(folder)) if row.name in listed]
    missing = [row.name for row in rows if row.status.state != "done"]
    if missing:
        raise UserError(f"{len(missing)} jobs in {folder} have no result yet; run the {folder.name} again, it goes on")
    return rows


def best_configuration(folder: Path) -> dict[str, Any]:
    """Flags with the best validation accuracy of a search; of equal ones those that come first in the grid."""
    return dict(table.group_by_seed(finished_rows(folder), METRIC)[0].config)
