"""The script that a sweep runs: where it is, which flags it has, how a configuration becomes its command line.

The flags come from the script's own argparse. The script is started once, unmodified, in a child process that stops it
at its first `parse_args` (probe_child.py); it is never imported here.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from toolkit.errors import UserError

PROBE_TIMEOUT_S = 120  # a script may import torch from a slow network disk before it parses
OWNED = ("results_path", "output_dir", "resume")  # flags that the dispatcher sets for each job
# An import statement, wherever it stands; the names of a `from` may go over several lines in parentheses.
IMPORTS = re.compile(r"(?:^|[;:])[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+)?import[ \t]*(\([^)]*\)|[^;\n]*)", re.MULTILINE)
PARSES = re.compile(rb"parse_(known_)?(intermixed_)?args")


@dataclass(frozen=True)
class Flag:
    """One flag of the script, as its parser knows it."""

    option: str  # as it is written: '--learning_rate'
    kind: str  # argparse's action: store, storetrue, storefalse, storeconst, booleanoptional, append, count, ...
    nargs: int | str | None
    type: str | None
    number: int  # which of the parser's flags: several names of one flag have the same


@dataclass
class Script:
    """A Python file ('classification_main.py') or a module ('labs.image_classifier.train') with argparse flags."""

    name: str  # file path with forward slashes, or dotted module name; part of every job's hash
    is_module: bool
    flags: dict[str, Flag] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)  # file -> digest, see `add_modules`

    @property
    def code(self) -> str:
        """One digest of all its modules."""
        return hashlib.sha256(json.dumps(dict(sorted(self.modules.items()))).encode()).hexdigest()[:8]

    def add_modules(self, paths: Iterable[str]) -> None:
        """Take in the digests of those of these files that are the project's, and of all that they import from it.

        Imports are read, not run; the project is what lies in the script's folder and in the current one.
        """
        folder = [] if self.is_module else [os.path.dirname(os.path.abspath(self.name))]
        roots = [*folder, os.getcwd()]
        pending = {os.path.abspath(path) for path in paths}
        while pending:
            path = pending.pop()
            name = os.path.relpath(path).replace(os.sep, "/")
            if name not in self.modules and any(path.startswith(os.path.join(root, "")) for root in roots):
                source = Path(path).read_bytes()
                self.modules[name] = hashlib.sha256(source).hexdigest()[:12]
                for level, imported in set(imported_names(source.decode("utf-8", "replace"))):
                    pending.update(file for root in roots for file in find_files(root, path, level, imported))

    def command(self, argv: list[str]) -> list[str]:
        """The command line that runs the script with `argv` in this interpreter."""
        return [sys.executable, "-m", self.name, *argv] if self.is_module else [sys.executable, self.name, *argv]

    def own_argv(self, folder: str) -> list[str]:
        """The flags that the dispatcher adds: where results go and, if the script has it, the run's own folder."""
        places = {"results_path": "results.json", "output_dir": "run"}
        used = {self.flags[name].option: place for name, place in places.items() if name in self.flags}
        return [word for option, place in used.items() for word in (option, os.path.join(folder, place))]

    def resume_argv(self, folder: str) -> list[str]:
        """What makes the script resume its run folder; empty if it cannot."""
        can = "resume" in self.flags and "output_dir" in self.flags and self.flags["resume"].nargs is None
        return [self.flags["resume"].option, os.path.join(folder, "run")] if can else []

    def to_argv(self, config: dict[str, Any]) -> list[str]:
        """Write `config` as flags, sorted by name. null and a false store_true are left out.

        Raises UserError for a flag that the script does not have and for a value that the flag cannot take.
        """
        argv: list[str] = []
        names: dict[int, str] = {}  # number of a flag -> the name that it has here
        for name, value in sorted(config.items()):
            if name in OWNED:
                raise UserError(f"{name} is set by the dispatcher for each job; take it out of the grid")
            if value is None:
                continue
            if name not in self.flags:
                close = difflib.get_close_matches(name, self.flags, n=1)
                hint = f"did you mean {close[0]}?" if close else f"it has: {', '.join(sorted(self.flags))}"
                raise UserError(f"{self.name} has no flag --{name}; {hint}")
            flag = self.flags[name]
            if names.setdefault(flag.number, name) != name:
                raise UserError(f"{names[flag.number]} and {name} are two names of one flag; use one of them")
            argv += write_flag(name, flag, value)
        for word in argv:
            if "\0" in word or re.search("[\ud800-\udfff]", word):
                raise UserError(f"{word!r}: no command line can hold the character NUL or half a surrogate pair")
        return argv


