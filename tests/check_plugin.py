"""The pytest plugin of `python -m tests`: writes each event as a line of JSON, at once, so that a crash loses none."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import re
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.check_table import EVENTS_VARIABLE, ROOT
from tests.plain_errors import in_plain_words
from tests.todo import AnswerMissingError
from tests.todos import TODOS

STUB = re.compile(r"TODO (\d+\.\d+)\b")


def _write(**event: Any) -> None:
    with open(os.environ[EVENTS_VARIABLE], "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def _todo_of(item: pytest.Item) -> str | None:
    """'1.2' for a test marked todo_1_2 (in Homework 5: hw5_1_2)."""
    numbers = {todo.marker: todo.number for todo in TODOS}
    return next((numbers[mark.name] for mark in item.iter_markers() if mark.name in numbers), None)


def _file_of(collector: pytest.Collector) -> str:
    return collector.path.relative_to(ROOT).as_posix()


def pytest_sessionstart() -> None:
    """Import torch, which takes seconds, before the clock of the first test file starts."""
    if (ROOT / "toolkit").is_dir():
        with contextlib.suppress(Exception):  # a test file that needs it says what is wrong
            importlib.import_module("torch")


def pytest_collectstart(collector: pytest.Collector) -> None:
    """A test file is about to be imported, and the student's modules with it."""
    if isinstance(collector, pytest.Module):
        _write(event="collect", file=_file_of(collector))


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """Note what went wrong when a test file was imported."""
    outcome = yield
    if isinstance(collector, pytest.Module):
        call = getattr(outcome.get_result(), "call", None)
        if call is not None and call.excinfo is not None:
            _write(event="unreadable", file=_file_of(collector), line=_import_line(call.excinfo))
        _write(event="collected")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one TODO in a row, in the order of the numbers."""
    order = [todo.number for todo in TODOS]
    items.sort(key=lambda item: order.index(number) if (number := _todo_of(item)) else -1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """A test begins."""
    _write(event="start", todo=_todo_of(item), test=item.name)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """A test passed or failed."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and call.excinfo is not None:
        _write(event="failed", todo=_todo_of(item), **explain(call.excinfo))
    elif report.passed and call.when == "call":
        _write(event="passed", todo=_todo_of(item))


def pytest_sessionfinish(exitstatus: int) -> None:
    """All tests ran, or pytest was stopped."""
    _write(event="end", code=int(exitstatus))


def explain(excinfo: pytest.ExceptionInfo) -> dict[str, Any]:
    """The first useful line, and the number of the TODO whose stub was met, if that was all."""
    error = excinfo.value
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    stub = STUB.match(first_line) if isinstance(error, NotImplementedError) else None
    frames = [(Path(str(entry.path)), entry.lineno + 1) for entry in excinfo.traceback]
    if stub and isinstance(error, AnswerMissingError):
        return {"line": first_line, "stub": stub[1], "answer": True}
    if stub and _has_code_before(*frames[-1]):
        line = f"your code runs, but the line raise NotImplementedError(...) is still there; delete it{_place(frames)}"
        return {"line": line, "stub": None}
    if stub:
        return {"line": first_line, "stub": stub[1]}
    if first_line and (
        isinstance(error, (AssertionError, pytest.fail.Exception)) or type(error).__name__ == "UserError"
    ):
        return {"line": first_line, "stub": None}
    said = f"{type(error).__name__}: {first_line}{_place(frames)}".replace(": (", " (")
    if meaning := in_plain_words(error, _students_frame(excinfo)):
        said = f"{meaning}{_place(frames)}; {type(error).__name__}: {first_line}"
    return {"line": said, "stub": None}


# What the starter itself has in front of its stubs.
GIVEN = re.compile(
    r"super\(\).__init__\(\)|self\.\w+ = \w+$|(\w+, \w+|\(\w+, \w+\)) = \w+_epoch\(|if criterion is None"
)


def _has_code_before(path: Path, line: int) -> bool:
    """True if the block whose `raise` stands in that line has code above it that is not the starter's."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return False
    for node in ast.walk(tree):
        block = getattr(node, "body", None)
        if not isinstance(block, list) or not any(isinstance(s, ast.Raise) and s.lineno == line for s in block):
            continue
        above = [s for s in block if s.lineno < line and not isinstance(getattr(s, "value", None), ast.Constant)]
        return any(not GIVEN.match(ast.unparse(statement)) for statement in above)
    return False


def _place(frames: list[tuple[Path, int]]) -> str:
    """' (file:line)' of the innermost line in the student's own files, else in any file of the course."""
    ours = [(path, line) for path, line in frames if path.is_relative_to(ROOT)]
    students = [(path, line) for path, line in ours if _is_students(path)]
    if not ours:
        return ""
    path, line = (students or ours)[-1]
    return f" ({path.relative_to(ROOT).as_posix()}:{line})"


def _students_frame(excinfo: pytest.ExceptionInfo) -> FrameType | None:
    """Where the student's own code failed; None if it did not, or if what it called in the course's files did."""
    return next((entry.frame.raw for entry in reversed(excinfo.traceback) if _is_students(Path(str(entry.path)))), None)


def _is_students(path: Path) -> bool:
    """Graded files lie at the top, those of a homework in its room."""
    return path.parent == ROOT or path.is_relative_to(ROOT / "labs")


def _import_line(excinfo: pytest.ExceptionInfo) -> str:
    """What kept a test file from being imported; pytest wraps some errors into one of its own that holds their text."""
    if not isinstance(excinfo.value, pytest.Collector.CollectError):
        return explain(excinfo)["line"]
    text = str(excinfo.value)
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    last = lines[-1] if lines else text.strip().splitlines()[-1]
    where = re.findall(r'File "([^"]+)", line (\d+)', text) or re.findall(r"^(\w+\.py):(\d+): in", text, re.MULTILINE)
    place = f" ({Path(where[-1][0]).name}:{where[-1][1]})" if where else ""
    meaning = in_plain_words(Exception(last), None)
    return f"{meaning}{place}; {last}" if meaning else f"{last}{place}"
