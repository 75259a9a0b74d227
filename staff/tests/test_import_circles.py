"""No module of this repository imports, at whatever place and by whatever detour, a module that imports it."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

from staff.tests.grading_tools import ROOT

ROOMS = ("toolkit", "labs", "bench", "tests", "staff")


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module."""
    files = [*root.glob("*.py"), *(path for room in ROOMS for path in (root / room).rglob("*.py"))]
    names = (path.relative_to(root).with_suffix("").as_posix().replace("/", ".") for path in files)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Our own modules that a file imports: at its top, inside functions, or for types alone.

    What stands under `if __name__ == "__main__":` belongs to the command and not to the module: nothing imports it.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [part for part in tree.body if not (isinstance(part, ast.If) and "__name__" in ast.unparse(part.test))]
    for node in (node for part in parts for node in ast.walk(part)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself; say where from"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in inner if {name, node.module} & set(known))


def circle(root: Path) -> list[str]:
    """One circle, as the modules on the way round; empty if there is none."""
    known = modules(root)
    order = graphlib.TopologicalSorter({name: set(imported(path, known)) for name, path in known.items()})
    try:
        order.prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_there_is_no_circle():
    found = circle(ROOT)
    assert not found, " is imported by ".join(found)


def test_circles_are_found_wherever_they_hide(tmp_path):
    (tmp_path / "toolkit").mkdir()
    (tmp_path / "toolkit/__init__.py").touch()
    (tmp_path / "toolkit/one.py").write_text("from toolkit import two\n")
    (tmp_path / "toolkit/two.py").write_text("import toolkit.three\n")
    (tmp_path / "toolkit/three.py").write_text("import json\n")
    assert circle(tmp_path) == []
    (tmp_path / "toolkit/three.py").write_text("def late():\n    from toolkit.one import name\n")
    assert sorted(set(circle(tmp_path))) == ["toolkit.one", "toolkit.three", "toolkit.two"]
