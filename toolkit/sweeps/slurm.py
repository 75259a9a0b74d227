"""The Slurm engine: submits tasks as job arrays through submitit and learns of their end from our own status files.

Each task of an array runs its job under a Guard, as on one machine. submitit only submits: what became of a task is
read from its status.json; squeue and scontrol tell which tasks are gone without having written one (killed, node lost),
and which ones Slurm has taken the node from. Accounting (sacct) is not needed: many clusters do not have it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.errors import UserError
from toolkit.sweeps import jobs
from toolkit.sweeps.guard import Guard
from toolkit.sweeps.jobs import Task
from toolkit.sweeps.local import ROOT, THREAD_VARIABLES, Engine

POLL_S = 2.0
COMMAND_TIMEOUT_S = 60
SUBMISSIONS = 4  # a busy controller times out now and then
SUBMITTED = os.path.join("slurm", "submitted.json")  # name -> id of the last submission of each job
# States in which a task can still run or is running.
ACTIVE = "PENDING,RUNNING,CONFIGURING,SUSPENDED,REQUEUED,REQUEUE_HOLD,REQUEUE_FED,RESIZING,SIGNALING,STOPPED"
WANTED_AGAIN = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED")


@dataclass(frozen=True)
class SlurmSettings:
    """What --engine slurm asks of the cluster, in the words of the dispatcher's flags."""

    slurm_throttle: int = 16  # jobs at a time
    slurm_time: str = "1:00:00"
    slurm_partition: str | None = None
    slurm_gres: str | None = None
    slurm_account: str | None = None
    slurm_extra: Sequence[str] = ()  # NAME=VALUE
    watch: bool = False


def ask(*words: str) -> str | None:
    """What a command of Slurm's prints; None if it is missing, fails or does not answer."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
        return done.stdout if done.returncode == 0 else None
    return None


def active_ids() -> dict[str, str] | None:
    """Id ('12' or '12_3') -> state of this user's jobs that have not ended; None if squeue does not answer."""
    # -r: one line for each task of an array.
    listed = ask("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i %T", "-t", ACTIVE)
    return None if listed is None else dict(line.split() for line in listed.splitlines())


def last_state(task_id: str) -> str | None:
    """How Slurm says that a job ended: COMPLETED, CANCELLED, OUT_OF_MEMORY, NODE_FAIL, ...; None if it forgot.

    scontrol knows it for some minutes (MinJobAge) on every cluster, sacct for long where there is accounting.
    """
    found = re.search(r"\bJobState=([A-Z_]+)", ask("scontrol", "-o", "show", "job", task_id) or "")
    found = found or re.match(r"\s*([A-Z_]+)", ask("sacct", "-X", "-n", "-P", "-j", task_id, "-o", "State") or "")
    return found[1] if found else None


