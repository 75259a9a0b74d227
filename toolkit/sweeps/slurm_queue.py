"""What Slurm's own commands say. Accounting (sacct) is not needed: many clusters do not have it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time

from toolkit.errors import UserError

COMMAND_TIMEOUT_S = 60
_cache: dict[str, tuple[float, dict[str, str] | None]] = {}


def active_ids(max_age_s: float = 2.0) -> dict[str, str] | None:
    """Id ('12' or '12_3') -> state (PENDING, RUNNING, ...) of this user's jobs that have not ended.

    None if squeue is missing or does not answer.

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


def _ask_squeue() -> dict[str, str] | None:
    if shutil.which("squeue") is None:
        return None
    try:
        # -r: one line for each task of an array; only states in which a task can still run or is running.
        states = "PENDING,RUNNING,CONFIGURING,SUSPENDED,REQUEUED,REQUEUE_HOLD,RESIZING,SIGNALING,STOPPED"
        command = ["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i %T", "-t", states]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return dict(line.split() for line in done.stdout.splitlines()) if done.returncode == 0 else None


def last_state(slurm_id: str) -> str | None:
    """How Slurm says that a job ended: COMPLETED, FAILED, CANCELLED, OUT_OF_MEMORY, NODE_FAIL, ...; None if it forgot.

    scontrol knows it for some minutes (MinJobAge) on every cluster, sacct for long where there is accounting.
    """
    questions = (
        (["scontrol", "-o", "show", "job", slurm_id], r"\bJobState=([A-Z_]+)"),
        (["sacct", "-X", "-n", "-P", "-j", slurm_id, "-o", "State"], r"^([A-Z_]+)"),
    )
    for command, pattern in questions:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
            found = re.search(pattern, done.stdout, re.MULTILINE) if done.returncode == 0 else None
            if found:
                return found.group(1)
    return None


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
