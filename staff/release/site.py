"""Build the course site: the pages of docs/site with the facts of the settings, by Jekyll.

    python -m staff.site                           # build/site as it is now; build/site_sources is what Jekyll reads
    python -m staff.site --at 2027-03-05T12:00     # as it will be then

An assignment's text and starter enter the sources at its release date and not before, so both folders may be public.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from staff.grader import facts
from staff.grader.assignment import Gate
from staff.grader.reports.page import COLOURS
from staff.grader.toml_file import read_toml
from staff.quality import verdicts
from staff.quality.confusion import interval
from staff.release.make_starter import starter
from staff.release.starter import data_facts, handout, release
from staff.release.starter import recipe as recipes
from staff.release.starter.build import Build, commit_of
from staff.release.starter.recipe import Recipe
from toolkit.cli import OneLineParser
from toolkit.errors import UserError

SOURCES = recipes.ROOT / "docs" / "site"
PAGES = {"index": "Welcome", "schedule": "Schedule", "resources": "Resources", "grading": "Grading"}
OF_THE_COURSE = ("course", "term", "about", "office_hours", "office_hours_when", "timezone")
COMING, OPEN, CLOSED = "coming", "open", "closed"
WHOLE_MINUTE = timedelta(seconds=60)  # work is due at the end of 23:59
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s]+)\)")
# A bar in a sentence, which Jekyll would take for a table; first what may hold bars: code and the rows of a table.
BAR = re.compile(r"(```.*?```|`[^`\n]*`|^\|[^\n]*)|\|", re.DOTALL | re.MULTILINE)
NO_JEKYLL = (
    "the course site is built by Jekyll, which is missing; install it: apt-get install jekyll (or: gem install jekyll)"
)
TIMEOUT_S = 300


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/site"), help="folder to make; its sources: OUT_sources")
    parser.add_argument("--at", metavar="TIME", help="as it is at 2027-03-05T12:00 (default: now)")
    return parser


def main() -> None:
    """Parse, collect the sources, run Jekyll, write both folders."""
    args = build_parser().parse_args()
    places = (args.out.with_name(f"{args.out.name}_sources"), args.out)
    for folder in places:
        release.check_target(folder)
    course = recipes.read_course(recipes.FOLDER / "course.toml")
    now = read_time(args.at, facts.zone(course.get("timezone", "")))
    all_recipes = recipes.of_this_term()
    written = sources([(recipe, starter(recipe)) for recipe in all_recipes], now)
    commit = commit_of(all_recipes[0])
    for folder, files in zip(places, (written, render(written)), strict=True):
        files = {**files, release.RELEASE_FILE: release.manifest(files, "site", commit)}
        kept = release.write_release(folder, files)
        print(
            f"{folder}: {len(files)} files" + (f"; it was changed by hand, and that is kept as {kept}" if kept else "")
        )


def read_time(text: str | None, zone: ZoneInfo | None) -> datetime:
    """The time that a person wrote, or now."""
    if text is None:
        return datetime.now().astimezone(zone)
    try:
        return facts.in_zone(datetime.fromisoformat(text), zone)
    except ValueError:
        raise UserError(f"--at is {text!r}; expected a date and a time such as 2027-03-05T12:00") from None


def sources(starters: list[tuple[Recipe, Build]], now: datetime) -> dict[str, bytes]:
    """{path: bytes} of all that Jekyll reads.

    Args:
        starters: each assignment's recipe and its starter as students get it.
        now: the time at which the site is looked at.
    """
    paths = [path for path in SOURCES.rglob("*") if path.is_file()]
    files = {path.relative_to(SOURCES).as_posix(): path.read_bytes() for path in paths}
    files["assets/colours.css"] = COLOURS.encode()
    course = starters[0][0].course
    data: dict[str, Any] = {
        name: course.get(name) or None for name in OF_THE_COURSE
    }  # in Jekyll "" and 0 count as true
    data |= {
        "late_work": handout.late_work(course.get("late", {})) or None,
        "commit": starters[0][1].commit,
        "assignments": {},
        "events": [],
        "measured": measured(),
    }
    for recipe, made in sorted(starters, key=lambda pair: str(pair[0].term["due"])):
        one = data["assignments"][recipe.name] = assignment_facts(recipe, now)
        data["events"] += one.pop("events")
        text = ""
        if one["state"] != COMING:
            archive = release.archive(made.files, recipe.name)
            one["zip"] = {"name": f"{recipe.name}.zip", "file": f"starters/{recipe.name}.zip"}
            one["zip"] |= {"size": f"{len(archive) / 1e6:.1f} MB", "sha256": release.sha256(archive)}
            files[one["zip"]["file"]] = archive
            text, linked = page_text(recipe, made.files)
            files |= linked
        head = {"layout": "assignment", "title": one["title"], "assignment": recipe.name}
        files[f"{recipe.name}.md"] = f"{front_matter(head)}{{% raw %}}\n{text}\n{{% endraw %}}\n".encode()
    data["events"].sort(key=lambda event: event.pop("sort"))
    data["pages"] = list(navigation(data["assignments"]))
    files["_data/course.json"] = (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def assignment_facts(recipe: Recipe, now: datetime) -> dict[str, Any]:
    """What the pages say of an assignment; `events` are its rows of the schedule."""
    term, points = recipe.term, recipe.points
    zone = facts.zone(recipe.course.get("timezone", ""))
    due, released = facts.in_zone(term["due"], zone), term.get("released")
    state = CLOSED if now > due + WHOLE_MINUTE else OPEN
    title, page = recipe.title, f"{recipe.name}.html"
    events = [(due, f"[{title}]({page}) is due")]
    found: dict[str, Any] = {"title": title, "page": page, "classroom_link": term.get("classroom_link") or None}
    if released is None or now < facts.in_zone(released, zone):
        state = COMING
    if released is not None:
        events.append((facts.in_zone(released, zone), f"[{title}]({page}) appears"))
        if events[1][0] > due:
            raise UserError(
                f"{recipe.name} is released on {released}, after its due date, {term['due']}: correct the dates"
            )
        found |= {"released": handout.long_date(released), "released_iso": released.isoformat()}
    found |= {"state": state, "due": handout.long_date(term["due"]), "due_iso": term["due"].isoformat()}
    found |= {"due_timezone": term["due_timezone"], "limits": handout.grading_limits(points)}
    found["points"] = handout.show(points["points"] + term.get("analysis_points", 0))
    has_extra = recipe.dataset is None or data_facts.expected(recipe)["EXTRA_CREDIT"]
    found["extra_points"] = (points.get("extra_points") or None) if has_extra else None
    found["chance"] = chance(data_facts.gates(recipe)) if recipe.dataset else None
    found["events"] = [
        {"sort": when.isoformat(), "when": handout.long_date(when), "what": what} for when, what in events
    ]
    return found


def page_text(recipe: Recipe, files: Mapping[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """(the assignment's page without its title, {path: bytes} of the files of the starter that it links to)."""
    name = recipe.settings.get("page", "README.md")
    if name not in files:
        raise UserError(f"page in {recipe.name}/starter.toml is {name!r}, which the starter does not have")
    title, _, text = files[name].decode().partition("\n")
    if not title.startswith("# ") or "{% endraw %}" in text:
        raise UserError(f"{name} of {recipe.name} must begin with its title (# ...) and hold no command of Jekyll")
    linked = {path: f"{recipe.name}/{path}" for path in LINK.findall(text) if path in files}
    text = LINK.sub(lambda match: f"]({linked.get(match[1], match[1])})", text)
    text = BAR.sub(lambda match: match[1] or r"\|", text)
    return text, {place: files[path] for path, place in linked.items()}


def measured() -> list[dict[str, str]]:
    """Rows of the table of error rates, as the sets were first judged."""
    rows = read_toml(verdicts.FIRST)["measured"]
    return [
        {"set": row["set"], "right": interval(row["grader"][0], row["right"]) if row["right"] else "none in this set"}
        | {judge: interval(row[judge][1], row["mistakes"]) for judge in ("public", "grader")}
        for row in rows
    ]


def chance(gates: Mapping[str, Gate]) -> dict[str, Any] | None:
    """How often a right solution misses a threshold by chance; None where nothing was measured."""
    evidence = [one for gate in gates.values() for one in gate.evidence.values()]
    if not evidence:
        return None
    worst = 1000 * max(one["fails"] for one in evidence)
    tries = max(gate.tries for gate in gates.values())
    return {"runs": sum(one["runs"] for one in evidence), "worst": f"{worst:.2g}", "tries": tries}


def navigation(assignments: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The links at the top of each page: the welcome, the assignments, the other pages."""
    titles = list(PAGES.items())
    titles[1:1] = [(name, one["title"].partition(":")[0]) for name, one in assignments.items()]
    for name, title in titles:
        yield {"file": f"{name}.html", "source": f"{name}.md", "title": title}


def front_matter(facts_of_page: Mapping[str, str]) -> str:
    """The head of a page as Jekyll reads it (JSON strings are YAML, too)."""
    return "".join(["---\n", *(f"{key}: {json.dumps(value)}\n" for key, value in facts_of_page.items()), "---\n"])


def render(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """{path: bytes} of the site that Jekyll makes of the sources; UserError if it is missing or refuses a page."""
    jekyll = shutil.which("jekyll")
    if jekyll is None:
        raise UserError(NO_JEKYLL)
    with tempfile.TemporaryDirectory(prefix="site-") as folder:
        source, site = Path(folder, "sources"), Path(folder, "site")
        release.write_release(source, files)
        command = [
            jekyll,
            "build",
            "--quiet",
            "--disable-disk-cache",
            "--source",
            str(source),
            "--destination",
            str(site),
        ]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "JEKYLL_ENV": "production"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=folder)
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())
            raise UserError(f"Jekyll could not build the site: {said.replace(f'{source}/', 'docs/site/')[:600]}")
        return release.read_folder(site)
