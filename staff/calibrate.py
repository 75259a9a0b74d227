"""Measure what the reference reaches at the 100-step gates: `python -m staff.calibrate --runs 10`.

Prints, for every such gate of the data at hand, mean, standard deviation and least value over that many starts and data
draws, one try each. They are the evidence that stands beside the gates in staff/assignments/project2.toml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.cli import OneLineParser, in_range, run_script

ROOT = Path(__file__).resolve().parents[1]


def build_parser() -> OneLineParser:
    """Flags of the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("gates", nargs="*", help="names of gates such as acc_cnn (default: all)")
    parser.add_argument("--runs", type=in_range(int, 1), default=10, help="starts for each gate")
    parser.add_argument("--submission", default=str(ROOT), help="whose code: a folder, zip archive or git repository")
    parser.add_argument("--data-root", default=str(ROOT / "data"), help="where the full PathMNIST may lie")
    parser.add_argument("--threads", type=in_range(int, 1), default=1, help="threads of the training process")
    return parser


def measure(arguments: argparse.Namespace) -> None:
    """One line a gate."""
    import numpy as np

    from staff import assignment as assignments
    from staff import sandbox
    from staff.client import Budget, StudentProcess
    from staff.grade import assemble
    from staff.graded_tests.project2 import test_1_results, test_2_results
    from staff.hidden import HiddenData
    from staff.results_of import after_100_steps
    from staff.submission import read_submission

    assignment = assignments.load("project2")
    hidden = HiddenData.find(arguments.data_root)
    parts = {part.metric: part for part in (test_1_results.PART, test_2_results.PART)}
    with sandbox.temporary_place() as place:
        assemble(place, assignment, read_submission(arguments.submission, assignment.files))
        limits = sandbox.Limits(threads=arguments.threads, cpu_s=7200)
        student = StudentProcess(place, sandbox.choose_layer()[0], limits, Budget(submission_s=7200), [])
        try:
            for name, gate in assignment.gates[hidden.kind].items():
                metric, _, kind = name.partition("_")
                if kind not in parts[metric].names or (arguments.gates and name not in arguments.gates):
                    continue
                values = []
                for number in range(arguments.runs):
                    student.request("forget", {})
                    rng = np.random.default_rng([number, 1])
                    values.append(after_100_steps(student, rng, parts[metric], hidden, gate, kind, number))
                spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
                print(
                    f"{name}: mean {np.mean(values):.3f}, sd {spread:.3f}, least {min(values):.3f} "
                    f"of {len(values)} runs on {hidden.kind} data; gate {gate.value:g}",
                    flush=True,
                )
        finally:
            student.end()


def main() -> None:
    """Parse and measure."""
    measure(build_parser().parse_args())


if __name__ == "__main__":
    run_script(main)
