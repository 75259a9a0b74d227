"""Pages of the gradebook: what each student reads, the table of the term, and what changed since it was published."""

from __future__ import annotations

import html
from urllib.parse import quote

from staff.gradebook.class_report import STYLE, file_name
from staff.gradebook.commits import shown
from staff.gradebook.sums import EXCUSED, GRADED, Book, Grade
from staff.grader.reports import page


def frame(title: str, body: str, style: str = STYLE) -> str:
    """A page of the gradebook."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def table(head: list[str], rows: list[list[object]], numbers: tuple[int, ...] = ()) -> str:
    """A table that scrolls by itself on a narrow screen. Cells are escaped unless they are `Html`."""
    kinds = [' class="number"' if i in numbers else "" for i in range(len(head))]
    top = "".join(f"<th{kind}>{html.escape(text)}</th>" for text, kind in zip(head, kinds, strict=True))
    lines = ["".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in rows]
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


class Html(str):
    """Text that is HTML already."""


def _cell(cell: object) -> str:
    if isinstance(cell, Html):
        return cell
    return html.escape(points(cell) if isinstance(cell, float) or cell is None else str(cell))


def points(value: float | None) -> str:
    """'41.25'; 'none' where there is no number, which is not the same as 0."""
    return "none" if value is None else f"{round(value, 2):g}"


def feedback(grade: Grade) -> str:
    """What a student reads: the sum with both figures, every decision with its reason, then the grader's page."""
    if not grade.results:
        return frame(grade.title, f"<p>{html.escape(grade.student.name)}</p>{_sum(grade)}", page.STYLE)
    row = grade.row
    whose = {"name": grade.student.name, "last_change": None, "commit": row["commit"]}  # the sum says when it came
    whose |= {"notes": row["notes"], "due": shown(grade.late.due) if grade.late and grade.late.due else ""}
    return page.render(grade.results | {"submission": grade.results["submission"] | whose}, _sum(grade))


def _sum(grade: Grade) -> str:
    lines = [[html.escape(text) for text in line] for line in _lines(grade)]
    rows = "".join(f'<tr><td>{what}</td><td class="number">{n}</td><td>{note}</td></tr>' for what, n, note in lines)
    texts = [f"{part(one)}: {one.comment}" for one in grade.decided if one.comment and one.kind != "regrade"]
    texts += [f"Regrade of {part(one)}: {one.reason or 'being looked at'}" for one in grade.of("regrade")]
    said = "".join(f"<p>{html.escape(text)}</p>" for text in texts)
    missing = f'<p class="partial">Not final: {html.escape("; ".join(grade.open))}</p>' if grade.open else ""
    total = "excused" if grade.state == EXCUSED else f"{points(grade.total)} of {points(grade.max)}"
    head = f"<h2>Sum: {total}</h2>"
    below = "<h2>Code, as the grader gave it</h2>" if grade.results else ""
    return f'<section class="sum">{head}{missing}<table>{rows}</table>{said}</section>{below}'


def part(decision) -> str:
    """What a decision is about."""
    return decision.part or "the whole"


def _lines(grade: Grade) -> list[tuple[str, str, str]]:
    """(What, points, note) of every part of the sum."""
    if grade.state == EXCUSED:
        return [("excused", "", "; ".join(one.reason for one in grade.of("excuse")))]
    lines = []
    if grade.state == GRADED:
        both = "" if grade.code == grade.computed_code else f"the grader gave {points(grade.computed_code)}"
        lines.append(("code", f"{points(grade.code)} of {points(grade.code_max)}", both))
        if grade.extra or grade.computed_extra:
            both = "" if grade.extra == grade.computed_extra else f"the grader gave {points(grade.computed_extra)}"
            lines.append(("extra credit", f"+{points(grade.extra)}", both))
    else:
        lines.append(("code", "none", grade.row.get("problem") or grade.state))
    if grade.late:
        lines.append(_late_line(grade))
    if grade.manual_max or grade.manual is not None:
        of_how_many = f" of {points(grade.manual_max)}" if grade.manual_max else ""  # of answers points are taken back
        lines.append(("read by a person", f"{points(grade.manual)}{of_how_many}", ""))
        lines += [(f"– {one.item}", points(one.points), one.reason) for one in grade.of("rubric")]
    for what, before, after, one in grade.changed:
        lines.append((f"decided: {what}", f"{points(before)} → {points(after)}", f"{one.reason} ({one.who})"))
    if grade.computed is not None and grade.computed != grade.total:
        lines.append(("sum without these decisions", points(grade.computed), ""))
    return lines


def _late_line(grade: Grade) -> tuple[str, str, str]:
    late = grade.late
    notes = [late.text()]
    notes += [f"handed in {shown(late.when)} ({late.source})"] if late.when else []
    notes += [f"due {shown(late.due)}"] if late.due else []
    notes += [f"with {late.extension:g} days of extension" for _ in [0] if late.extension]
    notes += [f"days set by {one.who}: {one.reason}" for one in grade.of("late_days")]
    return "time", f"-{points(grade.penalty)}" if grade.penalty else "", "; ".join(notes)


def overview(book: Book) -> str:
    """The staff's table of the term: both figures, what is open, what people decided."""
    names = book.term.assignments
    head = ["id", "name", "team"]
    for name in names:
        head += [f"{name} computed", f"{name} sum", "late"]
    rows = []
    for student in book.term.roster.students:
        grades = [book.grades[student.id][name] for name in names]
        total, most, missing = book.term_sum(student.id)
        cells: list[object] = [student.id, student.name, student.team]
        for grade in grades:
            address = quote(f"feedback/{grade.assignment}/{file_name(student.id)}.html")
            shown_sum = "excused" if grade.state == EXCUSED else points(grade.total)
            late = "" if not grade.late or not grade.late.days else f"{grade.late.days:g} d"
            cells += [points(grade.computed), Html(f'<a href="{address}">{shown_sum}</a>'), late]
        decided = [
            f"{one.kind} {one.part} ({one.who})" for grade in grades for one in grade.decided if one.kind != "rubric"
        ]
        rows.append([*cells, f"{total:g} of {most:g}", "; ".join([*missing, *decided])])
    found = [f"{name}: {entry} is not in roster.csv" for name, entry in book.unknown]
    found += [f"{name}: {entry} is a second hand-in of {student}, not counted" for name, entry, student in book.twice]
    notes = "".join(f'<p class="failed">{html.escape(text)}</p>' for text in found)
    links = '<p><a href="statistics.html">Statistics</a> · <a href="changes.html">Changes since published</a></p>'
    numbers = tuple(i for i in range(3, len(head)))
    return frame(f"Gradebook: {book.term.course['term']}", links + notes + table([*head, "term", ""], rows, numbers))
