"""Finding and ending processes that the student's code may have left behind (Linux, reads /proc)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


def guard_grader() -> None:
    """Make orphans of our children ours, and our memory and environment unreadable to processes of the same user."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _stat(pid: int) -> tuple[int, str, int] | None:
    """(parent, state, resident bytes) of a process; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), fields[0], int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _snapshot() -> dict[int, tuple[int, str, int]]:
    return {pid: stat for pid in _all_pids() if (stat := _stat(pid))}


def descendants(root: int, table: dict[int, tuple[int, str, int]] | None = None) -> dict[int, int]:
    """Process id -> resident bytes of every living process below `root`, zombies left out; `table`: an earlier look."""
    table = _snapshot() if table is None else table
    found: dict[int, int] = {}
    grew = True
    while grew:
        grew = False
        for pid, (parent, _, resident) in table.items():
            if pid not in found and (parent == root or parent in found):
                found[pid], grew = resident, True
    return {pid: resident for pid, resident in found.items() if table[pid][1] != "Z"}


def waiting_times(root: int) -> dict[str, float]:
    """Thread -> seconds that it was ready to run and had no processor, for all of `root` and below; {} if not known.

    Asked at every request, so it follows the kernel's lists of children and does not look at all processes: a child
    that ends just now may be missed, which `descendants` must not.
    """
    found: dict[str, float] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                    found[thread] = int(file.read().split()[1]) / 1e9
                with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                    waiting += map(int, file.read().split())
    return found


def waited_since(before: dict[str, float], root: int) -> float:
    """The longest that a thread has waited for a processor since `before` (of waiting_times)."""
    return max((now - before.get(thread, 0.0) for thread, now in waiting_times(root).items()), default=0.0)


def strays(spared: set[int]) -> list[int]:
    """Living processes below this one that neither are in `spared` nor hang below it.

    Both sides come from one snapshot: with two, a process that a spared one starts in between would look like a stray.
    """
    table = _snapshot()
    safe = spared.union(*(descendants(pid, table) for pid in spared))
    return [pid for pid in descendants(os.getpid(), table) if pid not in safe]


def of_user(uid: int) -> list[int]:
    """Processes that belong to a user, zombies left out."""
    found = []
    for pid in _all_pids():
        with contextlib.suppress(OSError):
            stat = _stat(pid)
            if os.stat(f"/proc/{pid}").st_uid == uid and stat and stat[1] != "Z":
                found.append(pid)
    return found


def free_uid(first: int = 61184, last: int = 65519) -> int:
    """A user id from systemd's dynamic range that no process has; each worker gets its own, so they cannot meet."""
    taken = set()
    for pid in _all_pids():
        with contextlib.suppress(OSError):
            taken.add(os.stat(f"/proc/{pid}").st_uid)
    free = [uid for uid in range(first, last) if uid not in taken]
    return free[int.from_bytes(os.urandom(4), "big") % len(free)]


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _kill_user(uid: int) -> None:
    """kill(-1) as that user: reaches all of its processes at once, so none can fork faster than it is found."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def kill_now(process: subprocess.Popen) -> None:
    """SIGKILL to a child and what hangs below it, without waiting."""
    if process.poll() is None:
        _kill([process.pid, *descendants(process.pid)])


def end_all(process: subprocess.Popen, spared: set[int], uid: int | None, patience_s: float = 30.0) -> list[int]:
    """Kill a child and everything that came from it; process ids that would not go (empty when all is well).

    `uid`: the user that only this child and its offspring have, None if it runs as the grader's own user. In that case
    its orphans became our children, because the grader is a subreaper; `spared` are our children that are not its.
    """
    deadline = time.monotonic() + patience_s
    while True:
        _kill(_offspring(process, spared, uid))
        if uid:
            _kill_user(uid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        _reap(spared | {process.pid})
        left = _offspring(process, spared, uid)
        if not left or time.monotonic() > deadline:
            return sorted(set(left))


def _offspring(process: subprocess.Popen, spared: set[int], uid: int | None) -> list[int]:
    found = [] if process.poll() is not None else [process.pid, *descendants(process.pid)]
    if uid:
        return found + of_user(uid)
    return found + strays(spared)


def _reap(spared: set[int]) -> None:
    """Collect orphans that ended, so that no zombie stays; other code waits for those in `spared`."""
    for pid in _all_pids():
        stat = _stat(pid)
        if stat and stat[0] == os.getpid() and stat[1] == "Z" and pid not in spared:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
