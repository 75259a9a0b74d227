"""What a student may read: verdicts, expectations, hints and their own traceback lines; never seeds or hidden data."""

from __future__ import annotations


def shown_message(check: dict) -> str:
    """What is said about a check; errors of the grader's own are for the staff."""
    if check.get("same_as"):
        return f"the same as above: {check['same_as']}"
    failed_here = check["status"] == "grader_error"
    return "the grader failed here; the staff has been told" if failed_here else check["message"]


def lines_of(check: dict) -> list[str]:
    """The text of one check, line by line."""
    marks = {"passed": "✓", "failed": "✗", "not_started": "–", "skipped": "–", "grader_error": "!"}
    lines = [f"{marks[check['status']]} {check['title']}"]
    if check["status"] != "passed":
        lines += [f"    {line}" for line in shown_message(check).splitlines()[:6]]
    if check.get("same_as"):
        return lines
    lines += [f"    at {frame}" for frame in check["frames"]]
    for measured in check["measured"]:
        values = ", ".join(f"{value:.3f}" for value in measured["values"])
        margin = max(measured["values"]) - measured["threshold"]
        lines.append(f"    measured {values}; gate {measured['threshold']:.3f}; margin {margin:+.3f}")
    if check["hint"] and check["status"] == "failed":
        lines.append(f"    hint: {check['hint']}")
    return lines


def todo_lines(todo: dict) -> list[str]:
    """The text of a TODO: all its checks, then what a mistake that fails like this one usually is."""
    lines = [line for check in todo["checks"] for line in lines_of(check)]
    questions = todo.get("diagnosis", [])
    return lines + [f"{'ask yourself' if not i else 'or'}: {text}" for i, text in enumerate(questions)]


def data_note(results: dict) -> str:
    """Which data the outcomes belong to."""
    if results["data"]["kind"] == "sample":
        return "Outcomes were measured on the course's bundled sample of PathMNIST with gates calibrated for it."
    return f"Outcomes were measured on {results['data']['name']} with the course's gates."


def public_notes(results: dict) -> list[str]:
    """How the submission was read."""
    notes = [f"partial grading, not a grade: {results['partial']}"] if results.get("partial") else []
    notes += results["submission"]["notes"]
    if results["submission"]["ignored"]:
        names = ", ".join(results["submission"]["ignored"][:10])
        more = len(results["submission"]["ignored"]) - 10
        notes.append(f"not graded: {names}" + (f" and {more} more" if more > 0 else ""))
    return notes
