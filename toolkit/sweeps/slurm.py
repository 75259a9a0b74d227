"""The Slurm engine: submits tasks as job arrays through submitit and learns of their end from our own status files.

Each task of an array runs run_one_job, as the local engine does. submitit only submits: what became of a task is read
from its status.json, and squeue tells which tasks are gone without having written one (killed, node lost).
"""

from __future__ import annotations

import argparse
import os
import queue
import shlex
import shutil
import time
from typing import Any

from toolkit.errors import UserError
from toolkit.sweeps import causes, claims, jobs, slurm_queue
from toolkit.sweeps.engine import Engine
from toolkit.sweeps.run_job import Task, listen_to_signals, run_one_job
from toolkit.sweeps.spawn import ROOT

POLL_S = 2.0
SUBMITTED = os.path.join("slurm", "submitted.json")  # name -> id of the last submission of each job


def run_task(task: Task) -> None:
    """Body of one array task, on a node of the cluster."""
    from toolkit.sweeps import process_tree

    process_tree.become_reaper()
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    listen_to_signals(inbox)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    node = os.environ.get("SLURMD_NODENAME", "node")
    task.device = f"{node} gpu {gpus}" if gpus else node
    threads = os.environ.get("SLURM_CPUS_PER_TASK")
    if threads and "OMP_NUM_THREADS" not in os.environ:
        task.environment["OMP_NUM_THREADS"] = threads
    run_one_job(task, inbox)


