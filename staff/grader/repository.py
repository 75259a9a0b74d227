"""A submission's git repository, read without trusting it.

Git runs what a repository's own config names (`gpg.program`, `core.fsmonitor`, filters, hooks). So no git command ever
runs on it: its objects and refs are copied, within limits, into a fresh bare repository with our config, and git reads
that copy inside the sandbox, where it can start no other program, write nothing and use little time and memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from staff.grader import processes, sandbox
from toolkit.errors import UserError

MAX_FILES, MAX_BYTES = 60_000, 512 << 20  # of objects and refs
MAX_OUTPUT = 64 << 20
TIMEOUT_S = 60.0
OBJECT = re.compile(r"objects/(?:[0-9a-f]{2}/[0-9a-f]{38}|pack/pack-[0-9a-f]{40}\.(?:pack|idx))")
REF = re.compile(r"HEAD|packed-refs|shallow|refs/[ -~]{1,200}")
BORROWED = ("objects/info/alternates", "objects/info/http-alternates", "commondir")
CONFIG = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
START = (
    "import json, os, sys; sys.path.append(sys.argv[1]); from staff.student_side import lockdown; "
    "lockdown.apply(json.loads(sys.argv[2])); os.execv(sys.argv[3], sys.argv[3:])"
)


@dataclass(frozen=True)
class Commit:
    """A commit by its number and its date in seconds since 1970, which is what its author's computer said."""

    number: str
    time: int


@dataclass(frozen=True)
class Blob:
    """A file of a commit. `number`: its object; `regular`: neither a link nor another repository."""

    name: str
    number: str
    size: int
    regular: bool


def find(path: Path) -> Path | None:
    """The git folder of a clone or a bare repository; None if `path` is neither."""
    git_folder = path / ".git" if (path / ".git").is_dir() else path
    return git_folder if (git_folder / "HEAD").is_file() and (git_folder / "objects").is_dir() else None


@contextlib.contextmanager
def opened(git_folder: Path) -> Iterator[Repository]:
    """The repository's copy. UserError if it is too large or lacks what a full clone has."""
    with sandbox.temporary_place() as place:
        copy = place.tree / "repository.git"
        _copy(git_folder, copy)
        yield Repository(copy, place, sandbox.choose_layer()[0])


def _copy(git_folder: Path, copy: Path) -> None:
    if git_folder.is_symlink() or any(os.path.lexists(git_folder / name) for name in BORROWED):
        raise UserError("the git repository borrows objects from another one; hand in a full clone")
    for folder in (copy, copy / "objects", copy / "refs"):
        folder.mkdir()
        folder.chmod(0o755)
    (copy / "config").write_text(CONFIG, encoding="ascii")
    (copy / "config").chmod(0o644)
    files = total = 0
    for name in _names(git_folder):
        content = _read(git_folder / name, MAX_BYTES - total)
        files, total = files + 1, total + len(content)
        if files > MAX_FILES or total >= MAX_BYTES:
            raise UserError(f"the git repository has more than {MAX_FILES:,} files or {MAX_BYTES >> 20} MB")
        for parent in reversed((copy / name).relative_to(copy).parents[:-1]):
            (copy / parent).mkdir(mode=0o755, exist_ok=True)
            (copy / parent).chmod(0o755)
        (copy / name).write_bytes(content)
        (copy / name).chmod(0o644)


def _names(git_folder: Path) -> Iterator[str]:
    """HEAD, refs and objects, by the names that git gives them; whatever else is there is not looked at."""
    found = 0
    for top in ("HEAD", "packed-refs", "shallow", "refs", "objects"):
        waiting = [top]
        while waiting:
            name = waiting.pop()
            try:
                mode = os.lstat(git_folder / name).st_mode
                inside = os.listdir(git_folder / name) if stat.S_ISDIR(mode) and name.count("/") < 6 else []
            except OSError:
                continue
            found += 1
            if found > 2 * MAX_FILES:
                raise UserError(f"the git repository has more than {MAX_FILES:,} files")
            if stat.S_ISLNK(mode):
                raise UserError("the git repository holds symbolic links; hand in a plain clone")
            waiting += [f"{name}/{part}" for part in inside]
            known = OBJECT.fullmatch(name) or (REF.fullmatch(name) and ".." not in name)
            if stat.S_ISREG(mode) and known:
                yield name


