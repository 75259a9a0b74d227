"""Write a new assignment whose tools all run at once, on an example to be replaced.

    python -m staff.new_assignment hw6 --todo "1.1 Brier score 5" --todo "1.2 Calibration curve 5"

Everything goes into staff/assignments/hw6/ and nothing else changes: points, dates and markers (assignment.toml), what
ships (starter.toml, starter/, templates/), graded tests, and a bank with a mistake and another right solution for each
TODO. Remove the folder, and the assignment is gone.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import keyword
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from staff.grader.toml_file import read_toml
from staff.release.starter import recipe as recipes
from toolkit.cli import OneLineParser
from toolkit.errors import UserError

HERE = Path(__file__).parent
KINDS = ("number", "table", "array")  # of the examples, which take turns
TODO = re.compile(r"(?P<number>\d+\.\d+)\s+(?P<title>\S.*?)\s+(?P<points>\d+(\.\d+)?)")
NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
LONGEST = 60  # letters of a title, which stands in docstrings
APOSTROPHES = str.maketrans("", "", "'’")
DAYS = 14  # after the last due date of the course


@dataclass(frozen=True)
class Todo:
    """One TODO as the command line names it; `function` is made from its title."""

    number: str
    title: str
    points: str
    function: str

    @property
    def part(self) -> str:
        """'1' of 1.2."""
        return self.number.partition(".")[0]


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(description="Write a new assignment whose tools all run at once.")
    parser.add_argument("name", help="of its folder, its graded module and its markers, such as hw6")
    parser.add_argument("--todo", action="append", required=True, metavar="TODO", help="'1.1 Brier score 5'; repeat it")
    parser.add_argument("--title", default="", help="of the handout (default: from the name)")
    parser.add_argument("--due", default="", help="2027-04-02T23:59 (default: two weeks after the course's last one)")
    return parser


def main() -> None:
    """Parse, check everything, write, say what to run next."""
    args = build_parser().parse_args()

    check_name(args.name)
    todos = read_todos(args.todo)
    due = read_due(args.due)
    if len(args.title) > LONGEST:
        raise UserError(f"--title has {len(args.title)} letters; allowed: up to {LONGEST}")
    title = args.title or re.sub(r"^Hw(?=\d)", "Homework ", args.name.capitalize())
    folder = write(recipes.FOLDER / args.name, contents(args.name, title, todos, due))
    print(f"{folder}: {title}, {len(todos)} TODOs, due {due:%Y-%m-%d %H:%M}")
    print("an example stands wherever your own text, code, tests and mistakes belong; all of these run now:")
    for command in (
        f"make_starter --assignment {args.name} --out build/{args.name}",
        f"check_starter build/{args.name}",
        f"grade {folder}/starter --assignment {args.name} --out build/results.json",
        f"measure --assignment {args.name}",
        f"package gradescope --assignment {args.name}",
    ):
        print(f"  python -m staff.{command}")


def check_name(name: str) -> None:
    """UserError for a name that is taken, cannot be a module, or would hide one."""
    if keyword.iskeyword(name):
        raise UserError(f"name is {name!r}, a word of Python's own; choose another, such as hw_{name}")
    if not NAME.fullmatch(name):
        raise UserError(f"name is {name!r}; allowed: small letters, digits and _, a letter first, such as hw6")
    if (recipes.FOLDER / name).exists():
        raise UserError(f"{name} is there already: {recipes.FOLDER / name}; choose another name or remove that folder")
    if (recipes.ROOT / name).exists() or importlib.util.find_spec(name) is not None:
        raise UserError(f"name is {name!r}, and a module or folder is called so; choose another, such as hw_{name}")


def read_todos(texts: Sequence[str]) -> list[Todo]:
    """The TODOs in the order of their numbers. UserError for one that cannot be read or that is there twice."""
    todos: list[Todo] = []
    for text in texts:
        match = TODO.fullmatch(text.strip())
        if match is None:
            raise UserError(f"--todo {text!r}; expected number, title and points, such as '1.1 Brier score 5'")
        title = match["title"].lower().translate(APOSTROPHES)  # cohens_kappa, not cohen_s_kappa
        function = re.sub(r"\W+", "_", title, flags=re.ASCII).strip("_")
        if not function.isidentifier() or keyword.iskeyword(function):
            raise UserError(f"--todo {text!r}: no function can be called after {match['title']!r}; begin with a letter")
        if len(match["title"]) > LONGEST:
            raise UserError(f"--todo {text!r}: the title has {len(match['title'])} letters; allowed: up to {LONGEST}")
        if float(match["points"]) <= 0:
            raise UserError(f"--todo {text!r}: points are {match['points']}; allowed: above 0")
        todos.append(Todo(match["number"], match["title"], f"{float(match['points']):g}", function))
    for what in ("number", "function"):
        values = [getattr(todo, what) for todo in todos]
        if twice := [value for value in values if values.count(value) > 1]:
            raise UserError(f"two TODOs have the {what} {twice[0]}")
    return sorted(todos, key=lambda todo: [int(part) for part in todo.number.split(".")])


def read_due(text: str) -> datetime.datetime:
    """The due date, or DAYS after the last one of course.toml."""
    if text:
        try:
            return datetime.datetime.fromisoformat(text).replace(tzinfo=None)
        except ValueError:
            raise UserError(f"--due is {text!r}; expected a date and a time such as 2027-04-02T23:59") from None
    today = datetime.datetime.combine(datetime.date.today(), datetime.time(23, 59))
    return last_of_the_course().get("due", today) + datetime.timedelta(days=DAYS)


def last_of_the_course() -> dict[str, Any]:
    """What course.toml says of the assignment that is due last; {} if it names none."""
    course = read_toml(recipes.FOLDER / "course.toml")
    dated = [facts for facts in course.values() if isinstance(facts, dict) and "due" in facts]
    return max(dated, key=lambda facts: facts["due"], default={})


def contents(name: str, title: str, todos: Sequence[Todo], due: datetime.datetime) -> dict[str, str]:
    """Path below the assignment's folder -> text of every file."""
    total = sum(float(todo.points) for todo in todos)
    shared = {"name": name, "module": name, "title": title, "title_text": quoted(title)}
    shared |= {"points": f"{total:g}", "due": f"{due:%Y-%m-%dT%H:%M:%S}"}
    shared["zone"] = quoted(last_of_the_course().get("due_timezone", "the university's local time"))
    each = [shared | facts_of(name, todo, example(KINDS[i % len(KINDS)])) for i, todo in enumerate(todos)]
    parts = [{"part": part} for part in dict.fromkeys(todo.part for todo in todos)]

    def filled(template: str, piece: str = "", rows: Sequence[dict[str, str]] = each, place: str = "functions") -> str:
        pieces = "".join(fill(piece, row) for row in rows).rstrip("\n") if piece else ""
        return fill(template, shared | {place: pieces}).rstrip("\n") + "\n"

    return {
        "__init__.py": f'"""{title}: assignment.toml has points and checks, starter.toml what students get."""\n',
        "graded_tests/__init__.py": f'"""What earns the points of {title}."""\n',
        "assignment.toml": filled("assignment.toml", "todo.toml", place="todos"),
        "starter.toml": filled("starter.toml"),
        "templates/handout.md": filled("handout.md", "part.md", parts, "parts"),
        f"starter/{name}.py": filled("module.py", "function.py"),
        f"starter/tests/test_{name}.py": filled("public_tests.py", "public_test.py"),
        f"graded_tests/test_{name}.py": filled("graded_tests.py", "graded_test.py"),
        "bank/mutants/first.toml": filled("mutants.toml", "mutant.toml"),
        **{f"bank/alternates/{row['function']}.toml": fill("alternate.toml", row) for row in each},
    }


