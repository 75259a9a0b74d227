"""One job: a configuration of a script, its folder, and the status that every engine reads and writes.

A job's folder is named by a readable part and a hash of script and command line, so the same configuration has the same
folder whoever runs it. In it: config.json, log.txt, status.json, results.json, history.csv, run/ (the script's own run
folder, if it has --output_dir) and one small claim.N for each time that the job was started.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from typing import Any

STATES = ("queued", "running", "done", "failed", "stopped")
PRUNED = "pruned"  # the cause of a job that was stopped because it was hopeless: it is not run again


@dataclass
class Job:
    """What to run. `argv` are the configuration's flags; the dispatcher adds its own (--results_path) at the start."""

    name: str
    config: dict[str, Any]
    argv: list[str]

    @staticmethod
    def build(script_name: str, config: dict[str, Any], argv: list[str]) -> Job:
        """Name the job after what is really executed: equal command lines are one job."""
        digest = hashlib.sha256(json.dumps([script_name, argv]).encode()).hexdigest()[:12]
        config = {name: value for name, value in config.items() if value is not None}
        # From the command line, not from the JSON: 1 and 1.0 of one float flag are one job and need one name.
        words = [f",{word.lstrip('-')}" if word.startswith("--") else f"={word}" for word in argv]
        readable = "".join(words).strip(",")
        # Names must suit every file system and shell; 80 characters keep whole paths under Windows' 260.
        readable = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", readable)[:80].strip("._,") or "job"
        return Job(f"{readable}-{digest}", config, argv)


@dataclass
class Status:
    """The content of status.json. Times are seconds since 1970; `seconds` is the run time of the last attempt."""

    state: str = "queued"
    attempt: int = 0
    cause: str | None = None  # kind of a failure or stop: exit code, signal, timeout, out of memory, bad results, ...
    detail: str | None = None  # one line for people
    engine: str | None = None
    device: str | None = None
    host: str | None = None
    pid: int | None = None
    slurm_id: str | None = None
    started: float | None = None
    ended: float | None = None
    seconds: float | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)  # attempt, state, cause, detail of earlier attempts

    @property
    def is_settled(self) -> bool:
        """True if the job is never run again: it is done, or was stopped as hopeless."""
        return self.state == "done" or (self.state == "stopped" and self.cause == PRUNED)

    @property
    def has_ended(self) -> bool:
        return self.state in ("done", "failed", "stopped")

    @property
    def reason(self) -> str:
        """Cause and detail as one text: 'timeout: ran longer than 60 s', 'exit code 7: the last words'."""
        detail = self.detail or ""
        return detail if self.cause and detail.startswith(self.cause) else f"{self.cause}: {detail}"


def write_json(path: str, value: Any, indent: int | None = 1) -> None:
    """Write JSON by atomic rename, so that no reader ever sees half of it. Without indent it is 10 times as fast."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def read_json(path: str) -> Any:
    """The JSON in `path`, or None if there is no file or it is broken."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except (OSError, ValueError):
        return None


def read_status(folder: str) -> Status:
    """The job's status; a job without a readable status is queued."""
    found = read_json(os.path.join(folder, "status.json"))
    if not isinstance(found, dict) or found.get("state") not in STATES:
        return Status()
    known = Status.__dataclass_fields__
    return Status(**{name: value for name, value in found.items() if name in known})


def write_status(folder: str, status: Status) -> None:
    """Write status.json without the fields that have no value yet."""
    fields = {name: value for name, value in asdict(status).items() if value not in (None, [])}
    write_json(os.path.join(folder, "status.json"), fields)


def next_attempt(previous: Status) -> Status:
    """The status of one more attempt: empty but for its number and the list of what was before."""
    earlier = list(previous.earlier)
    if previous.attempt:
        earlier.append({n: getattr(previous, n) for n in ("attempt", "state", "cause", "detail", "engine")})
    return Status(state="running", attempt=previous.attempt + 1, earlier=earlier)


def read_results(folder: str) -> tuple[dict[str, Any] | None, str]:
    """(results, '') or (None, what is wrong with results.json)."""
    path = os.path.join(folder, "results.json")
    try:
        with open(path, "rb") as file:
            results = json.loads(file.read())
    except FileNotFoundError:
        return None, "the script ended without writing its results to --results_path"
    except UnicodeDecodeError:
        return None, "results.json is not UTF-8 text"
    except json.JSONDecodeError as error:
        return None, f"results.json is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    if not isinstance(results, dict):
        return None, f"results.json holds a {type(results).__name__}; it must hold one JSON object"
    return results, ""


def history_path(folder: str) -> str:
    """Where the job's history.csv is or will be: the script's run folder while it runs, else the job's folder."""
    path = os.path.join(folder, "run", "history.csv")
    return path if os.path.exists(path) else os.path.join(folder, "history.csv")


def read_history(folder: str) -> dict[str, list[float]]:
    """The columns of history.csv as floats; a last line that is still being written is left out."""
    try:
        with open(history_path(folder), newline="", encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError):
        return {}
    rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    columns: dict[str, list[float]] = {name: [] for name in (rows[0] if rows else [])}
    for row in rows[1:]:
        for name, cell in zip(columns, row, strict=False):
            try:
                columns[name].append(float(cell))
            except ValueError:
                columns[name].append(float("nan"))
    return columns


def write_history(folder: str, results: dict[str, Any]) -> None:
    """Leave a history.csv in the job's folder: the script's own, else the lists of results['history']."""
    path = os.path.join(folder, "history.csv")
    own = os.path.join(folder, "run", "history.csv")
    if os.path.exists(own):
        with open(own, "rb") as source, open(path, "wb") as target:
            target.write(source.read())
        return
    history = results.get("history")
    columns = {n: v for n, v in history.items() if isinstance(v, list)} if isinstance(history, dict) else {}
    if not columns:
        return
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = ([] if "epoch" in columns else ["epoch"]) + list(columns)
        writer.writerow(names)
        for index in range(max(map(len, columns.values()))):
            values = {name: column[index] if index < len(column) else "" for name, column in columns.items()}
            writer.writerow([values.get(name, index + 1) for name in names])
