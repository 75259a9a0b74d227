"""What a graded class is written to: grades.csv, overview.html, and a page for each student."""

from __future__ import annotations

import csv
import html
import io
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from staff.grader.assignment import Assignment
from toolkit.runs import write_bytes
from toolkit.sweeps import jobs

STYLE = """
:root { color-scheme: light dark; --soft: #8883; --good: #2a8a4a; --some: #b8860b; --bad: #c0392b; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 85rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--soft); text-align: left; white-space: nowrap; }
td.number, th.number { text-align: right; }
td.note { white-space: normal; min-width: 22rem; }
td.todo { text-align: center; } .passed { color: var(--good); } .partly { color: var(--some); }
.failed { color: var(--bad); } .skipped, .not-started { opacity: .55; }
.bar { display: inline-block; height: .7rem; background: var(--good); vertical-align: middle; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
"""
MARKS = {"passed": "✓", "partly": "~", "failed": "✗", "skipped": "–", "not started": "·"}


@dataclass
class Entry:
    """One submission of the class. `job`: name of the folder with its results; "" if it cannot be read (`problem`)."""

    name: str
    path: Path
    digest: str = ""
    job: str = ""
    problem: str = ""


def collect(entries: list[Entry], out: Path) -> list[dict]:
    """One row a submission; `score` is None if there is no grade, and then `problem` says why."""
    first_with: dict[str, str] = {}
    rows = []
    for entry in entries:
        row: dict = {"name": entry.name, "score": None, "extra": None, "problem": entry.problem, "results": None}
        row["same_as"] = first_with.setdefault(entry.digest, entry.name) if entry.digest else entry.name
        rows.append(row)
        if not entry.job:
            continue
        folder = out / "jobs" / entry.job
        status, results = jobs.read_status(str(folder)), jobs.read_json(str(folder / "results.json"))
        if status.state != "done" or not isinstance(results, dict):
            row["problem"] = status.detail or "not graded yet"
        elif results["submission"]["sha256"] != entry.digest:
            row["problem"] = "its files changed while it was graded; run the same command again"
        else:
            row |= {"score": results["score"], "extra": results["extra"], "results": results}
    return rows


def write(entries: list[Entry], assignment: Assignment, out: Path) -> list[dict]:
    """Write everything and return the rows."""
    rows = collect(entries, out)
    write_bytes(out / "grades.csv", grades_csv(rows, assignment).encode())
    feedback = out / "feedback"
    shutil.rmtree(feedback, ignore_errors=True)  # a page of an older grade is worse than none
    feedback.mkdir()
    for row, entry in zip(rows, entries, strict=True):
        if row["results"]:
            shutil.copyfile(out / "jobs" / entry.job / "page.html", feedback / f"{file_name(row['name'])}.html")
    write_bytes(out / "overview.html", overview(rows, assignment).encode())
    return rows


def file_name(name: str) -> str:
    """A student's name as a file name, without what has a meaning in addresses and shells."""
    return re.sub(r"[^\w.@+ -]", "_", name)