def facts_of(name: str, todo: Todo, shown: dict[str, Any]) -> dict[str, str]:
    """What the templates say of one TODO, with its example."""
    own = {"number": todo.number, "part": todo.part, "function": todo.function, "title_text": quoted(todo.title)}
    own |= {"points": todo.points, "marker": f"{name}_{todo.number.replace('.', '_')}", "module": name}
    mutant = {f"mutant_{key}": quoted(value) for key, value in shown["mutant"].items()}
    mutant["mutant_name"] = quoted(f"{todo.function.replace('_', '-')}-{shown['mutant']['name']}")
    texts = {key: Template(value.lstrip("\n")).substitute(own) for key, value in shown.items() if key != "mutant"}
    texts["hint_text"] = quoted(shown["mutant"]["hint"])
    bodies = {key: texts[key].rstrip("\n") for key in ("oracle", "wrong", "public_test", "alternate")}
    return own | texts | bodies | mutant


def example(kind: str) -> dict[str, Any]:
    """A function with its docstring, solution, tests, oracle, wrong answer, mistake and another right solution."""
    return read_toml(HERE / "examples" / f"{kind}.toml")


def fill(template: str, facts: dict[str, str]) -> str:
    """A template with its facts."""
    return Template((HERE / f"{template}.txt").read_text(encoding="utf-8")).substitute(facts)


def quoted(text: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(text, ensure_ascii=False)


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write the folder whole or not at all; its path as it may be typed."""
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, text in files.items():
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        # Names of functions make lines longer or shorter.
        subprocess.run([sys.executable, "-m", "ruff", "format", "--no-cache", "--quiet", str(building)], check=True)
        for path in (building, *(item for item in building.rglob("*") if item.is_dir())):
            path.chmod(0o755)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder.relative_to(recipes.ROOT)
