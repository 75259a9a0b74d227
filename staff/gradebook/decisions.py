"""`decisions.toml`: what people decided about the grades of a class, kept apart from what the grader computes.

Machines only add to the file, people may edit it. Each decision is one table:

    [[decision]]
    student = "s1234567"        # or: team = "team03", for all of its members
    assignment = "project2"
    kind = "override"           # KINDS says what each kind needs
    todo = "1.4"                # or check = "FILE::TEST", or item = "a rubric's item"; none of them: the sum
    points = 2.0
    reason = "the checkpoint was on the forum, and its link had expired"
    who = "ada"
    when = 2027-03-14T10:20:00Z

Of two decisions about the same thing the later one counts (by `when`, then by their order in the file).
`withdrawn = true` takes the earlier one back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from staff.grader.toml_file import tomllib
from toolkit.errors import UserError
from toolkit.runs import write_bytes

LOCK_TIMEOUT_S = 30.0
PARTS = ("todo", "check", "item")
# Kind -> (keys that it needs, which parts it may name). A regrade is a student's request: `comment` holds what they
# ask, `reason` what was decided, and without a reason it is open.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "override": (("points", "reason"), ("todo", "check")),
    "comment": (("comment",), PARTS),
    "extension": (("days", "reason"), ()),
    "late_days": (("days", "reason"), ()),
    "excuse": (("reason",), ()),
    "rubric": (("points", "item"), ("item",)),
    "regrade": (("comment",), ("todo", "check")),
}
MOST_POINTS, MOST_DAYS = 10_000, 366


@dataclass(frozen=True)
class Decision:
    """One decision.

    kind: one of KINDS.
    assignment: name of a folder in staff/assignments.
    student: id of a student in the roster; team: name of a team there. One of the two.
    todo, check, item: the part that it is about, at most one; none of them: the sum.
    points: of an override or a rubric's item.
    days: length of an extension, or the number of days that count as late (late_days).
    comment: for the student to read; reason: why, also shown to the student.
    who: the person who decided.
    when: in UTC; None until it is appended.
    withdrawn: takes back the earlier decision about the same thing.
    line: of its table in the file; 0 if it was not read from one.
    """

    kind: str
    assignment: str
    student: str = ""
    team: str = ""
    todo: str = ""
    check: str = ""
    item: str = ""
    points: float | None = None
    days: float | None = None
    comment: str = ""
    reason: str = ""
    who: str = ""
    when: datetime | None = None
    withdrawn: bool = False
    line: int = dataclasses.field(default=0, compare=False)

    @property
    def part(self) -> str:
        """'TODO 1.4', 'FILE::TEST', an item, or '' for the sum."""
        return f"TODO {self.todo}" if self.todo else self.check or self.item


KEYS = tuple(field.name for field in dataclasses.fields(Decision) if field.name != "line")


def read(path: Path) -> list[Decision]:
    """All decisions of a file, earliest first; none if there is no file.

    UserError: the file, the line, what is wrong there and what is allowed.
    """
    return _parse_file(_text(Path(path)), Path(path))


def in_force(decisions: Iterable[Decision], assignment: str, student: str, team: str = "") -> list[Decision]:
    """The decisions that count for a student: of those about the same thing the last, without what was withdrawn.

    decisions: earliest first, as `read` gives them.
    """
    last: dict[tuple, Decision] = {}
    for one in decisions:
        ours = (one.student and one.student == student) or (one.team and one.team == team)
        if ours and one.assignment == assignment:
            last[(one.kind, one.todo, one.check, one.item)] = one
    return [one for one in last.values() if not one.withdrawn]


def append(path: Path, decision: Decision) -> Decision:
    """Add one decision to the end of the file, and return it as it was written (with its time).

    When this returns, the decision is on the disk. The file is replaced as a whole by renaming, so it is readable
    whenever a process is killed. UserError if the decision or the file is wrong; nothing is written then.
    """
    path = Path(path).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S):
            before = _text(path)
            found = _parse_file(before, path)  # behind an open string, made by hand, a new decision would be lost
            decision = dataclasses.replace(decision, when=decision.when or _now(found))
            _parse(_block(decision), "the decision")
            gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
            for left in path.parent.glob(f".{path.name}.*.tmp"):  # of processes that were killed while they wrote
                left.unlink(missing_ok=True)
            write_bytes(path, f"{before}{gap}{_block(decision)}".encode())
            _sync_folder(path.parent)
    except Timeout:
        raise UserError(
            f"{path} has been locked by another process for {LOCK_TIMEOUT_S:g} s; nothing was written"
        ) from None
    return decision


def _now(found: list[Decision]) -> datetime:
    """The time of a new decision: not before those that are there, or a slow clock would make it count for nothing."""
    return max([datetime.now(timezone.utc), *(one.when for one in found)])


def _sync_folder(folder: Path) -> None:
    """Make a renaming last through a power failure, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not a text in UTF-8; save the file as UTF-8") from None


