"""Write the gradebook of a term: a draft for the staff, or what is published."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from staff.gradebook import audit, changes, class_statistics, pages, tables
from staff.gradebook.class_report import file_name
from staff.gradebook.sums import Book, compute
from staff.gradebook.term import Term

DRAFT, PUBLISHED = "draft", "published"
MOST_SHOWN = 20


def sum_up(path: Path) -> str:
    """Write TERM/draft and return the lines for the terminal. UserError for a mistake in the term's files."""
    book = note_and_compute(path)
    notes = write(book, book.term.path / DRAFT)
    return "\n".join([*_counts(book), *notes, *_changed(book), str(book.term.path / DRAFT / "gradebook.html")])


def publish(path: Path) -> str:
    """Write TERM/published, log every grade that is new there, and return the lines for the terminal."""
    book = note_and_compute(path)
    changed = _changed(book)
    old = changes.since(book, book.term.path / PUBLISHED)
    first = not (book.term.path / PUBLISHED / changes.SNAPSHOT).is_file()
    given = [(change.student, change.assignment, change.before) for change in old]
    given = (
        [(g.student.id, g.assignment, None) for mine in book.grades.values() for g in mine.values()] if first else given
    )
    notes = write(book, book.term.path / PUBLISHED)
    entries = [
        {
            "event": "published",
            "student": student,
            "assignment": name,
            "before": before,
            "total": book.grades[student][name].total,
        }
        for student, name, before in given
    ]
    audit.append(book.term.audit_path, entries)
    return "\n".join([*_counts(book), *notes, *changed, str(book.term.path / PUBLISHED)])


def note_and_compute(path: Path) -> Book:
    """The grades of a term, after what is new in its results and its decisions was logged."""
    term = Term(path)
    for out in (term.path / DRAFT, term.path / PUBLISHED):
        old = _aside(out)
        if old.exists() and not out.exists():  # `write` was killed between its two renames
            old.rename(out)
    audit.note_decisions(term.audit_path, term.decisions)
    book = compute(term)
    for name in term.assignments:
        rows = [g.row | {"name": g.student.id, "results": g.results} for g in book.all(name) if g.row]
        audit.note_gradings(term.audit_path, name, rows)
    return book


def write(book: Book, out: Path) -> list[str]:
    """Write tables, LMS files and pages to a folder that replaces the one before; return what a person must know."""
    new, old = out.with_name(f".{out.name}.new"), _aside(out)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    notes = []
    published = book.term.path / PUBLISHED
    found, was = changes.since(book, published), (published / changes.SNAPSHOT).is_file()
    files = {
        "gradebook.csv": tables.gradebook(book),
        "canvas.csv": tables.canvas(book),
        "gradescope.csv": tables.gradescope(book),
        "mail_merge.csv": tables.mail_merge(book),
        "gradebook.html": _encoded(pages.overview(book)),
        "statistics.html": _encoded(class_statistics.render(book)),
        "changes.html": _encoded(changes.page_of(found, book, was)),
        changes.SNAPSHOT: changes.snapshot(book),
    }
    for name in book.term.assignments:
        files[f"moodle-{name}.csv"], more = tables.moodle(book, name)
        notes += more
        (new / "feedback" / name).mkdir(parents=True)
        written = list(_feedback(book, name))
        files |= {f"feedback/{name}/{file_name(student)}.html": content for student, _, content in written}
        files[f"moodle-feedback-{name}.zip"] = _zipped(name, written)
    for file, content in files.items():
        (new / file).write_bytes(content)  # not one by one to the disk: the folder is renamed when it is complete
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return notes


def _aside(out: Path) -> Path:
    """Where the folder that is replaced stays until the new one has its name."""
    return out.with_name(f".{out.name}.old")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _feedback(book: Book, name: str) -> Iterator[tuple[str, str, bytes]]:
    """(Student, folder in Moodle's zip or '', page) for everybody who handed in or was given something.

    The folder is as moodle/moodle, mod/assign/feedback/file/importziplib.php expects it:
    FULLNAME_PARTICIPANT_assignfeedback_file_, where the full name holds no further "_".
    """
    for grade in book.all(name):
        if grade.row or grade.decided:
            number, full = tables.site_id(book, grade), grade.student.name.replace("_", " ").replace("/", " ")
            folder = f"{full}_{number}_assignfeedback_file_" if number else ""
            yield grade.student.id, folder, _encoded(pages.feedback(grade))


def _zipped(name: str, written: list[tuple[str, str, bytes]]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for _, folder, page in written:
            if folder:
                archive.writestr(f"{folder}/feedback-{name}.html", page)
    return content.getvalue()


def _counts(book: Book) -> list[str]:
    lines = [] if book.term.assignments else [f"no hand-ins: they belong into {book.term.path}/project2/ID"]
    for name in book.term.assignments:
        states = Counter(grade.state for grade in book.all(name))
        lines.append(f"{name}: {', '.join(f'{count} {state}' for state, count in states.most_common())}")
    lines += [f"{name}: {entry} is not in roster.csv" for name, entry in book.unknown]
    return lines + [f"{n}: {entry} is a second hand-in of {who}, not counted" for n, entry, who in book.twice]


def _changed(book: Book) -> list[str]:
    """What differs from what was published."""
    found = changes.since(book, book.term.path / PUBLISHED)
    lines = [f"changed: {change.line()}" for change in found[:MOST_SHOWN]]
    return lines + ([f"and {len(found) - MOST_SHOWN} more: changes.html"] if len(found) > MOST_SHOWN else [])
