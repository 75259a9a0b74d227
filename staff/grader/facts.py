"""What results say about where they come from: the grader's commit and versions, due dates, times of files."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from staff.grader.packing import JUNK, folder_entries
from staff.grader.toml_file import read_toml
from toolkit.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COMMIT_FILE = ROOT / "COMMIT"  # `python -m staff.package` writes it, because a package has no repository


def grader_versions() -> dict[str, str]:
    """Commit of the grader ("unknown" without a repository), Python and torch."""
    return {"commit": _commit(), "python": platform.python_version(), "torch": version("torch")}


def _commit() -> str:
    if COMMIT_FILE.is_file():
        return COMMIT_FILE.read_text(encoding="ascii").strip()
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "staff", "toolkit", "*.py")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit} with changes" if changed else commit


def _git(*arguments: str) -> str:
    """Output of git on our own repository."""
    words = ["git", "-C", str(ROOT), "-c", "safe.directory=*", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def due(assignment: str) -> str:
    """'2027-03-12 23:59 (the university's local time)'; "" where no date is known."""
    facts = term(assignment)
    zone = f" ({facts['due_timezone']})" if "due_timezone" in facts else ""
    return f"{facts['due']:%Y-%m-%d %H:%M}{zone}" if "due" in facts else ""


def term(assignment: str) -> dict[str, Any]:
    """What changes from term to term: from course.toml, else from the [course] of the assignment's own settings."""
    folder = ROOT / "staff" / "assignments"
    places = ((folder / "course.toml", assignment), (folder / assignment / "assignment.toml", "course"))
    for path, name in places:
        if path.is_file() and (facts := read_toml(path).get(name)):
            return facts
    return {}


def zone(name: str) -> ZoneInfo | None:
    """`timezone` of course.toml; None for "", the zone of this machine."""
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        raise UserError(f"course.toml: timezone is {name!r}; allowed: a name as Europe/Zurich, or ''") from None


def in_zone(when: datetime, of_course: ZoneInfo | None) -> datetime:
    """A time that has no zone of its own as one of the course's."""
    if when.tzinfo:
        return when
    return when.replace(tzinfo=of_course) if of_course else when.astimezone()


def last_change(path: str | os.PathLike) -> float | None:
    """Time of the newest file of a submission, or of its archive; None if there is none.

    A site that packs submissions may set it to the time of the download. What a system adds when someone looks at the
    folder does not count.
    """
    path = Path(path)
    times = []
    for name in [""] if not path.is_dir() else [name for name, read in folder_entries(path) if read]:
        if JUNK.fullmatch(name.rpartition("/")[2]):
            continue
        try:
            times.append(os.lstat(path / name).st_mtime)
        except OSError:
            continue
    return max(times, default=None)
