"""Start a process so that nothing of it can be left behind, and find everything that it started.

On Linux the caller is made a subreaper: whatever a job starts, in its own session or orphaned by its parent, becomes a
child of the caller when its own parent ends, so nothing gets out of sight. Elsewhere the tree below the job has to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

import psutil

ON_LINUX = sys.platform == "linux"
MARK = "SWEEP_JOB"  # environment variable with the job's folder; its descendants inherit it
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True) if ON_LINUX else None
_reaper: int | None = None  # the process that became a subreaper; a forked child is none


def become_reaper() -> None:
    """Adopt orphaned descendants from now on (Linux; elsewhere nothing)."""
    global _reaper
    if ON_LINUX and _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0:
        _reaper = os.getpid()


def is_reaper() -> bool:
    return _reaper == os.getpid()


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when `parent` ends; exit now if it already has."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def start(command: list[str], environment: dict[str, str], log: int, dies_with_us: bool) -> subprocess.Popen:
    """Start `command` in a session of its own, output and errors to the file descriptor `log`, no input.

    `dies_with_us` makes Linux kill it at our death. That needs a fork (3 ms) where else a vfork (0.7 ms) would do, and
    is not needed if somebody else adopts the job.
    """
    options: dict = {}
    if ON_LINUX and dies_with_us:
        parent = os.getpid()
        options["preexec_fn"] = lambda: _die_with(parent)
    if os.name == "nt":
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
    else:
        options["start_new_session"] = True
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options
    )


def below(pid: int) -> list[psutil.Process]:
    """All descendants of process `pid`."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def children_of_ours() -> list[int]:
    """Pids of our own children. One file on Linux, where a look through all of /proc would take milliseconds."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return [child.pid for child in psutil.Process().children()]


def mark_of(pid: int) -> str | None:
    """The folder of the job that process `pid` belongs to, None if it cannot be told."""
    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).environ().get(MARK)
    return None


def is_running(process: psutil.Process) -> bool:
    """False for zombies and for a pid that somebody else has by now."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def family_alone(process: subprocess.Popen) -> list[psutil.Process]:
    """What a job has started, if it is the only job of this process: with a reaper that is all below us."""
    if not is_reaper():
        return below(process.pid)
    if not children_of_ours():
        return []
    return [one for one in below(os.getpid()) if one.pid != process.pid]


def reap_orphans() -> None:
    """Let dead orphans go. Only when the job itself has been waited for: this would take its exit code."""
    with contextlib.suppress(ChildProcessError, AttributeError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_marked(folders: list[str]) -> None:
    """Kill every process of this machine that belongs to one of these jobs. For when their guard has been killed."""
    for _ in range(100):
        found = [one for one in psutil.process_iter() if is_running(one) and mark_of(one.pid) in folders]
        if not found:
            return
        for one in found:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(found, timeout=0.05)
