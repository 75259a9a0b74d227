"""What a student may read: verdicts, expectations, hints and their own traceback lines; never seeds or hidden data.

Each thing that is said has a kind, so that a page can show a verdict, its cause, a hint and a question differently.
"""

from __future__ import annotations

from typing import NamedTuple

MARKS = {"passed": "✓", "failed": "✗", "not_started": "–", "skipped": "–", "grader_error": "!"}
QUESTION = "ask yourself"


class Said(NamedTuple):
    """Something that is said about a check. kind: verdict, cause, where, measured, hint or question."""

    kind: str
    text: str


def shown_message(check: dict) -> str:
    """What is said about a check; errors of the grader's own are for the staff."""
    if check.get("same_as"):
        return f"the same as above: {check['same_as']}"
    failed_here = check["status"] == "grader_error"
    return "the grader failed here; the staff has been told" if failed_here else check["message"]


def said_of(check: dict) -> list[Said]:
    """The verdict on one check, what caused it, where, and what to think about."""
    said = [Said("verdict", f"{MARKS[check['status']]} {check['title']}")]
    if check["status"] != "passed":
        said += [Said("cause", line) for line in shown_message(check).splitlines()[:6]]
    if check.get("same_as"):
        return said
    said += [Said("where", f"at {frame}") for frame in check["frames"]]
    for measured in check["measured"]:
        values = ", ".join(f"{value:.3f}" for value in measured["values"])
        margin = max(measured["values"]) - measured["threshold"]
        said.append(Said("measured", f"measured {values}; gate {measured['threshold']:.3f}; margin {margin:+.3f}"))
    if check["hint"] and check["status"] == "failed":
        said.append(Said("hint", check["hint"]))
    return said


def questions_of(todo: dict) -> list[Said]:
    """What a mistake that fails like this one usually is, as questions."""
    return [Said("question", text) for text in todo.get("diagnosis", [])]


def lines_of(check: dict) -> list[str]:
    """The text of one check, line by line."""
    indents = {"verdict": "", "hint": "    hint: "}
    return [indents.get(kind, "    ") + text for kind, text in said_of(check)]


def todo_lines(todo: dict) -> list[str]:
    """The text of a TODO: all its checks, then the questions."""
    lines = [line for check in todo["checks"] for line in lines_of(check)]
    return lines + [f"{'or' if i else QUESTION}: {said.text}" for i, said in enumerate(questions_of(todo))]


def data_note(results: dict) -> str:
    """Which data the outcomes belong to."""
    if results["data"]["kind"] == "drawn":
        return "The checks drew their data for this submission."
    sample = results["data"]["kind"] == "sample"
    return f"Trained models were tested on {'the bundled sample of PathMNIST' if sample else results['data']['name']}."


def public_notes(results: dict) -> list[str]:
    """How the submission was read and graded."""
    notes = [f"partial grading, not a grade: {results['partial']}"] if results.get("partial") else []
    if results.get("graded_again"):
        notes.append(f"graded again: {results['graded_again']}; the rest is as it was graded before")
    notes += results["submission"]["notes"]
    if results["submission"]["ignored"]:
        names = ", ".join(results["submission"]["ignored"][:10])
        more = len(results["submission"]["ignored"]) - 10
        notes.append(f"not graded: {names}" + (f" and {more} more" if more > 0 else ""))
    return notes
