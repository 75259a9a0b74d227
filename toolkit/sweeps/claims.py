"""Who may run a job: at most one process at a time, on any machine that shares the folder.

The n-th start of a job needs the file claim.n, which the operating system lets exactly one process create (O_EXCL).
Claims are never deleted or taken over, so there is no moment at which two processes can both believe that they have
replaced a dead owner: to run the job again, somebody has to be the one who creates claim.(n+1).
"""

from __future__ import annotations

import functools
import json
import os
import socket
import time
from typing import Any

from toolkit.sweeps import slurm_queue

HEARTBEAT_S = 15
SILENT_S = 120  # an owner on another host that has not touched its claim for so long is dead (8 missed heartbeats)


@functools.cache
def _boot_id() -> str:
    """Differs after each start of the machine, and between machines that share a host name."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def process_start(pid: int) -> str | None:
    """When process `pid` of this machine was started, in a form that identifies it; None if it is not running."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else f"{fields[19].decode()}@{_boot_id()}"
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            return None
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.1f}"
    except psutil.Error:
        return None


def claim_path(folder: str, number: int) -> str:
    return os.path.join(folder, f"claim.{number}")


def newest_claim(folder: str) -> int:
    """The number of the last claim on the job, 0 if there was none."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    return max((int(name[6:]) for name in names if name.startswith("claim.") and name[6:].isdecimal()), default=0)


def take(folder: str, number: int, slurm_id: str | None = None) -> bool:
    """Create claim `number` for this process; False if somebody else has it."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "start": process_start(os.getpid())}
    if slurm_id:
        owner["slurm_id"] = slurm_id
    try:
        file = os.open(claim_path(folder, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(file, json.dumps(owner).encode())  # one write: a reader sees all of it or an empty file
    finally:
        os.close(file)
    return True


def keep_alive(folder: str, number: int) -> None:
    """Touch the claim, so that other hosts see that its owner lives."""
    os.utime(claim_path(folder, number))


def owner_of(folder: str, number: int) -> dict[str, Any]:
    """What the claim says about its owner; empty if there is no such claim or it is still being written."""
    try:
        with open(claim_path(folder, number), "rb") as file:
            return json.loads(file.read() or b"{}")
    except (OSError, ValueError):
        return {}


def is_alive(folder: str, number: int) -> bool:
    """True if the process that created claim `number` still runs, as far as can be told from this machine."""
    try:
        silent_s = time.time() - os.stat(claim_path(folder, number)).st_mtime
    except FileNotFoundError:
        return False
    owner = owner_of(folder, number)
    if not owner:  # created, not yet written: a moment, unless the owner died in just that moment
        return silent_s < 10
    if owner["host"] == socket.gethostname():
        return process_start(owner["pid"]) == owner["start"]
    active = slurm_queue.active_ids() if "slurm_id" in owner else None
    return silent_s < SILENT_S if active is None else owner["slurm_id"] in active