def max_array_size() -> int:
    """The most tasks that one array may have here (MaxArraySize - 1, 1000 unless the cluster says otherwise)."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "", re.MULTILINE)
    return max(1, min(1000, int(found[1]) - 1)) if found else 1000


def seconds_of(limit: str) -> int:
    """Seconds of a Slurm time limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; 0 is no limit, as in Slurm."""
    if not re.fullmatch(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", limit):
        raise UserError(f"slurm_time is {limit!r}; allowed: MINUTES, M:S, H:M:S, D-H, D-H:M, D-H:M:S; 0 is no limit")
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    parts = parts if dash or len(parts) == 3 else [0, *parts]
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def run_task(task: Task) -> None:
    """Body of one array task, on a node of the cluster."""
    guard = Guard(report=lambda key, problem: problem and print(f"error: {problem}", flush=True), is_alone=True)
    why = "Slurm ended it before its time (preempted, requeued or cancelled)"
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: guard.end(jobs.PREEMPTED, why))
    gpus, node = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("SLURMD_NODENAME", "node")
    task.device = f"{node} gpu {gpus}" if gpus else node
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task.slurm_id = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")
    threads = os.environ.get("SLURM_CPUS_PER_TASK")
    if threads and not any(name in os.environ for name in THREAD_VARIABLES):
        task.environment["OMP_NUM_THREADS"] = threads
    # The way to our own modules, which a job that is started from a shell would not have.
    before = os.environ.pop("SWEEP_PYTHONPATH", "")
    os.environ.pop("PYTHONPATH", None)
    os.environ.update({"PYTHONPATH": before} if before else {})
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":  # Slurm has put the same task back into its queue
        task.attempt = max(task.attempt, jobs.newest_claim(task.folder) + 1)
    guard.start(task.folder, task)
    guard.join()


class SlurmEngine(Engine):
    """Submits in arrays of at most MaxArraySize tasks, `throttle` of each array at a time."""

    name = "slurm"

    def __init__(self, settings: SlurmSettings, log_dir: str, waits_for_each: bool) -> None:
        if shutil.which("sbatch") is None:
            raise UserError("engine is 'slurm', but there is no sbatch here; run it on the cluster's login node")
        try:
            import submitit  # 0.1 s, which only this engine is worth
        except ImportError:
            raise UserError("engine 'slurm' needs submitit: pip install submitit") from None
        self._submitit = submitit
        for name in set(os.environ) - {"SLURM_CONF", "SLURM_CONF_SERVER"}:
            # Inside an allocation: sbatch and srun would take what it says of itself for our wishes.
            if name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")):
                del os.environ[name]
        self.folder = os.path.abspath(log_dir)
        if "%" in self.folder:
            raise UserError(f"log_dir is {log_dir!r}; Slurm replaces % in file names: choose a folder without it")
        self.slots, self.leaves, self._waits_for_each = settings.slurm_throttle, not settings.watch, waits_for_each
        self._limit_s = seconds_of(settings.slurm_time)
        self._chunk = max_array_size()
        self._executor = self._make_executor(settings)
        self._buffer: list[tuple[str, Task]] = []
        self._in_flight: dict[str, Task] = {}
        self._missing: Counter[str] = Counter()  # name -> in how many polls squeue did not know the task
        self._ids: dict[str, str] = jobs.read_json(os.path.join(self.folder, SUBMITTED)) or {}
        self._active = active_ids() if self._ids else {}
        self._last_poll = 0.0
        self._woken = False

    def _make_executor(self, settings: SlurmSettings) -> Any:
        pairs = (word.partition("=") for word in settings.slurm_extra)
        extra = {name.lstrip("-").replace("_", "-"): value if equals else True for name, equals, value in pairs}
        # submitit asks for SIGUSR2 90 s before the limit, and Slurm may send it a minute early: a job with a limit of
        # two minutes would be ended at once. SIGCONT does nothing; our own time limit (see `start`) ends the job.
        extra["signal"] = "CONT@1"
        executor = self._submitit.SlurmExecutor(folder=os.path.join(self.folder, "slurm", "%j"))
        wanted = {"partition": settings.slurm_partition, "gres": settings.slurm_gres, "account": settings.slurm_account}
        path = f"export SWEEP_PYTHONPATH=$PYTHONPATH PYTHONPATH={shlex.quote(ROOT)}${{PYTHONPATH:+:$PYTHONPATH}}"
        executor.update_parameters(
            job_name="sweep",
            time=-(-self._limit_s // 60),
            array_parallelism=settings.slurm_throttle,
            stderr_to_stdout=True,
            setup=[path],
            additional_parameters=extra,
            **{name: value for name, value in wanted.items() if value},
        )
        return executor

    def has_room(self, alone: bool = False) -> bool:
        """A grid goes to the queue as a whole, in chunks; a search that learns waits for its answers."""
        return not self._waits_for_each or len(self._in_flight) + len(self._buffer) < self.slots

    def has_queued(self, name: str) -> bool:
        if time.monotonic() - self._last_poll > POLL_S and name in self._ids and name not in self._in_flight:
            self._last_poll, self._active = time.monotonic(), active_ids()
        return self._ids.get(name) in (self._active or ())

    def in_queue(self) -> set[str]:
        active = self._active or {}
        return {name for name in self._in_flight if active.get(self._ids[name], "PENDING") != "RUNNING"}

    def start(self, name: str, task: Task, alone: bool) -> None:
        if self._limit_s:  # end a little before Slurm does, so that the status is written by the one who knows why
            ours_s = self._limit_s - min(30, max(5, self._limit_s // 10), self._limit_s // 2)
            task.timeout_s = min(task.timeout_s or ours_s, ours_s)
        self._buffer.append((name, task))
        if len(self._buffer) >= self._chunk:
            self._submit()

    def _submit(self) -> None:
        """Send what is in the buffer as one array."""
        for _, task in self._buffer:
            os.makedirs(task.folder, exist_ok=True)
            if not os.path.exists(os.path.join(task.folder, "status.json")):
                jobs.write_status(task.folder, jobs.Status("queued", engine="slurm", script=task.config.get("script")))
        submitted = self._map_array([task for _, task in self._buffer])
        self._ids.update((name, job.job_id) for (name, _), job in zip(self._buffer, submitted, strict=True))
        self._in_flight.update(self._buffer)
        self._buffer = []
        jobs.write_json(os.path.join(self.folder, SUBMITTED), self._ids)

    def _map_array(self, tasks: list[Task]) -> list[Any]:
        """submitit's map_array, again if the controller was too busy to answer; claims keep two from running."""
        for left in reversed(range(SUBMISSIONS)):
            try:
                return self._executor.map_array(run_task, tasks)
            except self._submitit.core.utils.FailedJobError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                said = [line.partition("error: ")[2] for line in lines if line.startswith("sbatch: error: ")]
                text = "; ".join(dict.fromkeys(said)) or lines[-1]
                if left == 0 or not re.search(r"timed? ?out|temporarily|try again|Unable to contact", text, re.I):
                    raise UserError(f"Slurm did not take the jobs: {text}") from None
                print(f"note: sbatch says {text!r}; trying again", flush=True)
                time.sleep(POLL_S)
        return []

    def wait(self, timeout_s: float) -> list[str]:
        """Names of the tasks that have ended or are gone from the queue."""
        if self._buffer:
            self._submit()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._woken:
            time.sleep(0.05)
        self._woken = False
        if time.monotonic() - self._last_poll < POLL_S or not self._in_flight:
            return []
        self._last_poll, self._active = time.monotonic(), active_ids()
        if self._active is None:
            return []  # the controller does not answer: nothing is known, so nothing is decided
        ended = [name for name in self._in_flight if self._ids[name] not in self._active and self._is_gone(name)]
        for name in ended:
            del self._in_flight[name], self._missing[name]
        return ended

    def _is_gone(self, name: str) -> bool:
        """A task that squeue does not know has ended. Its status may come later over a network file system."""
        task = self._in_flight[name]
        self._missing[name] = polls = self._missing[name] + 1
        status = jobs.read_status(task.folder)
        if status.attempt >= task.attempt and status.has_ended:
            # Why Slurm has ended it is known when its node is free again.
            is_closing = status.cause == jobs.PREEMPTED and last_state(self._ids[name]) == "COMPLETING"
            return not is_closing or polls > 10
        return polls > 2 and (polls > 5 or not jobs.is_alive(task.folder, task.attempt))

    def fate(self, name: str, status: jobs.Status) -> jobs.Status | None:
        """What Slurm says of a task that could not write its own status, or that Slurm has ended."""
        if status.has_ended and status.cause not in (jobs.PREEMPTED, jobs.LOST, jobs.SIGNAL):
            return None
        state = last_state(self._ids.get(name, ""))
        if state in ACTIVE.split(","):
            return jobs.Status("queued")
        if state == "CANCELLED":  # by a person's scancel: not to be tried again now
            return jobs.Status("stopped", cause=jobs.INTERRUPTED, detail="cancelled in Slurm's queue")
        if state in WANTED_AGAIN:
            return jobs.Status("stopped", cause=jobs.PREEMPTED, detail=f"Slurm took its node away ({state})")
        if status.has_ended and status.cause != jobs.LOST:
            return None
        if state == "OUT_OF_MEMORY":
            detail = "Slurm ended it for using more memory than it asked for (--slurm_extra mem=...)"
            return jobs.Status("failed", cause=jobs.OUT_OF_MEMORY, detail=detail)
        said = self._last_words(name)
        detail = f"the task ended without a word to us; Slurm calls it {state}" + (f"; it said: {said}" if said else "")
        return jobs.Status("failed", cause=jobs.LOST, detail=detail)

    def _last_words(self, name: str) -> str:
        """The last line of what a task itself printed, which is where an environment that is broken shows."""
        array, _, index = self._ids.get(name, "").partition("_")
        pattern = os.path.join(glob.escape(self.folder), "slurm", "*", f"{array}_{index or 0}_*log.out")
        lines: list[str] = []
        for path in glob.glob(pattern):
            with contextlib.suppress(OSError), open(path, errors="replace") as file:
                lines += [line.strip() for line in file if line.strip()]
        own = [line for line in lines if not line.startswith("srun: ")]  # srun only says that it ended
        return (own or lines or [""])[-1][:300]

    def wake(self) -> None:
        self._woken = True

    def stop_all(self, now: bool) -> None:
        """scancel: SIGTERM first, so that the tasks write their status, and that we have asked; `now` means SIGKILL."""
        self._buffer = []
        for task in self._in_flight.values():
            status = jobs.read_status(task.folder)
            if status.state == "running":
                jobs.request_stop(task.folder, status.attempt, jobs.INTERRUPTED, "it was asked to stop")
        ids = [self._ids[name] for name in self._in_flight]
        for start in range(0, len(ids), 500):  # a command line has its limits
            ask("scancel", *(["--signal=KILL"] if now else []), *ids[start : start + 500])
