"""The documents of a release: templates with the facts of the course filled in, each fact from its one place."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from staff.grader.sandbox import Limits
from staff.release.starter import data_facts
from staff.release.starter.markers import Graded
from staff.release.starter.recipe import Recipe
from toolkit.errors import UserError

PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")  # GitHub's own ${{ ... }} has spaces or dots inside and stays


def documents(recipe: Recipe, graded: Sequence[Graded], classroom: bool) -> dict[str, bytes]:
    """{path: bytes} of every template that this release needs."""
    facts = collect_facts(recipe, graded)
    templates = dict(recipe.settings["templates"])
    if classroom:
        templates |= recipe.settings["classroom"]
    return {path: fill(recipe.template(name), facts, name).encode() for path, name in templates.items()}


def due_date(recipe: Recipe) -> str:
    """'Friday, 12 March 2027, 23:59 (the university's local time)'."""
    return f"{long_date(recipe.term['due'])} ({recipe.term['due_timezone']})"


def long_date(when: datetime) -> str:
    """'Friday, 12 March 2027, 23:59'."""
    return f"{when:%A}, {when.day} {when:%B %Y, %H:%M}"


def late_work(late: dict[str, float]) -> str:
    """What a late hand-in costs, from the table that the gradebook computes with; '' without one."""
    told = []
    if late.get("free_days"):
        told.append(f"you have {show(late['free_days'])} free days in the term, used up in the order of the due dates")
    if late.get("percent_per_day"):
        then = "after that, each" if told else "each"
        told.append(f"{then} day or part of a day costs {show(late['percent_per_day'])}% of the points earned")
    if "hard_end_days" in late:
        told.append(f"work that is more than {show(late['hard_end_days'])} days late earns nothing")
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}." if told else ""


def fill(template: str, facts: dict[str, str], name: str) -> str:
    """Replace each {{fact}}; UserError for one that does not exist."""
    unknown = sorted({match[1] for match in PLACEHOLDER.finditer(template)} - set(facts))
    if unknown:
        raise UserError(f"template {name} asks for {', '.join(unknown)}; allowed: {', '.join(sorted(facts))}")
    return PLACEHOLDER.sub(lambda match: facts[match[1]], template)


def collect_facts(recipe: Recipe, graded: Sequence[Graded]) -> dict[str, str]:
    """Everything that a template may name."""
    course, grader = recipe.term, recipe.points
    points = todo_points(recipe, graded)
    analysis = course.get("analysis_points", 0)
    prefix = recipe.marker
    weights = {name: size for name, size in grader["files"].items() if name.endswith(".pt")}
    facts = {
        "title": recipe.title,
        "course": recipe.course["course"],
        "first_marker": step_id(next(iter(points)), prefix),
        "term": recipe.course["term"],
        "team_size": str(recipe.course["team_size"]),
        "office_hours": recipe.course["office_hours"],
        "due": due_date(recipe),
        "late_work": f"**Late work.** {said}" if (said := late_work(recipe.course.get("late", {}))) else "",
        "analysis_points": show(analysis),
        "extra_credit_points": show(grader.get("extra_points", 0)),
        "all_points": show(sum(points.values()) + analysis),
        "graded_files": ", ".join(f"`{name}`" for name in recipe.graded),
        "weights_limit": f"{min(weights.values()) / 1e6:.0f} MB" if weights else "",
        "grading_limits": grading_limits(grader),
        **{name: show(value) for name, value in grader.get("history", {}).items()},  # deduction, min_commits, ...
        **{f"points_{todo.replace('.', '_')}": show(value) for todo, value in points.items()},
        **classroom_facts(points, prefix),
    }
    for name in weights:
        facts[f"weights_{Path(name).stem}"] = name
        facts[f"worth_{Path(name).stem}"] = data_facts.checkpoint_worth(recipe, Path(name).stem)
    for part in dict.fromkeys(todo.split(".")[0] for todo in points):
        of_part = {todo: value for todo, value in points.items() if todo.startswith(f"{part}.")}
        facts[f"part{part}_points"] = show(sum(of_part.values()))
        facts[f"part{part}_todos"] = todo_table(graded, of_part, recipe.settings.get("effort", {}))
    if recipe.dataset:
        facts |= data_facts.facts(recipe)
        facts |= data_facts.extra_credit(recipe, facts["extra_credit_points"], facts["weights_classification"])
    return facts | recipe.settings.get("facts", {})


