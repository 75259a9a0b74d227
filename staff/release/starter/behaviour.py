"""Proofs that need the starter to run: it imports, ruff is clean, its tests fail as they should."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from staff.release.starter.proof import Proof

WOULD_REFORMAT = re.compile(r"(?:Would reformat: | +--> )(.+?)(?::\d+:\d+)?$")  # two generations of ruff
STUBS = ("NotImplementedError", "AnswerMissingError")  # the second one is of tests/todo.py
TIMEOUT_S = 800  # for each step; the public tests take some minutes
IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        print(f"{name}: {type(error).__name__}: {error}".split("\\n")[0])
"""


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a Python module or code in the copy, away from the staff's own modules."""
    hidden = ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_XDIST_WORKER", "RUFF_CONFIG")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    call = [sys.executable, *command]
    try:
        return subprocess.run(
            call,
            cwd=folder,
            env={**kept, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(call, 124, "", f"no end within {TIMEOUT_S} s")


def proves_imports(folder: Path, files: Sequence[str]) -> Proof:
    """Every module of the starter but its tests is imported, all in one process, without visible output."""
    names = [name for name in files if name.endswith(".py") and not name.startswith("tests/")]
    modules = [name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in names]
    result = run(folder, "-c", IMPORT_ALL, *modules)
    problems = result.stdout.splitlines() or result.stderr.splitlines()[-1:]
    if result.returncode and not problems:
        problems = [f"importing ended with exit code {result.returncode}"]
    return Proof("imports", f"{len(modules)} modules import and say nothing", problems)


def proves_ruff(folder: Path, files: Sequence[str]) -> Proof:
    """ruff finds no errors and would change no layout, with the starter's own settings."""
    check = run(folder, "-m", "ruff", "check", "--no-cache", "--output-format=concise", ".")
    layout = run(folder, "-m", "ruff", "format", "--no-cache", "--check", ".")
    problems = [line for line in check.stdout.splitlines() if re.match(r".+:\d+:\d+:", line)]
    changed = [match[1] for line in layout.stdout.splitlines() if (match := WOULD_REFORMAT.match(line))]
    problems += [f"{name}: ruff would change its layout" for name in changed]
    for name, result, seen in (("check", check, problems), ("format", layout, changed)):
        if result.returncode and not seen:
            problems.append(f"ruff {name} ended with exit code {result.returncode}: {result.stderr.strip()[-200:]}")
    return Proof("ruff", f"{sum(name.endswith('.py') for name in files)} Python files, lint and layout", problems)


def proves_tests(folder: Path, todos: Mapping[str, str]) -> Proof:
    """Each test of a TODO fails with the NotImplementedError of that TODO, every other test passes.

    Args:
        folder: the starter, without solutions.
        todos: TODO -> marker of its tests: '1.2' -> 'hw5_1_2'.
    """
    records, output = outcomes_of(folder)
    problems = [problem for record in records if (problem := fault_of(record, todos))]
    failing, passing = ([item for item in records if item["outcome"] == kind] for kind in ("failed", "passed"))
    met = {todo for item in failing for todo in todos_of(item, todos)}
    problems += [f"TODO {todo} has no public test that fails" for todo in todos if todo not in met]
    what = f"{len(failing)} tests of {len(met)} TODOs fail with their own stub, {len(passing)} of provided code pass"
    return Proof("public tests", what, problems if records else [output])


def proves_solution(folder: Path, originals: Mapping[str, str]) -> Proof:
    """With the solution in place every public test passes: a right student is not told that they are wrong.

    Those of provided code have passed before and are not run again.

    Args:
        folder: the starter; its graded files are replaced.
        originals: name -> text of each graded file with its solution.
    """
    for name, text in originals.items():
        (folder / name).write_text(text, encoding="utf-8")
    records, output = outcomes_of(folder, "-m", "not provided")
    failed = [record for record in records if record["outcome"] != "passed"]
    problems = [f"{one['test']}: {one['outcome']} ({one['error']}: {one['message']})" for one in failed]
    return Proof("solution", f"{len(records)} public tests pass on the solution", problems if records else [output])


def outcomes_of(folder: Path, *selection: str) -> tuple[list[dict[str, Any]], str]:
    """(what became of each public test of a starter, or of a `selection`, what to say if there is none)."""
    outcomes, plugin = folder.parent / "outcomes.jsonl", Path(__file__).with_name("probe_plugin.py")
    outcomes.unlink(missing_ok=True)
    (folder.parent / "plugin").mkdir(exist_ok=True)
    (folder.parent / "plugin" / plugin.name).write_bytes(plugin.read_bytes())
    options = f"-q -p {plugin.stem} -p no:cacheprovider -p no:randomly".split()
    environment = {"STARTER_PROBE_FILE": str(outcomes), "PYTHONPATH": str(outcomes.parent / "plugin")}
    result = run(folder, "-m", "pytest", *options, *selection, **environment)
    records = [json.loads(line) for line in outcomes.read_text().splitlines()] if outcomes.exists() else []
    return records, f"pytest ran no test: {(result.stdout + result.stderr).strip()[-300:]}"


def fault_of(record: Mapping[str, Any], todos: Mapping[str, str]) -> str | None:
    """What is wrong with the outcome of one test in a starter without solutions; None if nothing is."""
    own_todos = todos_of(record, todos)
    got = f"{record['outcome']} ({record['error']}: {record['message']})" if record["error"] else record["outcome"]
    if not own_todos:
        return None if record["outcome"] == "passed" else f"{record['test']}: guards provided code, but {got}"
    if len(own_todos) > 1:
        return f"{record['test']}: belongs to several TODOs: {', '.join(own_todos)}"
    own = record["error"] in STUBS and record["message"].startswith(f"TODO {own_todos[0]}:")
    is_right = record["outcome"] == "failed" and own
    return None if is_right else f"{record['test']}: TODO {own_todos[0]} is to do, but {got}"


def todos_of(record: Mapping[str, Any], todos: Mapping[str, str]) -> list[str]:
    """['1.2'] for a test that has the marker of 1.2."""
    return [todo for todo, marker in todos.items() if marker in record["markers"]]
