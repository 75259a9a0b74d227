"""What a graded class is written to: grades.csv, overview.html, and a page for each student."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import os
import re
import shutil
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from urllib.parse import quote

from staff.grader import facts, repository
from staff.grader.assignment import Assignment
from staff.grader.reports import page
from toolkit.runs import write_bytes, write_json
from toolkit.sweeps import jobs

STYLE = (
    page.COLOURS
    + """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 85rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; } a { color: var(--hint); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td.number, th.number { text-align: right; }
td.note { white-space: normal; min-width: 22rem; }
td.todo { text-align: center; } .passed { color: var(--good); } .partly { color: var(--some); }
.failed { color: var(--bad); } .skipped, .not-started { color: var(--muted); }
.bar { display: inline-block; height: .7rem; background: var(--good); vertical-align: middle; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
"""
)
MARKS = {"passed": "✓", "partly": "~", "failed": "✗", "skipped": "–", "not started": "·"}


@dataclass
class Entry:
    """One submission of the class.

    job: name of the folder with its results; "" if it cannot be read (`problem`).
    before: the folder with the results that these replace, "" if there are none.
    again: whether it is graded again because --regrade names it.
    commit: number of the repository's commit; commit_time: its date where a due date chose it, else None.
    later_commits: those after it, which are not graded.
    notes: how it was read.
    """

    name: str
    path: Path
    digest: str = ""
    history: str = ""
    job: str = ""
    before: str = ""
    again: bool = False
    problem: str = ""
    commit: str = ""
    commit_time: int | None = None
    later_commits: list[repository.Commit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def collect(entries: list[Entry], out: Path) -> list[dict]:
    """One row a submission; `score` is None if there is no grade, and then `problem` says why."""
    first_with: dict[str, str] = {}
    rows = []
    for entry in entries:
        row: dict = {
            "name": entry.name,
            "entry": entry,
            "score": None,
            "extra": None,
            "problem": entry.problem,
            "results": None,
            "before": None,
            "changed": [],
            "last_change": None,
        }
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
            earlier = jobs.read_json(str(out / "jobs" / entry.before / "results.json")) if entry.before else None
            if isinstance(earlier, dict):
                row |= {"before": earlier["score"], "changed": changed_points(earlier, results)}
            row["last_change"] = facts.last_change(entry.path)
    return rows


def changed_points(before: dict, now: dict) -> list[tuple[str, float, float]]:
    """(Id, points before, points now) of every TODO that has other points than in the earlier results."""
    old = {todo["id"]: todo["points"] for todo in before["todos"]}
    pairs = [(todo["id"], old.get(todo["id"], 0.0), todo["points"]) for todo in now["todos"]]
    return [(number, was, points) for number, was, points in pairs if was != points]


def write(entries: list[Entry], assignment: Assignment, out: Path) -> list[dict]:
    """Write everything and return the rows."""
    rows = collect(entries, out)
    write_bytes(out / "grades.csv", grades_csv(rows, assignment).encode("utf-8", "backslashreplace"))
    write_json(out / "grades.json", {"assignment": assignment.name, "rows": [for_gradebook(row) for row in rows]})
    feedback = out / "feedback"
    shutil.rmtree(feedback, ignore_errors=True)  # a page of an older grade is worse than none
    feedback.mkdir()
    for row in rows:
        if row["results"]:
            # Made here and not copied, so that a change of its looks reaches every student without grading again.
            write_bytes(feedback / f"{file_name(row['name'])}.html", page.render(as_of_now(row, assignment)).encode())
    write_bytes(out / "overview.html", overview(rows, assignment).encode("utf-8", "backslashreplace"))
    return rows


def for_gradebook(row: dict) -> dict:
    """What the gradebook reads of a submission: where its results are, and what is its own and not its files'."""
    entry = row["entry"]
    return {
        "name": row["name"],
        "job": entry.job,
        "job_before": entry.before,
        "graded": row["results"] is not None,
        "problem": row["problem"],
        "same_as": row["same_as"],
        "last_change": row["last_change"],
        "commit": entry.commit,
        "commit_time": entry.commit_time,
        "later_commits": [{"number": one.number, "time": one.time} for one in entry.later_commits],
        "notes": entry.notes,
    }


def as_of_now(row: dict, assignment: Assignment) -> dict:
    """A row's results with whose they are: equal files are graded once, and a due date may move without a grading."""
    whose = {"name": row["name"], "due": facts.due(assignment.name), "last_change": row["last_change"]}
    whose |= {"notes": row["entry"].notes, "commit": row["entry"].commit}
    return row["results"] | {"submission": row["results"]["submission"] | whose}


def file_name(name: str) -> str:
    """A student's name as a file name: equal only for equal names, also where a file system ignores capitals.

    A plain name stays as it is; any other gets "~" and part of its SHA-256.
    """
    if re.fullmatch(r"[a-z0-9_][a-z0-9._-]{0,80}", name):
        return name
    plain = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" or c in "._ -" else "_" for c in name)
    return f"{plain.strip('. ')[:40]}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def entry_ids(assignment: Assignment) -> dict[str, str]:
    """Id -> title of every entry of a student's results: the TODOs and, where it is judged, the history."""
    return {todo.id: todo.title for todo in assignment.todos} | ({"git": "history"} if assignment.history else {})


def grades_csv(rows: list[dict], assignment: Assignment) -> str:
    """The table for the course's records; opened in a spreadsheet, no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text)
    ids = entry_ids(assignment)
    columns = [
        "name",
        "score",
        "max_score",
        "extra",
        *(f"TODO {number}" if number != "git" else number for number in ids),
    ]
    writer.writerow(
        [*columns, "data", "sandbox", "seconds", "same_files_as", "score_before", "for_a_person", "problem"]
    )
    for row in rows:
        results = row["results"]
        earned = {todo["id"]: todo["points"] for todo in results["todos"]} if results else {}
        points = [earned.get(number, "") for number in ids]
        ends = ["", "", ""]
        if results:
            ends = [results["data"]["kind"], " ".join(results["sandbox"]["in_force"]), results["seconds"]]
        grade = [row["score"], assignment.points, row["extra"]] if results else ["", assignment.points, ""]
        same = row["same_as"] if row["same_as"] != row["name"] else ""
        problem = " ".join(row["problem"].split())[:300]
        person = "; ".join(results.get("for_a_person", [])) if results else ""
        before = "" if row["before"] is None else row["before"]
        cells = [row["name"], *grade, *points, *ends, same, before, person, problem]
        writer.writerow([no_formula(cell) for cell in cells])
    return text.getvalue()


def no_formula(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    risky = isinstance(cell, str) and cell != "-" and cell.lstrip(" ")[:1] in tuple("=+-@\t\r\n")
    return f"'{cell}" if risky else cell


def summary(rows: list[dict], out: Path) -> str:
    """The lines for the terminal."""
    scores = [row["score"] for row in rows if row["score"] is not None]
    lines = []
    for row in rows:
        if row["problem"]:
            head = "not graded: " if row["score"] is None else ""
            lines.append(f"{row['name']}: {head}{' '.join(row['problem'].split())[:200]}")
    if scores:
        lines.append(f"{len(scores)} of {len(rows)} graded; mean {mean(scores):.2f}, median {median(scores):g}")
    else:
        lines.append(f"0 of {len(rows)} graded")
    lines += [f"{row['name']}: {told_again(row)}" for row in rows if row["before"] is not None]
    return "\n".join([*lines, f"{out / 'grades.csv'}", f"{out / 'overview.html'}"])


def told_again(row: dict) -> str:
    """'before 41.5, now 43.5 (TODO 1.4: 0 -> 2)' of a submission that was graded again."""
    parts = [f"TODO {number}: {was:g} -> {now:g}" for number, was, now in row["changed"]]
    return f"before {row['before']:g}, now {row['score']:g} ({'; '.join(parts) or 'no TODO changed'})"


def _regraded(rows: list[dict]) -> str:
    """Old and new points side by side, of those who were graded again."""
    again = [row for row in rows if row["before"] is not None]
    lines = []
    for row in again:
        points = "; ".join(f"{number}: {was:g} → {now:g}" for number, was, now in row["changed"])
        numbers = [f"{row['before']:g}", f"{row['score']:g}", f"{row['score'] - row['before']:+g}"]
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        part = html.escape(row["results"].get("graded_again") or "all")
        lines.append(
            f'<tr><td>{html.escape(row["name"])}</td>{cells}<td>{part}</td><td class="note">{points}</td></tr>'
        )
    head = "<tr><th>name</th><th>before</th><th>now</th><th></th><th>what</th><th>TODOs that changed</th></tr>"
    return f'<h2>Graded again</h2><div class="wide"><table>{head}{"".join(lines)}</table></div>' if again else ""


def histogram(scores: list[float], top: float) -> str:
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


def todo_rows(rows: list[dict], assignment: Assignment) -> str:
    """A line a TODO: what share of its points the class earned."""
    graded = [row["results"] for row in rows if row["results"]]
    lines = []
    for todo in assignment.todos:
        found = [next((t for t in results["todos"] if t["id"] == todo.id), None) for results in graded]
        found = [entry for entry in found if entry]
        if not found:
            continue
        full = sum(entry["status"] == "passed" for entry in found)
        # A TODO without points (written answers, which a person reads) is told by how many have it complete.
        share = mean(e["points"] for e in found) / todo.points if todo.points else full / len(found)
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
    notes += [f"graded again: {told_again(row)}"] if row["before"] is not None else []
    notes += row["results"].get("for_a_person", []) if row["results"] else []
    notes += [f"same files as {row['same_as']}"] if row["same_as"] != row["name"] else []
    note = f'<td class="note">{html.escape("; ".join(notes))}</td>'
    if not results:
        empty = "<td></td>" * (2 + len(entry_ids(assignment)))
        return f'<tr><td>{name}</td><td class="number">none</td>{empty}{note}</tr>'
    address = html.escape(quote(f"feedback/{file_name(row['name'])}.html"))
    link = f'<a href="{address}">{name}</a>'
    cells = ""
    by_id = {todo["id"]: todo for todo in results["todos"]}
    for number in entry_ids(assignment):
        if number not in by_id:
            cells += "<td></td>"
            continue
        todo = by_id[number]
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
            f"{histogram(scores, assignment.points)}<h2>By TODO</h2>{todo_rows(rows, assignment)}"
        )
    titles = entry_ids(assignment).items()
    ids = "".join(f'<th title="{html.escape(title)}">{html.escape(number)}</th>' for number, title in titles)
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
        f'<div class="wide"><table>{head}{table}</table></div>{_regraded(rows)}</body></html>\n'
    )
