"""Grade a class: `python -m staff.grade_class FOLDER --jobs 2`.

Every folder and zip archive in FOLDER is one submission, named after it. Results are in OUT (default: FOLDER-grades):
grades.csv, overview.html, feedback/NAME.html for each student, jobs/ with everything else. A submission that was graded
before with the same files, the same grader and the same data is not graded again, so an interrupted run resumes
where it was. Exit code: 0 all graded, 1 some could not be graded (grades.csv says why), 2 mistake in the call,
130 interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from importlib.metadata import version
from pathlib import Path

from staff.gradebook import class_report, commits, term
from staff.gradebook.class_report import Entry
from staff.gradebook.handed_in import find_entries
from staff.gradebook.summing import sum_up
from staff.gradebook.term import Term
from staff.grader import assignment as assignments
from staff.grader import sandbox
from staff.grader.hidden import HiddenData
from staff.grader.packing import printable
from staff.grader.submission import read_submission
from toolkit.cli import OneLineParser, in_range
from toolkit.errors import UserError, listed
from toolkit.sweeps import jobs
from toolkit.sweeps.command import View
from toolkit.sweeps.jobs import Job
from toolkit.sweeps.local import Device, LocalEngine, usable_cores
from toolkit.sweeps.sweep import Rules, Sweep

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "staff/student_side/*.py",
    "staff/grader/**/*",
    "staff/assignments/*/operations.py",
    "staff/assignments/{assignment}/*.py",
    "staff/assignments/{assignment}/assignment.toml",
    "staff/assignments/{assignment}/graded_tests/*",
    "toolkit/*.py",
)
# They choose hints and looks and change no grade, so that work on them does not grade a class again.
NO_GRADING = (
    "staff/grader/code_features.py",
    "staff/grader/diagnosis.py",
    "staff/grader/facts.py",
    "staff/grader/reports/*",
)
EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 130
JOB_TIMEOUT_S = 3600  # of a grader that hangs; with six busy programs on two cores 20 minutes were too few


class GradeScript:
    """What the dispatcher runs for each job."""

    name = "staff.grade"

    def command(self, argv: list[str]) -> list[str]:
        return [sys.executable, "-m", self.name, *argv]

    def own_argv(self, folder: str) -> list[str]:
        """Where the outputs go."""
        outputs = {"--out": "results.json", "--html": "page.html"}
        return [word for flag, name in outputs.items() for word in (flag, os.path.join(folder, name))] + ["--quiet"]

    def resume_argv(self, folder: str) -> list[str]:
        """A grading begins again."""
        return []


def build_parser() -> OneLineParser:
    """Flags of the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with one folder or zip archive a student")
    parser.add_argument("--assignment", default="project2", help="name of a folder in staff/assignments")
    parser.add_argument("--out", type=Path, help="folder for the results (default: FOLDER-grades)")
    parser.add_argument("--jobs", type=in_range(int, 1), default=2, help="submissions graded at the same time")
    parser.add_argument("--require", choices=("bwrap", "user", "limits"), help="this sandbox layer or no grade")
    parser.add_argument(
        "--data_root", "--data-root", default=str(ROOT / "data"), help="where the full PathMNIST may be"
    )
    parser.add_argument(
        "--regrade",
        nargs="+",
        default=[],
        metavar="NAME",
        help="grade these again; old results stay until new are complete",
    )
    parser.add_argument("--secrets", choices=("new", "old"), default="new", help="secret data of --regrade")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--todo", nargs="+", metavar="ID", help="with --regrade: only these TODOs, the rest as it was")
    part.add_argument("--check", nargs="+", metavar="TEST", help="with --regrade: only these checks")
    return parser


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def grader_digest(assignment, data_path: Path | None, require: str | None) -> str:
    """Changes whenever a grade could change: with the grader's files, the provided files, the data, torch."""

    patterns = [pattern.format(assignment=assignment.name) for pattern in SOURCES]
    tools = {path for pattern in NO_GRADING for path in ROOT.glob(pattern)}
    files = sorted({path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()} - tools)
    files += sorted(set(assignment.provided_files().values()) - set(files))
    parts = [f"{path.relative_to(ROOT)} {file_digest(path)}" for path in files if "__pycache__" not in path.parts]
    data = file_digest(data_path) if data_path else "no data"
    parts += [assignment.name, data, f"torch {version('torch')}", f"layer {require}", sys.version]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_entries(found: list[tuple[str, Path]], assignment, grader: str, of_term: Term | None = None) -> list[Entry]:
    """Read every submission once: its digest names its job; one that cannot be read says why.

    of_term: the term, whose due date chooses the commit of a repository.
    """

    entries = []
    for name, path in found:
        entry = Entry(name, path.resolve())
        try:
            name.encode("utf-8")
            if path.is_symlink():
                raise UserError("it is a link, and links are not followed; put the files themselves there")
            choice = commits.choose(path, of_term, assignment.name, name) if of_term else None
            submission = read_submission(path, assignment.files, choice.commit.number if choice else "")
            entry.commit, entry.notes = submission.commit, submission.notes
            if choice:
                entry.commit_time, entry.later_commits = choice.commit.time, choice.later
                entry.notes = choice.notes + submission.notes
        except UnicodeEncodeError:
            entry.problem = "its name is not UTF-8; rename it"
        except UserError as error:
            entry.problem = printable(str(error), 500)
        except Exception as error:  # one submission that cannot be read does not stop the others
            entry.problem = printable(f"it cannot be read: {type(error).__name__}: {error}", 500)
        else:
            entry.digest = submission.digest()
            entry.history = submission.history_digest() if assignment.history else ""
            entry.job = hashlib.sha256(f"{grader} {entry.digest} {entry.history}".encode()).hexdigest()[:20]
        entry.name = printable(name.encode("utf-8", "backslashreplace").decode())
        entries.append(entry)
    return entries


