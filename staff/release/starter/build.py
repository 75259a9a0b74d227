"""Builds a student's repository in memory: {path: bytes}."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from staff.release.starter import data_facts, handout, markers, sample, todos
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
        contents[name] = content
    if recipe.dataset:
        contents["toolkit/expectations.py"] = data_facts.expectations_module(recipe).encode()
    contents |= sample.bundled_data(recipe) | handout.documents(recipe, graded, classroom)
    if "todo_table" in recipe.settings:
        notes += _put_points(recipe, graded, contents)
    else:
        contents["tests/todos.py"] = todos.table(recipe, contents).encode()
    contents["pyproject.toml"] = _tool_settings(recipe, contents).encode()
    if "constraints.txt" in contents:
        contents["constraints.txt"] = _students_versions(contents).encode()
    return Build(_renamed(recipe, contents), commit_of(recipe), notes)


def _students_versions(contents: dict[str, bytes]) -> str:
    """constraints.txt with its comments and the packages of requirements.txt alone."""
    wanted = re.findall(r"^[\w-]+", contents["requirements.txt"].decode(), re.MULTILINE)
    lines = contents["constraints.txt"].decode().splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("#") or line.partition("==")[0] in wanted)


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
    new = git(recipe.root, "ls-files", "--others", "--exclude-standard", "--", f"staff/assignments/{recipe.name}")
    return commit.strip() + ("+changes" if changed is None or new is None or (changed + new).strip() else "")


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


def _tool_settings(recipe: Recipe, contents: dict[str, bytes]) -> str:
    """Our pyproject.toml as a starter needs it: its own packages and markers, and graded files with unused imports."""
    packages = sorted({name.partition("/")[0] for name in contents if name.endswith("/__init__.py")})
    ignored = "".join(f'"{name}" = ["F401", "F841", "RUF059", "RUF100"]\n' for name in recipe.graded)
    unused = "# Imported or unpacked for you; used once the TODOs are done."
    replacements = [
        (r"^src = .*\n", ""),
        (r"^extend-exclude = .*\n", ""),
        (r"^known-first-party = .*", f"known-first-party = {json.dumps(packages)}"),
        (r"^\[tool\.ruff\.lint\.isort\]", f"[tool.ruff.lint.per-file-ignores]\n{unused}\n{ignored}\n\\g<0>"),
        (r'^markers = \[\n(    "\w+_\d+_\d+: .*\n)*', f"markers = [\n{todos.markers(recipe)}"),
    ]
    text = recipe.read_text("pyproject.toml")
    for pattern, new in replacements:
        text, found = re.subn(pattern, new, text, flags=re.MULTILINE)
        if found != 1:
            raise UserError(f"pyproject.toml: {pattern} occurs {found} times; once is needed")
    return text