def grading_limits(grader: dict[str, Any]) -> str:
    """What a submission may use while it is graded, from the grader's own settings, as a sentence for students."""
    limits, sizes = Limits(), grader["files"]
    code = max(size for name, size in sizes.items() if name.endswith(".py"))
    others = [size for name, size in sizes.items() if not name.endswith(".py")]
    other = f", any other file {max(others) / 1e6:g} MB" if others else ""
    return (
        f"Ordinary code stays far below the limits of grading: {limits.threads} processor threads, no GPU, no network, "
        f"{limits.memory_mb / 1024:g} GB of memory, {limits.disk_mb} MB of files written; it cannot "
        f"start other programs. Each call of one of your functions may take {grader['limits']['request_s']:g} seconds "
        "(a training may take longer), all calls together "
        f"{grader['limits']['submission_s']:g} seconds. A code file may have {code / 1000:,.0f} kB{other}."
    )


def todo_points(recipe: Recipe, graded: Sequence[Graded]) -> dict[str, Fraction]:
    """Points of each TODO, in order, from the grader's settings. UserError where those and the markers disagree."""
    todos = sorted({region.todo for item in graded for region in item.regions}, key=todo_key)
    settings = f"staff/assignments/{recipe.name}/assignment.toml"
    records = [record for record in recipe.points["todo"] if not record.get("extra")]
    points = {record["id"]: Fraction(str(record["points"])) for record in records}
    if differing := sorted(set(points) ^ set(todos), key=todo_key):
        raise UserError(f"{settings} and the markers of the graded files differ in TODO {', '.join(differing)}")
    if sum(points.values()) != recipe.points["points"]:
        raise UserError(f"{settings}: the TODOs add up to {show(sum(points.values()))}, not {recipe.points['points']}")
    return {todo: points[todo] for todo in todos}


def put_points(table: str, points: dict[str, Fraction], name: str) -> tuple[str, list[str]]:
    """Write the points into the rows Todo("1.2", "title", points, ...) of the table that students see.

    Returns the text and the TODOs that had other points. UserError if a row is missing.
    """
    changed = []
    for todo, value in points.items():
        row = re.compile(rf'(Todo\("{re.escape(todo)}", "[^"]*", )([\d.]+)(?=[,)])')
        match = row.search(table)
        if not match:
            raise UserError(f"{name} has no row Todo({todo!r}, title, points, ...)")
        if Fraction(match[2]) != value:
            changed.append(todo)
        table = row.sub(rf"\g<1>{show(value)}", table)
    return table, changed


def todo_table(graded: Sequence[Graded], points: dict[str, Fraction], effort: dict[str, str]) -> str:
    """Rows of a Markdown table: TODO, what, file, points, and time where `effort` says it; one row per TODO."""
    rows = []
    for todo in points:
        places = [(item.name, region.text) for item in graded for region in item.regions if region.todo == todo]
        what = "; ".join(dict.fromkeys(text for _name, text in places))
        cells = [todo, what, f"`{places[0][0]}`", show(points[todo]), *([effort[todo]] if effort else [])]
        rows.append(f"| {' | '.join(cells)} |")
    heads = ["TODO", "what", "file", "points", *(["time"] if effort else [])]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows])


def classroom_facts(points: dict[str, Fraction], prefix: str) -> dict[str, str]:
    """What the workflow for GitHub Classroom names: a step, a result and a runner for each TODO."""
    steps = [step_id(todo, prefix) for todo in points]
    results = (f"          {step.upper()}_RESULTS: ${{{{ steps.{step}.outputs.result }}}}" for step in steps)
    return {
        "classroom_steps": classroom_steps(points, prefix),
        "classroom_results": "\n".join(results),
        "classroom_runners": ",".join(steps),
    }


def classroom_steps(points: dict[str, Fraction], prefix: str) -> str:
    """One step a TODO for GitHub Classroom's graders."""
    return "\n".join(
        f"""      - name: TODO {todo}
        id: {step_id(todo, prefix)}
        uses: classroom-resources/autograding-command-grader@v1
        with:
          test-name: TODO {todo}
          command: {json.dumps(f"python -m pytest -q -m {step_id(todo, prefix)}")}
          timeout: 10
          max-score: {show(value)}"""
        for todo, value in points.items()
    )


def step_id(todo: str, prefix: str) -> str:
    """'1.2' → 'todo_1_2', which is the pytest marker, too."""
    return f"{prefix}_{todo.replace('.', '_')}"


def todo_key(todo: str) -> tuple[int, ...]:
    """Sorts 1.10 behind 1.9."""
    return tuple(map(int, todo.split(".")))


def show(value: Fraction | float) -> str:
    """A number of points without needless digits."""
    return f"{float(value):g}"
