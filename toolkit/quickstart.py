"""Train the CNN and the U-Net for the quick schedule and compare the results with the course's expectations.

    python -m toolkit.quickstart

Runs the two mains as a student would, one after the other, and exits with 1 if an expectation is not met.
"""

from __future__ import annotations

import subprocess
import sys

from toolkit.cli import OneLineParser, add_data_flags, in_range, run_script
from toolkit.errors import UserError
from toolkit.expectations import QUICK
from toolkit.runs import free_run_path, read_json

RUNS = (
    ("classification", "classification_main.py", "cnn", "best_val_acc", "accuracy"),
    ("segmentation", "segmentation_main.py", "unet", "best_val_iou", "IoU"),
)


def build_parser() -> OneLineParser:
    """The flags that are handed on to both mains."""
    parser = OneLineParser(prog="python -m toolkit.quickstart", description=__doc__.splitlines()[0])
    parser.add_argument("--max_steps_per_epoch", type=in_range(int, 1), default=100, help="steps of 32 images")
    parser.add_argument("--seed", type=in_range(int, 0, 2**32 - 1), default=0)
    parser.add_argument("--output_root", default="runs", help="folder for the two run folders")
    add_data_flags(parser)
    return parser


def main() -> int:
    """Run both mains, print the table, return 0 if every expectation is met."""
    args = build_parser().parse_args()
    handed_on = [
        f"--{name}={value}" for name, value in vars(args).items() if value is not None and name != "output_root"
    ]
    rows, all_met = [], True
    for task, script, model_name, key, metric in RUNS:
        folder = free_run_path(args.output_root, f"{task}-{model_name}-seed{args.seed}")
        print(f"\n{task}: {model_name}, one epoch of {args.max_steps_per_epoch} steps", flush=True)
        command = [sys.executable, script, f"--model_name={model_name}", f"--output_dir={folder}", *handed_on]
        code = subprocess.run(command, check=False).returncode
        if code == 130:
            raise KeyboardInterrupt
        if code != 0:
            raise UserError(f"{script} ended with exit code {code}; its message stands above")
        results = read_json(folder / "results.json")
        expectation, wanted, verdict = QUICK.get((task, model_name)), "not measured", "-"
        if expectation:
            met = expectation.is_met(results[key])
            all_met &= met
            wanted, verdict = f"{expectation} {metric}", "yes" if met else "NO"
        rows.append((model_name, f"{results[key]:.4f} {metric}", wanted, verdict, results["dataset"], str(folder)))
    print_table(("model", "result", "expected", "met", "data", "pictures in"), rows)
    return 0 if all_met else 1


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print columns that are as wide as their longest cell."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    print()
    for row in (header, tuple("-" * width for width in widths), *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    run_script(main)
