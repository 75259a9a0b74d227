"""Where the student's process runs: which layers this machine offers, starting it, watching it, ending it.

    bwrap    bubblewrap: own mount, process, network and IPC namespaces; sees only Python, its tree and a private /tmp
    user     (root without namespaces, e.g. in a container) another user id for every worker
    limits   the grader's own user

Each of them also gets everything in `lockdown.py`. Whatever the layer, the worker proves at its start that it cannot
open the grader's files; if it can, `SandboxError` is raised and nothing is graded.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from staff.grader import processes
from staff.student_side.protocol import Channel, Frame, PeerClosed, PeerTimeout, ProtocolError
from toolkit.errors import check_choice

LAYERS = ("bwrap", "user", "limits")
STAFF = Path(__file__).resolve().parents[1]
# Copied to where the worker can read it; everything else of the staff's is out of its sight.
WORKER_FILES = (
    "__init__.py",
    "student_side/*.py",
    "assignments/__init__.py",
    "assignments/*/__init__.py",
    "assignments/*/operations.py",
)
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
SYSTEM_FILES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/proc/cpuinfo", "/sys/devices/system/cpu")
START = (
    "import sys; sys.path.append(sys.argv[3]); from staff.student_side.worker import start; "
    "start(*map(int, sys.argv[1:3]), sys.argv[4])"
)
MEGABYTE = 1 << 20
MAX_DEPTH = 64  # of folders that a submission makes in its scratch folder


class SandboxError(Exception):
    """The student's process cannot be confined here; nothing may be graded."""


@dataclass(frozen=True)
class Limits:
    """What one worker may use. Times in seconds of the wall clock unless the name says CPU."""

    memory_mb: int = 4096
    disk_mb: int = 256
    file_mb: int = 128
    processes: int = 64
    cpu_s: int = 600
    start_s: float = 60.0
    threads: int = 2
    without: tuple[str, ...] = ()  # "landlock", "seccomp": left out by the tests that try each layer alone

    def as_rlimits(self) -> dict[str, int]:
        """For `lockdown.set_limits`. DATA and not AS: torch maps gigabytes of libraries that it never touches."""
        return {
            "DATA": self.memory_mb * MEGABYTE,
            "FSIZE": self.file_mb * MEGABYTE,
            "CPU": self.cpu_s,
            "NOFILE": 256,
            "CORE": 0,
            "MSGQUEUE": 0,
        }


