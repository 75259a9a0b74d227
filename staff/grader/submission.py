"""Reading a submission: a folder, an archive, a git repository or single files, none of which is trusted.

Only files that the assignment names are read; everything else is listed and left alone. One rule says what counts: the
files that were handed in. A folder is graded by its files, whether or not they are committed, and its `.git` is only
its history; a bare repository is graded by its last commit. Where a due date decides, the caller names the commit. What
was read under another name, is too large or differs from the last commit is said in `notes`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from staff.grader import packing, repository
from staff.grader.packing import Entry, Read, printable
from toolkit.errors import UserError

MAX_LISTED = 200
LOG = ("--no-merges", "--max-count=2000", "--reverse", "--no-renames", "--format=%x01%at%x02%s", "--numstat")
# What sites put around a name: Moodle, Canvas (name, numbers), and copies of a download.
SITE_PREFIX = re.compile(r"^(?:.*_assignsubmission_file_|[^_/]+_(?:LATE_)?\d+_\d+_)")
COPY_SUFFIX = re.compile(r"(?:-\d{1,2}| ?\(\d{1,2}\))(?=\.[A-Za-z0-9]+$)")


@dataclass
class Submission:
    """What was handed in.

    files: content by the assignment's names.
    ignored: names of what was left alone.
    notes: how it was read, for the student.
    commit: number of the last commit, "" without a repository.
    log: history as git printed it, None if there is none to judge, and then `no_log` says why.
    """

    files: dict[str, bytes]
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commit: str = ""
    log: bytes | None = None
    no_log: str = "no git repository was handed in"

    def digest(self) -> str:
        """SHA-256 over names and contents; equal for equal submissions whatever their packing."""
        total = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            total.update(f"{name}\0{len(content)}\0".encode())
            total.update(content)
        return total.hexdigest()

    def history_digest(self) -> str:
        """SHA-256 of what the history's verdict depends on."""
        return hashlib.sha256(self.no_log.encode() if self.log is None else self.log).hexdigest()


def read_submission(path: str | os.PathLike, allowed: Mapping[str, int], commit: str = "") -> Submission:
    """Read a submission.

    path: folder, archive, git repository or file.
    allowed: file name -> largest size in bytes.
    commit: of a git repository, instead of what lies in the folder or was committed last.

    UserError: nothing there, none of the assignment's files, an archive that is damaged, encrypted or ambiguous, or
    more entries than anybody hands in. A single file that is too large is left out, with a note.
    """
    path = Path(path)
    if path.is_dir():
        git_folder = repository.find(path)
        if commit and not git_folder:
            raise UserError(f"submission {printable(str(path))!r} is no git repository, so it has no commit {commit}")
        return _from_git(path, git_folder, allowed, commit) if git_folder else _from_folder(path, allowed)
    if packing.is_archive(path) or (path.is_file() and path.name.lower().endswith(packing.ARCHIVES)):
        return packing.archive_entries(path, lambda entries: _select(entries, allowed, "the archive"))
    if not path.exists():
        raise UserError(f"submission {printable(str(path))!r} does not exist")
    if path.is_file() and not path.is_symlink():
        return _select([(path.name, packing.read_regular(path))], allowed, "the file")
    raise UserError(f"submission {printable(str(path))!r} is neither a folder nor an archive nor a git repository")


def _from_folder(path: Path, allowed: Mapping[str, int]) -> Submission:
    """The folder's files; what is missing there may lie in an archive in it, if there is only one."""
    names = [name for name, read in packing.folder_entries(path) if read and name.lower().endswith(packing.ARCHIVES)]
    found = inner = None
    try:
        found = _select(packing.folder_entries(path), allowed, "the folder")
    except _NothingFoundError:
        if len(names) != 1:
            raise
    if len(names) != 1 or (found and len(found.files) == len(allowed)):
        return found
    try:
        inner = packing.archive_entries(path / names[0], lambda entries: _select(entries, allowed, "the archive"))
    except UserError:
        if found is None:
            raise
        return found
    return _joined(found, inner, names[0])


