"""How often do the judges err? `python -m staff.measure` lets three of them judge right solutions and mistakes.

The public tests of the starter, the mains with a quick schedule, and the grader judge each entry of the bank. The
report counts, names every disagreement, and says which entries no check was written with. A false failure: a right
solution loses points of a TODO. A false pass: a mistake keeps all points of a TODO that it should cost. Collateral: a
mistake costs a TODO that it does not touch. Every judgement is kept in --out, so that a run that was stopped continues,
and nothing is judged twice with the same judge, code and seed.

--quick takes each twentieth entry of each set, leaves out the training gates, and judges of a mistake the TODOs that
it is about, up to the first check that fails, several mistakes in one submission. Whether a mistake costs other TODOs
too, only the full run sees. Exit code: 0 if the bars are met, 1 if not, 2 mistake in the call.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import multiprocessing
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from staff.gradebook.grade_class import grader_digest
from staff.grader import assignment as assignments
from staff.grader import checks, code_features, diagnosis, grade
from staff.grader.hidden import HiddenData
from staff.quality import judges, verdicts
from staff.quality.bank import PROJECT2, Variant, folder_of, load_bank, places, reference, todos_by_file
from staff.quality.confusion import Graded, interval, report, shortfalls
from staff.quality.grouping import groups, together
from toolkit.cli import OneLineParser, in_range
from toolkit.devices import describe, pick_device
from toolkit.errors import UserError, check_choice, listed
from toolkit.runs import write_json

ROOT = Path(__file__).resolve().parents[2]
ALTERNATE_SEEDS = 5
QUICK_EVERY = 20
JUDGES = ("public", "mains", "grader")
WITH_MAINS = (PROJECT2,)  # assignments whose students have a main that trains
# What the judges import, so that a process that judges once need not.
PRELOADED = [
    "pytest",
    *(f"staff.grader.{name}" for name in ("grade", "checks", "oracle", "hidden", "diagnosis")),
]
FOR_MAINS = [  # and for trainings
    *(f"toolkit.{name}" for name in ("experiment", "plots", "metrics", "augment", "batches", "training", "layers")),
    "sklearn.metrics",
    "torch._dynamo",  # which the first optimizer of a process imports
]
# Of a whole submission: its CNN and U-Net, and an MLP for each pair of loops.
QUICK_MAINS = ("1.2", "1.4", "2.3", "2.6")


@dataclasses.dataclass(frozen=True)
class Judging:
    """One judgement of one entry, or of several that do not meet. `todos`: only these."""

    judge: str
    variants: tuple[Variant, ...]
    todos: tuple[str, ...]
    seed: int = 0
    gates: bool = False
    first_failure: bool = False
    assignment: str = PROJECT2

    @property
    def name(self) -> str:
        """Its judge and its entries."""
        names = "+".join(variant.name for variant in self.variants)
        return f"{self.judge}-{names if len(names) < 100 else hashlib.sha256(names.encode()).hexdigest()[:12]}"

    def digest(self, basis: str) -> str:
        """Changes whenever the outcome could; basis: digest of the judge and of all that it runs."""
        parts = [basis, *(variant.digest() for variant in self.variants), str(self.seed), repr(self.todos)]
        return hashlib.sha256("\n".join([*parts, str(self.gates), str(self.first_failure)]).encode()).hexdigest()[:24]

    def split(self, found: list | dict) -> list[Graded | verdicts.Heard]:
        """The entries' own part of what was found."""
        shared = len(self.variants) > 1
        if self.judge == "grader":
            own = [[todo for todo in found if not shared or todo["id"] in one.todos] for one in self.variants]
            return [Graded(one, self.seed, todos) for one, todos in zip(self.variants, own, strict=True)]
        return [
            verdicts.Heard(one, self.judge, {k: v for k, v in found.items() if not shared or k in one.todos})
            for one in self.variants
        ]