@dataclass
class Place:
    """A private folder of one submission: `tree` (read by the worker), `scratch` (its /tmp), `code` (the worker's)."""

    root: Path
    tree: Path = field(init=False)
    scratch: Path = field(init=False)
    code: Path = field(init=False)

    def __post_init__(self) -> None:
        self.tree, self.scratch, self.code = (self.root / name for name in ("tree", "scratch", "code"))
        self.root.chmod(0o711)
        for path in [path for pattern in WORKER_FILES for path in STAFF.glob(pattern)]:
            copy = self.code / "staff" / path.relative_to(STAFF)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            copy.chmod(0o644)
        for folder in (self.tree, self.scratch):
            folder.mkdir()
        for folder in (self.tree, self.code, *(path for path in self.code.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        self.scratch.chmod(0o700)


@contextlib.contextmanager
def temporary_place():
    """A `Place` in a fresh temporary folder that is gone afterwards, whatever the worker made of its permissions."""
    root = Path(tempfile.mkdtemp(prefix="grade-"))
    try:
        yield Place(root)
    finally:
        _remove_tree(root)


def _remove_tree(path: Path) -> None:
    """Remove a folder or a file, however deep and whatever its permissions: Python's own stops at long paths."""
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        subprocess.run([*command, "--", str(path)], stderr=subprocess.DEVNULL, check=False)


def package_folders() -> list[str]:
    """Where our own packages are; the worker starts isolated and would not find them through PYTHONPATH."""
    return [path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and os.path.isdir(path)]


def _interpreters() -> list[str]:
    """Our own interpreter, then the system's of the same version, which other users can reach more often."""
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return [sys.executable, system] if os.path.exists(system) and system != sys.executable else [sys.executable]


def interpreter_folders() -> list[str]:
    """What the interpreter needs to read: its own prefix, the environment's, and where the packages are."""
    folders = [sys.base_prefix, sys.prefix, *package_folders()]
    return list(dict.fromkeys(os.path.realpath(folder) for folder in folders))


def check_layer(layer: str) -> str:
    """Why a layer cannot be used here; the empty string if it can. Tried out, not guessed."""
    check_choice("layer", layer, LAYERS)
    if layer == "bwrap":
        if shutil.which("bwrap") is None:
            return "bubblewrap is not installed (Debian package bubblewrap)"
        command = ["bwrap", *_BWRAP_NAMESPACES, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return "" if tried.returncode == 0 else f"bubblewrap does not work here: {tried.stderr.strip()[:200]}"
    if layer == "user":
        if os.geteuid() != 0:
            return "only root can start a process as another user"
        return "" if _reachable_interpreter() else f"another user cannot run {sys.executable} (folder permissions)"
    return ""


@functools.cache
def _reachable_interpreter() -> str | None:
    uid = processes.free_uid()
    code = f"import sys; sys.path.extend({package_folders()!r}); import torch.version, numpy"
    for executable in _interpreters():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = [executable, "-I", "-c", code]
            tried = subprocess.run(command, user=uid, group=uid, extra_groups=[], capture_output=True, timeout=60)
            if tried.returncode == 0:
                return executable
    return None


def choose_layer(require: str | None = None) -> tuple[str, list[str]]:
    """The strongest layer that works here and why stronger ones do not. SandboxError if `require` cannot be had."""
    if require is not None:
        reason = check_layer(require)
        if reason:
            raise SandboxError(f"--require {require}: {reason}")
        return require, []
    reasons = []
    for layer in LAYERS:
        reason = check_layer(layer)
        if not reason:
            return layer, reasons
        reasons.append(f"{layer}: {reason}")
    raise SandboxError("; ".join(reasons))


_BWRAP_NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")


def bwrap_command(place: Place, limits: Limits, as_root: bool) -> list[str]:
    """Nothing but the interpreter, system libraries and the submission's folder is in the worker's file system."""
    command = ["bwrap", *_BWRAP_NAMESPACES, "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if as_root:
        # Only to become another user (lockdown.become); they are gone before the first student's line.
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    else:
        command += ["--unshare-user", "--disable-userns"]
    command += [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/dev/shm",
        "--remount-ro",
        "/dev/shm",
        "--size",
        str(limits.disk_mb * MEGABYTE),
        "--tmpfs",
        "/tmp",
    ]
    shown = list(dict.fromkeys([*SYSTEM_FOLDERS, *interpreter_folders(), str(place.tree), str(place.code)]))
    # Folders above a mount are bwrap's own and closed to other users unless they are made first.
    for parent in dict.fromkeys(str(p) for path in shown for p in reversed(Path(path).parents) if str(p) != "/"):
        command += ["--perms", "0755", "--dir", parent]
    for path in shown:
        command += ["--ro-bind-try", path, path]
    command += ["--size", str(limits.disk_mb * MEGABYTE), "--perms", "1777", "--tmpfs", str(place.scratch)]
    return [*command, "--remount-ro", "/tmp", "--chdir", str(place.scratch), "--"]


def _environment(place: Place, threads: int) -> dict[str, str]:
    """All that the worker gets; nothing of the grader's own environment."""
    scratch = str(place.scratch)
    settings = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": scratch, "TMPDIR": scratch, "MPLBACKEND": "Agg"}
    settings |= {"MPLCONFIGDIR": scratch, "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0", "TQDM_DISABLE": "1"}
    return settings | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


class Confined:
    """One running worker. `channel` talks to it; `end()` kills it and all that it started."""

    stdin = subprocess.DEVNULL

    def __init__(self, place: Place, layer: str, limits: Limits, secret_paths: Sequence[str] = ()) -> None:
        self.place, self.layer, self.limits = place, layer, limits
        self.why_ended = ""
        self.in_force: list[str] = []
        self.output: deque[bytes] = deque(maxlen=64)
        as_root = os.geteuid() == 0
        self.uid = processes.free_uid() if as_root and layer in ("bwrap", "user") else None
        self.spared = set(processes.descendants(os.getpid()))
        to_worker, from_worker = os.pipe(), os.pipe()
        self.ends = (to_worker[0], from_worker[1])
        start = f"import sys; sys.path.extend({package_folders()!r}); {START}"
        command = [self._interpreter(), "-I", "-u", "-c", start, *map(str, self.ends), str(place.code), str(place.tree)]
        if layer == "bwrap":
            command = bwrap_command(place, limits, as_root) + command
        elif self.uid:
            os.chown(place.scratch, self.uid, self.uid)
        self.process = self._spawn(command)
        self.channel = Channel(from_worker[0], to_worker[1])
        self.watching = threading.Event()
        self.threads = [threading.Thread(target=target, daemon=True) for target in (self._drain, self._watch)]
        for thread in self.threads:
            thread.start()
        try:
            self._hand_over(list(secret_paths))
        except BaseException:
            self.end()
            raise

    def _interpreter(self) -> str:
        found = _reachable_interpreter() if self.layer == "user" else sys.executable
        if found is None:
            raise SandboxError(f"another user cannot run {sys.executable}")
        return found

    def _spawn(self, command: list[str]) -> subprocess.Popen:
        try:
            return subprocess.Popen(
                command,
                pass_fds=self.ends,
                cwd=self.place.scratch,
                env=_environment(self.place, self.limits.threads),
                stdin=self.stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            for fd in self.ends:
                os.close(fd)

    def _hand_over(self, secret_paths: list[str]) -> None:
        """Send the lockdown's settings and hear what is in force; refuse a worker that sees the grader's files."""
        rlimits = self.limits.as_rlimits()
        if self.uid:
            rlimits["NPROC"] = self.limits.processes
        readable = [*SYSTEM_FOLDERS, *SYSTEM_FILES, *interpreter_folders(), str(self.place.tree), str(self.place.code)]
        settings: dict = {"limits": rlimits, "readable": readable, "writable": [str(self.place.scratch)]}
        settings |= {name: name not in self.limits.without for name in ("landlock", "seccomp")}
        if self.uid:
            settings["uid"] = self.uid
        deadline = time.monotonic() + self.limits.start_s
        try:
            self.channel.send(Frame({"lockdown": settings, "secret_paths": secret_paths}), deadline)
            hello = self.channel.receive(deadline).header
        except (PeerClosed, PeerTimeout, ProtocolError) as error:
            raise SandboxError(f"the worker did not start: {error}; {self.printed()[-500:]}") from None
        self.in_force = [self.layer, *[name for name in hello["in_force"] if name != self.layer]]
        if hello["visible"]:
            raise SandboxError(f"layer {self.layer} ({', '.join(self.in_force)}) does not hide {hello['visible'][0]}")

    def _drain(self) -> None:
        while chunk := self.process.stdout.read1(4096):
            self.output.append(chunk)

    def printed(self) -> str:
        """The last of what the worker printed; anything may stand there."""
        return b"".join(self.output).decode("utf-8", "replace")

    def _watch(self) -> None:
        """End a worker that uses more memory or disk than allowed, all of its processes taken together."""
        while not self.watching.wait(0.25):
            if self.process.poll() is not None:
                return
            family = processes.descendants(self.process.pid)
            if sum(family.values()) > self.limits.memory_mb * MEGABYTE:
                self.why_ended = f"it used more than {self.limits.memory_mb} MB of memory"
            elif self.layer != "bwrap" and _disk_bytes(self.place.scratch) > self.limits.disk_mb * MEGABYTE:
                self.why_ended = f"it wrote more than {self.limits.disk_mb} MB or {MAX_DEPTH} folders into each other"
            if self.why_ended:
                processes.kill_now(self.process)
                return

    def end(self) -> None:
        """Kill the worker and all of its offspring, remove what it wrote. SandboxError if something would not go."""
        self.watching.set()
        left = processes.end_all(self.process, self.spared, self.uid)
        self.channel.close()
        for thread in self.threads:
            thread.join(timeout=5)
        self.process.stdout.close()
        for item in self.place.scratch.iterdir():
            _remove_tree(item)
        if left:
            raise SandboxError(f"processes {left} of the submission could not be ended")


def _disk_bytes(folder: Path) -> int:
    """Bytes beneath a folder; more than any limit where it is nested too deeply to be measured."""
    total, waiting = 0, [(str(folder), 0)]
    while waiting:
        path, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return 1 << 62
        with contextlib.suppress(OSError), os.scandir(path) as items:
            for item in items:
                with contextlib.suppress(OSError):
                    total += item.stat(follow_symlinks=False).st_blocks * 512
                    if item.is_dir(follow_symlinks=False):
                        waiting.append((item.path, depth + 1))
    return total
