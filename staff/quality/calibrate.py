"""Measure the gates again and compare with the stored evidence: `python -m staff.calibrate`.

Every gate that depends on chance is measured as the grader measures it: the reference from several starts, and each
alternate of the bank from one. It prints the tables that stand with the gates in
staff/assignments/project2/assignment.toml, to be pasted there, and says for each stored table whether it still holds.
Exit code: 0 all hold, 1 some do not, 2 mistake in the call.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from staff.assignments.project2.graded_tests import test_1_results, test_2_results
from staff.grader import assignment as assignments
from staff.grader import sandbox
from staff.grader.client import Budget, StudentProcess
from staff.grader.grade import assemble
from staff.grader.hidden import HiddenData
from staff.grader.training_checks import after_100_steps, checkpoint_model, score
from staff.quality import evidence, reference_checkpoint
from staff.quality.bank import load_bank
from toolkit.cli import OneLineParser, in_range
from toolkit.errors import check_choice
from toolkit.runs import save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
FINAL = "final"  # gates of submitted checkpoints end so; those named extra need the full data set


def build_parser() -> OneLineParser:
    """Flags of the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("gates", nargs="*", help="names of gates such as acc_cnn (default: all)")
    parser.add_argument("--runs", type=in_range(int, 2), default=10, help="starts of the reference for each gate")
    parser.add_argument("--no_alternates", "--no-alternates", action="store_true", help="the reference only")
    parser.add_argument(
        "--data_root", "--data-root", default=str(ROOT / "data"), help="where the full PathMNIST may be"
    )
    parser.add_argument("--threads", type=in_range(int, 1), default=1, help="threads of the training process")
    return parser


@contextlib.contextmanager
def student_of(files: dict[str, str], assignment, threads: int) -> Iterator:
    """The sandboxed process of a solution, with room for long work."""
    with sandbox.temporary_place() as place:
        assemble(place, assignment, {name: text.encode() for name, text in files.items()})
        limits = sandbox.Limits(threads=threads, cpu_s=7200)
        student = StudentProcess(place, sandbox.choose_layer()[0], limits, Budget(submission_s=7200), [])
        try:
            yield student
        finally:
            student.end()


def measure(student, gate, hidden, number: int) -> float:
    """What the gate would see in its first try from start `number`."""
    metric, _, kind = gate.name.partition("_")
    part = {"acc": test_1_results.PART, "iou": test_2_results.PART}[metric]
    student.request("forget", {})
    rng = np.random.default_rng([number, 1])
    if kind != FINAL:
        return after_100_steps(student, rng, part, hidden, gate, kind, number)
    task, epochs = {"acc": ("classification", 10), "iou": ("segmentation", 3)}[metric]
    with contextlib.redirect_stdout(sys.stderr):  # its lines of progress; what is printed here is pasted
        content, _ = reference_checkpoint.train(task, epochs, number)
    path = student.place.tree / f"{task}.pt"
    save_checkpoint(path, content)
    path.chmod(0o644)
    return score(checkpoint_model(student, student.place, path.name, part, content["model_name"]), part, hidden, rng)


def evidence_of(gates: list, hidden, assignment, arguments: argparse.Namespace) -> Iterator[tuple[str, object, list]]:
    """(who, gate, values) for the reference, then for the alternates together; a final gate has only the reference."""
    right = [variant for variant in load_bank() if variant.is_right]
    with student_of(right[0].files, assignment, arguments.threads) as student:
        for gate in gates:
            runs = tqdm(range(arguments.runs), desc=f"{gate.name}, reference", unit="run", disable=None)
            yield "reference", gate, [measure(student, gate, hidden, number) for number in runs]
    values: dict[str, list[float]] = {gate.name: [] for gate in gates if not gate.name.endswith(FINAL)}
    if arguments.no_alternates or not values:
        return
    for variant in tqdm(right[1:], desc="alternates", unit="solution", disable=None):
        with student_of(variant.files, assignment, arguments.threads) as student:
            for gate in gates:
                if gate.name in values:
                    values[gate.name].append(measure(student, gate, hidden, 0))
    for gate in gates:
        if gate.name in values:
            yield "alternates", gate, values[gate.name]


def main() -> int:
    """Measure, print, compare; returns the exit code."""
    arguments = build_parser().parse_args()
    assignment = assignments.load("project2")
    hidden = HiddenData.find(arguments.data_root, announce=print)
    gates = {name: gate for name, gate in assignment.gates[hidden.kind].items() if not name.endswith("extra")}
    for name in arguments.gates:
        check_choice("gate", name, list(gates))
    chosen = [gates[name] for name in arguments.gates or gates]
    torch.set_num_threads(arguments.threads)  # checkpoints are trained in this process
    print(f"# {hidden.kind} data, {arguments.threads} thread(s)", flush=True)
    broken = False
    for who, gate, values in evidence_of(chosen, hidden, assignment, arguments):
        measured = evidence.fit(values, gate.value, gate.grey, gate.tries)
        print(measured.toml(gate.name, who), flush=True)
        # Alternates are different solutions: their spread is not a reason to say that the reference's gate is wrong.
        problems = evidence.objections(gate.evidence.get(who), measured) if who == "reference" else []
        broken = broken or bool(problems)
        print(*(f"# no longer holds: {problem}" for problem in problems), "", sep="\n", flush=True)
    if broken:
        print("some stored evidence no longer holds; see the lines above", file=sys.stderr)
    return 1 if broken else 0