def grade_all(entries: list[Entry], arguments: argparse.Namespace, out: Path) -> bool:
    """Run what is not graded yet through the dispatcher's machinery; True if it was interrupted."""

    argv = ["--assignment", arguments.assignment, "--data_root", str(Path(arguments.data_root).resolve())]
    argv += ["--threads", str(max(1, usable_cores() // arguments.jobs))]
    argv += ["--require", arguments.require] if arguments.require else []
    rules = Rules(timeout_s=JOB_TIMEOUT_S, retries=1, stop_after=0)
    sweep = Sweep(GradeScript(), str(out / "jobs"), LocalEngine([Device(None, arguments.jobs)]), rules)
    for entry in entries:
        if entry.job:
            commit = ["--commit", entry.commit] if entry.commit_time is not None else []
            again = (
                commit + regrade_argv(arguments, out / "jobs" / entry.before / "results.json")
                if entry.again
                else commit
            )
            sweep.add([Job(entry.job, {"submission": entry.name}, [str(entry.path), *argv, *again])])
    with View(sweep, lambda: ""):
        return sweep.run().interrupted


def regrade_argv(arguments: argparse.Namespace, before: Path) -> list[str]:
    """What tells staff.grade to grade a submission again whose earlier results are in `before`."""
    words = ["--seed_file", str(before)] if arguments.secrets == "old" and before.is_file() else []
    for flag, chosen in (("--todo", arguments.todo), ("--check", arguments.check)):
        words += [flag, *chosen, "--onto", str(before)] if chosen else []
    return words


def use_newest(entries: list[Entry], regrade: list[str], out: Path, part: bool = False) -> None:
    """Point every entry at its newest complete results, and those that `regrade` names at a new folder.

    Older results stay; they count until newer ones are complete. UserError for a name that is not there.
    part: only a part is graded again, onto the newest results of the same files, whichever grader made them; who is not
    named keeps theirs.
    """
    names = [entry.name for entry in entries]
    for name in regrade:
        if name not in names:
            raise UserError(f"regrade is {name!r}; {listed(name, names)}")
    keys = {entry.job for entry in entries if entry.job and entry.name in regrade}
    found = complete_by_files(out)
    for entry in entries:
        if not entry.job:
            continue
        key = entry.job
        ours, older = complete_jobs(key, out), found.get((entry.digest, entry.history), [])
        if key in keys and part and not older:
            raise UserError(f"{entry.name} has no complete results for these files; grade it as a whole first")
        if key in keys and older:
            number = 1 + max((_number(path.name) for path in (out / "jobs").glob(f"{key}*")), default=0)
            entry.job, entry.before, entry.again = f"{key}-{number}", (ours or older)[-1], True
        elif ours or (part and older):
            entry.job = (ours or older)[-1]
            entry.before = older[older.index(entry.job) - 1] if older.index(entry.job) else ""
        elif older:  # of an earlier state of the grader
            entry.before = older[-1]


def complete_by_files(out: Path) -> dict[tuple[str, str], list[str]]:
    """(Digest of the files, digest of the history) -> folders with complete results for them, oldest first."""
    found: dict[tuple[str, str], list[tuple[float, int, str]]] = {}
    for path in (out / "jobs").glob("*/results.json"):
        results = jobs.read_json(str(path))
        if isinstance(results, dict) and jobs.read_status(str(path.parent)).state == "done":
            files = (results["submission"]["sha256"], results["submission"].get("history", ""))
            name = path.parent.name
            found.setdefault(files, []).append((path.stat().st_mtime, _number(name), name))
    return {files: [name for _, _, name in sorted(rows)] for files, rows in found.items()}


def complete_jobs(key: str, out: Path) -> list[str]:
    """Names of the folders with complete results for a key, oldest first: KEY, KEY-1, KEY-2, ..."""
    found = [path.name for path in (out / "jobs").glob(f"{key}*") if jobs.read_status(str(path)).state == "done"]
    return sorted((name for name in found if (out / "jobs" / name / "results.json").is_file()), key=_number)


def _number(job: str) -> int:
    return int(job.partition("-")[2] or 0)


def keep_older_results(entries: list[Entry], out: Path) -> None:
    """Where grading again was not completed, the results before it count."""
    for entry in entries:
        if entry.before and entry.job not in complete_jobs(entry.job.partition("-")[0], out):
            why = jobs.read_status(str(out / "jobs" / entry.job)).detail or "not done yet"
            entry.problem = f"graded again without a result ({why}); the earlier one counts"
            entry.job, entry.before = entry.before, ""


def main() -> int:
    """Read, grade, report."""
    arguments = build_parser().parse_args()

    folder = arguments.folder.resolve()
    out = (arguments.out or folder.with_name(f"{folder.name}-grades")).resolve()
    assignment = assignments.load(arguments.assignment)
    assignment.check_names(arguments.todo, arguments.check)
    if (arguments.todo or arguments.check) and not arguments.regrade:
        raise UserError("--todo and --check need --regrade NAME: whose submission is to be graded again?")
    found, others = find_entries(folder, out)
    if arguments.require and (reason := sandbox.check_layer(arguments.require)):
        raise UserError(f"--require {arguments.require}: {reason}")
    data = HiddenData.find(arguments.data_root, assignment.dataset.flag).source.path if assignment.dataset else None
    of_term = term.find(folder)
    if of_term and folder.name in assignments.names() and folder.name != assignment.name:
        raise UserError(
            f"folder is {folder.name}, and --assignment is {assignment.name}; add --assignment {folder.name}"
        )
    entries = read_entries(found, assignment, grader_digest(assignment, data, arguments.require), of_term)
    (out / "jobs").mkdir(parents=True, exist_ok=True)
    use_newest(entries, arguments.regrade, out, bool(arguments.todo or arguments.check))
    print(f"{len(entries)} submissions, results in {out}")
    if others:
        print(f"note: not taken for a submission: {', '.join(others[:10])}")
    interrupted = grade_all(entries, arguments, out)
    keep_older_results(entries, out)
    rows = class_report.write(entries, assignment, out)
    print(class_report.summary(rows, out))
    if of_term and out == of_term.grades_of(assignment.name):
        print(sum_up(of_term.path))
    if interrupted:
        print("interrupted: run the same command again to grade the rest", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if any(row["problem"] for row in rows) else 0
