"""The table of the graded TODOs: python -m tests [TODO ...] [--timeout SECONDS]

Not started, waiting for other TODOs, failing or passing, with points, the first useful line of what went wrong and the
command that runs that TODO's tests alone. The tests run in one child process (importing torch takes seconds). If it
crashes or a test takes too long, that TODO fails, and a new child runs the TODOs after it. Exit code: 0 if all pass,
else 1.
Where tests/hints.json is, --hint prints hints instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.todos import TODOS, Todo

ROOT = Path(__file__).resolve().parents[1]
HINTS, HINTS_SEEN = ROOT / "tests" / "hints.json", ROOT / ".hints_seen.json"  # the second one is the student's alone
EVENTS_VARIABLE = "COURSE_CHECK_EVENTS"  # where tests/check_plugin.py writes what happens
POLL_S, GOODBYE_S = 0.05, 2.0
ASLEEP_S = 5.0  # no look at the child for so long: this process was stopped, and the child with it
STARTUP_S = 60.0  # pytest and torch, before the first test file is read
DEFAULT_TIMEOUT_S = 60.0  # the slowest test takes about 5 s on one core
ALL_RAN = (0, 1, 5)  # pytest's exit codes: all passed, some failed, none found


@dataclass
class Outcome:
    """What is known about one TODO."""

    passed: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)  # {"line": ..., "stub": TODO number or None}; "answer"

    def fail(self, line: str) -> None:
        """Note a failure that no test could report itself."""
        self.failures.append({"line": line, "stub": None})

    def state(self, todo: Todo) -> str:
        """'passing', 'not started' (its own stub is left), 'waiting' (only for stubs of other TODOs) or 'failing'.

        Code that passes while the written answer is missing is 'failing': it was started.
        """
        if not self.failures:
            return "passing"
        if self.passed and all(failure.get("answer") for failure in self.failures):
            return "failing"
        stubs = {failure["stub"] for failure in self.failures}
        if None in stubs:
            return "failing"
        return "not started" if todo.number in stubs else "waiting"

    def line(self, todo: Todo) -> str:
        """The most useful line: a real failure before a stub, the own stub before another TODO's."""
        ranks = {None: 0, todo.number: 1}
        failure = min(self.failures, key=lambda failure: (ranks.get(failure["stub"], 2), failure.get("answer", False)))
        others = sorted({f["stub"] for f in self.failures} - ranks.keys(), key=lambda n: [int(d) for d in n.split(".")])
        return f"waits for TODO {', '.join(others)}" if failure["stub"] in others else failure["line"]


