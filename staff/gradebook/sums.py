"""A student's sum: code, extra credit, manual points, late days and overrides; what was computed and what counts.

The order: a check's override changes its TODO, a TODO's override replaces the TODO's points, the late policy takes its
share of what the hand-in earned, manual points (rubric items) are added, and an override of the sum replaces it all.
What is missing is no zero: it is named in `open`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from staff.gradebook.decisions import Decision
from staff.gradebook.roster import Student
from staff.gradebook.term import Lateness, Term
from staff.grader import facts
from staff.grader.assignment import Assignment
from toolkit.runs import read_json

GRADED, NOTHING, NOT_GRADED, EXCUSED = "graded", "nothing handed in", "not graded", "excused"


@dataclass
class Grade:
    """What a student has for an assignment.

    state: one of the four above.
    results: the grader's, None if there are none.
    row: what grades.json says about the hand-in.
    code, extra: points after overrides; `computed_code`, `computed_extra`: as the grader gave them.
    manual: points of rubric items, None if none was given yet; manual_max: of how many.
    penalty: points taken off for being late.
    total: what counts, None if there is nothing to count; computed: the same without decisions about points and days.
    changed: (what, points before, points after, decision) of each override that changes something.
    decided: all decisions in force.
    open: what is missing or waits for a person.
    """

    student: Student
    assignment: str
    title: str
    state: str
    code_max: float
    manual_max: float
    results: dict[str, Any] | None = None
    row: dict[str, Any] = field(default_factory=dict)
    code: float | None = None
    extra: float | None = None
    computed_code: float | None = None
    computed_extra: float | None = None
    manual: float | None = None
    late: Lateness | None = None
    penalty: float = 0.0
    total: float | None = None
    computed: float | None = None
    changed: list[tuple[str, float | None, float, Decision]] = field(default_factory=list)
    decided: list[Decision] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    @property
    def max(self) -> float:
        """Points to be had without extra credit."""
        return self.code_max + self.manual_max

    @property
    def is_set(self) -> bool:
        """Whether a person decided the sum as a whole."""
        return any(not one.todo and not one.check for one in self.of("override"))

    def of(self, kind: str) -> list[Decision]:
        """The decisions of a kind."""
        return [one for one in self.decided if one.kind == kind]


@dataclass
class Book:
    """The grades of a term.

    grades: student's id -> assignment -> grade, for everybody in the roster.
    unknown: (assignment, name) of hand-ins of people who are not in the roster.
    twice: (assignment, name, student's id) of further hand-ins of a student, which do not count.
    """

    term: Term
    grades: dict[str, dict[str, Grade]]
    unknown: list[tuple[str, str]]
    twice: list[tuple[str, str, str]]

    def all(self, assignment: str) -> list[Grade]:
        """An assignment's grades in the order of the roster."""
        return [grades[assignment] for grades in self.grades.values()]

    def term_sum(self, student: str) -> tuple[float, float, list[str]]:
        """(Points, points to be had, what is missing) over the assignments that a student is not excused from."""
        counted = [grade for grade in self.grades[student].values() if grade.state != EXCUSED]
        points = sum(grade.total or 0.0 for grade in counted)
        missing = [f"{grade.assignment}: {text}" for grade in counted for text in grade.open]
        return round(points, 2), sum(grade.max for grade in counted), missing


def compute(term: Term) -> Book:
    """Sum up a term from its results, its decisions and its dates."""
    names = term.assignments
    rows, unknown, twice = {}, [], []
    for name in names:
        rows[name], strangers, more = _rows_by_student(term, name)
        unknown += [(name, stranger) for stranger in [*strangers, *term.strangers(name)]]
        twice += [(name, entry, student) for entry, student in more]
    lying = {name: term.lying(name) for name in names}
    grades = {}
    for student in term.roster.students:
        free, mine = term.policy.free_days, {}
        for name in names:  # by due date, which is the order in which free days are used up
            mine[name] = _grade(term, name, student, rows[name].get(student.id), lying[name].get(student.id, []), free)
            free -= mine[name].late.free if mine[name].late else 0.0
        grades[student.id] = mine
    for name in names:
        _add_unread(term, [mine[name] for mine in grades.values()])
    return Book(term, grades, unknown, twice)


def _add_unread(term: Term, grades: list[Grade]) -> None:
    """Name a student's answers that nobody has read, of questions that were read for others."""
    read = {one.item for grade in grades for one in grade.of("rubric")}
    for grade in grades:
        given = grade.results.get("answers", {}) if grade.results else {}
        asked = {item.id for item in term.items(grade.assignment).values() if given.get(item.question)}
        left = sorted(asked & read - {one.item for one in grade.of("rubric")})
        if left and grade.state == GRADED and not grade.is_set:
            grade.open.append(f"not read yet: {', '.join(left)}")


def _rows_by_student(term: Term, name: str) -> tuple[dict[str, dict], list[str], list[tuple[str, str]]]:
    """Student's id -> row of grades.json; names that are not in the roster; (name, id) of further hand-ins."""
    path = term.grades_of(name) / "grades.json"
    found: dict[str, dict] = {}
    unknown, twice = [], []
    for row in read_json(path)["rows"] if path.is_file() else []:
        student = term.roster.find(row["name"])
        if student is None:
            unknown.append(row["name"])
        elif student.id in found and row["name"] != student.id:
            twice.append((row["name"], student.id))
        else:
            if student.id in found:  # the one under the id itself counts
                twice.append((found[student.id]["name"], student.id))
            found[student.id] = row
    return found, unknown, twice


def _results(folder: Path, row: dict[str, Any]) -> dict[str, Any] | None:
    path = folder / "jobs" / row["job"] / "results.json"
    return read_json(path) if row["graded"] and path.is_file() else None


def _grade(
    term: Term, name: str, student: Student, row: dict[str, Any] | None, lying: list[Path], free_left: float
) -> Grade:
    """row: of grades.json, None if the class was graded without the student; lying: hand-ins that are there now."""
    assignment, decided = term.load(name), term.decided(name, student)
    manual_max = float(term.facts(name).get("analysis_points", 0))
    grade = Grade(student, name, assignment.title, NOTHING, assignment.points, manual_max, row=row or {})
    grade.decided = decided
    if lying and not row:
        grade.state = NOT_GRADED
    if row:
        grade.results = _results(term.grades_of(name), row)
        grade.state = GRADED if grade.results else NOT_GRADED
        when, source = _when(term, name, student, row)
        grade.late = term.lateness(name, decided, when, source, free_left, bool(row.get("commit_time")))
        until = term.last_moment(name, student)
        if until and any(one["time"] <= until.timestamp() for one in row["later_commits"]):
            grade.open.append("a later commit counts now and is not graded yet")
        elif grade.results and len(lying) == 1 and facts.last_change(lying[0]) != row["last_change"]:
            grade.open.append("handed in again since it was graded")
    if grade.of("excuse"):
        grade.state, grade.late = EXCUSED, None
    if grade.results:
        grade.computed_code, grade.computed_extra = grade.results["score"], grade.results["extra"]
        grade.code, grade.extra = _with_overrides(grade, assignment)
    rubric = grade.of("rubric")
    grade.manual = round(sum(one.points for one in rubric), 2) if rubric else None
    _sum_up(term, grade, free_left)
    return grade


def _when(term: Term, name: str, student: Student, row: dict[str, Any]) -> tuple[datetime | None, str]:
    """When a hand-in came, and where that is known from."""
    noted = term.handed_in(name).get(student.id, {})
    if row.get("commit_time"):
        return term.local(row["commit_time"]), f"commit {row['commit'][:12]}"
    if noted.get("when"):
        return datetime.fromisoformat(noted["when"]), noted["when_from"]
    if row.get("last_change"):
        return term.local(row["last_change"]), "newest file"
    return None, ""


def _with_overrides(grade: Grade, assignment: Assignment) -> tuple[float, float]:
    """(Code, extra credit) after the overrides of checks and TODOs; notes each in `changed`."""
    sums = {False: grade.results["score"], True: grade.results["extra"]}
    overrides = grade.of("override")
    for todo in grade.results["todos"]:
        before = after = todo["points"]
        for one in overrides:
            found = assignment.find(one.check) if one.check else None
            if found and found[0].id == todo["id"]:
                other = after - _earned(todo, one.check, assignment)
                after = min(max(0.0, todo["max"]), max(0.0, other) + one.points)
        for one in overrides:
            if one.todo == todo["id"]:
                after = one.points
        if after != before:
            because = next((one for one in overrides if one.todo == todo["id"]), None)
            because = because or next(one for one in overrides if one.check)
            grade.changed.append((f"TODO {todo['id']}", before, round(after, 2), because))
        sums[bool(todo["extra"])] += after - before
    return round(sums[False], 2), round(sums[True], 2)


def _earned(todo: dict[str, Any], test: str, assignment: Assignment) -> float:
    """What a check has earned: its share of its TODO's points, if the TODO has any and the check passed."""
    counted = {check["test"] for check in todo["checks"] if check.get("counts", True)} | {test}
    weights = {check.test: check.weight for check in assignment.find(test)[0].checks if check.test in counted}
    passed = {check["test"] for check in todo["checks"] if check["status"] == "passed"}
    return todo["max"] * weights[test] / sum(weights.values()) if todo["points"] and test in passed else 0.0


def _sum_up(term: Term, grade: Grade, free_left: float) -> None:
    """Penalty, total and what is missing."""
    if grade.state == EXCUSED:
        return
    if grade.state != GRADED:
        grade.open.append(grade.row.get("problem") or grade.state if grade.state == NOT_GRADED else grade.state)
    if grade.manual_max:
        judged = {one.item for one in grade.of("rubric")}
        items = term.items(grade.assignment)
        left = [item for item in items if item not in judged]
        if grade.manual is None:
            grade.open.append("manual points (report) not given")
        elif left:
            grade.open.append(f"{len(left)} of {len(items)} items of the report are not judged yet")
    noted = term.handed_in(grade.assignment).get(grade.student.id, {})
    if noted.get("marked_late") and grade.late and not grade.late.days and not grade.of("late_days"):
        grade.open.append(f"{noted['from']} marks it late, its files do not: decide late_days")
    percent = grade.late.percent if grade.late else 0.0
    earned = (grade.code or 0.0) + (grade.extra or 0.0)
    grade.penalty = round(earned * percent / 100, 2)
    if grade.state == GRADED:
        grade.total = round(earned - grade.penalty + (grade.manual or 0.0), 2)
        plain = [one for one in grade.decided if one.kind not in ("late_days", "override")]
        late = term.lateness(grade.assignment, plain, grade.late.when, grade.late.source, free_left)
        points = grade.computed_code + grade.computed_extra
        grade.computed = round(points * (1 - late.percent / 100) + (grade.manual or 0.0), 2)
    elif grade.state == NOTHING:  # a team's report counts without code, but code that waits for its grade is not 0
        grade.total = grade.manual
    for one in grade.of("override"):
        if not one.todo and not one.check:
            grade.changed.append(("the sum", grade.total, one.points, one))
            grade.total, grade.open = one.points, []
    grade.open += [f"regrade asked ({one.part or 'all'})" for one in grade.of("regrade") if not one.reason]
