"""What lies in a class's folder: one entry a submission, also where a course's site puts all files into one folder."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections import Counter
from pathlib import Path

from staff.gradebook.class_report import file_name
from staff.grader.packing import ARCHIVES, JUNK, MAX_DEPTH
from toolkit.errors import UserError

SUBMISSIONS = (*ARCHIVES, ".7z", ".rar", ".py")  # taken off a submission's name
# Without a student's name in front of them they are the staff's own; any other file may be a hand-in, and gets a row.
NOTES = (".txt", ".md", ".csv", ".html", ".log", ".json", ".xlsx")
# Moodle: Ada Lovelace_1234_assignsubmission_file_NAME; Canvas: lovelaceada_LATE_1234_56789_NAME (user, submission).
SITE_NAMES = (
    re.compile(r"(?P<who>.+?_\d+)_assignsubmission_(?P<kind>file|onlinetext)_?(?P<file>.*)", re.DOTALL),
    re.compile(r"(?P<who>[^_/]+)_(?:LATE_)?(?P<number>\d+)_\d+_(?P<file>.+)", re.DOTALL),
)


def find_entries(folder: Path, out: Path) -> tuple[list[tuple[str, Path]], list[str]]:
    """((name, path) of every submission, names of what else lies there). UserError if there is no submission.

    Several files of one student, as Moodle and Canvas lay them side by side, are copied into a folder of `out`.
    """
    if not folder.is_dir():
        raise UserError(f"folder is {str(folder)!r}, which is no folder")
    alone, together, others = [], {}, []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.resolve() == out.resolve():
            continue
        who = student_of(path.name)
        if JUNK.fullmatch(path.name):
            others.append(path.name)
        elif who:
            together.setdefault(who, []).append(path)
        elif path.is_dir() or not path.name.lower().endswith(NOTES):
            alone.append(path)
        else:
            others.append(path.name)
    if not alone and not together:
        raise UserError(f"{folder} holds no submission: put one folder or zip archive a student there")
    return [*_named(alone), *((who, _one_path(who, paths, out)) for who, paths in together.items())], others


def student_of(name: str) -> str:
    """Who a file is from, as the site's name says; "" for a name that no site made."""
    for form in SITE_NAMES:
        found = form.fullmatch(name)
        if found:
            number = found.groupdict().get("number")
            return f"{found['who']}_{number}" if number else found["who"]
    return ""


def whose(folder: Path) -> dict[str, list[Path]]:
    """What lies in a folder of hand-ins, by whose it is as the names say; nothing if there is no folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.name.startswith(".") and not JUNK.fullmatch(path.name):
            found.setdefault(student_of(path.name) or _stem(path), []).append(path)
    return found


def _named(paths: list[Path]) -> list[tuple[str, Path]]:
    """Submissions by their names without what marks an archive. Ada.zip and Ada/: both keep their full names."""
    stems = [_stem(path) for path in paths]
    count = Counter(stems)
    return [(stem if count[stem] == 1 else path.name, path) for stem, path in zip(stems, paths, strict=True)]


def _stem(path: Path) -> str:
    ending = next((end for end in SUBMISSIONS if path.name.lower().endswith(end)), "")
    return path.name if path.is_dir() or not ending else path.name[: -len(ending)]


def _one_path(who: str, paths: list[Path], out: Path) -> Path:
    """The only file or folder of a student; of several, a folder in `out` that holds them all."""
    work = [path for path in paths if "_assignsubmission_onlinetext" not in path.name] or paths
    if len(work) == 1:
        return work[0]
    target = out / "handed_in" / file_name(who)
    shutil.rmtree(target, ignore_errors=True)  # an earlier run's: files may have been taken back
    target.mkdir(parents=True)
    for path in work:
        try:
            copy(path, target / path.name)
        except OSError:
            return path  # reading it says why
    return target


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder with its times. Links stay links; pipes, devices and endless depth are left out."""
    if source.is_symlink() or not source.is_dir():
        shutil.copy2(source, target, follow_symlinks=False)
        return

    def left_out(folder: str, names: list[str]) -> list[str]:
        too_deep = len(Path(folder).parts) - len(source.parts) > MAX_DEPTH
        modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}
        plain = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)
        return [name for name, mode in modes.items() if too_deep or not any(is_kind(mode) for is_kind in plain)]

    shutil.copytree(source, target, symlinks=True, ignore=left_out)
