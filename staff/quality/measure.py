"""How often is the grader wrong? `python -m staff.measure` grades right solutions and typical mistakes, and counts.

A false failure: a right solution loses points of a TODO. A false pass: a mistake keeps all points of a TODO that it
should cost. Collateral: a mistake costs a TODO that it does not touch. Every grading is kept in --out, so that a run
that was stopped goes on, and nothing is graded twice with the same grader, code and seed.
--quick leaves out the training gates, and of each mistake grades the TODOs that it is about, up to the first check that
fails: two mistakes in one submission, one in each part of the project. Whether a mistake costs other TODOs too, only
the full run sees. Exit code: 0 if the bars are met (no false failure, 95% of the mistakes caught, no collateral), 1 if
not, 2 mistake in the call.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

from staff.quality.bank import Variant, load_bank
from staff.quality.confusion import Graded, interval, report, shortfalls
from toolkit.cli import OneLineParser, in_range
from toolkit.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ALTERNATE_SEEDS = 5
# What every grading imports, so that a process that grades once need not.
PRELOADED = [
    "pytest",
    *(f"staff.grader.{name}" for name in ("grade", "checks", "oracle", "hidden", "diagnosis")),
]
TODOS_OF_FILE = {
    "classification_models.py": ("1.0", "1.1", "1.2"),
    "classification_train.py": ("1.3", "1.4", "1.5", "1.6"),
    "segmentation_models.py": ("2.0", "2.1", "2.2", "2.3", "2.4", "2.5"),
    "segmentation_train.py": ("2.6", "2.7", "2.8"),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """One grading of one entry, or of several that lie in different files. `todos`: only these, or all."""

    variants: tuple[Variant, ...]
    seed: int
    todos: tuple[str, ...] | None
    gates: bool
    first_failure: bool = False

    @property
    def name(self) -> str:
        """Names of its entries."""
        return "+".join(variant.name for variant in self.variants)

    def digest(self, grader: str) -> str:
        """Changes whenever the outcome could."""
        parts = [grader, *(variant.digest() for variant in self.variants), str(self.seed), repr(self.todos)]
        return hashlib.sha256("\n".join([*parts, str(self.gates), str(self.first_failure)]).encode()).hexdigest()[:24]

    def files(self) -> dict[str, str]:
        """What is handed in: each entry's changed files over the reference."""
        merged = dict(self.variants[0].files)
        for variant in self.variants[1:]:
            merged.update({name: variant.files[name] for name in variant.changed})
        return merged

    def split(self, todos: list[dict]) -> list[Graded]:
        """The entries' own TODOs of the results."""
        if len(self.variants) == 1:
            return [Graded(self.variants[0], self.seed, todos)]
        return [
            Graded(variant, self.seed, [todo for todo in todos if todo["id"] in variant.todos + variant.may_cost])
            for variant in self.variants
        ]


