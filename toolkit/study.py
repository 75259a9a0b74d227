"""Rows x seeds: the one harness of every study, from the first training to the table.

    study = Study(folder, settings={"epochs": 30}, seeds=range(5))
    runs = study.train("cnn", train)              # train(seed, run) → facts; a finished seed is read, not trained again
    test = study.open_test(choices, read_test)    # the choices are written first; a second call raises
    print(table([TableRow("CNN", {"auc": [0.96, 0.97]})], ["auc"]))

Every training has a run folder (toolkit/runs.py), FOLDER/runs/ROW-seedN. Metrics are reported as mean ± sample standard
deviation over n seeds.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from toolkit.errors import UserError
from toolkit.mean_sd import markdown, mean_and_sd, mean_sd, mean_sd_n
from toolkit.runs import RunFolder, environment, read_json, started_as, write_bytes, write_json

T = TypeVar("T")
Train = Callable[[int, RunFolder], Mapping[str, Any]]


@dataclass
class Study:
    """Trainings of several rows with several seeds in one folder.

    settings: what decides what a run learns; finished runs are used again only if theirs are the same.
    seeds: each row is trained once with each of them.
    about: facts for every results.json, such as data set and device.
    overwrite: train everything again, once per start.
    replace_changed: train again where the settings differ; otherwise such a folder is refused.
    """

    folder: Path
    settings: Mapping[str, Any]
    seeds: Sequence[int]
    about: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    replace_changed: bool = False
    _opened: set[Path] = field(default_factory=set)
    _test_is_open: bool = False

    def run_path(self, row: str, seed: int) -> Path:
        """Where the run of a row and a seed is."""
        return self.folder / "runs" / f"{row}-seed{seed}"

    def run(self, row: str, seed: int) -> RunFolder:
        """The run of a row and a seed, which must be there."""
        return RunFolder.open(self.run_path(row, seed))

    def train(self, row: str, train: Train, seeds: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Train a row with every seed and return the results of each; finished ones are read.

        train: (seed, run) → facts for results.json; under "validation" the metrics to print. Random generators are
        seeded before it is called. If it trains with `train_model(..., run=run)`, a stopped training resumes, too.
        Raises UserError where the folder holds a run with other settings.
        """
        found = []
        for seed in self.seeds if seeds is None else seeds:
            run = self._open(row, seed)
            finished = run.file("results.json").exists()
            if not finished:
                self._train_one(row, seed, run, train)
            found.append(read_json(run.file("results.json")))
            how = "read, not trained again" if finished else f"{found[-1]['seconds']:.0f} s"
            print(f"{row}, seed {seed}: {_validation_line(found[-1])} ({how})", flush=True)
        return found

    def _train_one(self, row: str, seed: int, run: RunFolder, train: Train) -> None:
        from toolkit.devices import seed_everything  # imports torch, which reading finished results does not need

        seed_everything(seed)
        seconds_before, started = run.seconds_so_far(), time.perf_counter()
        try:
            facts = dict(train(seed, run))
        except KeyboardInterrupt:
            sys.stderr.write(f"\nstopped; finished runs are kept, and the same command continues: {_command()}\n")
            raise
        seconds = round(seconds_before + time.perf_counter() - started, 1)
        results = {"row": row, "seed": seed, **self.about, **facts, "seconds": seconds, "environment": environment()}
        write_json(run.file("results.json"), results)

    def _open(self, row: str, seed: int) -> RunFolder:
        """The run folder as it is if it was made with these settings, else a new one."""
        path = self.run_path(row, seed)
        config = {"row": row, **self.settings}
        first_visit = path not in self._opened  # later parts of the same script read what --overwrite has replaced
        self._opened.add(path)
        replace = self.overwrite and first_visit
        if (path / "config.json").exists() and not replace:
            changed = differing(RunFolder.open(path).config, {**config, "seed": seed})
            if not changed:
                return RunFolder.open(path)
            if not self.replace_changed:
                raise UserError(
                    f"{path} was trained with other settings ({', '.join(changed)} differ); choose another "
                    "--output_dir, or replace it with --overwrite"
                )
            print(f"{row}, seed {seed}: trained again, because {', '.join(changed)} changed")
            replace = True
        return RunFolder.create(path, {**config, "seed": seed}, overwrite=replace)

    def open_test(self, choices: Mapping[str, Any], read: Callable[[], T]) -> T:
        """Write every choice to choices.json, then return what `read` reads of the test split; a second call raises.

        So no choice can have seen a test image.
        """
        if self._test_is_open:
            raise RuntimeError("the test split was read before; it is read once, for the final metrics")
        if not choices:
            raise RuntimeError("the test split stays closed until thresholds and settings are chosen")
        write_json(self.folder / "choices.json", dict(choices))
        self._test_is_open = True
        return read()


