"""Runs for TensorBoard: learning curves as scalars, settings and final results as hparams. An optional extra.

    python -m toolkit.tensorboard_logs runs logs --output_dir tensorboard --follow
    tensorboard --logdir tensorboard

Reads the files that every run writes anyway, so it works for the mains, the labs and the dispatcher's jobs, during a
run (--follow) or long after it, and no training has to know of it. Needs `pip install tensorboard`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError
from toolkit.runs import read_json
from toolkit.sweeps.jobs import read_history

NOT_CURVES = ("epoch", "seconds")
# Settings that say where a run is stored and not what it is.
NOT_HPARAMS = {"data_root", "mirror", "output_dir", "overwrite", "results_path", "resume", "config", "num_workers"}


def import_writer() -> Any:
    """torch's SummaryWriter; UserError with the command that installs what it needs."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed: pip install tensorboard") from None
    return SummaryWriter


def find_runs(paths: Iterable[str]) -> dict[str, Path]:
    """Name -> folder of every run at or below `paths` that has a history by now. UserError for what is not a folder.

    A job of the dispatcher is one run, whether its history is still in its run/ or copied next to its results.
    """
    found: dict[str, Path] = {}
    for path in paths:
        root = Path(path)
        if not root.is_dir():
            raise UserError(f"{path} is not a folder; give run folders, or folders that contain them")
        for config in sorted(root.rglob("config.json")):
            folder = config.parent
            is_part_of_a_job = folder.name == "run" and (folder.parent / "status.json").exists()
            if not is_part_of_a_job and history_file(folder) is not None:
                # A folder given by itself has its own name; several roots may hold runs of one name.
                found["/".join((root.name or root.resolve().name, *folder.relative_to(root).parts))] = folder
    return found


def history_file(folder: Path) -> Path | None:
    """The run's history.csv, None if no epoch is finished yet."""
    return next((path for path in (folder / "history.csv", folder / "run" / "history.csv") if path.exists()), None)


def curve_name(column: str) -> str:
    """val_acc -> acc/val: TensorBoard shows what has one prefix side by side."""
    split, _, what = column.partition("_")
    return f"{what}/{split}" if split in ("train", "val", "test") and what else column


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of a run, or the configuration of a dispatcher's job, as plain values."""
    config = read_json(folder / "config.json")
    config = config.get("config", config) if isinstance(config.get("config", config), dict) else config
    kept = {name: value for name, value in config.items() if name not in NOT_HPARAMS and value is not None}
    return {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in kept.items()}


def final_metrics(folder: Path) -> dict[str, float]:
    """The single numbers of results.json; empty until the run has ended."""
    path = folder / "results.json"
    results = read_json(path) if path.exists() else {}
    return {
        f"final/{name}": float(value)
        for name, value in (results.items() if isinstance(results, dict) else ())
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "seed"
    }


class Logbook:
    """Writes runs into a folder for TensorBoard; `look` adds what is new since the last look."""

    def __init__(self, paths: Iterable[str], output_dir: str) -> None:
        self.paths, self.output_dir = list(paths), Path(output_dir)
        self.writer_class = import_writer()
        self._written: dict[str, int] = {}  # epochs of each run
        self._finished: set[str] = set()

    def look(self) -> int:
        """Write new epochs and newly finished runs; return how many runs are known."""
        runs = find_runs(self.paths)
        for name, folder in runs.items():
            history, metrics = read_history(os.fspath(folder)), final_metrics(folder)
            epochs = max(map(len, history.values()), default=0)
            is_new = name not in self._written or epochs < self._written[name]  # fewer: it was started again
            if is_new or epochs > self._written[name] or (metrics and name not in self._finished):
                self._write(name, folder, history, metrics, is_new)
                self._written[name] = epochs
        return len(runs)

    def _write(
        self, name: str, folder: Path, history: dict[str, list[float]], metrics: dict[str, float], is_new: bool
    ) -> None:
        target = self.output_dir / name
        if is_new:  # events of an earlier call or of an earlier attempt would be drawn twice
            for old in target.glob("events.out.tfevents.*"):
                old.unlink()
        writer = self.writer_class(os.fspath(target))
        start = 0 if is_new else self._written[name]
        for column, values in history.items():
            for step, value in enumerate(values[start:], start=start + 1):
                if column not in NOT_CURVES and math.isfinite(value):
                    writer.add_scalar(curve_name(column), value, step)
        if metrics and (is_new or name not in self._finished):
            # run_name ".": into this run's folder; else each run would appear twice in TensorBoard's list.
            writer.add_hparams(settings_of(folder), metrics, run_name=".")
            self._finished.add(name)
        writer.close()


def main() -> None:
    """Write what is there; with --follow continue until Ctrl-C."""
    parser = OneLineParser(prog="python -m toolkit.tensorboard_logs", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, or folders that contain them")
    parser.add_argument("--output_dir", default="tensorboard", help="folder for `tensorboard --logdir`")
    parser.add_argument("--follow", action="store_true", help="continue with what the runs append, until Ctrl-C")
    parser.add_argument("--every_s", type=in_range(float, 0.1), default=5.0, help="seconds between two looks")
    args = parser.parse_args()
    logbook = Logbook(args.runs, args.output_dir)
    known = logbook.look()
    if not known and not args.follow:
        raise UserError(f"{', '.join(args.runs)}: no run with a finished epoch (config.json and history.csv)")
    print(f"{known} runs in {args.output_dir}; look at them with: tensorboard --logdir {args.output_dir}", flush=True)
    while args.follow:
        time.sleep(args.every_s)
        logbook.look()


if __name__ == "__main__":
    run_script(main)