class Child:
    """One pytest process and the events that it has written so far."""

    def __init__(self, todos: Sequence[Todo], folder: Path) -> None:
        self.events_path, self.output_path = folder / "events.jsonl", folder / "output.txt"
        self.events_path.write_text("", encoding="utf-8")
        files = list(dict.fromkeys(todo.file for todo in todos))
        options = "-q --tb=no --no-header --continue-on-collection-errors".split()
        options += "-p no:cacheprovider -p tests.check_plugin".split()
        # This process keeps the time; pytest's own limit would end the child without telling.
        options += ["-o", "timeout=0", "-W", "default", "-m", " or ".join(todo.marker for todo in todos)]
        with open(self.output_path, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, *files],
                cwd=ROOT,
                env={**os.environ, EVENTS_VARIABLE: str(self.events_path)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def events(self) -> Iterable[dict[str, Any]]:
        """Events as they come, None while nothing comes, until the process has ended and all is read."""
        with open(self.events_path, encoding="utf-8") as file:
            ended, rest = False, ""
            while True:
                rest += file.read()
                *lines, rest = rest.split("\n")  # the last line may be half written
                for line in lines:
                    yield json.loads(line)
                if ended and not lines:
                    return
                ended = self.process.poll() is not None
                if not ended and not lines:
                    yield {"event": "nothing"}
                    time.sleep(POLL_S)

    def kill(self) -> None:
        """End the process if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def last_words(self) -> str:
        """The last line that pytest printed, if any."""
        text = self.output_path.read_text(encoding="utf-8", errors="replace")
        return next((line.removeprefix("E ").strip() for line in reversed(text.splitlines()) if line.strip()), "")


class Clock:
    """Seconds since the last sign of life of a process, as a calm machine would have counted them.

    Time in which the process gets no processor because all are busy with other work counts a quarter: an endless loop
    still ends, and a busy machine fails no test that is right. While a processor is idle, waiting counts in full.
    Time in which nobody looked does not count: a closed laptop, or Ctrl-Z and fg, stops both processes.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.restart()

    def restart(self) -> None:
        """A sign of life."""
        self._wall_s = self._looked_s = time.monotonic()
        self._used_s = self._used()

    def waited_s(self) -> float:
        """Seconds of silence."""
        if time.monotonic() - self._looked_s > ASLEEP_S:
            self.restart()
        self._looked_s = time.monotonic()
        wall_s = self._looked_s - self._wall_s
        return max(wall_s / 4, min(wall_s, self._used() - self._used_s))

    def _used(self) -> float:
        """Seconds of processors that the process has used or that were idle."""
        try:
            times = psutil.Process(self._pid).cpu_times()
        except psutil.Error:  # it has just ended
            return 0.0
        return times.user + times.system + psutil.cpu_times().idle


@dataclass
class Progress:
    """Where a child is: the TODO and test, or the file, that it is busy with."""

    todo: str | None = None
    test: str = ""
    file: str | None = None
    started: bool = False
    finished: bool = False

    def update(self, event: dict[str, Any]) -> None:
        """Take an event in."""
        kind, self.started = event["event"], True
        if kind == "collect":
            self.file = event["file"]
        elif kind == "collected":
            self.file = None
        elif kind == "start":
            self.todo, self.test, self.file = event["todo"], event["test"], None
        elif kind == "end":
            self.finished = event["code"] in ALL_RAN


def check(todos: Sequence[Todo], timeout_s: float) -> dict[str, Outcome]:
    """Run the public tests of these TODOs; one Outcome for each."""
    outcomes = {todo.number: Outcome() for todo in todos}
    remaining = list(todos)
    with tempfile.TemporaryDirectory(prefix="course-check-", ignore_cleanup_errors=True) as folder:
        while remaining:
            _show("starting")
            remaining = _run_child(remaining, outcomes, Path(folder), timeout_s)
    _show("")
    for outcome in outcomes.values():
        if not outcome.passed and not outcome.failures:
            outcome.fail("no test was found for it; are the files of tests/ as they were given?")
    return outcomes


def _run_child(todos: list[Todo], outcomes: dict[str, Outcome], folder: Path, timeout_s: float) -> list[Todo]:
    """Run one child as far as it gets; return the TODOs that are left for another one."""
    child, progress = Child(todos, folder), Progress()
    reason, clock = "", Clock(child.process.pid)
    try:
        for event in child.events():
            if event["event"] != "nothing":
                clock.restart()
                progress.update(event)
                _note(event, todos, outcomes)
                _show(f"{progress.todo}: {progress.test}" if progress.todo else "starting")
            elif progress.finished and clock.waited_s() > GOODBYE_S / 4:  # a thread that sleeps needs no processor
                break
            elif clock.waited_s() > (timeout_s if progress.started else timeout_s + STARTUP_S):
                reason = f"no answer within {timeout_s:g} s; an endless loop?"
                break
    finally:
        child.kill()
    if progress.finished:
        return []
    return _blame(progress, reason or _death(child), todos, outcomes, child.last_words())


def _show(text: str) -> None:
    """On a terminal, say in one line what is going on; an empty text clears the line."""
    if sys.stderr.isatty():
        print(f"\r{text[:78]:<78}\r", end="", file=sys.stderr, flush=True)


def _note(event: dict[str, Any], todos: Sequence[Todo], outcomes: dict[str, Outcome]) -> None:
    """Take the result of a test, or of reading a file, into the outcomes."""
    if event["event"] == "passed":
        outcomes[event["todo"]].passed += 1
    elif event["event"] == "failed":
        outcomes[event["todo"]].failures.append(
            {"line": event["line"], "stub": event["stub"], "answer": event.get("answer", False)}
        )
    elif event["event"] == "unreadable":
        for todo in todos:
            if todo.file == event["file"]:
                outcomes[todo.number].fail(event["line"])


def _death(child: Child) -> str:
    code = child.process.returncode
    if code < 0:
        return f"Python was ended by signal {-code} (a crash, or too little memory?)"
    return f"Python ended with exit code {code} in the middle of it (os._exit, sys.exit or a crash?)"


def _blame(
    progress: Progress, reason: str, todos: list[Todo], outcomes: dict[str, Outcome], last_words: str
) -> list[Todo]:
    """Fail what the child was busy with when it ended; return what is left. Tests run in the order of `todos`."""
    if progress.file is not None:
        guilty = [todo for todo in todos if todo.file == progress.file]
        reason = f"while Python read the modules that {progress.file} imports: {reason}"
    else:
        guilty = [todo for todo in todos if todo.number == progress.todo]
        reason = f"in {progress.test}: {reason}" if guilty else reason
    if not guilty:
        for todo in todos:
            outcomes[todo.number].fail(f"the tests could not be started: {last_words or reason}")
        return []
    for todo in guilty:
        outcomes[todo.number].fail(reason)
    if progress.file is not None:
        return [todo for todo in todos if todo not in guilty and not outcomes[todo.number].failures]
    return todos[todos.index(guilty[-1]) + 1 :]


def print_table(todos: Sequence[Todo], outcomes: dict[str, Outcome]) -> bool:
    """Print a row for each TODO and the sums; True if all pass."""
    print(f"{'TODO':<5}{'':<29}{'state':<13}{'points':<8}run it alone")
    for todo in todos:
        state = outcomes[todo.number].state(todo)
        points = f"{todo.points if state == 'passing' else 0}/{todo.points}"
        print(f"{todo.number:<5}{todo.title:<29}{state:<13}{points:<8}{todo.command}")
        if state != "passing":
            print(" " * 5 + textwrap.shorten(outcomes[todo.number].line(todo), 240, placeholder=" ..."))
    states = [outcomes[todo.number].state(todo) for todo in todos]
    sums = []
    for part in dict.fromkeys(todo.number.split(".")[0] for todo in todos):
        mine = [(todo, state) for todo, state in zip(todos, states, strict=True) if todo.number.startswith(f"{part}.")]
        if sum(todo.points for todo, _ in mine):
            got = sum(todo.points for todo, state in mine if state == "passing")
            sums.append(f"Part {part}: {got} of {sum(todo.points for todo, _ in mine)} points")
    counts = [f"{states.count(state)} {state}" for state in ("passing", "failing", "not started")]
    counts += [f"{states.count('waiting')} waiting for other TODOs"] if "waiting" in states else []
    print(f"\n{', '.join(counts)}. {'; '.join(sums)}. These are the public tests; grading adds tests on other data.")
    return all(state == "passing" for state in states)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The TODOs to check and the time limit of a test."""
    parser = argparse.ArgumentParser(prog="python -m tests", description=(__doc__ or "").split("\n")[0])
    numbers = [todo.number for todo in TODOS]
    parser.add_argument("todo", nargs="*", help="TODO numbers such as 1.2; all if none is given")
    hint_help = "run nothing: one more hint for each TODO that is named"
    parser.add_argument("--hint", action="store_true", help=hint_help if HINTS.is_file() else argparse.SUPPRESS)
    parser.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT_S, help="seconds a test may take (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    unknown = [number for number in arguments.todo if number not in numbers]
    if unknown:
        parser.error(f"unknown TODO {', '.join(unknown)}; allowed: {', '.join(numbers)}")
    if arguments.hint and not (arguments.todo and HINTS.is_file()):
        parser.error("name a TODO: python -m tests 1.2 --hint" if HINTS.is_file() else "there are no hints here")
    if not arguments.timeout > 0:
        parser.error(f"--timeout is {arguments.timeout:g}; allowed: above 0")
    return arguments


def print_hints(numbers: Sequence[str]) -> None:
    """The hints that were shown before and the next one; how many that were is noted in a file that git ignores."""
    hints, seen = json.loads(HINTS.read_text(encoding="utf-8")), {}
    with contextlib.suppress(OSError, ValueError):
        seen = dict(json.loads(HINTS_SEEN.read_text(encoding="utf-8")))
    for number in numbers:
        seen[number] = min(seen.get(number, 0) + 1, len(hints[number]))
        print(f"TODO {number}, hint {seen[number]} of {len(hints[number])}")
        for hint in hints[number][: seen[number]]:
            print(textwrap.fill(hint, 100, initial_indent="  - ", subsequent_indent="    "))
    with contextlib.suppress(OSError):
        HINTS_SEEN.write_text(json.dumps(seen), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Check, print the table, and return the exit code."""
    arguments = parse_arguments(argv)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] -- consoles that cannot show every character
    if arguments.hint:
        print_hints(arguments.todo)
        return 0
    chosen = [todo for todo in TODOS if not arguments.todo or todo.number in arguments.todo]
    try:
        outcomes = check(chosen, arguments.timeout)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0 if print_table(chosen, outcomes) else 1
