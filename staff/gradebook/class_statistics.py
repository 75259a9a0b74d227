"""The statistics page: how the class did, TODO by TODO, which checks fail most, how long grading took, who was late."""

from __future__ import annotations

import html
from collections import Counter
from statistics import mean, median

from staff.gradebook.class_report import histogram, todo_rows
from staff.gradebook.pages import Html, frame, table
from staff.gradebook.sums import Book, Grade

MOST_CHECKS = 15


def render(book: Book) -> str:
    """One section an assignment."""
    names = book.term.assignments
    links = " · ".join(f'<a href="#{name}">{html.escape(book.term.load(name).title)}</a>' for name in names)
    back = '<p><a href="gradebook.html">Gradebook</a></p>'
    body = "".join(_section(book, name) for name in names) or "<p>There are no hand-ins yet.</p>"
    return frame(f"Statistics: {book.term.course['term']}", f"{back}<p>{links}</p>{body}")


def _section(book: Book, name: str) -> str:
    grades = book.all(name)
    totals = [grade.total for grade in grades if grade.total is not None]
    parts = [f'<h2 id="{name}">{html.escape(book.term.load(name).title)}</h2>', _states(grades)]
    if totals:
        most = max(grade.max for grade in grades)
        parts.append(
            f"<p>Sums of {len(totals)} students: mean {mean(totals):.1f}, median {median(totals):g}, "
            f"least {min(totals):g}, most {max(totals):g} of {most:g} points.</p>{histogram(totals, most)}"
        )
    graded = [grade for grade in grades if grade.results]
    if graded:
        rows = [{"results": grade.results} for grade in graded]
        parts.append(f"<h2>By TODO, as the grader gave it</h2>{todo_rows(rows, book.term.load(name))}")
        parts += [_checks(graded), _times(graded)]
    parts.append(_late(grades))
    return "".join(parts)


def _states(grades: list[Grade]) -> str:
    counts = Counter(grade.state for grade in grades)
    told = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    waiting = sum(bool(grade.open) for grade in grades)
    return f"<p>{len(grades)} students: {told}. Something is missing or waits for a person in {waiting}.</p>"


def _checks(graded: list[Grade]) -> str:
    """The checks that fail most often; those that were skipped because another failed are counted apart."""
    failed: Counter[tuple[str, str]] = Counter()
    skipped: Counter[tuple[str, str]] = Counter()
    for grade in graded:
        for todo in grade.results["todos"]:
            for check in todo["checks"]:
                kind = {"failed": failed, "grader_error": failed}.get(check["status"], skipped)
                if check["status"] != "passed":
                    kind[todo["id"], check["title"]] += 1
    rows = []
    for (todo, title), count in failed.most_common(MOST_CHECKS):
        bar = Html(f'<span class="bar" style="width:{8 * count / len(graded):.2f}rem"></span> {count}')
        rows.append([todo, title, bar, f"{count / len(graded):.0%}", skipped[todo, title]])
    head = ["TODO", "check", "failed", "of the class", "not run"]
    body = table(head, rows, (3, 4)) if rows else "<p>No check failed.</p>"
    return f"<h2>Checks that fail most</h2>{body}"


def _times(graded: list[Grade]) -> str:
    seconds = {grade.row["job"]: grade.results["seconds"] for grade in graded}  # equal files are graded once
    values = list(seconds.values())
    return (
        f"<h2>Time to grade</h2><p>{len(values)} gradings: median {median(values):.0f} s, longest {max(values):.0f} s, "
        f"{sum(values) / 60:.0f} minutes in all (as one after the other).</p>"
    )


def _late(grades: list[Grade]) -> str:
    handed_in = [grade for grade in grades if grade.late]
    days = Counter(grade.late.days for grade in handed_in)
    rows = []
    for number in sorted(days):
        those = [grade for grade in handed_in if grade.late.days == number]
        bar = Html(f'<span class="bar" style="width:{8 * len(those) / len(handed_in):.2f}rem"></span> {len(those)}')
        penalty = sum(grade.penalty for grade in those)
        rows.append(["in time" if not number else f"{number:g}", bar, f"{penalty:g}"])
    extended = sum(bool(grade.late.extension) for grade in handed_in)
    body = table(["days late", "students", "points taken off"], rows, (2,)) if rows else "<p>Nobody handed in.</p>"
    return f"<h2>Late</h2>{body}<p>{extended} with an extension.</p>"
