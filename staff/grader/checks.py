"""From checks to points: runs the graded tests as a pytest plugin, notes what became of each, and scores the TODOs.

A TODO earns nothing until its core checks pass; then its other checks share its points. Core checks are verified: they
compare arrays with what the grader computed itself, or predictions on fresh inputs with answers that never left the
grader. A check that rests on what the student's process reports about itself (`reported` in the toml) can therefore
only take points away from a TODO that really works, and never earn one by itself.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import asdict, dataclass, field

import numpy as np
import pytest

from staff.grader.assignment import Assignment, Check, Gate, Todo
from staff.grader.client import CheckFailed, Incident, StudentError, StudentProcess, clean
from staff.grader.hidden import HiddenData
from staff.grader.sandbox import Place, SandboxError

NOT_STARTED = "NotImplementedError"
NONSENSE = "your process gave a nonsensical answer, or one of an unexpected size or kind"
# What no answer can cause: these are faults of the check itself, whatever came before.
OWN_FAULTS = (NameError, ImportError, SyntaxError, AssertionError)


UNCALIBRATED = "uncalibrated: not counted, because no threshold was measured on {} yet"


class NotCounted(Exception):
    """A check that neither earns points nor costs any; the text says why."""


class Gates(dict):
    """Name -> gate for one kind of data; NotCounted for one that was not calibrated on it."""

    def __init__(self, gates: dict[str, Gate], kind: str) -> None:
        super().__init__(gates)
        self.kind = kind

    def __missing__(self, name: str) -> Gate:
        raise NotCounted(UNCALIBRATED.format(self.kind))


class Stopped(BaseException):
    """A signal asked the grader to end. `code`: its exit code then."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.code = 128 + number


@dataclass
class Outcome:
    """What became of one check. status: passed, failed, skipped, not_started or grader_error."""

    todo: Todo
    check: Check
    status: str
    message: str = ""
    frames: list[str] = field(default_factory=list)
    seconds: float = 0.0
    measured: list[dict] = field(default_factory=list)
    is_about_code: bool = True  # False for a file that is missing, an import that failed, a process that ended
    counts: bool = True  # False for a check that neither earns nor costs points