class SealedSource:
    """A data source that refuses its test split: `open_test` of a study reads it, through `unsealed`."""

    def __init__(self, source: Any) -> None:
        self.unsealed = source

    def read(self, split: str) -> Any:
        """Like the source's own `read`, for "train" and "val"."""
        if split == "test":
            raise RuntimeError("the test split is read once, by open_test, after every choice is written down")
        return self.unsealed.read(split)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unsealed, name)


def differing(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Iterable[str] = ()) -> list[str]:
    """Names of the settings that are not the same in both, sorted."""
    names = {*before, *now} - set(ignored)
    return sorted(name for name in names if before.get(name) != now.get(name))


def _command() -> str:
    """The command line that continues where this one was stopped."""
    return " ".join(["python", started_as(), *(word for word in sys.argv[1:] if word != "--overwrite")])


def _validation_line(results: Mapping[str, Any]) -> str:
    """'validation auc 0.9012, accuracy 0.8600'."""
    known = [(name, value) for name, value in (results.get("validation") or {}).items() if isinstance(value, float)]
    return f"validation {', '.join(f'{name} {value:.4f}' for name, value in known)}"


# ---- tables of rows and metrics --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableRow:
    """One line of a table: metric → one value per seed. `where`: the split that it was measured on."""

    title: str
    values: Mapping[str, Sequence[float]]
    where: str = "test"
    published: bool = False  # by others: a single value, which is not a single seed


def summary(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """{"mean": {metric: ...}, "sd": {metric: ...}} of the metrics of each seed."""
    several = list(rows)
    found = {name: mean_and_sd([row[name] for row in several]) for name in names}
    return {
        "mean": {name: mean for name, (mean, _sd) in found.items()},
        "sd": {name: sd for name, (_mean, sd) in found.items()},
    }


def table(rows: Sequence[TableRow], metrics: Sequence[str]) -> str:
    """Markdown: mean ± sample standard deviation over the seeds, '-' where a row lacks a metric."""
    heads = ["", "measured on", *(name.replace("_", " ") for name in metrics)]
    lines = []
    for row in rows:
        show = mean_sd if row.published else mean_sd_n
        lines.append([row.title, row.where, *(show(row.values.get(name, ())) for name in metrics)])
    return markdown(heads, lines)


def table_csv(rows: Sequence[TableRow], metrics: Sequence[str]) -> str:
    """The same as CSV: n, mean and sd of each metric as numbers, empty where there are none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "measured_on", "n", *(f"{name}{kind}" for name in metrics for kind in ("", "_sd"))])
    for row in rows:
        cells: list[str] = []
        for name in metrics:
            values = row.values.get(name, ())
            pair = mean_and_sd(values) if values else (None, None)
            cells += ["" if value is None else f"{value:.6f}" for value in pair]
        writer.writerow([row.title, row.where, max((len(v) for v in row.values.values()), default=0), *cells])
    return text.getvalue()


def write_tables(folder: Path, rows: Sequence[TableRow], metrics: Sequence[str], note: str) -> str:
    """Write table.md, with `note` below the table, and table.csv; return the Markdown."""
    text = f"{table(rows, metrics)}\n\n{note}\n"
    write_bytes(folder / "table.md", text.encode())
    write_bytes(folder / "table.csv", table_csv(rows, metrics).encode())
    return text
