"""Reading a submission: a folder, an archive, a git repository or single files, none of which is trusted.

Only files that the assignment names are read; everything else is listed and left alone. One rule says what counts: the
files that were handed in. A folder is graded by its files, whether or not they are committed, and its `.git` is only
its history; a bare repository is graded by its last commit. Where a due date decides, the caller names the commit. What
was read under another name, is too large or differs from the last commit is said in `notes`.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import os
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from staff.grader import packing, repository
from staff.grader.locating import NothingFoundError, locate
from staff.grader.packing import Entry, Read, printable
from toolkit.errors import UserError

MAX_LISTED = 200
LOG = ("--no-merges", "--max-count=2000", "--reverse", "--no-renames", "--format=%x01%at%x02%s", "--numstat")
MAX_NESTED, MAX_INNER, MAX_INNER_BYTES = 3, 5, 256 << 20  # archives in archives: levels, in one, of all together


@dataclass
class Submission:
    """What was handed in.

    files: content by the assignment's names.
    ignored: names of what was left alone.
    notes: how it was read, for the student.
    commit: number of the last commit, "" without a repository.
    log: history as git printed it, None if there is none to judge, and then `no_log` says why.
    base: the folder that holds the files, "" for the top.
    """

    files: dict[str, bytes]
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commit: str = ""
    log: bytes | None = None
    no_log: str = "no git repository was handed in"
    base: str = ""

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
    """Read a submission; sources that are not in UTF-8 are turned into it, with a note.

    path: folder, archive, git repository or file.
    allowed: file name -> largest size in bytes.
    commit: of a git repository, instead of what lies in the folder or was committed last.

    UserError: nothing there, none of the assignment's files, an archive that is damaged, encrypted or ambiguous, or
    more entries than anybody hands in. A single file that is too large is left out, with a note.
    """
    submission = _read(Path(path), allowed, commit)
    for name in submission.files:
        if name.endswith(".py"):
            submission.files[name], was = _in_utf8(submission.files[name])
            submission.notes += [f"{name} is in {was} and was read as such; save it as UTF-8"] if was else []
    return submission


def _in_utf8(source: bytes) -> tuple[bytes, str]:
    """(A source that Python can read, the encoding that it was in; "" if Python can read it as it is)."""
    with contextlib.suppress(SyntaxError, UnicodeError):
        encoding = tokenize.detect_encoding(io.BytesIO(source).readline)[0]
        with contextlib.suppress(LookupError):  # one that no text has, as rot13: Python says so
            source.decode(encoding)
        return source, ""
    utf_16 = source.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell's `>` writes it
    encoding = "UTF-16" if utf_16 else "Latin-1"
    return source.decode(encoding, "replace").encode(), encoding


def _read(path: Path, allowed: Mapping[str, int], commit: str) -> Submission:
    if path.is_dir():
        git_folder = repository.find(path)
        if commit and not git_folder:
            raise UserError(f"submission {printable(str(path))!r} is no git repository, so it has no commit {commit}")
        if git_folder:
            return _from_git(git_folder, allowed, commit, None if commit or git_folder == path else path)
        submission = _Unpacking(allowed).entries(packing.folder_entries(path), "the folder", path)
        clone = _clone_around(path, submission.base)
        return _from_git(clone, allowed, "", path) if clone else submission
    named = path.is_file() and path.name.lower().endswith(packing.ARCHIVES)
    if named or (packing.is_archive(path) and not path.name.lower().endswith(packing.NO_ARCHIVES)):
        submission = _Unpacking(allowed).archive(path, path.name)
        if any(name.endswith(packing.GIT_HEAD) for name in submission.ignored):
            submission.no_log = "a git repository in an archive is not read; look into the archive"
        return submission
    if not path.exists():
        raise UserError(f"submission {printable(str(path))!r} does not exist")
    if path.is_file() and not path.is_symlink():
        return _select({path.name: packing.read_regular(path)}, allowed, "the file")
    raise UserError(f"submission {printable(str(path))!r} is neither a folder nor an archive nor a git repository")


def _clone_around(path: Path, base: str) -> Path | None:
    """The git folder of a clone below `path` that holds the files, as unpacking a zip of it makes one."""
    folder = path / base
    while folder != path:
        if (folder / ".git").is_dir():
            return repository.find(folder)
        folder = folder.parent
    return None


class _Unpacking:
    """Archives in archives of one submission, in memory: MAX_NESTED deep, MAX_INNER_BYTES in all."""

    def __init__(self, allowed: Mapping[str, int]) -> None:
        self.allowed, self.left = allowed, MAX_INNER_BYTES

    def archive(self, source: Path | io.BytesIO, name: str, level: int = 0) -> Submission:
        """An archive's files."""
        return packing.archive_entries(source, name, lambda entries: self.entries(entries, "the archive", None, level))

    def entries(self, entries: Iterable[Entry], what: str, folder: Path | None, level: int = 0) -> Submission:
        """The files among entries; what is missing there may lie in archives among them.

        folder: where the entries lie as files, None if they have to be read to be unpacked.
        """
        table = _table(entries, what)
        found, nothing = None, None
        try:
            found = _select(table, self.allowed, what)
        except NothingFoundError as error:
            nothing = error
        names = [name for name, read in table.items() if read and name.lower().endswith(packing.ARCHIVES)]
        if not found:  # a browser may have lost the ending
            names += [name for name, read in table.items() if read and "." not in name.rpartition("/")[2]]
        if found and len(found.files) == len(self.allowed):
            return found
        inner, problems = {}, {}
        for name in names[:MAX_INNER] if level < MAX_NESTED else []:
            try:
                source = folder / name if folder else self._in_memory(table[name])
                if name.lower().endswith(packing.ARCHIVES) or packing.is_archive(source):
                    inner[name] = self.archive(source, name, level + 1)
            except UserError as error:
                problems[name] = error
        if not found and not inner:
            raise min(problems.values(), key=lambda error: isinstance(error, NothingFoundError), default=nothing)
        return _joined(found or Submission({}), inner, problems, what)

    def _in_memory(self, read: Read) -> io.BytesIO:
        content = read(self.left + 1)
        if len(content) > self.left:
            raise UserError(f"the archives in it are larger than {MAX_INNER_BYTES >> 20} MB; hand in their files")
        self.left -= len(content)
        return io.BytesIO(content)