class GradingPlugin:
    """Runs the checks of an assignment in its order and collects outcomes by test name."""

    def __init__(
        self,
        assignment: Assignment,
        process: StudentProcess,
        hidden_data: HiddenData,
        seed: int,
        only: list[str] | None,
        with_gates: bool = True,
        first_failure: bool = False,
        only_checks: list[str] | None = None,
    ) -> None:
        self.assignment, self.process, self.hidden_data, self.seed = assignment, process, hidden_data, seed
        self.only, self.with_gates, self.first_failure = only, with_gates, first_failure
        self.only_checks = only_checks
        self.outcomes: dict[str, Outcome] = {}
        self.measured: list[dict] = []
        self.halted: dict[str, str] = {}  # TODO -> why its remaining checks are not run
        self.started = 0.0
        self.answered = 0  # requests answered before the check at hand
        self.stopped_by: BaseException | None = None  # what ended the run before all checks were made
        self.nonsense: list[str] = []  # for the staff: what happened in a check after an answer

    def pytest_configure(self, config: pytest.Config) -> None:
        """Pytest's long tracebacks, which are not read here, parse whole files: half of the grader's own time."""
        config.option.tbstyle = "native"

    @pytest.fixture
    def student(self) -> StudentProcess:
        """The student's process, with no objects left from earlier checks."""
        if self.process.worker is not None:
            self.process.ask("forget", {})
        self.answered = self.process.request_number
        return self.process

    @pytest.fixture
    def rng(self, request) -> np.random.Generator:
        """Secret randomness of this check: depends on the run's seed and the test's name, not on what ran before."""
        return np.random.default_rng([self.seed, zlib.crc32(test_name(request.node).encode())])

    @pytest.fixture
    def hidden(self) -> HiddenData:
        """Hidden images and labels; they must not be sent together."""
        return self.hidden_data

    @pytest.fixture
    def gates(self) -> Gates:
        """Thresholds that belong to the data at hand. NotCounted, whatever else is wrong, where there are none."""
        kind = self.hidden_data.kind
        if kind not in self.assignment.gates:
            raise NotCounted(UNCALIBRATED.format(kind))
        return Gates(self.assignment.gates[kind], kind)

    @pytest.fixture
    def record(self):
        """Notes a measured value for the results."""
        return self.measured.append

    @pytest.fixture
    def place(self) -> Place:
        """The submission's folder."""
        return self.process.place

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the checks of the assignment, in its order. A missing check would silently award its points."""
        by_name = {test_name(item): item for item in items}
        wanted = [(todo, check) for todo in self.assignment.todos for check in todo.checks]
        missing = [check.test for _, check in wanted if check.test not in by_name]
        extra = [name for name in by_name if self.assignment.find(name) is None]
        if missing or extra:
            raise pytest.UsageError(f"checks without a test: {missing}; tests without a check: {extra}")
        if not self.with_gates:
            wanted = [(todo, check) for todo, check in wanted if "gates" not in by_name[check.test].fixturenames]
        items[:] = [by_name[check.test] for check in self._chosen(wanted)]

    def _chosen(self, wanted: list[tuple[Todo, Check]]) -> list[Check]:
        """The TODOs or checks that were asked for, and the core checks of those that they need."""
        if self.only is None and self.only_checks is None:
            return [check for _, check in wanted]
        asked = {check.test for _, check in wanted if self.is_asked(check.test)}
        needed: set[str] = set()
        for todo, check in reversed(wanted):  # a check needs earlier TODOs alone
            if check.test in asked or (todo.id in needed and check.core):
                needed.update(check.needs)
        return [check for todo, check in wanted if check.test in asked or (todo.id in needed and check.core)]

    def is_asked(self, test: str) -> bool:
        """Whether a check was asked for, and not only run because another one needs it."""
        if self.only is None and self.only_checks is None:
            return True
        return self.assignment.find(test)[0].id in (self.only or ()) or test in (self.only_checks or ())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip what cannot tell anything: its TODO is not started or crashed, or an earlier TODO is missing."""
        self.started, self.measured = time.monotonic(), []
        self.answered = self.process.request_number
        todo, check = self.assignment.find(test_name(item))
        if todo.id in self.halted:
            pytest.skip(self.halted[todo.id])
        unmet = [need for need in check.needs if not self.core_passed(need)]
        if unmet:
            titles = {other.id: other.title for other in self.assignment.todos}
            pytest.skip("needs " + ", ".join(f"TODO {need} ({titles[need]})" for need in unmet))

    def core_passed(self, todo_id: str) -> bool:
        """Whether every core check of a TODO passed."""
        todo = next(todo for todo in self.assignment.todos if todo.id == todo_id)
        done = [self.outcomes.get(check.test) for check in todo.checks if check.core]
        return all(outcome is not None and outcome.status == "passed" for outcome in done)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        """Turn exceptions into outcomes; anything but a verdict is an error of the grader and earns nothing."""
        report = yield
        todo, check = self.assignment.find(test_name(item))
        error = call.excinfo.value if call.excinfo else None
        if call.when == "call" or error is not None:
            outcome = self._outcome(todo, check, error)
            outcome.seconds, outcome.measured = time.monotonic() - self.started, list(self.measured)
            previous = self.outcomes.get(check.test)
            if previous is None or previous.status == "passed":
                self.outcomes[check.test] = outcome
            if self.first_failure and outcome.status == "failed":
                self.halted.setdefault(todo.id, "not run: an earlier check of this TODO failed")
        return report

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo) -> bool:
        """Keep what ended the run, which pytest would turn into an exit code; True: nothing is printed."""
        self.stopped_by = excinfo.value
        return True

    def _outcome(self, todo: Todo, check: Check, error: BaseException | None) -> Outcome:
        outcome = self._raw_outcome(todo, check, error)
        outcome.message = clean(outcome.message, 4000)
        outcome.frames = [clean(frame, 300) for frame in outcome.frames]
        return outcome

    def _raw_outcome(self, todo: Todo, check: Check, error: BaseException | None) -> Outcome:
        if error is None:
            return Outcome(todo, check, "passed")
        if isinstance(error, pytest.skip.Exception):
            return Outcome(todo, check, "skipped", str(error))
        if isinstance(error, NotCounted):
            return Outcome(todo, check, "skipped", str(error), counts=False)
        if isinstance(error, StudentError):
            if error.kind == NOT_STARTED and error.message.startswith("TODO"):
                if error.message.replace(":", " ").split()[1:2] == [todo.id]:
                    self.halted[todo.id] = "not started"
                return Outcome(todo, check, "not_started", error.message)
            return Outcome(todo, check, "failed", str(error), error.frames, is_about_code=error.is_about_code)
        if isinstance(error, CheckFailed):
            if isinstance(error, Incident):
                self.halted[todo.id] = "not run: an earlier check of this TODO ended or stopped your process"
            return Outcome(todo, check, "failed", str(error), is_about_code=error.is_about_code)
        if isinstance(error, (SandboxError, Stopped)):  # not confined, or we are to stop
            raise error
        answered = self.process.request_number > self.answered
        if answered and isinstance(error, Exception) and not isinstance(error, OWN_FAULTS):
            self.nonsense.append(f"{check.test}: {clean(f'{type(error).__name__}: {error}', 300)}")
            return Outcome(todo, check, "failed", NONSENSE)
        return Outcome(todo, check, "grader_error", f"{type(error).__name__}: {error}")


