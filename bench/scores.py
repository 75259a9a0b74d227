"""Scores of the reference over seeds, on the mains as students run them: mean ± sd and the worst seed.

    python -m bench.scores                       # the quick schedule: 5 models x seeds 0-9, about 8 minutes
    python -m bench.scores --models segmentation-unet --seeds 3 --main_flags "--config configs/segmentation_long.json"

Finished runs in --output_root are read again unless the flags are others.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError, check_choice
from toolkit.expectations import QUICK
from toolkit.mean_sd import mean_sd
from toolkit.quickstart import print_table
from toolkit.runs import RunFolder, read_json, writable_folder
from toolkit.study import Study

MODELS = {f"{task}-{model}": (task, model) for task, model in QUICK}
METRICS = {"classification": "best_val_acc", "segmentation": "best_val_iou"}
KEPT = ("dataset", "device", "precision", "seconds")


def build_parser() -> OneLineParser:
    """The flags of this benchmark."""
    parser = OneLineParser(prog="python -m bench.scores", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="TASK-MODEL, e.g. segmentation-unet")
    parser.add_argument("--seeds", type=in_range(int, 1), default=10, help="seeds 0 .. N-1")
    parser.add_argument("--dataset", choices=("auto", "full", "sample"), default="sample")
    parser.add_argument("--main_flags", default="", help="more flags for the main, in one string")
    parser.add_argument("--output_root", default="runs/scores", help="one run folder per model and seed")
    return parser


def run_main(task: str, model: str, flags: Sequence[str], seed: int, run: RunFolder) -> dict[str, Any]:
    """Run a main in its own process → its best validation metric and what the table says about it."""
    command = [sys.executable, f"{task}_main.py", f"--model_name={model}", f"--seed={seed}"]
    command += [f"--output_dir={run.file('main')}", "--overwrite", *flags]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise UserError(f"{' '.join(command[1:])} failed: {finished.stderr.strip()[-300:]}")
    results = read_json(run.file("main") / "results.json")
    validation = {METRICS[task]: results[METRICS[task]]}
    return {"validation": validation, "of_main": {name: results[name] for name in KEPT}}


def row(name: str, runs: list[dict[str, Any]]) -> tuple[str, ...]:
    """A line of the table from the runs of all seeds."""
    values = [value for run in runs for value in run["validation"].values()]
    seconds = statistics.median(run["of_main"]["seconds"] for run in runs)
    expected = str(QUICK[MODELS[name]])
    return (name, mean_sd(values), f"{min(values):.4f}", expected, str(len(values)), f"{seconds:.1f}")


def main() -> None:
    """Run every model over the seeds and print the table."""
    args = build_parser().parse_args()
    flags = [f"--dataset={args.dataset}", *shlex.split(args.main_flags)]
    for name in args.models:
        check_choice("models", name, MODELS)
    folder = writable_folder(args.output_root, "--output_root")
    study = Study(folder, {"flags": flags}, range(args.seeds), replace_changed=True)
    runs = {}
    for name in args.models:
        task, model = MODELS[name]
        runs[name] = study.train(name, lambda seed, run, t=task, m=model: run_main(t, m, flags, seed, run))
    print_table(
        ("model", "mean ± sd", "worst", "course expects", "seeds", "median s"),
        [row(name, found) for name, found in runs.items()],
    )
    of_main = next(iter(runs.values()))[0]["of_main"]
    where = f"{of_main['dataset']}, validation; {of_main['device']}, {of_main['precision']}"
    print(f"\n{where}; flags: {shlex.join(flags)}")


if __name__ == "__main__":
    run_script(main)
