"""The bank that the judges are measured with: right solutions as students differ, and typical mistakes.

Right solutions: `submissions/NAME/` holds a whole submission each. `alternates/*.toml` are the reference with changes:
a table named after a TODO holds what stands between its markers (`init` and `forward` for a model, `body` otherwise);
`[[edit]]` tables replace text of a file.

Mistakes: `mutants/*.toml`, many a file, each the reference, or the submission named `base`, with a few lines replaced.
`todos` must cost points, `may_cost` may (TODOs that use what is wrong), no other TODO may. `old` stands once in the
file or, if more often, once in the function or class of the first of `todos`; `edits` are further replacements.
`alone`: not to be judged together with other mistakes, because it leaks out of its function (assumed where LEAKING
words stand in it). Names are those of the entries, with the base before them if it is not the reference.

That is the bank of Project 2. Another assignment has its own in `staff/assignments/NAME/bank/`, laid out alike.

`set` at the top of a file says where its entries come from, and `seen = false` that no check was written or changed
with them in sight: only these say how often a judge is wrong on code that it does not know. Of a whole submission,
`origin.toml` in its folder says so.
"""

from __future__ import annotations

import ast
import hashlib
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from staff.grader.dataset import DataSet
from staff.grader.toml_file import read_toml
from staff.release.starter import recipe as recipes
from staff.release.starter.handout import todo_key
from staff.release.starter.markers import find_regions
from toolkit.errors import UserError

HERE = Path(__file__).parent
PROJECT2 = "project2"
BODY_NAMES = ("init", "forward", "body")
FIRST_SET = "first bank"
LEAKING = ("torch.set_", "manual_seed(", "sys.", "os.")


