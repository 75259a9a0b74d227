"""Builds a student's repository in memory: {path: bytes}."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from staff.release.starter import handout, markers, sample
from staff.release.starter.markers import Graded, read_graded
from staff.release.starter.recipe import Recipe, git, shipped_files, source_files
from toolkit.errors import UserError


@dataclass
class Build:
    """Everything that goes into a release, and what the staff should know of it."""

    files: dict[str, bytes]
    commit: str
    notes: list[str] = field(default_factory=list)


def build(recipe: Recipe, *, classroom: bool = False) -> Build:
    """Build the repository of `recipe`. UserError for everything that would make a broken or leaking release."""
    graded = read_graded(recipe)
    files, unknown = source_files(recipe.root)
    shipped = shipped_files(recipe, files)
    notes = [f"not shipped, because git does not know it: {name}" for name in _would_ship(recipe, shipped, unknown)]
    _check_unmarked(recipe, files, shipped)
    contents = {item.name: item.starter.encode() for item in graded}
    for name in shipped:
        content = recipe.read(name)
        if name.startswith("configs/") and _is_tuned(name, content):
            notes.append(f"not shipped, because it holds tuned answers: {name}")
            continue
        if name.endswith(".py"):
            markers.parse(content.decode("utf-8"), name)
        if content.startswith(b"---\nlayout: "):
            content = handout.plain_page(content.decode("utf-8"), handout.due_date(recipe)).encode()
        contents[name] = content
    contents |= sample.bundled_data(recipe) | _derived(recipe) | handout.documents(recipe, graded, classroom)
    notes += _put_points(recipe, graded, contents)
    return Build(_renamed(recipe, contents), commit_of(recipe), notes)


def _put_points(recipe: Recipe, graded: list[Graded], contents: dict[str, bytes]) -> list[str]:
    """Write the grader's points into the table that students see; a note if the table here has others."""
    points, table = handout.todo_points(recipe, graded), recipe.settings["todo_table"]
    if table not in contents:
        raise UserError(f"todo_table {table} of {recipe.name}/starter.toml does not ship")
    text, changed = handout.put_points(contents[table].decode(), points, table)
    contents[table] = text.encode()
    if not changed:
        return []
    return [f"{table}: the points of TODO {', '.join(changed)} differ from the grader's; correct them here too"]


def _renamed(recipe: Recipe, contents: dict[str, bytes]) -> dict[str, bytes]:
    """The files under the names that students see: a lab brings its own version of some."""
    names = recipe.settings.get("rename", {})
    if unknown := sorted(set(names) - set(contents)):
        raise UserError(f"rename in {recipe.name}/starter.toml: {', '.join(unknown)} does not ship")
    renamed = {names.get(name, name): content for name, content in contents.items()}
    if len(renamed) != len(contents):
        raise UserError(f"rename in {recipe.name}/starter.toml: two files would be called {', '.join(names.values())}")
    return renamed


def _check_unmarked(recipe: Recipe, files: list[str], shipped: list[str]) -> None:
    """Markers outside graded files are mistakes; in files that ship they may not even stand in a text."""
    exempt = {*recipe.graded, *recipe.graded_elsewhere}
    for name in files:
        if name.endswith(".py") and not name.startswith("staff/") and name not in exempt:
            markers.check_unmarked(recipe.read_text(name), name, comments_only=name not in shipped)


def commit_of(recipe: Recipe) -> str:
    """The commit of the sources, with '+changes' if files of it were changed since; 'unknown' without git."""
    commit = git(recipe.root, "rev-parse", "HEAD")
    if not commit:
        return "unknown"
    changed = git(recipe.root, "status", "--porcelain", "--untracked-files=no")
    return commit.strip() + ("+changes" if changed is None or changed.strip() else "")


def _would_ship(recipe: Recipe, shipped: list[str], unknown: list[str]) -> list[str]:
    """Files that git does not know and that the recipe would choose if it did."""
    if not unknown:
        return []
    return sorted(set(shipped_files(recipe, [*shipped, *unknown])) & set(unknown))


def _is_tuned(name: str, content: bytes) -> bool:
    """True for a configuration that says of itself that it answers what students are to find out."""
    if not name.endswith(".json"):
        return False
    try:
        config = json.loads(content)
    except ValueError as error:
        raise UserError(f"{name} is not JSON: {error}") from None
    return isinstance(config, dict) and bool(config.get("tuned"))


def _derived(recipe: Recipe) -> dict[str, bytes]:
    """Our own files with the changes that the recipe lists."""
    contents = {}
    for item in recipe.settings.get("derived", ()):
        text = recipe.read_text(item["file"])
        for old, new in item["replace"]:
            if text.count(old) != 1:
                raise UserError(f"{item['file']}: {old.strip()!r} occurs {text.count(old)} times; once is needed")
            text = text.replace(old, new)
        contents[item["file"]] = text.encode()
    return contents