def _read(path: Path, limit: int) -> bytes:
    # O_NOFOLLOW and O_NONBLOCK: what was a file a moment ago may be a link or a pipe now.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        return file.read(limit) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


@dataclass
class Repository:
    """The copy, and how git reads it."""

    folder: Path
    place: sandbox.Place
    layer: str
    limits: sandbox.Limits = field(default_factory=lambda: sandbox.Limits(memory_mb=1024, file_mb=0, cpu_s=30))

    @property
    def shallow(self) -> bool:
        """Whether older commits were left out when it was cloned."""
        return (self.folder / "shallow").exists()

    def commit(self) -> str:
        """The number of the commit that HEAD names."""
        return self.git("rev-parse", "--verify", "HEAD^{commit}").decode("ascii", "replace").strip()[:40]

    def commits(self) -> list[Commit]:
        """All commits that HEAD comes from, newest first."""
        rows = self.log("--format=%H %ct").decode("ascii", "replace").split()
        found = [Commit(number, int(when)) for number, when in zip(rows[::2], rows[1::2], strict=True)]
        return sorted(found, key=lambda one: one.time, reverse=True)  # stable: git's order where times are equal

    def files(self, commit: str) -> list[Blob]:
        """All files of a commit."""
        found = []
        for record in self.git("ls-tree", "-r", "-l", "-z", commit).split(b"\0")[:-1]:
            description, _, name = record.partition(b"\t")
            mode, kind, number, size = description.decode().split()
            regular = kind == "blob" and mode in ("100644", "100755")
            found.append(Blob(name.decode("utf-8", "replace"), number, int(size) if size.isdigit() else 0, regular))
        return found

    def content(self, blob: Blob, limit: int) -> bytes:
        """At most `limit` bytes of a file."""
        return self.git("cat-file", "blob", blob.number, limit=limit)

    def log(self, *arguments: str, commit: str = "HEAD") -> bytes:
        """History of a commit in a format of the caller's."""
        return self.git("log", "--no-show-signature", "--no-ext-diff", "--no-textconv", *arguments, commit, "--")

    def git(self, *arguments: str, limit: int = MAX_OUTPUT) -> bytes:
        """Output of a git command on the copy, cut at `limit`. UserError if git fails or takes too long."""
        command = self._command([_git(), "-c", "safe.directory=*", f"--git-dir={self.folder}", *arguments])
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "LANG": "C.UTF-8"}
        environment |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
        environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat", "GIT_NO_REPLACE_OBJECTS": "1"}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, env=environment, cwd=self.place.scratch, **streams) as process:
            timer = threading.Timer(TIMEOUT_S, processes.kill_now, [process])
            timer.start()
            try:
                output = process.stdout.read(limit)
                process.stdout.close()
                failed = process.wait() != 0 and len(output) < limit
            finally:
                timer.cancel()
                processes.kill_now(process)
        if failed:
            raise UserError("the git repository cannot be read (is there a commit?)")
        return output

    def _command(self, words: Sequence[str]) -> list[str]:
        """`words` under what `lockdown.apply` takes away; with bubblewrap also in a file system of their own."""
        as_root = os.geteuid() == 0
        uid = processes.free_uid() if as_root and self.layer != "limits" else None
        readable = [*sandbox.SYSTEM_FOLDERS, *sandbox.SYSTEM_FILES, str(Path(_git()).parents[1]), str(self.place.tree)]
        limits = {name: value for name, value in self.limits.as_rlimits().items() if name != "FSIZE"}
        limits |= {"FSIZE": 0, "NPROC": 16} if uid else {"FSIZE": 0}
        settings = {"limits": limits, "uid": uid, "readable": readable, "writable": ["/dev/null"]}
        start = [sys.executable, "-I", "-c", START, str(self.place.code), json.dumps(settings), *words]
        return (sandbox.bwrap_command(self.place, self.limits, as_root) if self.layer == "bwrap" else []) + start


def _git() -> str:
    found = shutil.which("git")
    if found is None:
        raise UserError("git is not installed; it reads submissions that are repositories (Debian package git)")
    return os.path.realpath(found)
