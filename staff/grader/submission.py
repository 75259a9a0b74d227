"""Reading a submission: a folder, a zip archive or a git repository, none of which is trusted.

Only files that the assignment names are read; everything else is listed and left alone. Links are never followed,
nothing is extracted by its own name, sizes are bounded while reading, and git runs
nothing that a repository configures and reads nothing outside it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from toolkit.errors import UserError

MAX_ENTRIES = 50_000
MAX_LISTED = 200
SKIPPED_FOLDERS = {".git", "__pycache__", ".venv", "venv", "node_modules", "__MACOSX"}


@dataclass
class Submission:
    """What was handed in: `files` by the assignment's names, `ignored` names, `notes` on how it was read."""

    files: dict[str, bytes]
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """SHA-256 over names and contents; equal for equal submissions whatever their packing."""
        total = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            total.update(f"{name}\0{len(content)}\0".encode())
            total.update(content)
        return total.hexdigest()


def read_submission(path: str | os.PathLike, allowed: dict[str, int]) -> Submission:
    """Read a submission. `allowed`: file name -> largest size in bytes.

    UserError: nothing there, not a folder, zip or repository, an archive that is damaged, encrypted or ambiguous, a
    file larger than allowed, or more entries than anybody hands in.
    """
    path = Path(path)
    if path.is_dir():
        git_folder = path / ".git" if (path / ".git").is_dir() else path
        if (git_folder / "HEAD").is_file() and (git_folder / "objects").is_dir():
            return _from_git(git_folder, allowed)
        return _select(_folder_entries(path), allowed, "the folder")
    if path.is_file() and zipfile.is_zipfile(path):
        return _from_zip(path, allowed)
    if not path.exists():
        raise UserError(f"submission {str(path)!r} does not exist")
    raise UserError(f"submission {str(path)!r} is neither a folder nor a zip archive nor a git repository")


Entry = tuple[str, Callable[[int], bytes] | None]  # name with slashes; reads at most so many bytes; None: not a file


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[:200]


def _select(entries: Iterable[Entry], allowed: dict[str, int], what: str) -> Submission:
    """Find the folder that holds the assignment's files (the top, or one below) and read those that are allowed."""
    table: dict[str, Callable[[int], bytes] | None] = {}
    for name, read in entries:
        if name in table:
            raise UserError(f"{what} holds {_printable(name)!r} twice; it is not clear which one is meant")
        table[name] = read
        if len(table) > MAX_ENTRIES:
            raise UserError(f"{what} holds more than {MAX_ENTRIES} files; hand in only the assignment's files")
    base = _base_folder([name for name, read in table.items() if read], allowed, what)
    files = {}
    for name, limit in allowed.items():
        read = table.get(base + name)
        if read is None:
            continue
        content = read(limit + 1)
        if len(content) > limit:
            raise UserError(f"{name} is larger than {limit:,} bytes")
        files[name] = content
    ignored = sorted(_printable(name) for name in table if name not in {base + file for file in files})
    notes = [f"the files were found in {_printable(base)!r}"] if base else []
    if len(ignored) > MAX_LISTED:
        notes.append(f"{len(ignored) - MAX_LISTED} more files were ignored")
    return Submission(files, ignored[:MAX_LISTED], notes)


def _base_folder(names: list[str], allowed: dict[str, int], what: str) -> str:
    """'' or 'folder/': where most of the assignment's files lie together; the top wins a tie, then the shallowest."""
    counts: dict[str, int] = {}
    for name in names:
        for file in allowed:
            if name == file or name.endswith("/" + file):
                base = name[: len(name) - len(file)]
                counts[base] = counts.get(base, 0) + 1
    if not counts:
        raise UserError(f"{what} holds none of the assignment's files ({', '.join(allowed)})")
    best = max(counts.values())
    candidates = sorted((base.count("/"), base) for base, count in counts.items() if count == best)
    if len(candidates) > 1 and candidates[0][0] == candidates[1][0]:
        raise UserError(f"{what} holds the assignment's files in {candidates[0][1]!r} and in {candidates[1][1]!r}")
    return candidates[0][1]


def _read_regular(path: str) -> Callable[[int], bytes]:
    def read(limit: int) -> bytes:
        # O_NOFOLLOW and O_NONBLOCK: what was a file a moment ago may be a link or a pipe now.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UserError(f"{os.path.basename(path)} is not a regular file")
            return file.read(limit)

    return read


