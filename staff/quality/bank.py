"""The bank that the grader is measured with: right solutions as students differ, and typical mistakes.

`alternates/*.toml`: a right solution each. A table named after a TODO holds what stands between its markers
(`init` and `forward` for a model, `body` otherwise); `[[edit]]` tables replace text of a file.
`mutants/*.toml`: many mistakes a file, each the reference with a few lines replaced. `todos` must cost points,
`may_cost` may (TODOs that use what is wrong), no other TODO may. `old` stands once in the file or, if more often, once
in the function or class of the first of `todos`; `edits` are further replacements.
"""

from __future__ import annotations

import ast
import hashlib
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from staff.release.starter.markers import find_regions
from toolkit.errors import UserError

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
ALTERNATES, MUTANTS = Path(__file__).parent / "alternates", Path(__file__).parent / "mutants"
GRADED = ("classification_models.py", "classification_train.py", "segmentation_models.py", "segmentation_train.py")
BODY_NAMES = ("init", "forward", "body")


@dataclass(frozen=True)
class Variant:
    """One submission of the bank. `files`: name -> text of every graded file; `changed`: names of those that differ.

    todos: TODO -> what a mistake must cost (empty for a right solution). may_cost: what it may cost besides.
    """

    name: str
    title: str
    files: dict[str, str] = field(compare=False)  # a dict has no hash; the name tells variants apart
    changed: tuple[str, ...]
    todos: tuple[str, ...] = ()
    may_cost: tuple[str, ...] = ()
    hint: str = ""

    @property
    def is_right(self) -> bool:
        """True for a right solution, False for a mistake."""
        return not self.todos

    def digest(self) -> str:
        """SHA-256 of its files."""
        text = "\0".join(f"{name}\0{self.files[name]}" for name in sorted(self.files))
        return hashlib.sha256(text.encode()).hexdigest()


def reference() -> dict[str, str]:
    """Name and text of every graded file."""
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in GRADED}


def load_bank() -> list[Variant]:
    """The reference itself, all alternates, all mutants. UserError for an entry that does not fit the reference."""
    original = reference()
    variants = [Variant("reference", "the reference solution", original, ())]
    for path in sorted(ALTERNATES.glob("*.toml")):
        variants.append(_alternate(path, original))
    for path in sorted(MUTANTS.glob("*.toml")):
        variants += [_mutant(entry, path.name, original) for entry in _read(path)["mutant"]]
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two entries of the bank are called {twice[0]}")
    return variants


def _read(path: Path) -> dict:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from None


def _alternate(path: Path, original: dict[str, str]) -> Variant:
    content, files = _read(path), dict(original)
    for name, value in content.items():
        if name == "edit":
            for edit in value:
                _replace(files, edit, path.name)
        elif name != "title":
            _fill(files, name, [value[part].strip("\n") for part in BODY_NAMES if part in value], path.name)
    return Variant(path.stem, content["title"], files, _changed(files, original))


def _mutant(entry: dict, source: str, original: dict[str, str]) -> Variant:
    files = dict(original)
    where = f"{source}: {entry['name']}"
    for edit in [entry, *entry.get("edits", [])]:
        _replace(files, edit, where, entry["todos"][0])
    may_cost = tuple(entry.get("may_cost", ()))
    changed = _changed(files, original)
    return Variant(
        entry["name"], entry["misconception"], files, changed, tuple(entry["todos"]), may_cost, entry["hint"]
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
            # The lines between the markers may hold a mistake that does not parse, so what is outside is looked at.
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


def _changed(files: dict[str, str], original: dict[str, str]) -> tuple[str, ...]:
    return tuple(name for name in sorted(files) if files[name] != original[name])


def places() -> dict[str, tuple[str, str]]:
    """TODO -> (file, function or class) that holds its marked lines in the reference."""
    found: dict[str, tuple[str, str]] = {}
    for name, text in reference().items():
        for region in find_regions(text, name):
            for node in ast.parse(text).body:
                if node.lineno <= region.first <= (node.end_lineno or 0):
                    found[region.todo] = (name, node.name)  # type: ignore[attr-defined]
    return found