def build_parser() -> OneLineParser:
    """Flags of the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="entries of the bank (default: all)")
    parser.add_argument("--quick", action="store_true", help="no training gates, one seed, fewer TODOs an entry")
    parser.add_argument("--seeds", type=in_range(int, 1), help=f"seeds for right solutions (default {ALTERNATE_SEEDS})")
    parser.add_argument("--jobs", type=in_range(int, 1), default=2, help="gradings at the same time")
    parser.add_argument("--out", type=Path, default=Path("build/measure"), help="where gradings are kept")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the report to this Markdown file too")
    parser.add_argument("--patterns", type=Path, metavar="FILE", help="keep how mistakes fail, for the diagnosis")
    parser.add_argument("--require", choices=("bwrap", "user", "limits"), help="this sandbox layer or nothing")
    return parser


def plan(bank: list[Variant], quick: bool, seeds: int) -> list[Task]:
    """Right solutions with several seeds and the gates; mistakes once and without gates, because how well a wrong model
    trains is no error of the grader's.

    Of a mistake, all TODOs of the files that it changes are graded; nothing else but the gates runs code of them.
    """
    tasks = []
    for variant in bank:
        if not variant.is_right and quick:
            continue
        is_partial = variant.changed and (quick or not variant.is_right)
        todos = tuple(todo for name in variant.changed for todo in TODOS_OF_FILE[name]) if is_partial else None
        for seed in range(seeds if variant.is_right else 1):
            tasks.append(Task((variant,), seed, todos, gates=variant.is_right and not quick))
    if quick:
        tasks += in_pairs([variant for variant in bank if not variant.is_right])
    # The longest first, so that at the end no process waits for another; a run that is stopped has whole seeds.
    return sorted(tasks, key=lambda task: (not task.variants[0].is_right, task.seed))


def in_pairs(mistakes: list[Variant]) -> list[Task]:
    """Quick gradings of two mistakes each, one in the classification and one in the segmentation, which share no code.

    Half of a quick grading is the start of a process with torch in it.
    """
    parts = [
        [variant for variant in mistakes if variant.changed[0].startswith(part)]
        for part in ("classification", "segmentation")
    ]
    pairs = [tuple(filter(None, pair)) for pair in itertools.zip_longest(*parts)]
    wanted = [tuple(sorted(todo for one in pair for todo in one.todos + one.may_cost)) for pair in pairs]
    return [Task(pair, 0, todos, gates=False, first_failure=True) for pair, todos in zip(pairs, wanted, strict=True)]


def grade_task(job: tuple[Task, str | None]) -> list[dict]:
    """Grade one task in this process, which is used once; the TODOs of its results."""
    from staff.grader import grade

    task, require = job
    with tempfile.TemporaryDirectory(prefix="measure-") as folder:
        submission = Path(folder, "submission")
        submission.mkdir()
        for name, text in task.files().items():
            (submission / name).write_text(text, encoding="utf-8")
        seed_file = Path(folder, "seed")
        seed_file.write_text(f"measure {task.seed}", encoding="utf-8")
        argv = [str(submission), "--threads", "1", "--seed-file", str(seed_file), "--request-s", "60"]
        argv += ["--require", require] if require else []
        argv += ["--todo", *task.todos] if task.todos else []
        argv += [] if task.gates else ["--no-gates"]
        argv += ["--first-failure"] if task.first_failure else []
        results = grade.grade(grade.build_parser().parse_args(argv))
    if results["staff_only"]["grader_errors"]:
        raise RuntimeError(f"{task.name}: {results['staff_only']['grader_errors'][0]}")
    wanted = task.todos or tuple(todo["id"] for todo in results["todos"])
    return [todo for todo in results["todos"] if todo["id"] in wanted]


def run(tasks: list[Task], folder: Path, grader: str, arguments: argparse.Namespace) -> list[Graded]:
    """Grade what is not graded yet, `jobs` at a time, and read what is."""
    from tqdm import tqdm

    from toolkit.runs import write_json

    folder.mkdir(parents=True, exist_ok=True)
    paths = {task: folder / f"{task.name}-{task.digest(grader)}.json" for task in tasks}
    waiting = [task for task in tasks if not paths[task].exists()]
    print(f"{len(tasks)} gradings, {len(tasks) - len(waiting)} of them kept from earlier")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # A process grades once: pytest keeps the graded tests' modules, and the grader guards its own process.
    with context.Pool(arguments.jobs, maxtasksperchild=1) as pool:
        jobs = [pool.apply_async(grade_task, [(task, arguments.require)]) for task in waiting]
        for task, job in zip(waiting, tqdm(jobs, unit="grading", disable=None), strict=True):
            write_json(paths[task], {"entry": task.name, "seed": task.seed, "todos": job.get()})
    return [one for task in tasks for one in task.split(json.loads(paths[task].read_text("utf-8"))["todos"])]


def heading(seeds: int) -> str:
    """Title, date, commit, hardware, versions and command, for the file."""
    import datetime
    import shlex
    import subprocess

    import torch

    from toolkit.devices import describe, pick_device

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") + (
        " and changes to it" if git("status", "--porcelain", "-uno") else ""
    )
    lines = [
        "# How often the grader is wrong",
        "",
        f"- {datetime.date.today().isoformat()}, commit {commit}",
        f"- {describe(pick_device('cpu'))}; torch {torch.__version__}; one thread a submission",
        f"- `python -m staff.measure {shlex.join(sys.argv[1:])}`",
        f"- right solutions with {seeds} seed(s) of the grader's secret data each, mistakes with one",
    ]
    return "\n".join(lines)


def write_patterns(graded: list[Graded], path: Path) -> None:
    """Keep how each mistake fails, for staff.diagnosis, and say how often the others would find it."""
    from staff.grader import diagnosis
    from toolkit.runs import write_json

    bank = diagnosis_bank(graded)
    write_json(path, {"places": bank.places, "patterns": [dataclasses.asdict(pattern) for pattern in bank.patterns]})
    found, missed = diagnosis.leave_one_out(bank.patterns)
    print(f"diagnosis, each mistake by the others: {interval(len(found), len(bank.patterns))} in the first two hints")
    print(f"missed: {', '.join(f'{pattern.entry} ({pattern.todo})' for pattern in missed) or 'none'}")


def diagnosis_bank(graded: list[Graded]):
    """The staff.diagnosis.Bank of the mistakes among these gradings."""
    from staff.grader import code_features, diagnosis
    from staff.quality.bank import places, reference

    files = reference()
    known = {
        todo: (file, name, tuple(sorted(code_features.features(files[file], name))))
        for todo, (file, name) in places().items()
    }
    bank = diagnosis.Bank((), known)
    patterns = tuple(
        diagnosis.Pattern(
            one.variant.name,
            todo["id"],
            one.variant.hint,
            diagnosis.signature(todo),
            tuple(sorted(bank.code_of(todo["id"], one.variant.files))),
        )
        for one in graded
        for todo in one.todos
        if todo["id"] in one.variant.todos and todo["id"] in one.lost()
    )
    return diagnosis.Bank(patterns, known)


def select(bank: list[Variant], names: list[str]) -> list[Variant]:
    """The entries called `names`, or all. UserError for a name that is not there."""
    known = {variant.name: variant for variant in bank}
    for name in names:
        if name not in known:
            raise UserError(f"{name!r} is not in the bank; allowed: {', '.join(sorted(known))}")
    return [known[name] for name in names] or bank


def main() -> int:
    """Grade the bank and print the report; returns the exit code."""
    from staff.gradebook.grade_class import grader_digest
    from staff.grader import assignment as assignments
    from staff.grader.hidden import HiddenData

    arguments = build_parser().parse_args()
    if arguments.quick and arguments.patterns:
        raise UserError("--patterns needs every check of a mistake, and --quick stops at the first that fails")
    bank = select(load_bank(), arguments.names)
    data = HiddenData.find(str(ROOT / "data"), announce=print).source.path
    grader = grader_digest(assignments.load("project2"), data, arguments.require)
    seeds = arguments.seeds or (1 if arguments.quick else ALTERNATE_SEEDS)
    graded = run(plan(bank, arguments.quick, seeds), arguments.out, grader, arguments)
    text = report(graded, arguments.quick)
    print(text)
    if arguments.patterns:
        write_patterns(graded, arguments.patterns)
    if arguments.table:
        arguments.table.write_text(f"{heading(seeds)}\n\n{text}\n", encoding="utf-8")
    problems = shortfalls(graded)
    for line in problems:
        print(f"bar missed: {line}", file=sys.stderr)
    return 1 if problems else 0