def _block(decision: Decision) -> str:
    """A decision as TOML."""
    lines = ["[[decision]]"]
    for key in KEYS:
        value = getattr(decision, key)
        if value is None or value == "" or value is False:
            continue
        lines.append(f"{key} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if value is True:
        return "true"
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).replace(tzinfo=None).isoformat() + "Z"
    if isinstance(value, (int, float)):
        return repr(float(value))
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
    return json.dumps(str(value).encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")


# Path -> text of the file, its decisions. tomllib needs a second for 4,000 decisions, which a person who grades in the
# browser would wait for at each key, so that only what was added is parsed.
_known: dict[Path, tuple[str, list[Decision]]] = {}


def _parse_file(text: str, path: Path) -> list[Decision]:
    known, found = _known.get(path, ("", []))
    added = text[len(known) :]
    if not (
        known.endswith("\n") and text.startswith(known) and (not added or added.lstrip().startswith("[[decision]]"))
    ):
        known, found, added = "", [], text
    try:
        lines = known.count("\n")
        new = [dataclasses.replace(one, line=one.line + lines) for one in _parse(added, path)]
    except UserError:
        _parse(text, path)  # for the right line in the message
        raise
    _known[path] = (text, sorted([*found, *new], key=_time))
    return list(_known[path][1])


def _time(decision: Decision) -> datetime:
    return decision.when


def _parse(text: str, origin: Path | str) -> list[Decision]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last = max((i for i, line in enumerate(text.splitlines(), 1) if line.startswith("[[")), default=1)
        where = f"{error}".replace("at end of document", f"in what begins at line {last}")
        raise UserError(f"{origin} is not valid TOML: {where}; correct it by hand, each decision counts") from None
    unknown = [key for key in content if key != "decision"]
    tables = content.get("decision", [])
    if unknown or not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        line = _line_of_key(text.splitlines(), unknown[0] if unknown else "decision", 0)
        raise UserError(f"{origin}, line {line}: allowed: tables that begin with [[decision]]")
    lines = _lines_of_tables(text, len(tables))
    found = []
    for table, line in zip(tables, lines, strict=True):
        try:
            found.append(_decision(table, line))
        except _BadKey as error:
            place = _line_of_key(text.splitlines(), error.key, line)
            raise UserError(f"{origin}, line {place}: {error}") from None
    return sorted(found, key=_time)  # stable: the order in the file decides where times are equal


def _lines_of_tables(text: str, count: int) -> list[int]:
    """The line of each [[decision]]. One that stands inside a text of several lines is none, which parsing shows."""
    lines = text.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if re.match(r"\s*\[\[\s*[\"']?decision[\"']?\s*\]\]", line)]
    if len(places) != count:
        places = [i for i in places if _is_toml("".join(lines[:i]))]
    return [i + 1 for i in places] if len(places) == count else [0] * count


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _line_of_key(lines: list[str], key: str, start: int) -> int:
    """The line of a key in the table that begins at line `start`; that of the table if the key is not there."""
    for number, line in enumerate(lines[start:], start + 1):
        if line.lstrip().startswith("[["):
            break
        if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return number
    return max(start, 1)


class _BadKey(ValueError):
    """What is wrong with a key of a table."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _decision(table: Mapping[str, Any], line: int) -> Decision:
    """A table as a decision. Raises _BadKey."""
    for key in table:
        if key not in KEYS:
            raise _BadKey(key, f"unknown key {key!r}; allowed: {', '.join(KEYS)}")
    kind = table.get("kind")
    if kind not in KINDS:
        raise _BadKey("kind", f"kind is {kind!r}; allowed: {', '.join(KINDS)}")
    values = {key: _checked(key, value) for key, value in table.items()}
    needed, parts = KINDS[kind]
    if values.get("withdrawn"):
        needed = tuple(key for key in needed if key == "item")
    for key in ("assignment", "who", "when", *needed):
        if values.get(key) is None or not str(values[key]).strip():
            raise _BadKey(key, f"{key} is missing; {kind} needs {', '.join(('assignment', 'who', 'when', *needed))}")
    if bool(values.get("student")) == bool(values.get("team")):
        raise _BadKey("team", "give a student or a team, one of the two")
    given = [key for key in PARTS if values.get(key)]
    for key in given:
        if key not in parts or len(given) > 1:
            allowed = f"one of {', '.join(parts)}, or none for the sum" if parts else f"none of {', '.join(PARTS)}"
            raise _BadKey(key, f"{kind} with {' and '.join(given)}; allowed: {allowed}")
    return Decision(**values, line=line)


def _checked(key: str, value: Any) -> Any:
    """A value of the type that its key has. Raises _BadKey."""
    if key in ("points", "days"):
        least, most = (-MOST_POINTS, MOST_POINTS) if key == "points" else (0, MOST_DAYS)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not least <= value <= most:
            raise _BadKey(key, f"{key} is {value!r}; allowed: a number from {least} to {most}")
        return float(value)
    if key == "when":
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise _BadKey(key, f"when is {str(value)!r}; allowed: a time with its zone, as 2027-03-14T10:20:00Z")
        return value.astimezone(timezone.utc)
    if key == "withdrawn":
        if not isinstance(value, bool):
            raise _BadKey(key, f"withdrawn is {value!r}; allowed: true, false")
        return value
    if not isinstance(value, str):
        raise _BadKey(key, f'{key} is {value!r}; allowed: a text in quotes, as {key} = "{value}"')
    return value.strip() if key not in ("comment", "reason") else value
