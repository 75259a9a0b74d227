"""Scores of the reference over seeds, on the mains as students run them: mean ± sd and the worst seed.

    python -m bench.scores                       # the quick schedule: 5 models x seeds 0-9, about 8 minutes
    python -m bench.scores --models segmentation-unet --seeds 3 --main_flags "--config configs/segmentation_long.json"

Finished runs in --output_root are not run again.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError, check_choice
from toolkit.expectations import QUICK
from toolkit.quickstart import print_table
from toolkit.runs import read_json

MODELS = {f"{task}-{model}": (task, model) for task, model in QUICK}


def build_parser() -> OneLineParser:
    """The flags of this benchmark."""
    parser = OneLineParser(prog="python -m bench.scores", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="TASK-MODEL, e.g. segmentation-unet")
    parser.add_argument("--seeds", type=in_range(int, 1), default=10, help="seeds 0 .. N-1")
    parser.add_argument("--dataset", choices=("auto", "full", "sample"), default="sample")
    parser.add_argument("--main_flags", default="", help="more flags for the main, in one string")
    parser.add_argument("--output_root", default="runs/scores", help="one run folder a model and seed")
    return parser


def run_once(task: str, model: str, seed: int, folder: Path, flags: list[str]) -> dict:
    """Run a main unless its results are there, and return them."""
    results = folder / "results.json"
    if not results.exists():
        command = [sys.executable, f"{task}_main.py", f"--model_name={model}", f"--seed={seed}"]
        command += [f"--output_dir={folder}", "--overwrite", *flags]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise UserError(f"{' '.join(command[1:])} failed: {finished.stderr.strip()[-300:]}")
    return read_json(results)


def main() -> None:
    """Run every model over the seeds and print the table."""
    args = build_parser().parse_args()
    flags = [f"--dataset={args.dataset}", *shlex.split(args.main_flags)]
    rows, results = [], {}
    for name in args.models:
        check_choice("models", name, MODELS)
        task, model = MODELS[name]
        key = "best_val_acc" if task == "classification" else "best_val_iou"
        values, seconds = [], []
        for seed in range(args.seeds):
            results = run_once(task, model, seed, Path(args.output_root) / f"{name}-{seed}", flags)
            values.append(results[key])
            seconds.append(results["seconds"])
            print(f"{name} seed {seed}: {values[-1]:.4f} in {seconds[-1]:.1f} s", flush=True)
        mean = f"{statistics.mean(values):.4f}"
        if len(values) > 1:
            mean += f" ± {statistics.stdev(values):.4f}"
        median_seconds = f"{statistics.median(seconds):.1f}"
        rows.append((name, mean, f"{min(values):.4f}", str(QUICK[task, model]), str(len(values)), median_seconds))
    print_table(("model", "mean ± sd", "worst", "course expects", "seeds", "median s"), rows)
    print(
        f"\n{results['dataset']}, validation; {results['device']}, {results['precision']}; flags: {shlex.join(flags)}"
    )


if __name__ == "__main__":
    run_script(main)