def grades_csv(rows: list[dict], assignment: Assignment) -> str:
    """The table for the course's records; opened in a spreadsheet, no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text)
    columns = ["name", "score", "max_score", "extra", *(f"TODO {todo.id}" for todo in assignment.todos)]
    writer.writerow([*columns, "data", "sandbox", "seconds", "same_files_as", "problem"])
    for row in rows:
        results = row["results"]
        points = [todo["points"] for todo in results["todos"]] if results else [""] * len(assignment.todos)
        ends = ["", "", ""]
        if results:
            ends = [results["data"]["kind"], " ".join(results["sandbox"]["in_force"]), results["seconds"]]
        grade = [row["score"], assignment.points, row["extra"]] if results else ["", assignment.points, ""]
        same = row["same_as"] if row["same_as"] != row["name"] else ""
        problem = " ".join(row["problem"].split())[:300]
        writer.writerow([_plain(cell) for cell in [row["name"], *grade, *points, *ends, same, problem]])
    return text.getvalue()


def _plain(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell


def summary(rows: list[dict], out: Path) -> str:
    """The lines for the terminal."""
    scores = [row["score"] for row in rows if row["score"] is not None]
    lines = [f"{row['name']}: not graded: {' '.join(row['problem'].split())[:200]}" for row in rows if row["problem"]]
    if scores:
        lines.append(f"{len(scores)} of {len(rows)} graded; mean {mean(scores):.2f}, median {median(scores):g}")
    else:
        lines.append(f"0 of {len(rows)} graded")
    return "\n".join([*lines, f"{out / 'grades.csv'}", f"{out / 'overview.html'}"])


def _histogram(scores: list[float], top: float) -> str:
    """Scores in tenths of the maximum, as SVG."""
    counts = [0] * 10
    for score in scores:
        counts[min(9, int(10 * score / top))] += 1
    bars = []
    for place, count in enumerate(counts):
        height, x = 90 * count / max(counts), 10 + 50 * place
        bars.append(f'<rect x="{x}" y="{110 - height:.0f}" width="42" height="{height:.0f}" fill="var(--good)"/>')
        bars.append(f'<text x="{x + 21}" y="{104 - height:.0f}" text-anchor="middle">{count or ""}</text>')
        bars.append(f'<text x="{x}" y="126">{top * place / 10:g}</text>')
    bars.append(f'<text x="510" y="126">{top:g}</text>')
    label = f'<text x="10" y="146">points (bars: number of submissions; n = {len(scores)})</text>'
    return f'<svg viewBox="0 0 530 152" style="max-width:40rem" role="img">{"".join(bars)}{label}</svg>'


def _todo_rows(rows: list[dict], assignment: Assignment) -> str:
    """A line a TODO: what share of its points the class earned."""
    graded = [row["results"] for row in rows if row["results"]]
    lines = []
    for number, todo in enumerate(assignment.todos):
        share = mean(results["todos"][number]["points"] for results in graded) / todo.points
        full = sum(results["todos"][number]["status"] == "passed" for results in graded)
        bar = f'<span class="bar" style="width:{8 * share:.2f}rem"></span> {share:.0%}'
        lines.append(
            f"<tr><td>{html.escape(todo.id)}</td><td>{html.escape(todo.title)}</td><td>{bar}</td>"
            f'<td class="number">{full} of {len(graded)}</td></tr>'
        )
    head = '<tr><th>TODO</th><th></th><th>points earned</th><th class="number">complete</th></tr>'
    return f'<div class="wide"><table>{head}{"".join(lines)}</table></div>'


def _student_row(row: dict, assignment: Assignment) -> str:
    name, results = html.escape(row["name"]), row["results"]
    notes = [row["problem"]] if row["problem"] else []
    notes += [f"same files as {row['same_as']}"] if row["same_as"] != row["name"] else []
    note = f'<td class="note">{html.escape("; ".join(notes))}</td>'
    if not results:
        return f'<tr><td>{name}</td><td class="number">none</td>{"<td></td>" * (2 + len(assignment.todos))}{note}</tr>'
    link = f'<a href="feedback/{html.escape(file_name(row["name"]))}.html">{name}</a>'
    cells = ""
    for todo in results["todos"]:
        kind, title = todo["status"], f"{todo['title']}: {todo['points']:g} of {todo['max']:g}, {todo['status']}"
        cells += f'<td class="todo {kind.replace(" ", "-")}" title="{html.escape(title)}">{MARKS[kind]}</td>'
    numbers = f'<td class="number">{row["score"]:.2f}</td><td class="number">{row["extra"]:g}</td>'
    return f'<tr><td>{link}</td>{numbers}{cells}<td class="number">{results["seconds"]:.0f} s</td>{note}</tr>'


def overview(rows: list[dict], assignment: Assignment) -> str:
    """The staff's page: distribution, TODO by TODO, student by student."""
    scores = [row["score"] for row in rows if row["score"] is not None]
    body = f"<p>{len(scores)} of {len(rows)} submissions graded.</p>"
    if scores:
        body = (
            f"<p>{len(scores)} of {len(rows)} submissions graded: mean {mean(scores):.2f}, median {median(scores):g}, "
            f"least {min(scores):g}, most {max(scores):g} of {assignment.points:g} points (without extra credit).</p>"
            f"{_histogram(scores, assignment.points)}<h2>By TODO</h2>{_todo_rows(rows, assignment)}"
        )
    ids = "".join(f'<th title="{html.escape(todo.title)}">{html.escape(todo.id)}</th>' for todo in assignment.todos)
    head = (
        f'<tr><th>name</th><th class="number">score</th><th class="number">extra</th>{ids}<th>time</th><th></th></tr>'
    )
    table = "".join(_student_row(row, assignment) for row in rows)
    legend = ", ".join(f"{mark} {status}" for status, mark in MARKS.items())
    title = html.escape(assignment.title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Grades: {title}</title><style>{STYLE}</style></head><body><h1>Grades: {title}</h1>{body}"
        f"<h2>By student</h2><p>{legend}</p>"
        f'<div class="wide"><table>{head}{table}</table></div></body></html>\n'
    )
