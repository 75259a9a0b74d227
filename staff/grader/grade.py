"""Grade one submission: `python -m staff.grade SUBMISSION --assignment project2 --out results.json`.

The submission is a folder, a zip archive or a git repository. Its code runs only in a sandboxed process that never sees
a label of the hidden data; everything that earns a point is computed or compared here.
Exit code: 0 graded, 2 a mistake in the call or the submission's packing, 3 the grader itself failed (no points then),
143 or 130 ended by SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import pytest

from staff.grader import assignment as assignments
from staff.grader import checks, diagnosis, earlier, facts, other_work, packing, processes, sandbox
from staff.grader.checks import GradingPlugin
from staff.grader.client import Budget, StudentProcess, clean
from staff.grader.debugging import DebuggedProcess
from staff.grader.hidden import HiddenData
from staff.grader.reports import gradescope, junit, page
from staff.grader.submission import read_submission
from toolkit.errors import UserError
from toolkit.runs import read_json, write_bytes, write_json

ROOT = Path(__file__).resolve().parents[2]
GRADER_FAILED = 3
FAILED = "Not graded, and not your fault. The staff sees why and will grade it again."
# What the submission must not be able to open. The probe runs inside the sandbox, before any of its lines.
SECRET_PATHS = (
    "staff",
    "staff/grader/grade.py",
    "staff/assignments",
    "data/bundled",
    "classification_models.py",
    ".git",
)


class NotReadable(UserError):
    """What was handed in cannot be read; its author can cure that."""


def build_parser() -> argparse.ArgumentParser:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(prog="python -m staff.grade", description=__doc__.splitlines()[0])
    parser.add_argument("submission", help="folder, zip archive or git repository")
    parser.add_argument("--assignment", default="project2", help="name of a folder in staff/assignments")
    parser.add_argument("--name", default="", help="of the student, for the page (default: the submission's)")
    parser.add_argument("--out", type=Path, default=Path("results.json"), help="results for the staff (JSON)")
    more = parser.add_argument_group("further outputs")
    more.add_argument("--gradescope", type=Path, metavar="FILE", help="results in Gradescope's format")
    more.add_argument("--junit", type=Path, metavar="FILE", help="results as JUnit XML")
    more.add_argument("--html", type=Path, metavar="FILE", help="one page for the student")
    how = parser.add_argument_group("how")
    how.add_argument("--require", choices=("bwrap", "user", "limits"), help="this sandbox layer or no grade")
    how.add_argument("--data_root", "--data-root", default=str(ROOT / "data"), help="where the full data set may be")
    how.add_argument("--dataset", metavar="FLAG", help="grade on this set of MedMNIST (default: the assignment's)")
    how.add_argument("--seed_file", "--seed-file", type=Path, help="secret seed: a text, or an earlier results.json")
    how.add_argument("--commit", default="", help="of a git repository: grade this commit (its whole number)")
    how.add_argument("--todo", nargs="+", metavar="ID", help="only these TODOs (with what they need), for debugging")
    how.add_argument(
        "--check", nargs="+", metavar="TEST", help="only these checks, e.g. test_1_training.py::test_one_step"
    )
    how.add_argument(
        "--onto", type=Path, metavar="FILE", help="with --todo or --check: take all other checks from this results.json"
    )
    how.add_argument("--no_gates", "--no-gates", action="store_true", help="no accuracy gates: not a grade")
    how.add_argument("--first_failure", "--first-failure", action="store_true", help="one failed check ends its TODO")
    how.add_argument("--debug", action="store_true", help="print() and breakpoint() reach the terminal; no time limits")
    how.add_argument("--threads", type=int, default=2, help="threads of the student's process (default 2)")
    how.add_argument("--request_s", "--request-s", type=float, metavar="S", help="limit of one question in seconds")
    how.add_argument("--restarts", type=int, default=8, metavar="N", help="of a process that died (default 8)")
    how.add_argument("--quiet", action="store_true", help="print only the score")
    return parser


def read_seed(path: Path | None) -> int:
    """The secret seed: from a file, never from arguments or environment, where other processes could read it.

    An earlier results.json gives the seed that it was made with.
    """
    if path is None:
        return int.from_bytes(os.urandom(8), "big")
    if path.suffix == ".json":
        found = read_json(path)
        if not isinstance(found, dict) or type(found.get("staff_only", {}).get("seed")) is not int:
            raise UserError(f"--seed_file {path} is not a results.json of this grader")
        return found["staff_only"]["seed"]
    text = path.read_bytes()
    if not text.strip():
        raise UserError(f"--seed_file {path} is empty")
    return int.from_bytes(hashlib.sha256(text.strip()).digest()[:8], "big")


def assemble(place, assignment, files: dict[str, bytes]) -> None:
    """A clean tree: our provided files, then the submission's graded files over them."""
    for name, path in assignment.provided_files().items():
        target = place.tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        if assignment.dataset and name.endswith(".py"):
            content = assignment.dataset.adapted(content.decode()).encode()
        target.write_bytes(content)
    for name, content in files.items():
        target = place.tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    for path in place.tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def run_checks(plugin, tests: Path, debug: bool) -> None:
    """pytest in this process on the graded tests, with settings that nothing outside can change."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)

    settings = ["-c", str(Path(__file__).with_name("pytest.ini")), "--rootdir", str(ROOT), "--confcutdir", str(tests)]
    settings += ["-p", "no:terminal", *(["--capture=no", "-p", "no:debugging"] if debug else [])]
    code = pytest.main([str(tests), *settings], plugins=[plugin])
    if plugin.stopped_by is not None:
        raise plugin.stopped_by
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"the graded tests did not run (pytest exit code {int(code)})")


def grade(arguments: argparse.Namespace) -> dict:
    """Grade as the arguments say and return the results. SandboxError if the submission cannot be confined."""
    started = time.monotonic()
    processes.guard_grader()
    assignment = assignments.load(arguments.assignment, arguments.dataset)
    assignment.check_names(arguments.todo, arguments.check)
    try:
        submission = read_submission(arguments.submission, assignment.files, arguments.commit)
    except UserError as error:
        raise NotReadable(clean(str(error))) from None
    before = earlier.read(arguments.onto, assignment, submission.digest()) if arguments.onto else None
    seed, notes = read_seed(arguments.seed_file), []
    hidden = None
    if assignment.dataset:
        hidden = HiddenData.find(arguments.data_root, assignment.dataset.flag, announce=notes.append)
    plugin, confined = confined_checks(arguments, assignment, submission, hidden, seed)
    if before:
        new = {test: outcome for test, outcome in plugin.outcomes.items() if plugin.is_asked(test)}
        plugin.outcomes = earlier.outcomes(before, assignment) | new
    results = collect(assignment, submission, plugin, seed)
    results["submission"] |= {
        "name": arguments.name or name_of(arguments.submission),
        "due": facts.due(assignment.name),
    }
    results["submission"]["last_change"] = facts.last_change(arguments.submission)
    results["submission"]["history"] = submission.history_digest() if assignment.history else ""
    results["staff_only"] |= earlier.note(before, partial(arguments), seed) if before else {}
    results["staff_only"]["problems"] += diagnosis.diagnose(results["todos"], assignment.name, submission.files)
    results["data"]["notes"] = notes
    results["partial"], results["graded_again"] = ("", partial(arguments)) if before else (partial(arguments), "")
    results |= {"sandbox": confined, "grader": facts.grader_versions(), "graded_at": time.strftime("%Y-%m-%d %H:%M")}
    results["seconds"] = round(time.monotonic() - started, 1)
    if assignment.history:
        other_work.add_verdicts(results, submission, assignment.history)
    return results


def name_of(submission: str) -> str:
    """What a submission is called where its owner is not said: its folder or file without what marks an archive."""
    name = Path(submission).resolve().name
    ending = next((end for end in packing.ARCHIVES if name.lower().endswith(end)), "")
    return clean(name[: len(name) - len(ending)], 120)


def confined_checks(arguments, assignment, submission, hidden, seed: int) -> tuple[GradingPlugin, dict]:
    """Run the checks on the submission in its sandbox: (what became of them, which layers were in force)."""
    layer, weaker = sandbox.choose_layer(arguments.require)
    secret_paths = [str(ROOT / name) for name in SECRET_PATHS if (ROOT / name).exists()]
    secret_paths += [str(hidden.source.path)] if hidden else []
    with sandbox.temporary_place() as place:
        assemble(place, assignment, submission.files)
        limits = sandbox.Limits(threads=arguments.threads)
        budget = Budget(arguments.request_s or assignment.request_s, assignment.submission_s, arguments.restarts)
        process_class = DebuggedProcess if arguments.debug else StudentProcess
        process = process_class(place, layer, limits, budget, secret_paths)
        process.channels, process.num_classes = assignment.images
        how = {"with_gates": not arguments.no_gates, "first_failure": arguments.first_failure}
        how |= {"only_checks": arguments.check}
        plugin = GradingPlugin(assignment, process, hidden, seed, arguments.todo, **how)
        try:
            process.start()
            run_checks(plugin, assignment.tests, arguments.debug)
        finally:
            process.end()  # nothing of the student's runs any more when results are written
    return plugin, {"layer": layer, "in_force": process.in_force, "not_available": weaker}


def partial(arguments: argparse.Namespace) -> str:
    """What was left out on purpose; "" for a whole grading."""
    chosen = [f"only TODO {', '.join(arguments.todo)}"] if arguments.todo else []
    chosen += [f"only {', '.join(arguments.check)}"] if arguments.check else []
    chosen += ["no accuracy gates"] if arguments.no_gates else []
    chosen += ["with --debug, which has no time limits"] if arguments.debug else []
    return "; ".join(chosen)


def collect(assignment, submission, plugin, seed: int) -> dict:
    """The results of the checks, and of what they were the checks."""

    hidden, process = plugin.hidden_data, plugin.process
    errors = [f"{o.check.test}: {o.message}" for o in plugin.outcomes.values() if o.status == "grader_error"]
    return {
        "assignment": assignment.name,
        "title": assignment.title,
        **checks.score_all(assignment, plugin.outcomes),
        "submission": {
            "sha256": submission.digest(),
            "files": sorted(submission.files),
            "hashes": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(submission.files.items())},
            "ignored": submission.ignored,
            "notes": submission.notes,
            "commit": submission.commit,
        },
        "data": {
            "name": hidden.source.name if hidden else "data drawn for this submission",
            "kind": hidden.kind if hidden else "drawn",
        },
        "staff_only": {
            "seed": seed,
            "restarts": process.restarts,
            "printed": process.printed,
            "grader_errors": errors,
            "problems": plugin.nonsense,
        },
    }


def check_outputs(arguments: argparse.Namespace) -> None:
    """Before two minutes are spent: can every output be written? Results of an earlier run are removed."""
    if arguments.onto and not (arguments.todo or arguments.check):
        raise UserError("--onto needs --todo or --check: which part is to be graded again?")
    if arguments.onto and arguments.onto.resolve() == arguments.out.resolve():
        raise UserError(f"--onto and --out are both {arguments.out}; the earlier results would be lost")
    outputs = [arguments.out, arguments.gradescope, arguments.junit, arguments.html]
    for path in filter(None, outputs):
        if path.is_dir():
            raise UserError(f"{path} is a folder; name the file to write")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)


def write_outputs(results: dict, arguments: argparse.Namespace) -> list[str]:
    """Write every output that was asked for, each whole or not at all; the reports that failed, and why."""

    write_json(arguments.out, results)
    reports = {
        arguments.gradescope: lambda: json.dumps(for_gradescope(results), allow_nan=False).encode(),
        arguments.junit: lambda: junit.render(results),
        arguments.html: lambda: page.render(results).encode("utf-8", "replace"),
    }
    failed = []
    for path, render in reports.items():
        if path:
            try:
                write_bytes(path, render())
            except Exception as error:  # the result is there; a report that cannot be made does not take it away
                failed.append(f"{path.name} could not be written: {type(error).__name__}: {clean(str(error), 200)}")
    return failed


def for_gradescope(results: dict) -> dict:
    """The results; none where the grader failed in a check, or its mistake would cost the student points."""
    failed = results["staff_only"]["grader_errors"]
    return gradescope.failure(FAILED) if failed else gradescope.render(results)


def report_failure(arguments: argparse.Namespace, shown: dict) -> None:
    """Tell a student on Gradescope that there is no grade."""
    if arguments.gradescope:
        with contextlib.suppress(OSError):
            write_json(arguments.gradescope, shown)


def summary(results: dict, quiet: bool) -> str:
    """The table for the terminal."""
    lines = []
    for todo in [] if quiet else results["todos"]:
        lines.append(f"{todo['id']:>4}  {todo['title']:<38} {todo['points']:5.2f} / {todo['max']:<4g} {todo['status']}")
        for check in todo["checks"]:
            if check["status"] in ("failed", "grader_error"):
                lines.append(f"        {check['title']}: {(check['message'].splitlines() or [''])[0][:150]}")
    extra = f" + {results['extra']:g} of {results['max_extra']:g} extra" if results["max_extra"] else ""
    layer = ", ".join(results["sandbox"]["in_force"])
    if results["partial"]:
        lines.append(f"partial, not a grade: {results['partial']}")
    lines.append(f"score {results['score']:g} of {results['max_score']:g}{extra} ({results['seconds']:.0f} s; {layer})")
    return "\n".join(lines)


def end_by_signals() -> None:
    """Make SIGTERM and Ctrl-C end the grader through its `finally` blocks, so that folders and processes go with it."""
    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]

    def end(number: int, _frame: object) -> None:
        for one in numbers:  # a second one must not stop the cleaning
            signal.signal(one, signal.SIG_IGN)
        raise checks.Stopped(number)

    for number in numbers:
        signal.signal(number, end)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    end_by_signals()
    try:
        check_outputs(arguments)
        results = grade(arguments)
        failed = write_outputs(results, arguments)
    except NotReadable as error:
        print(f"error: {error}", file=sys.stderr)
        report_failure(arguments, gradescope.nothing_handed_in(str(error)))
        return 2
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        report_failure(arguments, gradescope.failure(FAILED))
        return 2 if isinstance(error, UserError) and not arguments.gradescope else GRADER_FAILED
    except checks.Stopped as stop:
        report_failure(arguments, gradescope.failure(FAILED))
        print("stopped: nothing was graded", file=sys.stderr)
        return stop.code
    except Exception as error:
        report_failure(arguments, gradescope.failure(FAILED))
        if not isinstance(error, (sandbox.SandboxError, RuntimeError)):
            traceback.print_exc()
        print(f"error: nothing was graded: {error}", file=sys.stderr)
        return GRADER_FAILED
    print(summary(results, arguments.quiet))
    errors = [*results["staff_only"]["grader_errors"], *failed]
    for line in errors:
        print(f"error in the grader: {line}", file=sys.stderr)
    return GRADER_FAILED if errors else 0
