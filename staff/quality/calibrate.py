"""Measure the gates again and compare with the stored evidence: `python -m staff.calibrate`.

Every gate that depends on chance is measured as the grader measures it: the reference from several starts, and each
alternate of the bank from one. It prints the tables that stand with the gates in
staff/assignments/project2/assignment.toml, to be pasted there, and says for each stored table whether it still holds.
A gate that has no value on a data set gets the largest one that all of them reach and that each group misses less than
once in 1,000 times: a threshold from the reference alone fails right networks of another kind. Exit code: 0 all hold,
1 some do not, 2 mistake in the call.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from staff.assignments.project2.graded_tests import test_1_results, test_2_results
from staff.grader import assignment as assignments
from staff.grader import sandbox
from staff.grader.assignment import Gate
from staff.grader.client import Budget, StudentProcess
from staff.grader.dataset import DataSet
from staff.grader.grade import assemble
from staff.grader.hidden import HiddenData
from staff.grader.training_checks import after_100_steps, checkpoint_model, score
from staff.quality import evidence
from staff.quality.bank import Variant, load_bank
from staff.release.starter import recipe as recipes
from staff.release.starter import release
from staff.release.starter.build import build
from staff.release.starter.markers import read_graded
from toolkit.cli import OneLineParser, in_range
from toolkit.errors import check_choice

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("full", "sample")  # of the reference set; another set has one, called as results are
FINAL = "final"  # gates of submitted checkpoints end so; those named extra need the full data set


def build_parser() -> OneLineParser:
    """Flags of the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("gates", nargs="*", help="names of gates such as acc_cnn (default: all)")
    parser.add_argument("--runs", type=in_range(int, 2), default=10, help="starts of the reference for each gate")
    parser.add_argument("--no_alternates", "--no-alternates", action="store_true", help="the reference only")
    parser.add_argument("--dataset", metavar="FLAG", help="another set of MedMNIST than the assignment's")
    parser.add_argument("--data_root", "--data-root", default=str(ROOT / "data"), help="where the full data set may be")
    parser.add_argument("--threads", type=in_range(int, 1), default=1, help="threads of the training process")
    return parser


@contextlib.contextmanager
def student_of(files: dict[str, str], assignment, threads: int) -> Iterator:
    """The sandboxed process of a solution, with room for long work."""
    with sandbox.temporary_place() as place:
        assemble(place, assignment, {name: text.encode() for name, text in files.items()})
        limits = sandbox.Limits(threads=threads, cpu_s=7200)
        student = StudentProcess(place, sandbox.choose_layer()[0], limits, Budget(submission_s=7200), [])
        student.channels, student.num_classes = assignment.images
        try:
            yield student
        finally:
            student.end()


def gates_of(assignment, kind: str) -> dict[str, Gate]:
    """Name -> gate for one kind of data; its value is NaN where it has none yet. Extra credit needs the full set."""
    known, every = assignment.gates.get(kind, {}), assignment.gates["full"]
    new = {name: replace(gate, value=math.nan, evidence={}) for name, gate in every.items() if kind not in KINDS}
    return {name: gate for name, gate in (new | known).items() if not name.endswith("extra")}


def measure(student, gate, hidden, number: int) -> float:
    """What the gate would see in its first try from start `number`."""
    metric, _, kind = gate.name.partition("_")
    part = {"acc": test_1_results.PART, "iou": test_2_results.PART}[metric]
    student.request("forget", {})
    rng = np.random.default_rng([number, 1])
    if kind != FINAL:
        return after_100_steps(student, rng, part, hidden, gate, kind, number)
    task, model_name = {"acc": ("classification", "cnn"), "iou": ("segmentation", "unet")}[metric]
    command = [sys.executable, "-m", "staff.reference_checkpoint", f"--only={task}", f"--seed={number}"]
    command.append(f"--out={student.place.tree}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(student.limits.threads)}
    recipe = recipes.load("project2", flag=hidden.source.flag)
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:  # a starter with the solutions in place
        solution = Path(folder) / "solution"
        originals = {item.name: item.original.encode() for item in read_graded(recipe)}
        release.write_release(solution, build(recipe).files | originals)
        # Its lines of progress go to stderr; what is printed here is pasted.
        subprocess.run(command, cwd=solution, env=environment, stdout=sys.stderr, check=True)
    path = student.place.tree / f"{task}.pt"
    path.chmod(0o644)
    return score(checkpoint_model(student, student.place, path.name, part, model_name), part, hidden, rng)


def right_solutions(dataset: DataSet) -> list[Variant]:
    """The reference, then the others. Those written as a whole spell channels and classes in ways not known here."""
    right = [variant.adapted(dataset) for variant in load_bank() if variant.is_right]
    return [variant for variant in right if dataset.is_reference or not variant.is_whole]


def evidence_of(gates: list, hidden, assignment, arguments: argparse.Namespace) -> Iterator[tuple[str, object, list]]:
    """(who, gate, values) for the reference, then for the alternates together; a final gate has only the reference."""
    right = right_solutions(assignment.dataset)
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
    assignment = assignments.load("project2", arguments.dataset)
    hidden = HiddenData.find(arguments.data_root, assignment.dataset.flag)
    gates = gates_of(assignment, hidden.kind)
    for name in arguments.gates:
        check_choice("gate", name, list(gates))
    chosen = [gates[name] for name in arguments.gates or gates]
    print(f"# {hidden.kind} data, {arguments.threads} thread(s)", flush=True)
    place, broken = "" if hidden.kind in KINDS else f".{hidden.kind}", False
    new: dict[str, dict[str, list[float]]] = {}  # gates without a value, which has to suit everyone

    def show(text: str, problems: list[str]) -> bool:
        print(text, *(f"# {problem}" for problem in problems), "", sep="\n", flush=True)
        return bool(problems)

    for who, gate, values in evidence_of(chosen, hidden, assignment, arguments):
        if math.isnan(gate.value):
            new.setdefault(gate.name, {})[who] = values
        else:
            broken |= show(*conclusion(who, gate, values, place))
    for name, values_of in new.items():
        broken |= show(*proposal(gates[name], values_of, place))
    if broken:
        print("some gates have no evidence that holds; see the lines above", file=sys.stderr)
    return 1 if broken else 0


def conclusion(who: str, gate: Gate, values: list[float], place: str) -> tuple[str, list[str]]:
    """(table to paste, what is wrong with the gate).

    Args:
        who: reference or alternates.
        gate: as it is stored.
        values: what was measured.
        place: of the table, after the gate's name.
    """
    measured = evidence.fit(values, gate.value, gate.grey, gate.tries)
    # Alternates are different solutions: their spread is not a reason to say that the reference's gate is wrong.
    problems = evidence.objections(gate.evidence.get(who), measured) if who == "reference" else []
    return measured.toml(f"{gate.name}{place}", who), [f"no longer holds: {problem}" for problem in problems]


def proposal(gate: Gate, values_of: dict[str, list[float]], place: str) -> tuple[str, list[str]]:
    """The same for a gate that has no value yet; values_of: reference, alternates -> what each reached."""
    value = evidence.largest_gate(values_of.values(), gate.grey, gate.tries)
    if not value:
        runs = sum(map(len, values_of.values()))
        return "", [f"{gate.name}: {runs} runs are too few to say what a right solution reaches; more --runs"]
    tables = [
        evidence.fit(values, value, gate.grey, gate.tries).toml(f"{gate.name}{place}", who)
        for who, values in values_of.items()
    ]
    return "\n".join([f"[gate.{gate.name}{place}]\nvalue = {value:g}\n", *tables]), []