def build_parser() -> OneLineParser:
    """Flags of the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="entries of the bank (default: all)")
    parser.add_argument("--assignment", default=PROJECT2, help="name of a folder in staff/assignments")
    parser.add_argument("--quick", action="store_true", help="no training gates, one seed, fewer TODOs an entry")
    parser.add_argument("--mistakes", type=Path, nargs="+", default=[], metavar="FILE", help="judge these mistakes too")
    parser.add_argument("--every", type=in_range(int, 1), metavar="N", help="each Nth entry of each set (quick: 20)")
    parser.add_argument("--only_set", nargs="+", metavar="SET", help="entries of these sets of the bank")
    parser.add_argument("--judges", nargs="+", choices=JUDGES, help="not all that there are")
    parser.add_argument("--seeds", type=in_range(int, 1), help=f"seeds for right solutions (default {ALTERNATE_SEEDS})")
    parser.add_argument("--jobs", type=in_range(int, 1), default=2, help="judgements at the same time")
    parser.add_argument("--out", type=Path, default=Path("build/measure"), help="where judgements are kept")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the report to this Markdown file too")
    parser.add_argument("--patterns", type=Path, metavar="FILE", help="keep how mistakes fail, for the diagnosis")
    parser.add_argument("--require", choices=("bwrap", "user", "limits"), help="this sandbox layer or nothing")
    return parser


def plan(
    bank: list[Variant], quick: bool, seeds: int, judges: tuple[str, ...] = JUDGES, assignment: str = PROJECT2
) -> list[Judging]:
    """Right solutions are graded with several seeds and the gates; mistakes once and without gates, because how well a
    wrong model trains is not an error of the grader's.

    Of a mistake, all TODOs of the files that it changes are graded; nothing else but the gates runs code of them.
    """
    tasks, by_file = [], todos_by_file(assignment)
    every_todo = tuple(todo for todos in by_file.values() for todo in todos)
    mistakes = [variant for variant in bank if not variant.is_right]
    for variant in bank:
        todos = tuple(todo for name in variant.changed for todo in by_file[name]) or every_todo  # the reference: all
        if variant.is_right:
            for seed in range(seeds):
                tasks.append(Judging("grader", (variant,), todos if quick else every_todo, seed, gates=not quick))
            tasks.append(Judging("public", (variant,), todos))
            tasks.append(Judging("mains", (variant,), QUICK_MAINS if quick and variant.is_whole else todos))
        else:
            tasks.append(Judging("mains", (variant,), variant.todos))
            if not quick:
                tasks.append(Judging("grader", (variant,), todos))
                tasks.append(Judging("public", (variant,), variant.todos))
    if quick:
        for group in groups(mistakes):
            aimed = tuple(sorted(todo for variant in group for todo in variant.todos))
            tasks += [Judging(judge, group, aimed, first_failure=True) for judge in ("grader", "public")]
    # The longest first, so that at the end no process waits for another; a run that is stopped has whole seeds.
    tasks.sort(key=lambda task: (not task.variants[0].is_right, task.seed, -len(task.todos)))
    return [dataclasses.replace(task, assignment=assignment) for task in tasks if task.judge in judges]


def work(task: Judging, starter: Path, require: str | None, path: Path) -> None:
    """Do one task in this process, which is used once, and keep what was found and how long it took."""
    started = time.monotonic()
    grade.end_by_signals()
    try:
        found = judge_task(task, starter, require)
    except checks.Stopped as stop:
        raise SystemExit(stop.code) from None
    seconds = time.monotonic() - started
    entries = [variant.name for variant in task.variants]
    facts = {"judge": task.judge, "entries": entries, "seed": task.seed, "seconds": round(seconds, 1)}
    write_json(path, {**facts, "found": found})


def judge_task(task: Judging, starter: Path, require: str | None) -> list | dict:
    """What a judge says."""
    with tempfile.TemporaryDirectory(prefix="measure-") as folder:
        if task.judge == "grader":
            return grade_task(task, Path(folder), require)
        with judges.submission_tree(starter, together(task.variants), Path(folder)) as tree:
            if task.judge == "public":
                return judges.public_tests(tree, task.todos, task.first_failure)
            return judges.mains(tree, task.todos)


def grade_task(task: Judging, folder: Path, require: str | None) -> list[dict]:
    """The TODOs of the grader's results."""
    submission, seed_file = folder / "submission", folder / "seed"
    submission.mkdir()
    for name, text in together(task.variants).items():
        (submission / name).parent.mkdir(parents=True, exist_ok=True)
        (submission / name).write_text(text, encoding="utf-8")
    seed_file.write_text(f"measure {task.seed}", encoding="utf-8")
    argv = [
        str(submission),
        "--assignment",
        task.assignment,
        "--threads",
        "1",
        "--seed-file",
        str(seed_file),
        "--request-s",
        "60",
    ]
    argv += ["--require", require] if require else []
    argv += ["--todo", *task.todos]
    argv += [] if task.gates else ["--no_gates"]
    argv += ["--first_failure"] if task.first_failure else []
    results = grade.grade(grade.build_parser().parse_args(argv))
    if results["staff_only"]["grader_errors"]:
        raise RuntimeError(f"{task.name}: {results['staff_only']['grader_errors'][0]}")
    return [todo for todo in results["todos"] if todo["id"] in task.todos]


