"""Gradescope's results.json: one entry per TODO, extra credit last. Points are ours; the site adds none."""

from __future__ import annotations

from staff.grader.reports.feedback import data_note, public_notes, todo_lines


def render(results: dict) -> dict:
    """The object that Gradescope reads from /autograder/results/results.json."""
    tests = []
    for todo in results["todos"]:
        output = "\n".join(todo_lines(todo))
        entry = {"name": f"{todo['id']} {todo['title']}", "number": todo["id"], "score": todo["points"]}
        entry |= {"max_score": 0.0 if todo["extra"] else todo["max"], "output": output, "output_format": "text"}
        # With no points to earn Gradescope would show extra credit that was not earned as failed.
        entry["status"] = "passed" if todo["status"] == "passed" or todo["extra"] else "failed"
        tests.append({**entry, "tags": [todo["part"]], "visibility": "visible"})
    return {
        "score": round(results["score"] + results["extra"], 2),
        "execution_time": round(results["seconds"]),
        "output": "\n".join([data_note(results), *public_notes(results)]),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def failure(message: str) -> dict:
    """What a student sees when the grader failed: a message and no score, which is not the same as a score of 0."""
    return {"output": message, "stdout_visibility": "hidden", "visibility": "visible"}


def nothing_handed_in(message: str) -> dict:
    """What a student sees when what they handed in cannot be read: they can cure it and hand in again."""
    return {"score": 0.0, **failure(message)}
