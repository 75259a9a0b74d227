"""The recipe of an assignment and the source files that it names; project2/starter.toml explains each setting."""

from __future__ import annotations

import ast
import fnmatch
import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staff.grader import dataset as datasets
from staff.grader.dataset import SIDE, DataSet
from staff.grader.toml_file import read_toml
from staff.release.starter.course import check_assignment, check_course
from toolkit.errors import UserError, check_choice

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "staff" / "assignments"
COMMON = ROOT / "staff" / "release" / "templates"  # for every assignment
NEVER = (".git/*", "*/__pycache__/*", "*.pyc", ".venv/*", "build/*", "runs/*", "staff/*", "bench/*", ".ci/*")
NEVER_TESTS = ("tests/sweeps/*",)  # of the dispatcher, which no student changes
BROUGHT = ("toolkit/", "tests/")  # modules from here ship because a file that ships imports them
ADAPTED = (".py", ".md", ".json", ".toml")  # endings of the sources that are adapted to another data set
LABS = ("labs/*", "tests/labs/*")  # of other assignments; a recipe names its own under `labs`


@dataclass(frozen=True)
class Recipe:
    """One assignment: what is graded, what ships, and the facts for its documents."""

    name: str
    root: Path  # of the staff repository
    settings: dict[str, Any]  # the assignment's toml
    course: dict[str, Any]  # staff/assignments/course.toml
    points: dict[str, Any]  # staff/assignments/NAME/assignment.toml, the grader's settings
    dataset: DataSet | None = None  # what the sources are adapted to; None for an assignment that names none

    @property
    def own(self) -> Path:
        """Files of this assignment alone, laid out as students get them; an assignment may have none."""
        return self.root / "staff" / "assignments" / self.name / "starter"

    @property
    def marker(self) -> str:
        """'hw5' where hw5_1_2 marks the public tests of TODO 1.2."""
        return self.settings.get("marker", "todo")

    @property
    def dates(self) -> dict[str, Any] | None:
        """As they are written; None for an assignment that this term does not have."""
        return self.course.get(self.name, self.points.get("course"))

    @property
    def term(self) -> dict[str, Any]:
        """What changes from term to term: from course.toml, else from the assignment's own settings."""
        facts = self.dates
        if facts is None:
            raise UserError(f"{self.name} has no due date: write [{self.name}] into course.toml")
        check_assignment(self.name, facts)
        return facts

    @property
    def title(self) -> str:
        """'Homework 5: ...': of its prose for the data set, of the recipe, or as the grader calls it."""
        return self.settings.get("title", self.points["title"]) if self.dataset is None else self.prose["title"]

    @property
    def prose(self) -> dict[str, str]:
        """What the handout says of the images of the data set."""
        return self.settings["prose"]["default"] | self.settings["prose"].get(self.dataset.flag, {})

    @property
    def graded(self) -> list[str]:
        """Names of the graded files."""
        return self.settings["graded"]

    @property
    def graded_elsewhere(self) -> list[str]:
        """Graded files of other assignments: markers there are right, and shipping one would leak its solution."""
        names: set[str] = set()
        for other in assignments():
            names.update(read_toml(FOLDER / other / "starter.toml")["graded"])
        return sorted(names - set(self.graded))

    def is_foreign(self, name: str) -> bool:
        """True for what no starter of this assignment may hold: the staff's own, and labs of other assignments."""
        own = _matches(name, self.settings.get("labs", ()))
        return _matches(name, (*NEVER, *NEVER_TESTS)) or (_matches(name, LABS) and not own)

    def read(self, name: str) -> bytes:
        """Bytes of a source file, adapted to the data set; UserError if it is missing."""
        path = self.own / name
        if not path.is_file():
            path = self.root / name
        if not path.is_file():
            raise UserError(f"{name} is missing in {self.root}; the recipe of {self.name} names it")
        content = path.read_bytes()
        if self.dataset and not self.dataset.is_reference and name.endswith(ADAPTED) and not name.startswith("data/"):
            content = self.dataset.adapted(_decoded(content, name)).encode()
        return content

    def read_text(self, name: str) -> str:
        """Text of a source file; UserError if it is missing or no UTF-8."""
        return _decoded(self.read(name), name)

    @property
    def data_sets(self) -> list[dict[str, str]]:
        """The bundled files that ship, each with what is held back of it; those of the recipe, else of the data set."""
        settings = self.settings.get("data", {})
        if self.dataset is None or "set" in settings:
            return settings.get("set", [])
        file = f"data/bundled/{bundled_record(self)['file']}"
        return [{"file": file, **({"hold_back": settings["hold_back"]} if "hold_back" in settings else {})}]

    def own_files(self) -> list[str]:
        """Names of the files in `own`, whether git knows them yet or not."""
        paths = (path for path in self.own.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return sorted(path.relative_to(self.own).as_posix() for path in paths)

    def template(self, name: str) -> str:
        """Text of a template of this assignment, else of those for all; UserError if there is none."""
        paths = [FOLDER / self.name / "templates" / name, COMMON / name]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise UserError(f"{self.name}/starter.toml names the template {name}, but there is no {paths[0]}")
        return path.read_text(encoding="utf-8")


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 (byte {error.start})") from None


def bundled_record(recipe: Recipe) -> dict[str, Any]:
    """What the manifest says of the bundled file of the data set. UserError if there is none."""
    for record in json.loads(recipe.read_text("data/bundled/manifest.json"))["files"]:
        if (record["flag"], record["size"]) == (recipe.dataset.flag, SIDE) and "test_of" not in record:
            return record
    flag = recipe.dataset.flag
    raise UserError(
        f"data/bundled has no file of {flag}; put {flag}.npz into data/ and run: python -m staff.make_sample {flag}"
    )


def assignments() -> list[str]:
    """Names of the assignments that have a recipe."""
    return sorted(path.parent.name for path in FOLDER.glob("*/starter.toml"))


def of_this_term() -> list[Recipe]:
    """Every assignment that has dates. The others are named on the terminal."""
    every = [load(name) for name in assignments()]
    for one in every:
        if one.dates is None:
            print(f"note: {one.name} is not part of this term, because course.toml has no [{one.name}]")
    if not (chosen := [one for one in every if one.dates is not None]):
        raise UserError(f"course.toml has dates for no assignment; write a table for one of {', '.join(assignments())}")
    return chosen


def load(name: str, root: Path = ROOT, flag: str | None = None) -> Recipe:
    """Read the recipe of assignment `name` for the sources under `root`. UserError for an unknown name or bad TOML.

    flag: of a data set in the place of the assignment's own.
    """
    check_choice("assignment", name, assignments())
    staff = root / "staff" / "assignments"
    points = read_toml(staff / name / "assignment.toml")
    return Recipe(
        name,
        root,
        read_toml(FOLDER / name / "starter.toml"),
        read_course(staff / "course.toml"),
        points,
        datasets.of_assignment(name, points, flag),
    )


def read_course(path: Path) -> dict[str, Any]:
    """The settings of the term; UserError naming one that cannot be right."""
    content = read_toml(path)
    check_course(path.name, content)
    return content


def source_files(root: Path) -> tuple[list[str], list[str]]:
    """(files that may ship, files that git does not know): a working tree also holds notes and drafts.

    Without git, as in an unpacked archive, every file may ship.
    """
    tracked = git(root, "ls-files", "-z")
    if tracked is None:
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()), []
    unknown = git(root, "ls-files", "-z", "--others", "--exclude-standard") or ""
    return sorted(filter(None, tracked.split("\0"))), sorted(filter(None, unknown.split("\0")))


