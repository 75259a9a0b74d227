"""The gradebook as tables: our own, and those that Canvas and Moodle import.

Canvas: the columns that its importer looks for (instructure/canvas-lms, lib/gradebook_importer.rb): Student, ID, SIS
User ID, SIS Login ID, Section, then one column an assignment, named "TITLE" or "TITLE (ID)"; a row "Points Possible";
EX for who is excused. Moodle: the offline grading worksheet (moodle/moodle, mod/assign/feedback/offline: Identifier
"Participant N", Grade, Last modified (grade), Feedback comments); a downloaded one is filled in where it is there.
Gradescope imports no grades for what it grades itself; its file has the column names that its export is known to have.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from staff.gradebook.class_report import file_name, no_formula
from staff.gradebook.commits import shown
from staff.gradebook.sums import EXCUSED, GRADED, Book, Grade
from toolkit.errors import UserError

BOM = b"\xef\xbb\xbf"  # by which Excel knows UTF-8
WORKSHEET = (
    "Identifier",
    "Full name",
    "Email address",
    "Status",
    "Grade",
    "Maximum Grade",
    "Grade can be changed",
    "Last modified (submission)",
    "Last modified (grade)",
    "Feedback comments",
)
PARTICIPANT = "Participant "


def csv_bytes(rows: Iterable[Iterable[object]], bom: bool = True) -> bytes:
    """A table of which no cell is a formula."""
    text = io.StringIO()
    csv.writer(text).writerows([["" if cell is None else no_formula(cell) for cell in row] for row in rows])
    return (BOM if bom else b"") + text.getvalue().encode("utf-8", "backslashreplace")


def gradebook(book: Book) -> bytes:
    """Everything: a row for everybody, and for each hand-in of someone who is not in the roster."""
    names = book.term.assignments
    parts = (
        *("state", "handed in", "days late", "free days", "code computed", "code", "extra", "manual", "penalty"),
        *("sum computed", "sum", "max", "decisions", "open"),
    )
    head = ["id", "name", "email", "team", "section", "lms_id", *(f"{name} {part}" for name in names for part in parts)]
    rows = [[*head, "term sum", "term max", "term percent", "missing"]]
    for student in book.term.roster.students:
        points, most, missing = book.term_sum(student.id)
        cells = [cell for name in names for cell in _cells(book.grades[student.id][name])]
        who = [student.id, student.name, student.email, student.team, student.section, student.lms_id]
        percent = round(100 * points / most, 1) if most else None
        rows.append([*who, *cells, points, most, percent, "; ".join(missing)])
    for name, entry in book.unknown:
        rows.append(["", entry, *[""] * (len(head) - 2), "", "", "", f"{name}: a hand-in, but not in roster.csv"])
    return csv_bytes(rows)


def _cells(grade: Grade) -> list[object]:
    late = grade.late
    decided = "; ".join(f"{one.kind} {one.part}".strip() + f" by {one.who}" for one in grade.decided)
    return [
        grade.state,
        shown(late.when) if late and late.when else "",
        late.days if late else None,
        late.free if late else None,
        grade.computed_code,
        grade.code,
        grade.extra,
        grade.manual,
        grade.penalty,
        grade.computed,
        grade.total,
        grade.max,
        decided,
        "; ".join(grade.open),
    ]


def canvas(book: Book) -> bytes:
    """For Canvas: Grades, Import."""
    names, course = book.term.assignments, book.term.course
    titles = [course.get(name, {}).get("canvas_column", book.term.load(name).title) for name in names]
    rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *titles]]
    some = next(iter(book.grades.values()))
    rows.append(["    Points Possible", "", "", "", "", *(some[name].max for name in names)])
    for student in book.term.roster.students:
        grades = [book.grades[student.id][name] for name in names]
        cells = ["EX" if grade.state == EXCUSED else grade.total for grade in grades]
        number = student.lms_id if student.lms_id.isdigit() else ""
        rows.append([student.name, number, student.id, student.email, student.section, *cells])
    return csv_bytes(rows, bom=False)


def moodle(book: Book, name: str) -> tuple[bytes, list[str]]:
    """(For Moodle's "Upload grading worksheet", what a person must know about it)."""
    path = book.term.path / f"{name}-worksheet.csv"
    rows = _downloaded(path) if path.is_file() else _made(book, name)
    notes, by_cell = [], {column: i for i, column in enumerate(rows[0])}
    for row in rows[1:]:
        grade = _grade_of_row(book, name, row, by_cell)
        if grade and grade.total is not None:
            row[by_cell["Grade"]] = f"{grade.total:g}"
            if "Feedback comments" in by_cell and not row[by_cell["Feedback comments"]]:
                row[by_cell["Feedback comments"]] = " ".join(one.comment for one in grade.of("comment"))
    most = max((grade.total or 0 for grade in book.all(name)), default=0)
    limit = max((grade.max for grade in book.all(name)), default=0)
    if most > limit:
        notes.append(f"{name}: Moodle skips grades over the maximum; set it to at least {most:g} there")
    given = {row[by_cell["Identifier"]] for row in rows[1:]}
    left = [
        g.student.id for g in book.all(name) if g.total is not None and f"{PARTICIPANT}{site_id(book, g)}" not in given
    ]
    if left and not path.is_file():
        notes.append(
            f"{name}: no Moodle participant number of {', '.join(left[:5])}{' ...' if len(left) > 5 else ''} is known; "
            f"download Moodle's grading worksheet to {path.name}"
        )
    return csv_bytes(rows), notes


def site_id(book: Book, grade: Grade) -> str:
    """The number that Moodle's download has behind a student's name; '' if it is not known."""
    noted = book.term.handed_in(grade.assignment).get(grade.student.id, {})
    if noted:  # Canvas has numbers of its own, which are other people's participant numbers
        return noted["site_id"]
    called = grade.row.get("name", "")
    name, _, number = called.rpartition("_")
    return number if name and number.isdigit() and called != grade.student.id else ""


def _downloaded(path: Path) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines(keepends=True)) if row]
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is no CSV in UTF-8") from None
    missing = [column for column in ("Identifier", "Grade") if not rows or column not in rows[0]]
    if missing:
        raise UserError(f"{path} is no grading worksheet of Moodle: it has no column {missing[0]!r}")
    return [rows[0], *([*row, *[""] * (len(rows[0]) - len(row))] for row in rows[1:])]