def _joined(found: Submission | None, inner: Submission, archive: str) -> Submission:
    """A folder's files, and of the archive in it those that the folder lacks."""
    found = found or Submission({})
    new = [name for name in inner.files if name not in found.files]
    if new:
        found.notes += [*inner.notes, f"{', '.join(new)} found in {printable(archive)!r}"]
        found.files |= {name: inner.files[name] for name in new}
    found.ignored = [name for name in found.ignored if name != printable(archive)]
    return found


class _NothingFoundError(UserError):
    """None of the assignment's files."""


def _select(entries: Iterable[Entry], allowed: Mapping[str, int], what: str) -> Submission:
    """Find the folder that holds the assignment's files (the top, or one below) and read those that are allowed."""
    table: dict[str, Read | None] = {}
    for name, read in entries:
        if name in table:
            raise UserError(f"{what} holds {printable(name)!r} twice; it is not clear which one is meant")
        table[name] = read
        if len(table) > packing.MAX_ENTRIES:
            raise UserError(f"{what} holds more than {packing.MAX_ENTRIES} files; hand in only the assignment's files")
    regular = [name for name, read in table.items() if read]
    base, notes = _base_folder(regular, allowed, what), []
    if base:
        notes.append(f"the files were found in {printable(base)!r}")
    chosen = {file: base + file for file in allowed if base is not None and table.get(base + file)}
    others = _other_names([name for name in regular if name not in chosen.values()], base or "", allowed, what)
    for file, name in others.items():
        if file not in chosen:
            chosen[file] = name
            notes.append(f"{printable(name)!r} was read as {file}")
    if not chosen:
        raise _NothingFoundError(_nothing_found(what, regular, allowed))
    notes += [
        f"{printable(name)!r} was not read; did you mean {file}?"
        for name, file in _meant(regular, [file for file in allowed if file not in chosen])
    ]
    files = {}
    for file, limit in allowed.items():
        if file in chosen:
            content = table[chosen[file]](limit + 1)
            if len(content) > limit:
                notes.append(f"{file} is larger than {limit:,} bytes and was left out; the rest was graded")
            else:
                files[file] = content
    ignored = sorted(printable(name) for name in table if name not in chosen.values())
    if len(ignored) > MAX_LISTED:
        notes.append(f"{len(ignored) - MAX_LISTED} more files were ignored")
    return Submission(files, ignored[:MAX_LISTED], notes)


def _meant(names: list[str], missing: Iterable[str]) -> list[tuple[str, str]]:
    """(Name, file of the assignment that is missing and that it resembles)."""
    wanted = {file.rpartition("/")[2].lower(): file for file in missing}
    pairs = [(name, difflib.get_close_matches(plain_name(name), wanted, 1, 0.85)) for name in names[:MAX_LISTED]]
    return [(name, wanted[close[0]]) for name, close in pairs if close and plain_name(name) not in wanted]


def _nothing_found(what: str, names: list[str], allowed: Iterable[str]) -> str:
    """One line: what was expected, what is there instead, and what to do."""
    files = ", ".join(name for name in allowed if name.endswith(".py"))
    text = f"{what} holds none of the assignment's files ({files})"
    meant = _meant(names, allowed)
    if meant:
        return f"{text}; did you mean {meant[0][1]} by {printable(meant[0][0])!r}?"
    other = next((name for name in names if name.lower().endswith((".7z", ".rar", ".xz", ".zst"))), "")
    if other:
        return f"{text}; {printable(other)!r} is an archive that is not read: hand in a zip"
    there = ", ".join(printable(name, 60) for name in names[:5])
    return f"{text}; it holds {there or 'no file'}"


def _base_folder(names: list[str], allowed: Iterable[str], what: str) -> str | None:
    """'' or 'folder/': where most of the assignment's files are together; the top wins a tie, then the shallowest."""
    counts: dict[str, int] = {}
    for name in names:
        for file in allowed:
            if name == file or name.endswith("/" + file):
                base = name[: len(name) - len(file)]
                counts[base] = counts.get(base, 0) + 1
    return _best(counts, what) if counts else None