@dataclass(frozen=True)
class Variant:
    """One submission of the bank.

    Args:
        files: name -> text of every graded file.
        base: the same of what it was made from.
        todos: TODOs that a mistake must cost; empty for a right solution.
        may_cost: TODOs that it may cost besides.
        is_whole: a submission that was written as a whole, not the reference with changes.
        set: where it comes from.
        seen: whether a check was ever written or changed with it in sight.
    """

    name: str
    title: str
    files: dict[str, str] = field(compare=False)  # a dict has no hash; the name tells variants apart
    base: dict[str, str] = field(compare=False, repr=False)
    todos: tuple[str, ...] = ()
    may_cost: tuple[str, ...] = ()
    hint: str = ""
    is_whole: bool = False
    alone: bool = False
    set: str = FIRST_SET
    seen: bool = True

    @property
    def is_right(self) -> bool:
        """True for a right solution, False for a mistake."""
        return not self.todos

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the files that differ from what it was made from; of a whole submission, all."""
        return tuple(name for name in sorted(self.files) if self.is_whole or self.files[name] != self.base[name])

    def adapted(self, dataset: DataSet) -> Variant:
        """The same for another data set."""
        files, base = ({name: dataset.adapted(text) for name, text in of.items()} for of in (self.files, self.base))
        return replace(self, files=files, base=base)

    def digest(self) -> str:
        """SHA-256 of its files."""
        text = "\0".join(f"{name}\0{self.files[name]}" for name in sorted(self.files))
        return hashlib.sha256(text.encode()).hexdigest()


def folder_of(assignment: str) -> Path:
    """Where the bank of an assignment lies. UserError if it has none."""
    folder = HERE if assignment == PROJECT2 else recipes.FOLDER / assignment / "bank"
    if not (folder / "mutants").is_dir():
        raise UserError(f"{assignment} has no bank: {folder / 'mutants'} is missing")
    return folder


def reference(assignment: str = PROJECT2) -> dict[str, str]:
    """Name and text of every graded file, as the sources have it: entries of the bank are changes to that."""
    recipe = replace(recipes.load(assignment), dataset=None)
    return {name: recipe.read_text(name) for name in recipe.graded}


def load_bank(more: Iterable[Path] = (), assignment: str = PROJECT2, folder: Path | None = None) -> list[Variant]:
    """The reference itself, all right solutions, all mistakes, and those of the files `more`, which count as unseen.

    UserError for an entry that does not fit what it was made from.

    Args:
        more: files with further mistakes.
        assignment: whose bank.
        folder: where it lies, if not where that assignment has it.
    """
    folder = folder or folder_of(assignment)
    bases = {"reference": reference(assignment)}
    variants = [Variant("reference", "the reference solution", bases["reference"], bases["reference"])]
    for path in sorted(folder.glob("alternates/*.toml")):
        variants.append(_alternate(path, bases["reference"]))
    for whole in sorted(path for path in folder.glob("submissions/*") if path.is_dir()):
        variants.append(_submission(whole, list(bases["reference"])))
        bases[whole.name] = variants[-1].files
    for path in sorted(folder.glob("mutants/*.toml")):
        variants += _mutants(path, bases, seen=True)
    for path in more:
        variants += _mutants(Path(path), bases, seen=False)
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two entries of the bank are called {twice[0]}")
    dataset = recipes.load(assignment).dataset
    return [variant.adapted(dataset) for variant in variants] if dataset else variants


def _alternate(path: Path, original: dict[str, str]) -> Variant:
    content, files = read_toml(path), dict(original)
    for name, value in content.items():
        if name == "edit":
            for edit in value:
                _replace(files, edit, path.name)
        elif name not in ("title", "set", "seen"):
            _fill(files, name, [value[part].strip("\n") for part in BODY_NAMES if part in value], path.name)
    origin = {"set": content.get("set", FIRST_SET), "seen": content.get("seen", True)}
    return Variant(path.stem, content["title"], files, original, **origin)


def _submission(folder: Path, graded: list[str]) -> Variant:
    """A folder with the graded modules; the first line of each says in whose manner it is written."""
    missing = [name for name in graded if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} has no {missing[0]}")
    files = {name: (folder / name).read_text(encoding="utf-8") for name in graded}
    origin = read_toml(folder / "origin.toml") if (folder / "origin.toml").is_file() else {}
    origin = {"set": origin.get("set", "whole submissions"), "seen": origin.get("seen", True)}
    first_line = files[graded[0]].partition("\n")[0]
    title = first_line.lstrip("# ").removeprefix(f"{folder.name}:").strip() or folder.name
    return Variant(folder.name, title, files, files, is_whole=True, **origin)


def _mutants(path: Path, bases: Mapping[str, dict[str, str]], seen: bool) -> list[Variant]:
    content = read_toml(path)
    origin = {"set": content.get("set", FIRST_SET if seen else path.stem), "seen": content.get("seen", seen)}
    entries = [entry for kind in ("mutant", "mistake") for entry in content.get(kind, ())]
    if not entries:
        raise UserError(f"{path} holds no mistake: it needs [[mutant]] tables")
    return [_mutant(entry, path.name, bases, origin) for entry in entries]


def _mutant(entry: dict, source: str, bases: Mapping[str, dict[str, str]], origin: dict[str, Any]) -> Variant:
    where = f"{source}: {entry.get('name', '(an entry without a name)')}"
    base = entry.get("base", "reference")
    if base not in bases:
        raise UserError(f"{where}: base is {base!r}; allowed: {', '.join(sorted(bases))}")
    todos = entry.get("todos", entry.get("todo"))
    if not todos or "name" not in entry:
        raise UserError(f"{where}: it needs a name and todos")
    todos = (todos,) if isinstance(todos, str) else tuple(todos)
    files, edits = dict(bases[base]), [entry, *entry.get("edits", [])]
    for edit in edits:
        _replace(files, {"file": entry["file"], **edit}, where, todos[0])
    leaks = any(word in edit["new"] for edit in edits for word in LEAKING)
    return Variant(
        entry["name"] if base == "reference" else f"{base}.{entry['name']}",
        entry.get("misconception", entry.get("why", "")),
        files,
        bases[base],
        todos,
        tuple(entry.get("may_cost", ())),
        entry.get("hint", ""),
        alone=entry.get("alone", leaks),
        **origin,
    )


def _replace(files: dict[str, str], edit: dict, where: str, todo: str | None = None) -> None:
    """Replace a text that stands once in its file or, if more often, once in the function or class of `todo`."""
    name, old = edit["file"], edit["old"]
    text = files[name]
    start, end = 0, len(text)
    if text.count(old) > 1 and todo is not None:
        start, end = _span(text, name, todo)
    found = text.count(old, start, end)
    if found != 1:
        raise UserError(f"{where}: the text to replace stands {found} times in {name}, expected once")
    files[name] = text[:start] + text[start:end].replace(old, edit["new"]) + text[end:]


def _span(text: str, name: str, todo: str) -> tuple[int, int]:
    """Where the function or class that holds a TODO begins and ends in its file, decorators included."""
    lines = text.splitlines(keepends=True)
    for region in find_regions(text, name):
        if region.todo == todo:
            # Not by ast: an earlier replacement may have left a text that does not parse yet.
            tops = [i for i, line in enumerate(lines) if line.startswith(("def ", "class "))]
            first = max(i for i in tops if i < region.first)
            while lines[first - 1].startswith("@"):
                first -= 1
            last = min((i for i in tops if i > region.first), default=len(lines))
            return len("".join(lines[:first])), len("".join(lines[:last]))
    return 0, len(text)


def _fill(files: dict[str, str], todo: str, bodies: list[str], where: str) -> None:
    """Put `bodies`, in order, between the markers of a TODO."""
    for name, text in files.items():
        regions = [region for region in find_regions(text, name) if region.todo == todo]
        if not regions:
            continue
        if len(regions) != len(bodies):
            raise UserError(
                f"{where}: TODO {todo} has {len(regions)} marked places, and {len(bodies)} bodies are given"
            )
        lines = text.splitlines(keepends=True)
        for region, body in sorted(zip(regions, bodies, strict=True), key=lambda pair: -pair[0].first):
            lines[region.first : region.last - 1] = [textwrap.indent(body, region.indent) + "\n"]
        files[name] = "".join(lines)
        return
    raise UserError(f"{where}: no graded file has a TODO {todo}")


def todos_by_file(assignment: str = PROJECT2) -> dict[str, tuple[str, ...]]:
    """Graded file -> the TODOs that are marked in it, in their order."""
    regions = {name: find_regions(text, name) for name, text in reference(assignment).items()}
    return {name: tuple(sorted({region.todo for region in found}, key=todo_key)) for name, found in regions.items()}


def places(assignment: str = PROJECT2) -> dict[str, tuple[str, str]]:
    """TODO -> (file, function or class) that holds its marked lines in the reference."""
    found: dict[str, tuple[str, str]] = {}
    for name, text in reference(assignment).items():
        for region in find_regions(text, name):
            for node in ast.parse(text).body:
                if node.lineno <= region.first <= (node.end_lineno or 0):
                    found[region.todo] = (name, node.name)  # type: ignore[attr-defined]
    return found
