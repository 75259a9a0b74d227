"""What Slurm's own commands say. Accounting (sacct) is not needed: many clusters do not have it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time

from toolkit.errors import UserError

COMMAND_TIMEOUT_S = 60
_cache: dict[str, tuple[float, set[str] | None]] = {}


def active_ids(max_age_s: float = 2.0) -> set[str] | None:
    """Ids ('12' or '12_3') of this user's jobs that wait or run; None if squeue is missing or does not answer.

    An answer is used for `max_age_s` seconds, because squeue asks the one controller that all users share.
    """
    asked, ids = _cache.get("ids", (0.0, None))
    if time.monotonic() - asked > max_age_s or not asked:
        ids = _ask_squeue()
        _cache["ids"] = (time.monotonic(), ids)
    return ids


def forget() -> None:
    """Ask squeue anew next time: after a submission an old answer would call the new tasks lost."""
    _cache.clear()


def _ask_squeue() -> set[str] | None:
    if shutil.which("squeue") is None:
        return None
    try:
        # -r: one line for each task of an array; only states in which a task can still run or is running.
        states = "PENDING,RUNNING,CONFIGURING,SUSPENDED,REQUEUED,REQUEUE_HOLD,RESIZING,SIGNALING,STOPPED"
        command = ["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i", "-t", states]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(done.stdout.split()) if done.returncode == 0 else None


def cancel(ids: list[str], now: bool) -> None:
    """scancel: SIGTERM first, so that the tasks write their status; `now` means SIGKILL."""
    for start in range(0, len(ids), 500):  # a command line has its limits
        words = ["scancel", *(["--signal=KILL"] if now else []), *ids[start : start + 500]]
        subprocess.run(words, capture_output=True, timeout=COMMAND_TIMEOUT_S)


def max_array_size() -> int:
    """The most tasks that one array may have here (MaxArraySize - 1, 1000 unless the cluster says otherwise)."""
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return 1000
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(1, min(1000, int(found.group(1)) - 1)) if found else 1000


def seconds_of(limit: str) -> int:
    """Seconds of a Slurm time limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    if not re.fullmatch(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", limit):
        raise UserError(f"slurm_time is {limit!r}; allowed: MINUTES, M:S, H:M:S, D-H, D-H:M, D-H:M:S")
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = (0, *parts, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