def imported_names(source: str) -> Iterator[tuple[int, str]]:
    """(number of leading dots, dotted name) of everything that a module imports, also inside functions."""
    for dots, base, names in IMPORTS.findall(source):
        for name in re.findall(r"[\w.]+", re.sub(r"#.*", "", names)):
            yield len(dots), f"{base}.{name}".strip(".")
        if dots or base:
            yield len(dots), base


def find_files(root: str, importer: str, level: int, name: str) -> Iterator[str]:
    """The files under `root` that an imported name means, with the packages on the way to it."""
    folder = root if level == 0 else importer
    for _ in range(level):
        folder = os.path.dirname(folder)
    for part in name.split("."):
        for path in (os.path.join(folder, f"{part}.py"), os.path.join(folder, part, "__init__.py")):
            if os.path.isfile(path):
                yield path
        folder = os.path.join(folder, part)


def find_script(name: str) -> Script:
    """Resolve a path or a dotted module name without importing anything; UserError if neither exists."""
    if os.path.isfile(name):
        path, inside = name, os.path.relpath(name)
        script = Script((name if inside.startswith("..") else inside).replace(os.sep, "/"), is_module=False)
    else:
        as_path = "" if name.endswith(".py") else name.replace(".", os.sep)
        path = next(filter(os.path.isfile, (f"{as_path}.py", f"{as_path}/__main__.py")), None)
        if path is None:
            known = "neither a file nor a module here"
            raise UserError(f"script is {name!r}, which is {known}; try classification_main.py")
        script = Script(name, is_module=True)
    script.add_modules([path])
    return script


def write_flag(name: str, flag: Flag, value: Any) -> list[str]:
    """One flag with its value as command line tokens."""
    if flag.kind == "booleanoptional" and isinstance(value, bool):
        return [flag.option if value else "--no-" + flag.option.removeprefix("--")]
    if flag.kind == "append" and isinstance(value, list):
        return [word for one in value for word in write_flag(name, replace(flag, kind="store"), one)]
    if flag.kind == "count" and type(value) is int:
        return [flag.option] * value
    if flag.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"{name} is {value!r}, but {flag.option} takes no value; allowed: true, false, null")
        return [flag.option] if value else []
    if isinstance(value, dict) or (isinstance(value, list) and flag.type == "loads" and flag.nargs is None):
        return [f"{flag.option}={json.dumps(value, sort_keys=True)}"]
    if isinstance(value, list) and flag.nargs in (None, "?"):
        raise UserError(f"{name} is {value!r}, but {flag.option} takes one value")
    words = [as_text(flag, one) for one in (value if isinstance(value, list) else [value])]
    if len(words) == 1 and re.match(r"-(?!\d*\.?\d+$)", words[0]):
        return [f"{flag.option}={words[0]}"]  # argparse would take a separate '-x' for a flag
    return [flag.option, *words]


def as_text(flag: Flag, value: Any) -> str:
    """`value` as the text that the flag's type reads; equal numbers give equal text, so they count as one job."""
    if isinstance(value, bool):
        no = "" if flag.type == "bool" else "false"  # type=bool calls every text true but the empty one
        return "true" if value else no
    if isinstance(value, float) and value.is_integer() and flag.type == "int":
        return str(int(value))  # JSON reads 1e5 as a float
    if isinstance(value, int) and flag.type == "float":
        if abs(value) > sys.float_info.max:
            raise UserError(f"{flag.option}: a number of {len(str(abs(value)))} digits is too large for a float")
        value = float(value)
    text = repr(value) if isinstance(value, float) else str(value)
    # argparse takes -1e-05 for a flag, but -0.00001 for a number.
    return f"{Decimal(text):f}" if isinstance(value, float) and value < 0 and "e" in text else text