def _joined(found: Submission, inner: dict[str, Submission], problems: dict[str, UserError], what: str) -> Submission:
    """Loose files, and of the archives next to them those that are missing. UserError if two archives differ in one."""
    first: dict[str, str] = {}
    loose = set(found.files)
    for archive, one in inner.items():
        new = [name for name in one.files if name not in loose]
        for name in new:
            other = first.setdefault(name, archive)
            if inner[other].files[name] != one.files[name]:
                raise UserError(
                    f"{what} holds {name} in {printable(other)!r} and in {printable(archive)!r}, which differ"
                )
        if new:
            found.notes += [*one.notes, f"{', '.join(new)} found in {printable(archive)!r}"]
            found.files |= {name: one.files[name] for name in new}
            found.ignored = [name for name in found.ignored if name != printable(archive)]
    found.notes += [
        f"{printable(name)!r} was not read: {error}"
        for name, error in problems.items()
        if not isinstance(error, NothingFoundError)
    ]
    return found


def _table(entries: Iterable[Entry], what: str) -> dict[str, Read | None]:
    table: dict[str, Read | None] = {}
    for name, read in entries:
        if name in table:
            raise UserError(f"{what} holds {printable(name)!r} twice; it is not clear which one is meant")
        table[name] = read
        if len(table) > packing.MAX_ENTRIES:
            raise UserError(f"{what} holds more than {packing.MAX_ENTRIES} files; hand in only the assignment's files")
    return table


def _select(table: Mapping[str, Read | None], allowed: Mapping[str, int], what: str) -> Submission:
    """Read the assignment's files."""
    located = locate([name for name, read in table.items() if read], allowed, what)
    notes, files = located.notes, {}
    for file, name in located.names.items():
        content = table[name](allowed[file] + 1)
        if len(content) > allowed[file]:
            notes.append(f"{file} is larger than {allowed[file]:,} bytes and was left out; the rest was graded")
        else:
            files[file] = content
    read = set(located.names.values())
    ignored = sorted(printable(name) for name in table if name not in read)
    if len(ignored) > MAX_LISTED:
        notes.append(f"{len(ignored) - MAX_LISTED} more files were ignored")
    return Submission(files, ignored[:MAX_LISTED], notes, base=located.base)


def _from_git(git_folder: Path, allowed: Mapping[str, int], asked: str, folder: Path | None) -> Submission:
    """A repository: the files in `folder`, or a commit's (of a bare one, or because it was asked for)."""
    submission = None
    if folder:
        with contextlib.suppress(NothingFoundError):  # a clone without its files: the last commit has them
            submission = _Unpacking(allowed).entries(packing.folder_entries(folder), "the folder", folder)
    try:
        with repository.opened(git_folder) as opened:
            commit = _known_commit(opened, asked) if asked else opened.commit()
            blobs = opened.files(commit)
            if submission is None:
                entries = [(b.name, _reader(opened, b) if b.regular else None) for b in blobs]
                submission = _Unpacking(allowed).entries(entries, "the repository", None)
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
