"""Run one job from claim to final status. Every engine ends here: the local one, a Slurm task, launch_experiment.

As a program (`python -m toolkit.sweeps.run_job`) it reads one task as JSON from standard input, runs it, and stops it
when standard input ends: that is how jobs are watched over where there is no guard.py (macOS, Windows).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from toolkit.sweeps import causes, claims, jobs, process_tree

TICK_S = 1.0  # how often a running job looks for a request to stop
FINISHED_GRACE_S = 5.0  # a job that has written its results may end by itself, even if a stop comes just then
STOP_NOW = "now"
RUNNING, DOUBTFUL, FINISHING, ENDING, OVER = "running", "doubtful", "finishing", "ending", "over"


@dataclass
class Task:
    """One start of one job. Plain values only: it travels to other processes as JSON."""

    folder: str
    command: list[str]
    attempt: int  # the claim that must be free; if somebody else has it, nothing is run
    config: dict[str, Any] = field(default_factory=dict)  # content of config.json
    environment: dict[str, str] = field(default_factory=dict)  # on top of this process's own
    timeout_s: float = 0  # 0: none
    grace_s: float = 5.0  # between SIGTERM and SIGKILL
    engine: str = "local"
    device: str | None = None


class JobRun:
    """One attempt of one job, driven by whoever watches over it: `begin`, then `turn` after each event and each delay.

    A run that is asked to stop gets SIGTERM, then SIGKILL, and so does everything that it has started. It is over when
    all is gone and status.json says how it ended.
    """

    def __init__(self, task: Task, family: Callable[[JobRun], list[psutil.Process]], dies_with_us: bool) -> None:
        self.task, self.family, self.dies_with_us = task, family, dies_with_us
        self.phase = RUNNING
        self.status = jobs.Status()
        self.process: subprocess.Popen | None = None
        self.stop: tuple[str, str] | None = None
        self.hurry = False
        self._until = float("inf")  # end of the present phase
        self._next_tick = self._heartbeat = 0.0
        self._known: dict[int, psutil.Process] = {}  # an orphan of a dead parent is in no later snapshot of the tree
        self._asked: set[int] = set()

    def begin(self) -> bool:
        """Claim the job and start it; False if it was not free or is settled."""
        task = self.task
        os.makedirs(task.folder, exist_ok=True)
        slurm_id = _slurm_id()
        if not claims.take(task.folder, task.attempt, slurm_id):
            return False
        previous = jobs.read_status(task.folder)
        if previous.is_settled:
            return False
        if previous.state == "running":  # its guard and all were killed; now that the claim is ours, nobody else is hit
            process_tree.end_marked([task.folder])
        _clear(task)
        self.status = status = jobs.next_attempt(previous)
        status.attempt, status.engine, status.device = task.attempt, task.engine, task.device
        status.host, status.slurm_id, status.started = socket.gethostname(), slurm_id, time.time()
        self._began = time.monotonic()
        self._until = self._began + task.timeout_s if task.timeout_s else float("inf")
        self._next_tick, self._heartbeat = self._began + TICK_S, self._began + claims.HEARTBEAT_S
        self.process = self._start()
        if self.process is None:
            self._finish()
        else:
            status.pid = self.process.pid
            jobs.write_status(task.folder, status)
        return True

    def _start(self) -> subprocess.Popen | None:
        """Start the process with its log; if that fails, the status says why."""
        task = self.task
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", process_tree.MARK: task.folder, **task.environment}
        with open(os.path.join(task.folder, "log.txt"), "ab", buffering=0) as log:
            log.write(f"$ {shlex.join(task.command)}   # attempt {task.attempt}\n".encode())
            try:
                return process_tree.start(task.command, environment, log.fileno(), self.dies_with_us)
            except (OSError, subprocess.SubprocessError) as error:
                self.status.state, self.status.cause = "failed", causes.EXIT
                self.status.detail = f"could not be started: {error}"
                return None

    @property
    def is_over(self) -> bool:
        return self.phase == OVER

    def delay(self) -> float:
        """Seconds after which `turn` wants to be called, if nothing happens before."""
        now = time.monotonic()
        if self.phase == RUNNING:
            return max(0.0, min(self._next_tick, self._until) - now)
        return 0.01

    @property
    def is_due(self) -> bool:
        """True if `turn` has something to do."""
        return self.phase != RUNNING or self.process.returncode is not None or self.delay() == 0

    def ask_to_stop(self, cause: str | tuple[str, str] | None) -> None:
        """End the run: None or STOP_NOW for an interruption, else (cause, detail). STOP_NOW spares the grace time."""
        self.hurry |= cause == STOP_NOW
        if self.phase in (RUNNING, DOUBTFUL) and self.stop is None:
            is_pair = isinstance(cause, tuple)
            self.stop = cause if is_pair else ("interrupted", "it was asked to stop")
            # Who has written the results is about to end: let it, and lose no work.
            finishing = os.path.exists(os.path.join(self.task.folder, "results.json"))
            self.phase = FINISHING if finishing else ENDING
            self._until = time.monotonic() + (min(self.task.grace_s, FINISHED_GRACE_S) if finishing else 0)
            self._kill_at = self._until + self.task.grace_s

    def turn(self) -> None:
        """Do what is due."""
        now, code = time.monotonic(), self.process.returncode
        if self.phase == RUNNING:
            if code is not None:
                self._exited(code)
            elif now >= self._until:
                self.ask_to_stop((causes.TIMEOUT, f"ran longer than {self.task.timeout_s:g} s"))
            elif now >= self._next_tick:
                self._tick(now)
        elif self.phase == DOUBTFUL and now >= self._until:
            self._sweep_up()
        if self.phase == FINISHING:
            if code is not None:
                self.stop = None
                self._sweep_up()
            elif now >= self._until or self.hurry:
                self.phase = ENDING
        if self.phase == ENDING:
            self._end_step(now)

    def _exited(self, code: int) -> None:
        # Slurm sends SIGTERM to a task and to all below it: did the job die of a signal that we are about to get?
        if self.task.engine == "slurm" and code in (-signal.SIGTERM, -signal.SIGINT):
            self.phase, self._until = DOUBTFUL, time.monotonic() + 0.5
        else:
            self._sweep_up()

    def _sweep_up(self) -> None:
        """The job has ended by itself: kill what it has left behind."""
        self.phase, self._kill_at = ENDING, 0.0
        self._end_step(time.monotonic())

    def _end_step(self, now: float) -> None:
        """Signal everything that is left; finish when nothing is."""
        self._known.update((one.pid, one) for one in self.family(self) if one.pid not in self._known)
        if self.process.returncode is None:
            with contextlib.suppress(psutil.Error):
                self._known.setdefault(self.process.pid, psutil.Process(self.process.pid))
        self._known = {pid: one for pid, one in self._known.items() if process_tree.is_running(one)}
        kill = now >= self._kill_at or self.hurry
        for pid, one in self._known.items():
            with contextlib.suppress(psutil.Error):
                if kill:
                    one.kill()
                elif pid not in self._asked:
                    one.terminate()
        self._asked.update(self._known)
        if not self._known and self.process.returncode is not None:
            self._finish()

    def _tick(self, now: float) -> None:
        """Show that we live; look for a request to stop in the folder, which works across machines."""
        self._next_tick = now + TICK_S
        if now >= self._heartbeat:
            self._heartbeat = now + claims.HEARTBEAT_S
            with contextlib.suppress(OSError):
                claims.keep_alive(self.task.folder, self.task.attempt)
        request = jobs.read_json(os.path.join(self.task.folder, "stop.json"))
        if isinstance(request, dict) and request.get("attempt") == self.task.attempt:
            self.ask_to_stop((request["cause"], request["detail"]))

    def _finish(self) -> None:
        """Write how it ended."""
        status = self.status
        status.ended = time.time()
        status.seconds = round(time.monotonic() - self._began, 3)
        if self.process is not None:
            _judge(self.task, status, self.process.returncode, self.stop)
        jobs.write_status(self.task.folder, status)
        self.phase = OVER


def run_one_job(task: Task, inbox: queue.SimpleQueue) -> jobs.Status | None:
    """Claim the job, run it to its end, return its status; None if it was not free or is already settled.

    `inbox` takes requests from elsewhere: ('stop', cause) as in JobRun.ask_to_stop.
    """
    run = JobRun(task, lambda run: process_tree.family_alone(run.process), dies_with_us=True)
    if not run.begin():
        return None
    if run.process is not None:
        threading.Thread(target=lambda: (run.process.wait(), inbox.put(("exited", None))), daemon=True).start()
    while not run.is_over:
        with contextlib.suppress(queue.Empty):
            kind, cause = inbox.get(timeout=run.delay())
            if kind == "stop":
                run.ask_to_stop(cause)
        run.turn()
        if process_tree.is_reaper() and run.process.returncode is not None:
            process_tree.reap_orphans()
    return run.status


def _clear(task: Task) -> None:
    """Write config.json, remove what an earlier attempt left: old results must not pass for new ones."""
    if task.config and not os.path.exists(os.path.join(task.folder, "config.json")):
        jobs.write_json(os.path.join(task.folder, "config.json"), task.config)
    if task.attempt > 1:
        for name in ("results.json", "history.csv"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(task.folder, name))
        shutil.rmtree(os.path.join(task.folder, "run"), ignore_errors=True)


def _judge(task: Task, status: jobs.Status, code: int, stop: tuple[str, str] | None) -> None:
    """Fill in state, cause and detail of an attempt that has ended."""
    results, problem = jobs.read_results(task.folder) if code == 0 else (None, "")
    jobs.write_history(task.folder, results or {})  # of a job that was stopped too: its curve is why
    if stop is not None:
        status.state = "failed" if stop[0] == causes.TIMEOUT else "stopped"
        status.cause, status.detail = stop
        return
    if code == 0:
        if results is not None:
            status.state = "done"
            return
        status.cause, status.detail = causes.BAD_RESULTS, problem
    else:
        status.cause, status.detail = causes.explain_exit(code, causes.read_tail(task.folder))
    status.state = "failed"


def request_stop(folder: str, attempt: int, cause: str, detail: str) -> None:
    """Ask attempt `attempt` of a job, wherever it runs, to stop with this cause; it answers within about a second."""
    jobs.write_json(os.path.join(folder, "stop.json"), {"attempt": attempt, "cause": cause, "detail": detail})


def _slurm_id() -> str | None:
    """'12_3' for task 3 of array 12, '12' for a job, None outside Slurm."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")


def listen_to_signals(inbox: queue.SimpleQueue) -> None:
    """SIGTERM and SIGINT ask the job to stop, SIGUSR1 at once. SimpleQueue.put may be called in a signal handler."""
    signal.signal(signal.SIGTERM, lambda *_: inbox.put(("stop", None)))
    signal.signal(signal.SIGINT, lambda *_: inbox.put(("stop", None)))
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda *_: inbox.put(("stop", STOP_NOW)))


def task_to_json(task: Task) -> str:
    return json.dumps(asdict(task))


def _listen_to_stdin(inbox: queue.SimpleQueue) -> None:
    """'now' on a line: stop at once; end of input: our starter has gone or wants us to stop."""
    for line in sys.stdin:
        if line.strip() == STOP_NOW:
            inbox.put(("stop", STOP_NOW))
    inbox.put(("stop", None))


def main() -> None:
    process_tree.become_reaper()
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    listen_to_signals(inbox)
    task = Task(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_listen_to_stdin, args=(inbox,), daemon=True).start()
    run_one_job(task, inbox)
    sys.stdout.flush()
    os._exit(0)  # the thread that reads stdin must not keep us


if __name__ == "__main__":
    main()
