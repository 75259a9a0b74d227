"""One job: a configuration of a script, its folder, its status, who may run it, and why it ended as it did.

The name of the folder ends in a hash of script and command line, so a configuration has one folder whoever runs it.
In it: config.json, log.txt, status.json, results.json, history.csv, run/ (that of a script with --output_dir).

At most one process runs a job, on any machine that shares the folder: the n-th start needs the file claim.n, which the
operating system lets exactly one process create (O_EXCL). Claims are never deleted or taken over, so there is no moment
at which two processes can both believe that they have replaced a dead owner.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

from toolkit import json_file
from toolkit.errors import UserError

STATES = ("queued", "running", "done", "failed", "stopped")
EXIT, SIGNAL, TIMEOUT, OUT_OF_MEMORY = "exit code", "signal", "timeout", "out of memory"
BAD_RESULTS, LOST, FOLDER = "bad results", "lost", "folder"
PRUNED, INTERRUPTED, PREEMPTED = "pruned", "interrupted", "preempted"  # causes of a stop
RESUMABLE = (LOST, SIGNAL, PREEMPTED, INTERRUPTED, TIMEOUT)  # the run folder of such an attempt is as good as before
HEARTBEAT_S = 15
SILENT_S = 120  # an owner out of our sight that has not touched its claim for so long is dead (8 missed heartbeats)
MEMORY_MESSAGES = re.compile(
    r"CUDA out of memory|out of GPU memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory|"
    r"MPS backend out of memory|DefaultCPUAllocator: can't allocate|^MemoryError|std::bad_alloc",
    re.MULTILINE,
)
# A second try of these ends in the same place: they are mistakes in the code or in the flags.
MISTAKES = re.compile(
    r"^(?:\w+\.)*(NotImplementedError|ImportError|ModuleNotFoundError|SyntaxError|IndentationError|TabError|NameError|"
    r"UnboundLocalError|TypeError|AttributeError|ValueError|UserError|KeyError|IndexError|AssertionError|"
    r"ZeroDivisionError|FileNotFoundError|PermissionError|error)\b"
)
USER_ERROR_CODE = 2  # argparse and the mains of this course end so


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
        # From the command line, not from the JSON: 1 and 1.0 of one float flag are one job and need one name.
        words = "".join(f",{word.lstrip('-')}" if word.startswith("--") else f"={word}" for word in argv)
        # Names must suit every file system and shell; 80 characters keep whole paths under Windows' 260.
        readable = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", words.strip(","))[:80].strip("._,") or "job"
        return Job(f"{readable}-{digest}", {n: value for n, value in config.items() if value is not None}, argv)


@dataclass
class Task:
    """One start of one job. Plain values only: it travels to other processes as JSON."""

    folder: str
    command: list[str]
    attempt: int  # the claim that must be free; if another process has it, nothing is run
    config: dict[str, Any] = field(default_factory=dict)  # content of config.json: script, config, argv, code
    environment: dict[str, str] = field(default_factory=dict)  # on top of this process's own
    resume_argv: list[str] = field(default_factory=list)  # added if the attempt before left a run/last.pt; may be empty
    timeout_s: float = 0  # 0: none
    grace_s: float = 5.0  # between SIGTERM and SIGKILL
    engine: str = "local"
    device: str | None = None
    slurm_id: str | None = None


@dataclass
class Status:
    """The content of status.json. Times are seconds since 1970; `seconds` is the run time of the last attempt."""

    state: str = "queued"
    attempt: int = 0
    cause: str | None = None  # kind of a failure or stop, one of the constants above
    detail: str | None = None  # one line for people
    engine: str | None = None
    device: str | None = None
    host: str | None = None
    pid: int | None = None
    slurm_id: str | None = None
    started: float | None = None
    ended: float | None = None
    seconds: float | None = None
    memory_mb: float | None = None  # most resident memory of the job's main process
    script: str | None = None
    code: str | None = None  # digest of the script and of what it imports from the project
    resumed: bool = False  # this attempt went on from the last.pt of the one before
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

    @property
    def may_help_to_retry(self) -> bool:
        """True for crashes and for stops that were not asked for; False for mistakes, timeouts and missing results."""
        if self.cause in (SIGNAL, LOST, PREEMPTED) or (self.resumed and self.state == "failed"):
            return True
        code, _, line = (self.detail or "").removeprefix("exit code ").partition(": ")
        return self.cause == EXIT and code != str(USER_ERROR_CODE) and not MISTAKES.match(line)


def write_json(path: str, value: Any, is_new: bool = False) -> None:
    """Write JSON, see `write_text`."""
    write_text(path, json.dumps(value, ensure_ascii=False) + "\n", is_new)


def write_text(path: str, text: str, is_new: bool = False) -> None:
    """Write a file by atomic rename, so that no reader ever sees half of it.

    One that is probably new (`is_new`) is created in its place, which is cheaper: a reader that comes in that moment
    takes half of it for none. Half a surrogate pair, which UTF-8 does not have, is written as JSON writes it.
    """
    is_new = is_new and not os.path.exists(path)
    temporary = path if is_new else f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(text)
    if not is_new:
        os.replace(temporary, path)


def read_json(path: str) -> Any:
    """The JSON in `path`, or None if there is no file, it cannot be read or it is broken."""
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
    return Status(**{name: value for name, value in found.items() if name in Status.__dataclass_fields__})


def write_status(folder: str, status: Status, is_new: bool = False) -> None:
    """Write status.json without the fields that have no value yet."""
    fields = {name: value for name, value in vars(status).items() if value}
    write_json(os.path.join(folder, "status.json"), fields, is_new)


def next_attempt(previous: Status, number: int) -> Status:
    """The status of one more attempt: empty but for its number and the list of what was before."""
    before = {name: getattr(previous, name) for name in ("attempt", "state", "cause", "detail", "engine")}
    return Status("running", number, earlier=[*previous.earlier, *([before] if previous.attempt else [])])


def request_stop(folder: str, attempt: int, cause: str, detail: str) -> None:
    """Ask attempt `attempt` of a job, wherever it runs, to stop with this cause; it answers within about a second."""
    write_json(os.path.join(folder, "stop.json"), {"attempt": attempt, "cause": cause, "detail": detail})


def requested_stop(folder: str, attempt: int) -> tuple[str, str] | None:
    """(cause, detail) if a request was made, on any machine, to end this attempt."""
    found = read_json(os.path.join(folder, "stop.json"))
    is_ours = isinstance(found, dict) and found.get("attempt") == attempt
    return (found["cause"], found["detail"]) if is_ours else None


def read_results(folder: str) -> tuple[dict[str, Any] | None, str]:
    """(results, '') or (None, what is wrong with results.json)."""
    path = os.path.join(folder, "results.json")
    if not os.path.exists(path):
        return None, "the script ended without writing its results to --results_path"
    try:
        results = json_file.read_json(path)
    except UserError as error:
        return None, str(error).replace(path, "results.json")
    if not isinstance(results, dict):
        return None, f"results.json holds a {type(results).__name__}; it must hold one JSON object"
    return results, ""


def read_history(folder: str) -> dict[str, list[float]]:
    """The columns of history.csv as floats, NaN where there is no number; a line that is still written is left out."""
    own = os.path.join(folder, "run", "history.csv")  # the script's, while it runs
    path = own if os.path.exists(own) else os.path.join(folder, "history.csv")
    try:
        with open(path, encoding="utf-8-sig") as file:
            reader = csv.DictReader(line for line in file if line.endswith("\n"))
            names, rows = reader.fieldnames or (), list(reader)
    except (OSError, ValueError, csv.Error):  # no file, no text, no table
        return {}
    return {name: [to_number(row[name]) for row in rows] for name in names}


def to_number(cell: str | None) -> float:
    """NaN for a cell that holds no number, or is missing at the end of a short line."""
    try:
        return float(cell or "nan")
    except ValueError:
        return float("nan")


def write_history(folder: str, results: dict[str, Any]) -> None:
    """Leave a history.csv in the job's folder: the script's own, else the lists of results['history']."""
    own, path = (os.path.join(folder, *parts) for parts in (("run", "history.csv"), ("history.csv",)))
    history = results.get("history")
    columns = {n: v for n, v in history.items() if isinstance(v, list)} if isinstance(history, dict) else {}
    with contextlib.suppress(OSError):  # a curve is not worth a job that is done
        if os.path.exists(own):
            shutil.copyfile(own, path)
        elif columns:
            columns = {"epoch": list(range(1, 1 + max(map(len, columns.values())))), **columns}
            with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                csv.writer(file).writerows([columns, *itertools.zip_longest(*columns.values(), fillvalue="")])


def read_tail(folder: str, size: int = 4000, since: int = 0) -> str:
    """The last `size` bytes of the job's log.txt, but nothing from before byte `since`."""
    try:
        with open(os.path.join(folder, "log.txt"), "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(since, file.tell() - size))
            return file.read().decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


def explain_exit(code: int, log_tail: str) -> tuple[str, str]:
    """(kind, one line) for a job that ended with `code`; negative codes are signals, as in subprocess."""
    # The last line that says something; progress bars overwrite theirs with carriage returns.
    lines = [line.rsplit("\r", 1)[-1].strip() for line in log_tail.splitlines()]
    line = next((line[:300] for line in reversed(lines) if line), "")
    # Who noticed it, tried something smaller and died of another mistake did not die of it.
    out_of_memory = MEMORY_MESSAGES.search(line if MISTAKES.match(line) else log_tail) is not None
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        return (OUT_OF_MEMORY if out_of_memory else SIGNAL), f"ended by {name}" + (f" after: {line}" if line else "")
    said = f"exit code {code}: {line}" if line else f"exit code {code}"
    return (OUT_OF_MEMORY, line) if out_of_memory else (EXIT, said)


@functools.cache
def this_machine() -> str:
    """Host name, start of the system, and pid namespace: a pid means the same process only where all three agree."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(pid: int) -> float | None:
    """When process `pid` of this machine was started, to tell it from a later one; None if it is not running.

    On Linux in ticks since the start of the system: seconds since 1970 shift when the clock is set.
    """
    with contextlib.suppress(psutil.Error, OSError):
        if sys.platform == "linux":
            with open(f"/proc/{pid}/stat", "rb") as file:
                state, *numbers = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
            return None if state in (b"Z", b"X") else float(numbers[18])
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    return None


def claim_path(folder: str, number: int) -> str:
    return os.path.join(folder, f"claim.{number}")


def newest_claim(folder: str) -> int:
    """The number of the last claim on the job, 0 if there was none."""
    names: list[str] = []
    with contextlib.suppress(OSError):  # there is none yet, or it is another user's
        names = os.listdir(folder)
    return max((int(name[6:]) for name in names if name.startswith("claim.") and name[6:].isdecimal()), default=0)


def take_claim(folder: str, number: int) -> bool:
    """Create claim `number` for this process; False if another process has it."""
    owner = {"pid": os.getpid(), "machine": this_machine(), "since": process_start(os.getpid())}
    try:
        file = os.open(claim_path(folder, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with open(file, "wb", buffering=0) as claim:  # one write: a reader sees all of it or an empty file
        claim.write(json.dumps(owner).encode())
    return True


def owner_of(folder: str, number: int) -> dict[str, Any]:
    """What the claim says about its owner; empty if there is no such claim or it is still being written."""
    return read_json(claim_path(folder, number)) or {}


_watched: dict[str, tuple[int, float]] = {}  # claim -> its time stamp, and since when by our own clock it has that


def is_alive(folder: str, number: int) -> bool:
    """True if the process that created claim `number` still runs, as far as can be told from here.

    An owner on another machine (or in another container) touches its claim every 15 s. Clocks of machines differ, so no
    time stamp is compared with ours: the owner is dead when we have seen the same stamp for 120 s.
    """
    path = claim_path(folder, number)
    try:
        stamp = os.stat(path).st_mtime_ns
    except OSError:
        return False
    owner = owner_of(folder, number)
    if owner.get("machine") == this_machine():
        return (process_start(owner["pid"]) or "dead") == owner.get("since")
    before, since = _watched.get(path, (None, 0.0))
    if before != stamp:
        _watched[path] = (stamp, time.monotonic())
        return True
    return time.monotonic() - since < (SILENT_S if owner else 10)  # empty: created, and its owner died in that moment
