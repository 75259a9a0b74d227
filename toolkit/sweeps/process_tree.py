"""Start a process so that nothing of it can be left behind, and end it with everything that it started.

On Linux the caller is made a subreaper: whatever a job starts, in its own session or orphaned by its parent, becomes a
child of the caller when its own parent ends, so "all my descendants" is everything. A job's main process dies with
the caller (parent death signal). Elsewhere the process group and a snapshot of the tree have to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

ON_LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True) if ON_LINUX else None
_is_reaper_of: int | None = None  # the process that became a subreaper; a forked child is none


def become_reaper() -> None:
    """Adopt orphaned descendants from now on (Linux; elsewhere nothing)."""
    global _is_reaper_of
    if ON_LINUX and _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0:
        _is_reaper_of = os.getpid()


def die_with_parent(parent: int, signal_number: int) -> None:
    """Ask Linux to send this process `signal_number` when `parent` ends; exit now if it already has."""
    if ON_LINUX:
        _libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def start(command: list[str], environment: dict[str, str], log: int) -> subprocess.Popen:
    """Start `command` in a session of its own, output and errors to the file descriptor `log`, no input."""
    options: dict = {}
    if ON_LINUX:
        parent = os.getpid()
        options["preexec_fn"] = lambda: die_with_parent(parent, signal.SIGKILL)
    if os.name == "nt":
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
    else:
        options["start_new_session"] = True
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options
    )


def descendants(pid: int) -> list[psutil.Process]:
    """Everything below process `pid`, and below this process too if it adopts orphans."""
    found: dict[int, psutil.Process] = {}
    for root in {pid, os.getpid()} if _is_reaper_of == os.getpid() else {pid}:
        with contextlib.suppress(psutil.Error):
            found.update((process.pid, process) for process in psutil.Process(root).children(recursive=True))
    return list(found.values())


def has_leftovers() -> bool:
    """False only if this process, as a reaper, has no child left at all; cheap, so it can be asked after each job."""
    if _is_reaper_of != os.getpid():
        return False
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass  # a dead orphan
        return True
    return False


def end_tree(process: subprocess.Popen, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
    """End `process` and all its descendants: politely, and after `grace_s` or when `hurry` says so with SIGKILL."""
    deadline = time.monotonic() + grace_s
    known: dict[int, psutil.Process] = {}  # kept over the rounds: an orphan of a dead parent is in no later snapshot
    asked: set[int] = set()
    while _update_living(process, known):
        kill = time.monotonic() >= deadline or hurry()
        for pid, one in known.items():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if kill:
                    one.kill()
                elif pid not in asked:
                    one.terminate()
        asked.update(known)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
        if process.returncode is not None:
            has_leftovers()  # reaps; before, it might take the exit code of the job itself
            time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def _update_living(process: subprocess.Popen, known: dict[int, psutil.Process]) -> bool:
    """Add the tree's new processes to `known`, drop those that have ended; True if any is left."""
    known.update((one.pid, one) for one in descendants(process.pid) if one.pid not in known)
    if process.poll() is None:
        with contextlib.suppress(psutil.Error):
            known.setdefault(process.pid, psutil.Process(process.pid))
    for pid, one in list(known.items()):
        try:
            ended = one.status() == psutil.STATUS_ZOMBIE or not one.is_running()
        except psutil.Error:
            ended = True
        if ended:
            del known[pid]
    return bool(known)