def run(tasks: list[Judging], bases: dict[str, str], starter: Path, arguments: argparse.Namespace) -> list:
    """Judge what is not judged yet, `jobs` at a time, and read what is. bases: judge -> digest of what it runs."""
    folder = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    paths = {task: folder / f"{task.name}-{task.digest(bases[task.judge])}.json" for task in tasks}
    waiting = [task for task in tasks if not paths[task].exists()]
    print(f"{len(tasks)} judgements, {len(tasks) - len(waiting)} of them kept from earlier")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED + FOR_MAINS * any(task.judge == "mains" for task in waiting))
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that the pool ends its processes
    # A process judges once: pytest keeps the graded tests' modules, and the grader guards its own process.
    with context.Pool(arguments.jobs, maxtasksperchild=1) as pool:
        jobs = [pool.apply_async(work, (task, starter, arguments.require, paths[task])) for task in waiting]
        for job in tqdm(jobs, unit="judgement", disable=None):
            job.get()
    kept = {task: json.loads(paths[task].read_text("utf-8")) for task in tasks}
    for judge in JUDGES:
        if judge not in {task.judge for task in tasks}:
            continue
        used = sum(one.get("seconds", 0) for task, one in kept.items() if task.judge == judge)
        print(f"{judge}: {used:.0f} s, one judgement after the other")
    return [one for task in tasks for one in task.split(kept[task]["found"])]


def heading(seeds: int) -> str:
    """Title, date, commit, hardware, versions and command, for the file."""
    import torch

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") + (
        " and changes to it" if git("status", "--porcelain", "-uno") else ""
    )
    lines = [
        "# How often the judges err",
        "",
        f"- {datetime.date.today().isoformat()}, commit {commit}",
        f"- {describe(pick_device('cpu'))}; torch {torch.__version__}; one thread a submission",
        f"- `python -m staff.measure {shlex.join(sys.argv[1:])}`",
        f"- right solutions with {seeds} seed(s) of the grader's secret data each, mistakes with one",
    ]
    return "\n".join(lines)


def write_patterns(graded: list[Graded], path: Path, assignment: str) -> None:
    """Keep how each mistake fails, for staff.grader.diagnosis, and say how often the others would find it."""
    bank = diagnosis_bank(graded, assignment)
    write_json(path, {"places": bank.places, "patterns": [dataclasses.asdict(pattern) for pattern in bank.patterns]})
    found, missed = diagnosis.leave_one_out(bank.patterns)
    print(f"diagnosis, each mistake by the others: {interval(len(found), len(bank.patterns))} in the first two hints")
    print(f"missed: {', '.join(f'{pattern.entry} ({pattern.todo})' for pattern in missed) or 'none'}")


