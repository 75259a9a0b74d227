"""A term to read: a class with answers to homework 5, and reports of three teams."""

from __future__ import annotations

import json
from pathlib import Path

from staff.grader import assignment as assignments

QUESTIONS = ("1.2", "1.3", "2.3", "3.1", "3.2", "3.3", "4.1", "4.3", "5.1", "5.2", "6.1", "6.2", "6.3")
HOSTILE = "<script>document.title = 'run'</script><b>bold</b> & 'quoted'"
REPORT = f"<h1>We compared</h1>{HOSTILE}<img src='https://example.com/x.png'>" + "<p>Mean and spread.</p>" * 60


def make(term: Path, students: int = 6) -> Path:
    """Write it. s000 wrote markup, s001 no answer 2.3, s002's TODO 2.3 has no points, the last handed in nothing."""
    rows = ["id,name,email,team"] + [f"s{i:03},Name{i} Test,s{i}@example.edu,team{i // 2}" for i in range(students)]
    term.mkdir(parents=True)
    (term / "roster.csv").write_text("\n".join(rows) + "\n")
    todos = assignments.load("hw5").todos
    table = []
    for i in range(students - 1):
        answers = {question: f"Answer {question} of one who wrote {i * i} words." for question in QUESTIONS}
        answers |= {"1.2": HOSTILE} if i == 0 else {}
        if i == 1:
            del answers["2.3"]
        parts = [
            {
                "id": todo.id,
                "points": 0.0 if (i, todo.id) == (2, "2.3") else todo.points,
                "max": todo.points,
                "checks": [{"test": check.test, "status": "passed"} for check in todo.checks],
            }
            for todo in todos
        ]
        folder = term / f"hw5-grades/jobs/job{i}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"answers": answers, "todos": parts}))
        table.append({"name": f"s{i:03}", "job": f"job{i}", "graded": True, "problem": ""})
    (term / "hw5-grades/grades.json").write_text(json.dumps({"rows": table}))
    reports = term / "project2-reports"
    reports.mkdir()
    (reports / "team0.html").write_text(REPORT)
    (reports / "Team1.pdf").write_bytes(b"%PDF-1.4\n%%EOF\n")
    (reports / "notes.pdf").write_bytes(b"%PDF-1.4\n")
    return term