class Probe:
    """A child process that holds the script at its parse_args; see `probe`."""

    def __init__(self, script: Script, child: subprocess.Popen, errors: IO[bytes]) -> None:
        self.script, self._child, self._errors = script, child, errors

    def read_flags(self) -> None:
        """Fill `script.flags`; UserError if the script ends or hangs before it parses, or cannot be swept."""
        told = self._ask({"script": self.script.name, "module": self.script.is_module})
        self.script.add_modules(told["files"])
        if told["positional"]:
            names = ", ".join(told["positional"])
            cure = "which a grid cannot give; make it a flag"
            raise UserError(f"{self.script.name} needs {names} without a flag, {cure}")
        for number, found in enumerate(told["flags"]):
            options, kind = found.pop("options"), found["kind"]
            flag = Flag(options[0], **found, number=number)
            for option in options:
                is_no = kind == "booleanoptional" and option.startswith("--no-") and f"--{option[5:]}" in options
                negative = Flag(option, "storetrue", 0, None, number) if is_no else None
                self.script.flags[option.lstrip("-").replace("-", "_")] = negative or flag
        if "results_path" not in self.script.flags:
            raise UserError(f"{self.script.name} has no flag --results_path, to which it would write its results")

    def find_problems(self, points: list[list[str]]) -> list[str | None]:
        """For each command line what the script's own parser says against it, or None."""
        return self._ask({"points": points})["problems"]

    def _ask(self, message: dict) -> dict:
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(message) + "\n")
            self._child.stdin.flush()
        if reply := self._child.stdout.readline():
            return json.loads(reply)
        code = self._child.wait()
        self._errors.seek(0)
        last = self._errors.read().decode("utf-8", "replace").strip().rsplit("\n", 1)[-1]
        if code == 3:
            raise UserError(f"{self.script.name} ended without calling argparse's parse_args")
        if code < 0:
            raise UserError(f"{self.script.name} did not reach parse_args within {PROBE_TIMEOUT_S} s")
        raise UserError(f"{self.script.name} ended with exit code {code} before it read its flags: {last}")


@contextlib.contextmanager
def probe(script: Script) -> Iterator[Probe]:
    """Start the script up to its parse_args and read its flags; the child ends with the block.

    A script whose code calls no parse_args anywhere is not started: it would really run.
    """
    if not any(PARSES.search(Path(path).read_bytes()) for path in script.modules):
        raise UserError(f"{script.name} ended without calling argparse's parse_args: nothing that it imports does")
    command = [sys.executable, os.path.join(os.path.dirname(__file__), "probe_child.py")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "utf-8"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stderr=errors, env=environment, **pipes)
        timer = threading.Timer(PROBE_TIMEOUT_S, child.kill)
        timer.start()
        try:
            known = Probe(script, child, errors)
            known.read_flags()
            yield known
        finally:
            timer.cancel()
            child.kill()
            child.communicate()


def check_points(child: Probe, points: list[dict[str, Any]]) -> list[list[str]]:
    """Check every point against the script's parser; return their command lines. UserError names the first bad point.

    argparse reads each flag by itself, so it is enough to try, for every distinct value of a flag and for every
    distinct set of flags that are written, one point that has it: 40 parses instead of 10,000 for a grid of ten values
    in four flags.
    """
    argvs: list[list[str]] = []
    chosen: dict[int, None] = {}
    seen: set[object] = set()
    for index, point in enumerate(points):
        argvs.append(child.script.to_argv(point))
        written = (word.partition("=")[0] for word in argvs[-1] if word.startswith("--"))
        new = {frozenset(written), *((name, repr(value)) for name, value in point.items())}
        if not new <= seen:
            seen |= new
            chosen[index] = None
    own = child.script.own_argv(os.path.abspath("results"))
    problems = child.find_problems([argvs[index] + own for index in chosen])
    for index, problem in zip(chosen, problems, strict=True):
        if problem is not None:
            raise UserError(f"{child.script.name} refuses {json.dumps(points[index])}: {problem}")
    return argvs