def diagnosis_bank(graded: list[Graded], assignment: str):
    """The staff.grader.diagnosis.Bank of the mistakes among these gradings that ask a question."""
    files = reference(assignment)
    known = {
        todo: (file, name, tuple(sorted(code_features.features(files[file], name))))
        for todo, (file, name) in places(assignment).items()
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
        if one.variant.hint and todo["id"] in one.variant.todos and todo["id"] in one.lost()
    )
    return diagnosis.Bank(patterns, known)


def each_nth(bank: list[Variant], every: int) -> list[Variant]:
    """Each `every`th entry of each set, right solutions and mistakes counted apart."""
    count: Counter[tuple[str, bool]] = Counter()
    chosen = []
    for variant in bank:
        kind = (variant.set, variant.is_right)
        if count[kind] % every == 0:
            chosen.append(variant)
        count[kind] += 1
    return chosen


def judges_of(assignment: str, asked: list[str] | None) -> tuple[str, ...]:
    """Those that were asked for, or all of an assignment. UserError for the mains where there are none."""
    there = tuple(judge for judge in JUDGES if judge != "mains" or assignment in WITH_MAINS)
    for judge in asked or ():
        check_choice("judges", judge, there)
    return tuple(asked or there)


def select(bank: list[Variant], names: list[str], sets: list[str] | None) -> list[Variant]:
    """The entries called `names` and those of `sets`, or all. UserError for a name that is not there."""
    known = {variant.name: variant for variant in bank}
    for name in names:
        if name not in known:
            raise UserError(f"{name!r} is not in the bank; {listed(name, sorted(known))}")
    there = {variant.set for variant in bank}
    for name in sets or ():
        if name not in there:
            raise UserError(f"--only_set {name!r}: the bank has no such set; allowed: {', '.join(sorted(there))}")
    if not names and not sets:
        return bank
    return [variant for variant in bank if variant.name in names or variant.set in (sets or ())]


def main() -> int:
    """Judge the bank and print the report; returns the exit code."""
    arguments = build_parser().parse_args()
    if arguments.quick and arguments.patterns:
        raise UserError("--patterns needs every check of a mistake, and --quick stops at the first that fails")
    assignment = assignments.load(arguments.assignment)
    asked = judges_of(assignment.name, arguments.judges)
    bank = select(load_bank(arguments.mistakes, assignment.name), arguments.names, arguments.only_set)
    all_of_them = not arguments.quick or arguments.names or arguments.only_set
    bank = each_nth(bank, arguments.every or (1 if all_of_them else QUICK_EVERY))
    data = HiddenData.find(str(ROOT / "data"), assignment.dataset.flag).source.path if assignment.dataset else None
    seeds = arguments.seeds or (1 if arguments.quick else ALTERNATE_SEEDS)
    tasks = plan(bank, arguments.quick, seeds, asked, assignment.name)
    with tempfile.TemporaryDirectory(prefix="measure-starter-") as starter:
        basis = judges.write_starter(Path(starter), assignment.name)
        bases = {"public": basis, "mains": basis}
        bases["grader"] = grader_digest(assignment, data, arguments.require)
        found = run(tasks, bases, Path(starter), arguments)
    graded = [one for one in found if isinstance(one, Graded)]
    heard = [one for one in found if isinstance(one, verdicts.Heard)]
    opinions = verdicts.Opinions(bank, graded, heard, folder_of(assignment.name))
    text = "\n\n".join([verdicts.report(opinions), *([report(graded, arguments.quick)] if graded else [])])
    print(text)
    if arguments.patterns:
        write_patterns(graded, arguments.patterns, assignment.name)
    if arguments.table:
        arguments.table.write_text(f"{heading(seeds)}\n\n{text}\n", encoding="utf-8")
    problems = shortfalls(graded) + verdicts.shortfalls(opinions)
    for line in problems:
        print(f"bar missed: {line}", file=sys.stderr)
    return 1 if problems else 0