def _folder_entries(root: Path) -> Iterable[Entry]:
    for parent, folders, files in os.walk(root, followlinks=False):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
        for name in sorted(files):
            full = os.path.join(parent, name)
            relative = os.path.relpath(full, root).replace(os.sep, "/")
            yield relative, _read_regular(full) if stat.S_ISREG(os.lstat(full).st_mode) else None


def _from_zip(path: Path, allowed: dict[str, int]) -> Submission:
    try:
        with zipfile.ZipFile(path) as archive:
            return _select(_zip_entries(archive), allowed, "the archive")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the archive cannot be read: {_printable(str(error))}") from None
    except Exception as error:  # zlib.error, lzma.LZMAError, struct.error: a damaged archive, whoever noticed
        raise UserError(f"the archive is damaged: {_printable(str(error))}") from None


def _zip_entries(archive: zipfile.ZipFile) -> Iterable[Entry]:
    if len(archive.infolist()) > MAX_ENTRIES:
        raise UserError(f"the archive holds more than {MAX_ENTRIES} files")
    for info in archive.infolist():
        if info.is_dir():
            continue
        parts = PurePosixPath(info.filename).parts
        odd = "\\" in info.filename or ".." in parts or info.filename.startswith("/")
        mode = info.external_attr >> 16
        is_file = not stat.S_IFMT(mode) or stat.S_ISREG(mode)
        if any(part in SKIPPED_FOLDERS for part in parts):
            continue
        yield info.filename, _read_member(archive, info) if is_file and not odd else None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[int], bytes]:
    def read(limit: int) -> bytes:
        if info.flag_bits & 1:
            raise UserError(f"{_printable(info.filename)} is encrypted")
        with archive.open(info) as member:  # decompresses as it reads, so a bomb stops at the limit
            return member.read(limit)

    return read


def _git(git_folder: Path, *arguments: str, limit: int | None = None) -> bytes:
    """Output of a git command that reads objects only; hooks, filters, monitors and fetching are off."""
    settings = ["core.fsmonitor=false", "core.hooksPath=/dev/null", "protocol.allow=never", "safe.directory=*"]
    command = ["git", *(part for s in settings for part in ("-c", s)), f"--git-dir={git_folder}", *arguments]
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
    environment |= {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        output = process.stdout.read(limit if limit is not None else 64 << 20)
        process.stdout.close()
        if process.wait(timeout=60) != 0 and (limit is None or len(output) < limit):
            raise UserError("the git repository cannot be read (is there a commit?)")
    return output


def read_git(git_folder: Path, *arguments: str) -> bytes:
    """Output of a git command that reads objects of a submission's repository. UserError if that is odd."""
    _check_git_folder(git_folder)
    return _git(git_folder, *arguments)


def _check_git_folder(git_folder: Path) -> None:
    """Refuse repositories that borrow objects from elsewhere: HEAD could name a commit of ours, with the solution."""
    borrowed = [git_folder / "objects/info/alternates", git_folder / "objects/info/http-alternates"]
    if any(os.path.lexists(path) for path in [*borrowed, git_folder / "commondir"]) or git_folder.is_symlink():
        raise UserError("the git repository borrows objects from another one; hand in a full clone")
    for parent, folders, files in os.walk(git_folder, followlinks=False):
        for name in [*folders, *files]:
            if os.path.islink(os.path.join(parent, name)):
                raise UserError("the git repository holds symbolic links; hand in a plain clone")


def _from_git(git_folder: Path, allowed: dict[str, int]) -> Submission:
    _check_git_folder(git_folder)
    commit = _git(git_folder, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    submission = _select(_git_entries(git_folder, commit), allowed, "the repository")
    submission.notes.append(f"git commit {commit[:40]}; files that are not committed are not graded")
    return submission


def _git_entries(git_folder: Path, commit: str) -> Iterable[Entry]:
    for record in _git(git_folder, "ls-tree", "-r", "-z", commit).split(b"\0"):
        if not record:
            continue
        description, _, name = record.partition(b"\t")
        mode, kind, blob = description.decode().split()
        regular = kind == "blob" and mode in ("100644", "100755")
        read = (lambda limit, blob=blob: _git(git_folder, "cat-file", "blob", blob, limit=limit)) if regular else None
        yield name.decode("utf-8", "replace"), read
