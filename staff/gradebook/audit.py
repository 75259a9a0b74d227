"""`audit.jsonl`: what was graded, decided and published, when, by whom and by which grader. Lines are only added.

Each line holds part of the SHA-256 of the line before it, so that a line that was changed or taken out is noticed.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from staff.gradebook.decisions import Decision

NAME = "audit.jsonl"


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """(Entries in order, what is wrong with the file: lines that do not parse or do not follow from those before)."""
    entries, faults, previous = [], [], ""
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], 1):
        try:
            entry = json.loads(line)
            entry["event"], entry["time"]
        except (ValueError, KeyError, TypeError):
            faults.append(f"{path.name}, line {number} is no entry (cut off?)")
            continue
        if entry.get("after") != previous:
            faults.append(f"{path.name}, line {number} does not follow from the line before: something was changed")
        entries.append(entry)
        previous = _digest(line)
    return entries, faults


def append(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Add entries, each with the time and who runs this unless it says so itself."""
    entries = list(entries)
    if not entries:
        return
    with FileLock(f"{path}.lock", timeout=30):
        before = path.read_bytes() if path.is_file() else b""
        whole = [line for line in before.splitlines() if _is_entry(line)]
        previous, lines = _digest(whole[-1]) if whole else "", []
        for entry in entries:
            stamp = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "by": user()}
            line = json.dumps({**stamp, **entry, "after": previous}, ensure_ascii=False, default=str).encode()
            previous = _digest(line)
            lines.append(line)
        gap = b"\n" if before and not before.endswith(b"\n") else b""  # behind a line that was cut off
        with open(path, "ab") as file:
            file.write(gap + b"\n".join(lines) + b"\n")
            file.flush()
            os.fsync(file.fileno())


def user() -> str:
    """Who runs this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def note_decisions(path: Path, decisions: Iterable[Decision]) -> None:
    """Log what changed in the decisions file since it was last looked at: also what was edited or deleted by hand."""
    logged: dict[str, int] = {}
    for entry in read(path)[0]:
        if entry["event"] in ("decision", "decision removed"):
            step = 1 if entry["event"] == "decision" else -1
            logged[_key(entry["decision"])] = logged.get(_key(entry["decision"]), 0) + step
    now: dict[str, int] = {}
    values = {}
    for one in decisions:
        value = {
            k: str(v) if k == "when" else v
            for k, v in asdict(one).items()
            if k != "line" and v not in (None, "") and v is not False
        }
        values[_key(value)] = value
        now[_key(value)] = now.get(_key(value), 0) + 1
    new = [value for key, value in values.items() for _ in range(now[key] - logged.get(key, 0))]
    gone = [json.loads(key) for key, count in logged.items() for _ in range(count - now.get(key, 0))]
    append(path, [{"event": "decision", "decision": value} for value in new])
    append(path, [{"event": "decision removed", "decision": value} for value in gone])


def _key(decision: dict[str, Any]) -> str:
    return json.dumps(decision, sort_keys=True, ensure_ascii=False)


def note_gradings(path: Path, assignment: str, rows: Iterable[dict[str, Any]]) -> None:
    """Log every result that counts now and did not before: grader's commit, seed, hash of the files, points."""
    last = {}
    for entry in read(path)[0]:
        if entry["event"] == "graded" and entry["assignment"] == assignment:
            last[entry["student"]] = entry["job"]
    new = []
    for row in rows:
        results = row["results"]
        if results and last.get(row["name"]) != row["job"]:
            new.append(
                {
                    "event": "graded",
                    "student": row["name"],
                    "assignment": assignment,
                    "job": row["job"],
                    "graded_at": results.get("graded_at", ""),
                    "grader": results.get("grader", {}).get("commit", "unknown"),
                    "seed": results.get("staff_only", {}).get("seed"),
                    "sha256": results["submission"]["sha256"],
                    "commit": row.get("commit", ""),
                    "points": results["score"],
                    "extra": results["extra"],
                    "part": results.get("graded_again", ""),
                }
            )
    append(path, new)
