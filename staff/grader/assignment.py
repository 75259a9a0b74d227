"""Reading an assignment's toml: TODOs, their checks and points, gates with their evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from staff.grader import dataset as datasets
from staff.grader.client import CheckFailed
from staff.grader.dataset import REFERENCE, DataSet
from staff.grader.toml_file import read_toml
from toolkit.errors import UserError, check_choice

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "staff" / "assignments"


@dataclass
class Check:
    """One test: `core` ones must pass for any point of their TODO, the others share its points by `weight`."""

    test: str
    title: str
    weight: float = 1.0
    core: bool = False
    reported: bool = False
    needs: list[str] = field(default_factory=list)
    hint: str = ""


@dataclass
class Todo:
    """A task of the handout, with its points."""

    id: str
    title: str
    part: str
    points: float
    checks: list[Check]
    extra: bool = False


@dataclass
class Gate:
    """A threshold that a measured value must reach.

    A first value below it by no more than `grey` is measured again with a new start, at most `tries` times in all.
    """

    name: str
    value: float
    grey: float
    tries: int
    timeout_s: float
    above: bool = False  # strictly above, not just reached
    evidence: dict[str, dict] = field(default_factory=dict)  # "reference", "alternates": see staff/quality/evidence.py

    def apply(self, measure: Callable[[int], float], record: Callable[[dict], None], what: str) -> None:
        """Measure and compare; CheckFailed with value and margin if the gate is missed."""
        values = [measure(0)]
        while not self._reached(values[-1]) and values[0] >= self.value - self.grey and len(values) < self.tries:
            values.append(measure(len(values)))
        best = max(values)
        record({"gate": self.name, "threshold": self.value, "values": [round(v, 4) for v in values]})
        if not self._reached(best):
            tried = f" (best of {len(values)} tries)" if len(values) > 1 else ""
            relation = "more than" if self.above else "at least"
            raise CheckFailed(f"{what} reaches {best:.3f}{tried}, expected {relation} {self.value:.3f}")

    def _reached(self, value: float) -> bool:
        return value > self.value if self.above else value >= self.value


@dataclass
class Assignment:
    """All of it. `files`: name -> largest size in bytes of what may be handed in."""

    name: str
    title: str
    files: dict[str, int]
    provided: list[str]
    tests: Path
    todos: list[Todo]
    gates: dict[str, dict[str, Gate]]  # by data kind, then by name
    request_s: float
    submission_s: float
    dataset: DataSet | None = None  # None: all checks draw their own data
    history: dict | None = None  # how the repository's history is judged, see other_work.judge_history

    @property
    def own(self) -> Path:
        """Files of this assignment alone, laid out as students get them; an assignment may have none."""
        return self.tests.parent / "starter"

    def provided_files(self) -> dict[str, Path]:
        """Name in the submission's tree -> our file, for everything that is provided and not graded."""
        found = {}
        for root in (ROOT, self.own):  # the assignment's own version of a file comes last, and counts
            for path in (path for pattern in self.provided for path in sorted(root.glob(pattern))):
                name = path.relative_to(root).as_posix()
                if path.is_file() and "__pycache__" not in path.parts and name not in self.files:
                    found[name] = path
        return found

    @property
    def images(self) -> tuple[int, int]:
        """Channels and number of classes that the student's models are made for."""
        layout = (self.dataset or DataSet(REFERENCE)).layout
        return layout.channels, layout.num_classes

    @property
    def points(self) -> float:
        """Points without extra credit."""
        return sum(todo.points for todo in self.todos if not todo.extra)

    @property
    def extra_points(self) -> float:
        """Extra credit."""
        return sum(todo.points for todo in self.todos if todo.extra)

    def find(self, test: str) -> tuple[Todo, Check] | None:
        """The check that a test's name ('file.py::test[case]') stands for."""
        for todo in self.todos:
            for check in todo.checks:
                if check.test == test:
                    return todo, check
        return None

    def check_names(self, todos: list[str] | None, checks: list[str] | None) -> None:
        """UserError unless all of them are TODOs and checks of this assignment."""
        for number in todos or []:
            check_choice("todo", number, [todo.id for todo in self.todos])
        for test in checks or []:
            check_choice("check", test, [check.test for todo in self.todos for check in todo.checks])


def names() -> list[str]:
    """Assignments there are."""
    return sorted(path.parent.name for path in FOLDER.glob("*/assignment.toml"))


def load(name: str, flag: str | None = None) -> Assignment:
    """Read and check an assignment. UserError for an unknown one or a file that contradicts itself.

    flag: of a data set in the place of the assignment's own.
    """
    check_choice("assignment", name, names())
    content = read_toml(FOLDER / name / "assignment.toml")
    limits = content["limits"]
    assignment = Assignment(
        name=name,
        title=content["title"],
        files=content["files"],
        provided=content["provided"],
        tests=FOLDER / name / "graded_tests",
        todos=[_todo(entry) for entry in content["todo"]],
        gates=gates_of(content.get("gate", {})),
        request_s=limits["request_s"],
        submission_s=limits["submission_s"],
        dataset=datasets.of_assignment(name, content, flag),
        history=content.get("history"),
    )
    _check(assignment, content["points"], content.get("extra_points", 0))
    return assignment


def gates_of(entries: dict[str, dict]) -> dict[str, dict[str, Gate]]:
    """Kind of data -> name -> gate. The reference set has two kinds, full and sample; others are called as results are.

    What was measured on one kind says nothing about the gates of another.
    """
    gates: dict[str, dict[str, Gate]] = {}
    for name, entry in entries.items():
        settings = {key: entry[key] for key in ("grey", "tries", "timeout_s", "above") if key in entry}
        kinds = {kind: own for kind, own in entry.items() if isinstance(own, dict) and "value" in own}
        kinds |= {"full": {"value": entry["full"]}} if "full" in entry else {}
        kinds |= {"sample": {**entry, "value": entry["sample"]}} if "sample" in entry else {}
        for kind, own in kinds.items():
            known = {who: own[who] for who in ("reference", "alternates") if who in own}
            gates.setdefault(kind, {})[name] = Gate(name=name, value=own["value"], evidence=known, **settings)
    return gates


def _todo(entry: dict) -> Todo:
    checks = [Check(**check) for check in entry.pop("check")]
    # Core checks first: what they say explains the rest.
    return Todo(checks=sorted(checks, key=lambda check: not check.core), **entry)


def _check(assignment: Assignment, points: float, extra: float) -> None:
    tests = [check.test for todo in assignment.todos for check in todo.checks]
    ids = [todo.id for todo in assignment.todos]
    if len(set(tests)) != len(tests) or len(set(ids)) != len(ids):
        raise UserError(f"{assignment.name}/assignment.toml names a test or a TODO twice")
    if (assignment.points, assignment.extra_points) != (points, extra):
        raise UserError(
            f"{assignment.name}/assignment.toml: points add up to {assignment.points} + {assignment.extra_points}"
        )
    for position, todo in enumerate(assignment.todos):
        if not any(check.core and not check.reported for check in todo.checks):
            raise UserError(f"{assignment.name}/assignment.toml: TODO {todo.id} has no core check that is verified")
        for check in todo.checks:
            for need in check.needs:
                check_choice(f"needs of {check.test}", need, ids[:position])