def _made(book: Book, name: str) -> list[list[str]]:
    """A worksheet with whoever's participant number is known."""
    rows = [list(WORKSHEET)]
    for grade in book.all(name):
        number, student = site_id(book, grade), grade.student
        if number:
            status = "Submitted for grading" if grade.row else "No submission"
            came = shown(grade.late.when) if grade.late and grade.late.when else "-"
            cells = [f"{PARTICIPANT}{number}", student.name, student.email, status, "", f"{grade.max:g}"]
            rows.append([*cells, "Yes", came, "-", ""])
    return rows


def _grade_of_row(book: Book, name: str, row: list[str], by_cell: dict[str, int]) -> Grade | None:
    """Whose row of a worksheet it is: by e-mail, ID number, participant number or full name."""
    for column in ("Email address", "ID number", "Full name"):
        student = book.term.roster.find(row[by_cell[column]]) if column in by_cell and row[by_cell[column]] else None
        if student:
            return book.grades[student.id][name]
    number = row[by_cell["Identifier"]].removeprefix(PARTICIPANT)
    return next((grade for grade in book.all(name) if number and site_id(book, grade) == number), None)


def gradescope(book: Book) -> bytes:
    """Names of columns as in Gradescope's own export of grades."""
    names = book.term.assignments
    titles = [book.term.load(name).title for name in names]
    rows = [["Name", "SID", "Email", *(part for title in titles for part in (title, f"{title} - Max Points"))]]
    for student in book.term.roster.students:
        grades = [book.grades[student.id][name] for name in names]
        cells = [cell for grade in grades for cell in (grade.total, grade.max)]
        rows.append([student.name, student.id, student.email, *cells])
    return csv_bytes(rows)


def mail_merge(book: Book) -> bytes:
    """One row a student and assignment, for a mail program: whom to write to, the sum, the page to attach."""
    rows = [["email", "name", "id", "assignment", "points", "max", "state", "late", "page"]]
    for student in book.term.roster.students:
        for name, grade in book.grades[student.id].items():
            late = grade.late.text() if grade.late and grade.state == GRADED else ""
            page = f"feedback/{name}/{file_name(student.id)}.html"
            title = book.term.load(name).title
            rows.append(
                [student.email, student.name, student.id, title, grade.total, grade.max, grade.state, late, page]
            )
    return csv_bytes(rows)