class SlurmEngine(Engine):
    """Submits in arrays of at most MaxArraySize tasks, `slurm_throttle` of each array at a time."""

    name = "slurm"

    def __init__(self, args: argparse.Namespace) -> None:
        self._submitit = _import_submitit()
        self.slots = args.slurm_throttle
        self.leaves = not args.watch
        self.folder = os.path.abspath(args.log_dir)
        self._waits_for_each = args.search == "tpe"
        self._limit_s = slurm_queue.seconds_of(args.slurm_time)
        self._chunk = slurm_queue.max_array_size()
        self._executor = self._make_executor(args)
        self._buffer: list[tuple[str, Task]] = []
        self._in_flight: dict[str, Task] = {}
        self._missing: dict[str, int] = {}  # name -> in how many polls squeue did not know the task
        self._ids: dict[str, str] = jobs.read_json(os.path.join(self.folder, SUBMITTED)) or {}
        self._last_poll = 0.0
        self._woken = False

    def _make_executor(self, args: argparse.Namespace) -> Any:
        extra: dict[str, Any] = {}
        for word in args.slurm_extra:
            name, equals, value = word.partition("=")
            extra[name.lstrip("-").replace("_", "-")] = value if equals else True
        # submitit asks for SIGUSR2 90 s before the limit, and Slurm may send it a minute early: a job with a limit of
        # two minutes would be ended at once. SIGCONT does nothing; our own time limit (see `start`) ends the job.
        extra["signal"] = "CONT@1"
        executor = self._submitit.SlurmExecutor(folder=os.path.join(self.folder, "slurm", "%j"))
        wanted = {"partition": args.slurm_partition, "gres": args.slurm_gres, "account": args.slurm_account}
        executor.update_parameters(
            job_name="sweep",
            time=max(1, -(-self._limit_s // 60)),
            array_parallelism=args.slurm_throttle,
            stderr_to_stdout=True,
            setup=[f"export PYTHONPATH={shlex.quote(ROOT)}${{PYTHONPATH:+:$PYTHONPATH}}"],
            additional_parameters=extra,
            **{name: value for name, value in wanted.items() if value},
        )
        return executor

    def has_room(self, alone: bool = False) -> bool:
        """A grid goes to the queue as a whole, in chunks; a search that learns waits for its answers."""
        return not self._waits_for_each or len(self._in_flight) + len(self._buffer) < self.slots

    def has_queued(self, name: str) -> bool:
        known = self._ids.get(name)
        return known is not None and known in (slurm_queue.active_ids() or ())

    def in_queue(self) -> set[str]:
        active = slurm_queue.active_ids(max_age_s=5 * POLL_S) or {}
        return {name for name in self._in_flight if active.get(self._ids[name], "PENDING") != "RUNNING"}

    def fate(self, name: str) -> jobs.Status | None:
        """What Slurm says of a task that could not write its own status."""
        state = slurm_queue.last_state(self._ids.get(name, ""))
        if state == "CANCELLED":  # by somebody's scancel: not to be tried again now
            return jobs.Status("stopped", cause="interrupted", detail="cancelled in Slurm's queue")
        if state == "OUT_OF_MEMORY":
            detail = "Slurm ended it for using more memory than it asked for (--slurm_extra mem=...)"
            return jobs.Status("failed", cause=causes.OUT_OF_MEMORY, detail=detail)
        detail = f"the task was killed; Slurm calls it {state}"
        return jobs.Status("failed", cause=causes.LOST, detail=detail) if state else None

    def start(self, tasks: list[tuple[str, Task, bool]]) -> None:
        for name, task, _ in tasks:
            # End a little before Slurm does, so that the status is written by the one who knows why.
            ours_s = self._limit_s - min(30, max(5, self._limit_s // 10))
            task.timeout_s = min(task.timeout_s or ours_s, ours_s)
            os.makedirs(task.folder, exist_ok=True)
            jobs.write_json(os.path.join(task.folder, "config.json"), task.config)
            self._buffer.append((name, task))
            if len(self._buffer) >= self._chunk:
                self._submit()

    def _submit(self) -> None:
        """Send what is in the buffer as one array."""
        if not self._buffer:
            return
        for _, task in self._buffer:
            self._mark_queued(task)
        try:
            submitted = self._executor.map_array(run_task, [task for _, task in self._buffer])
        except self._submitit.core.utils.FailedJobError as error:
            last = str(error).strip().rsplit("\n", 1)[-1]
            raise UserError(f"Slurm did not take the jobs: {last}") from None
        for (name, task), job in zip(self._buffer, submitted, strict=True):
            self._ids[name] = job.job_id
            self._in_flight[name] = task
        self._buffer = []
        jobs.write_json(os.path.join(self.folder, SUBMITTED), self._ids)
        slurm_queue.forget()

    @staticmethod
    def _mark_queued(task: Task) -> None:
        previous = jobs.read_status(task.folder)
        queued = jobs.next_attempt(previous)
        queued.state, queued.attempt, queued.engine = "queued", previous.attempt, "slurm"
        if previous.attempt == 0 and not previous.is_settled:
            jobs.write_status(task.folder, queued)

    def wait(self, timeout_s: float) -> list[str]:
        """Names of the tasks that have ended or are gone from the queue."""
        self._submit()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._woken:
            time.sleep(0.05)
        self._woken = False
        if time.monotonic() - self._last_poll < POLL_S or not self._in_flight:
            return []
        self._last_poll = time.monotonic()
        return self._poll()

    def _poll(self) -> list[str]:
        active = slurm_queue.active_ids(max_age_s=0)
        if active is None:
            return []  # the controller does not answer: nothing is known, so nothing is decided
        ended = []
        for name, task in list(self._in_flight.items()):
            if self._ids[name] in active:
                continue
            # The status may come a moment later over a network file system, so one look is not enough.
            self._missing[name] = polls = self._missing.get(name, 0) + 1
            status = jobs.read_status(task.folder)
            has_said_so = status.attempt == task.attempt and status.has_ended
            if (has_said_so or polls > 2) and (polls > 5 or not claims.is_alive(task.folder, task.attempt)):
                ended.append(name)
        for name in ended:
            del self._in_flight[name]
            self._missing.pop(name, None)
        return ended

    def wake(self) -> None:
        self._woken = True

    def stop_all(self, now: bool) -> None:
        self._buffer = []
        slurm_queue.cancel([self._ids[name] for name in self._in_flight], now)

    def close(self) -> None:
        """The cluster works on without us."""


def _import_submitit() -> Any:
    if shutil.which("sbatch") is None:
        raise UserError(
            "engine is 'slurm', but there is no sbatch here; run the dispatcher on the cluster's login node"
        )
    try:
        import submitit
    except ImportError:
        raise UserError("engine 'slurm' needs submitit: pip install submitit") from None
    return submitit
