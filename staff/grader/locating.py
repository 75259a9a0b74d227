"""Which of the names in a submission mean the assignment's files, and what to say about the others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from staff.grader.packing import printable
from toolkit.errors import UserError

MOST_COMPARED = 200  # names that are compared with the assignment's, to ask "did you mean ...?"
# What sites put before a name: Moodle, Canvas (name, numbers), and Google Drive's "Copy of".
SITE_PREFIX = re.compile(r"^(?:.*_assignsubmission_file_|[^_/]+_(?:LATE_)?\d+_\d+_)?(?:copy of )?", re.IGNORECASE)
# What copies of a download have behind it: X-1.py, X (1).py, "X - Copy.py", "X copy 2.py".
COPY_SUFFIX = re.compile(r"(?:-\d{1,2}| ?\(\d{1,2}\)| (?:- )?copy(?: ?\(?\d{1,2}\)?)?)(?=\.[a-z0-9]+$)", re.IGNORECASE)
ADDED_ENDING = re.compile(r"(?<=\.py)\.(?:txt|download)$", re.IGNORECASE)  # mail programs and browsers
NOT_READ = (
    ((".7z", ".rar", ".zst", ".gz", ".lz"), "is an archive that is not read: hand in a zip"),
    ((".ipynb",), "is a notebook, which is not read: hand in the .py files"),
    (
        (".url", ".webloc", ".lnk", ".desktop", ".gdoc", ".icloud"),
        "is only a link: hand in the files that it leads to",
    ),
)


class NothingFoundError(UserError):
    """None of the assignment's files."""


@dataclass
class Located:
    """Where the assignment's files are.

    names: file of the assignment -> name in the submission.
    base: the folder that holds most of the modules, "" or "folder/".
    notes: what the student should know about it.
    """

    names: dict[str, str]
    base: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """A name that may mean a file. root: what stands before the part that both have in common, of `depth` folders."""

    file: str
    name: str
    root: str
    depth: int

    @property
    def is_exact(self) -> bool:
        return self.name == self.root + self.file


def locate(names: list[str], allowed: Iterable[str], what: str) -> Located:
    """Find the assignment's files, together in one folder (the top, or one below) as far as possible.

    names: regular files, with slashes.
    allowed: the assignment's.
    what: "the folder", "the archive", for messages.

    NothingFoundError: none of them is there. UserError: the same file in two places that are as likely.
    """
    allowed = list(allowed)
    by_root: dict[str, dict[str, list[_Candidate]]] = {}
    for one in _candidates(names, allowed):
        by_root.setdefault(one.root, {}).setdefault(one.file, []).append(one)
    by_root = {root: chosen for root, files in by_root.items() if (chosen := _without_doubt(files))}
    if not by_root:
        raise NothingFoundError(_nothing_found(what, names, allowed))
    ranked = sorted(by_root, key=lambda root: (_rank(root, by_root[root]), root))
    base = ranked[0]
    chosen = dict(by_root[base])
    for root in ranked[1:]:
        both = [file for file in by_root[root] if file in chosen]
        if both and _rank(root, by_root[root]) == _rank(base, by_root[base]):
            raise UserError(f"{what} holds the assignment's files in {printable(base)!r} and in {printable(root)!r}")
        chosen |= {file: name for file, name in by_root[root].items() if file not in chosen}
    located = Located({file: chosen[file] for file in allowed if file in chosen}, base)
    located.notes = _notes(located, names, allowed, by_root)
    return located


def _candidates(names: list[str], allowed: list[str]) -> Iterable[_Candidate]:
    wanted = {file.rpartition("/")[2].lower(): file for file in allowed}
    for name in names:
        file = wanted.get(plain_name(name))
        if file:
            theirs, ours = name.split("/")[:-1], file.split("/")[:-1]
            depth = 0
            while depth < min(len(theirs), len(ours)) and theirs[-1 - depth].lower() == ours[-1 - depth].lower():
                depth += 1
            yield _Candidate(file, name, "".join(f"{part}/" for part in theirs[: len(theirs) - depth]), depth)


def _without_doubt(files: dict[str, list[_Candidate]]) -> dict[str, str]:
    """File -> its name below a root: the exact one, else the one that has most folders right. Two alike: neither."""
    chosen = {}
    for file, found in files.items():
        best = max((one.is_exact, one.depth) for one in found)
        alike = [one for one in found if (one.is_exact, one.depth) == best]
        if len(alike) == 1:
            chosen[file] = alike[0].name
    return chosen


def _rank(root: str, files: dict[str, str]) -> tuple[int, int, int]:
    """The better, the smaller: most modules, then most of them under their own names, then the fewest folders above.

    Weights and figures do not count: last year's folder has them, too.
    """
    modules = {file: name for file, name in files.items() if file.endswith(".py")}
    return -len(modules), -sum(name == root + file for file, name in modules.items()), root.count("/")


def _notes(located: Located, names: list[str], allowed: list[str], by_root: dict[str, dict[str, str]]) -> list[str]:
    base, read = located.base, set(located.names.values())
    notes = [f"the files were found in {printable(base)!r}"] if base else []
    notes += [f"{printable(name)!r} was read as {file}" for file, name in located.names.items() if name != base + file]
    left = sorted(root for root, files in by_root.items() if not read & set(files.values()))
    if left:
        more = f" and {len(left) - 1} more folders" if len(left) > 1 else ""
        notes.append(f"files of the same names in {printable(left[0]) or 'the top folder'!r}{more} were not read")
    asked = _meant(names, [file for file in allowed if file not in located.names])
    return notes + [f"{printable(name)!r} was not read; did you mean {file}?" for name, file in asked]


def plain_name(name: str) -> str:
    """A file's name without folders, capitals and what a course's site or a copy puts around it."""
    own = ADDED_ENDING.sub("", SITE_PREFIX.sub("", name.rpartition("/")[2]))
    return COPY_SUFFIX.sub("", own).lower()


def _meant(names: list[str], missing: list[str]) -> list[tuple[str, str]]:
    """(Name, file of the assignment that is missing and that it resembles)."""
    wanted = {file.rpartition("/")[2].lower(): file for file in missing}
    pairs = [(name, difflib.get_close_matches(plain_name(name), wanted, 1, 0.85)) for name in names[:MOST_COMPARED]]
    return [(name, wanted[close[0]]) for name, close in pairs if close and plain_name(name) not in wanted]


def _nothing_found(what: str, names: list[str], allowed: list[str]) -> str:
    """One line: what was expected, what is there instead, and what to do."""
    files = ", ".join(name for name in allowed if name.endswith(".py"))
    text = f"{what} holds none of the assignment's files ({files})"
    for endings, cure in NOT_READ:
        other = next((name for name in names if name.lower().endswith(endings)), "")
        if other:
            return f"{printable(other)!r} {cure} ({text})"  # what to do comes first: tables and terminals cut the end
    meant = _meant(names, allowed)
    if meant:
        return f"did you mean {meant[0][1]} by {printable(meant[0][0])!r}? ({text})"
    there = ", ".join(printable(name, 60) for name in names[:5])
    return f"{text}; it holds {there or 'no file'}"