def test_name(item: pytest.Item) -> str:
    """'test_1_models.py::test_shapes[linear]'."""
    return f"{item.path.name}::{item.name}"


test_name.__test__ = False


def score_todo(todo: Todo, outcomes: dict[str, Outcome]) -> dict:
    """{'id', 'title', 'points', 'max', 'status', 'checks': [...]} of one TODO."""
    found = [outcomes.get(check.test) or Outcome(todo, check, "skipped", "not run") for check in todo.checks]
    counted = [outcome for outcome in found if outcome.counts]
    passed = [outcome.check for outcome in counted if outcome.status == "passed"]
    core = bool(counted) and all(outcome.check in passed for outcome in counted if outcome.check.core)
    total = sum(outcome.check.weight for outcome in counted) or 1.0
    earned = sum(check.weight for check in passed) if core else 0.0
    statuses = {outcome.status for outcome in counted} or {"skipped"}
    if core and len(passed) == len(counted):
        status = "passed"
    elif "not_started" in statuses:
        status = "not started"
    elif core:
        status = "partly"
    else:
        status = "failed" if statuses - {"skipped", "passed"} else "skipped"
    return {
        "id": todo.id,
        "title": todo.title,
        "part": todo.part,
        "extra": todo.extra,
        "points": round(todo.points * earned / total, 2),
        "max": todo.points,
        "status": status,
        "checks": [_check_entry(outcome) for outcome in found],
    }


def _check_entry(outcome: Outcome) -> dict:
    entry = asdict(outcome.check)
    entry |= {"status": outcome.status, "message": outcome.message, "frames": outcome.frames}
    entry |= {"seconds": round(outcome.seconds, 2), "measured": outcome.measured}
    entry |= {"is_about_code": outcome.is_about_code, "counts": outcome.counts}
    if outcome.status == "passed" or not outcome.is_about_code:
        entry["hint"] = ""
    return entry


def _mark_repeats(todos: list[dict]) -> None:
    """Put `same_as` into each failed check whose message was said before, so that one cause is shown once.

    In the same TODO; across all of them if it is not about the code, as an import that fails for every check.
    """
    told: dict[tuple, str] = {}
    for todo in todos:
        for check in todo["checks"]:
            if check["status"] == "failed" and check["message"]:
                what = (check["message"], *check["frames"], todo["id"] if check["is_about_code"] else "")
                if what in told:
                    check["same_as"] = told[what]
                told.setdefault(what, f"{check['title']} (TODO {todo['id']})")


def score_all(assignment: Assignment, outcomes: dict[str, Outcome]) -> dict:
    """{'score', 'max_score', 'extra', 'max_extra', 'todos'}."""
    todos = [score_todo(todo, outcomes) for todo in assignment.todos]
    _mark_repeats(todos)
    return {
        "score": round(sum(todo["points"] for todo in todos if not todo["extra"]), 2),
        "max_score": assignment.points,
        "extra": round(sum(todo["points"] for todo in todos if todo["extra"]), 2),
        "max_extra": assignment.extra_points,
        "todos": todos,
    }