def _best(counts: dict[str, int], what: str) -> str:
    best = max(counts.values())
    candidates = sorted((base.count("/"), base) for base, count in counts.items() if count == best)
    if len(candidates) > 1 and candidates[0][0] == candidates[1][0]:
        folders = [printable(base) for _, base in candidates[:2]]
        raise UserError(f"{what} holds the assignment's files in {folders[0]!r} and in {folders[1]!r}")
    return candidates[0][1]


def plain_name(name: str) -> str:
    """A file's name without folders, capitals and what a course's site puts around it."""
    return COPY_SUFFIX.sub("", SITE_PREFIX.sub("", name.rpartition("/")[2])).lower()


def _other_names(names: list[str], base: str, allowed: Iterable[str], what: str) -> dict[str, str]:
    """File of the assignment -> name below `base` that most likely means it. Two for one file: neither."""
    wanted = {file.rpartition("/")[2].lower(): file for file in allowed}
    found: dict[str, dict[str, list[str]]] = {}  # folder -> file -> names
    for name in names:
        file = wanted.get(plain_name(name))
        if file and name.startswith(base):
            found.setdefault(name.rpartition("/")[0], {}).setdefault(file, []).append(name)
    if not found:
        return {}
    folder = _best({f"{parent}/" if parent else "": len(files) for parent, files in found.items()}, what)
    return {file: same[0] for file, same in found[folder.rstrip("/")].items() if len(same) == 1}


def _from_git(path: Path, git_folder: Path, allowed: Mapping[str, int], asked: str) -> Submission:
    submission = None
    if git_folder != path and not asked:
        with contextlib.suppress(_NothingFoundError):  # a clone without its files: the last commit has them
            submission = _from_folder(path, allowed)
    try:
        with repository.opened(git_folder) as opened:
            commit = _known_commit(opened, asked) if asked else opened.commit()
            blobs = opened.files(commit)
            if submission is None:
                entries = [(b.name, _reader(opened, b) if b.regular else None) for b in blobs]
                submission = _select(entries, allowed, "the repository")
                submission.notes.append(f"git commit {commit}; files that are not committed are not graded")
            else:
                submission.notes += _differences(submission, commit, blobs)
            submission.commit = commit
            _add_log(submission, opened, commit)
    except (UserError, OSError) as error:
        if submission is None:
            raise
        submission.no_log = printable(str(error))
        submission.notes.append(f"the history could not be read: {submission.no_log}")
    return submission


def _known_commit(opened: repository.Repository, asked: str) -> str:
    if asked not in [one.number for one in opened.commits()]:
        raise UserError(f"commit is {asked!r}, which the repository does not have")
    return asked


def _reader(opened: repository.Repository, blob: repository.Blob) -> Read:
    return lambda limit: opened.content(blob, limit)


def _differences(submission: Submission, commit: str, blobs: list[repository.Blob]) -> list[str]:
    """Which files are not as in the last commit; the files count, see the top."""
    numbers = {blob.number for blob in blobs}
    different = [file for file, content in submission.files.items() if not _blob_numbers(content) & numbers]
    if not different:
        return []
    return [
        f"graded as handed in, which differs from git commit {commit[:12]} in {', '.join(different)}; "
        "what is in the folder counts, committed or not"
    ]


def _blob_numbers(content: bytes) -> set[str]:
    """Git's numbers of a file, with its own line ends and with those that git stores on Windows."""
    forms = {content, content.replace(b"\r\n", b"\n")}
    return {hashlib.sha1(b"blob %d\0" % len(form) + form, usedforsecurity=False).hexdigest() for form in forms}


def _add_log(submission: Submission, opened: repository.Repository, commit: str) -> None:
    if opened.shallow:
        submission.no_log = "the repository is a shallow clone, which has no history"
        return
    log = opened.log(*LOG, commit=commit)
    if len(log) >= repository.MAX_OUTPUT:
        submission.no_log = "the history is too long to be read"
    else:
        submission.log = log
