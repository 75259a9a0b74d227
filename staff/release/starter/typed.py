"""Proofs that no text repeats by hand what the settings say, and that each file it names exists.

For the first the starter is built once more from other settings: another course, term, team, due date and other
points. A date, a number of points or one of those names that is still there was typed by hand, and would be wrong
next term.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from staff.release.starter.build import build
from staff.release.starter.proof import Proof
from staff.release.starter.recipe import Recipe
from staff.release.starter.release import RELEASE_FILE

MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
DATE = rf"\b20\d\d-\d\d-\d\d\b|\b\d{{1,2}}\.? {MONTH}\b|\b{MONTH} \d{{1,2}}\b"
POINTS = r"\b\d+(?:\.\d+)? points?\b|\*\*\d+\.\d+ [^*(]*\(\d+\)|\bteam of \d+"  # also **1.2 Name (5).**
NAMES = ("course", "term", "office_hours")  # in course.toml
NO_DOCUMENTS = ("LICENSE", RELEASE_FILE, "constraints.txt")  # a copyright holder, digests, versions
DOCUMENTS = ("*.md", "Makefile")
PATH = re.compile(r"(?<![\w/.{*-])[\w./-]+\.(?:py|json|md|pt|csv|toml|txt|npz|png|ipynb|zip)\b")
MODULE = re.compile(r"python -m ((?:toolkit|labs|tests)\b[\w.]*)")


def altered(recipe: Recipe) -> Recipe:
    """The same assignment in another course, another term and for other points."""
    course, points = copy.deepcopy(recipe.course), copy.deepcopy(recipe.points)
    course |= {name: f"another {name}" for name in NAMES if name in course}
    course["team_size"] = course.get("team_size", 0) + 90
    for term in (course.get(recipe.name), points.get("course"), course.get("late")):
        if term:
            _shift(term)
    for record in points["todo"]:
        record["points"] += 100
    points["points"] += 100 * sum(not record.get("extra") for record in points["todo"])
    points["extra_points"] = points.get("extra_points", 0) + 100 * sum(bool(r.get("extra")) for r in points["todo"])
    points["history"] = {name: value + 1 for name, value in points.get("history", {}).items()}
    return replace(recipe, course=course, points=points)


def _shift(term: dict[str, Any]) -> None:
    """Other dates, other points for what a person judges, other costs of late work."""
    for name, value in term.items():
        if hasattr(value, "year"):
            term[name] = value + timedelta(days=400)
        elif type(value) is int:
            term[name] = value + 100


def proves_typed(recipe: Recipe, found: Mapping[str, bytes], *, classroom: bool = False) -> Proof:
    """Dates, points and names of the course follow the settings in every text."""
    names = [recipe.course[name] for name in NAMES if recipe.course.get(name)]
    facts = re.compile("|".join([DATE, POINTS, *map(re.escape, names)]))
    others, problems, count = build(altered(recipe), classroom=classroom).files, [], 0
    for name, data in found.items():
        if name in NO_DOCUMENTS or name.endswith(".npz") or not facts.search(data.decode("utf-8", "replace")):
            continue
        other = others.get(name, b"").decode("utf-8", "replace").split("\n")
        for number, row in enumerate(data.decode("utf-8", "replace").split("\n")):
            stated = facts.findall(row)
            count += len(stated)
            others_row = facts.findall(other[number]) if number < len(other) else []
            same = [fact for fact in stated if fact in others_row]
            problems += [f"{name}:{number + 1}: {fact!r} is typed by hand and follows no setting" for fact in same]
    return Proof("facts", f"{count} dates, points and names of the course follow the settings", problems)


def proves_paths(recipe: Recipe, found: Mapping[str, bytes]) -> Proof:
    """Each file that a document names ships, is handed in, or is made by a run (`made` in the recipe)."""
    known = {*found, RELEASE_FILE, *recipe.points["files"], *recipe.settings.get("made", ())}
    known |= {PurePosixPath(name).name for name in known}
    known |= {f"{recipe.dataset.flag}.npz"} if recipe.dataset else set()
    problems, count = [], 0
    for name, data in found.items():
        if any(fnmatch(name, pattern) for pattern in DOCUMENTS):
            for number, row in enumerate(data.decode("utf-8").split("\n"), 1):
                named = list(_named(row))
                count += len(named)
                folder = f"{PurePosixPath(name).parent}/"
                gone = [forms[0] for forms in named if not known & {*forms, folder + forms[0]}]
                problems += [f"{name}:{number}: names {path}, which is not there" for path in gone]
    return Proof("paths", f"{count} files that documents name exist, are made by a run, or are handed in", problems)


def _named(row: str) -> Iterator[tuple[str, ...]]:
    """The files that a line names, each in the forms that it may have."""
    for match in PATH.finditer(row):
        yield (match[0],)
    for match in MODULE.finditer(row):
        path = match[1].rstrip(".").replace(".", "/")
        yield f"{path}.py", f"{path}/__main__.py"