def shipped_files(recipe: Recipe, files: Iterable[str]) -> list[str]:
    """Those of `files` that the recipe's patterns choose. UserError for a pattern of `ship` without a match."""
    settings = recipe.settings
    files = [name for name in files if not recipe.is_foreign(name) and not _matches(name, settings.get("exclude", ()))]
    chosen: set[str] = set()
    for pattern in settings.get("ship", ()):
        found = fnmatch.filter(files, pattern)
        if not found:
            raise UserError(f"{pattern} is missing in {recipe.root}; the recipe of {recipe.name} names it")
        chosen.update(found)
    for pattern in settings.get("optional", ()):
        chosen.update(fnmatch.filter(files, pattern))
    if leaking := sorted(chosen & set(recipe.graded_elsewhere)):
        raise UserError(f"{recipe.name}/starter.toml ships {', '.join(leaking)}, the solution of another assignment")
    chosen.update(recipe.own_files())
    chosen.update(_imported(recipe, chosen, set(files)))
    return sorted(chosen - set(recipe.graded))


def _imported(recipe: Recipe, chosen: set[str], files: set[str]) -> set[str]:
    """Modules of toolkit/ and tests/ that the chosen and the graded files import, and what those import."""
    found: set[str] = set()
    waiting = [*chosen, *recipe.graded]
    while waiting:
        name = waiting.pop()
        if name.endswith(".py"):
            new = {path for path in _paths_of_imports(recipe, name) if path.startswith(BROUGHT) and path in files}
            waiting += new - chosen - found
            found |= new
    return found


def _paths_of_imports(recipe: Recipe, name: str) -> Iterator[str]:
    """Where the modules that a file imports may be, with the packages that they are in."""
    try:
        tree = ast.parse(recipe.read_text(name), name)
    except SyntaxError:  # named when the file is taken into the release
        return
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{item.name}" for item in node.names)]
        elif isinstance(node, ast.Import):
            modules = [item.name for item in node.names]
        for path in (module.replace(".", "/") for module in modules):
            yield f"{path}.py"
            yield f"{path}/__init__.py"
            yield f"{path.rpartition('/')[0]}/__init__.py"


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def git(root: Path, *arguments: str) -> str | None:
    """Output of a git command, or None where this is not a repository or git is missing."""
    command = ["git", "-C", str(root), *arguments]
    try:
        if not (root / ".git").exists():
            return None
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
