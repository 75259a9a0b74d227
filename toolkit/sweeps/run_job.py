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
from dataclasses import asdict, dataclass, field
from typing import Any

from toolkit.sweeps import causes, claims, jobs, process_tree

TICK_S = 1.0  # how often a running job looks for a request to stop
FINISHED_GRACE_S = 5.0  # a job that has written its results may end by itself, even if a stop comes just then
STOP_NOW = "now"


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


def run_one_job(task: Task, inbox: queue.SimpleQueue) -> jobs.Status | None:
    """Claim the job, run it, write its status; None if it was not free or is already settled.

    `inbox` takes requests from elsewhere: ('stop', cause) ends the job with this cause, ('stop', STOP_NOW) at once.
    """
    os.makedirs(task.folder, exist_ok=True)
    slurm_id = _slurm_id()
    if not claims.take(task.folder, task.attempt, slurm_id):
        return None
    previous = jobs.read_status(task.folder)
    if previous.is_settled:
        return None
    _clear(task)
    status = jobs.next_attempt(previous)
    status.attempt = task.attempt
    status.engine, status.device, status.host = task.engine, task.device, socket.gethostname()
    status.slurm_id, status.started = slurm_id, time.time()
    began = time.monotonic()
    process = _start(task, status)
    if process is not None:
        status.pid = process.pid
        jobs.write_status(task.folder, status)
        stop = _Watch(task, process, inbox).wait()
        status.seconds = round(time.monotonic() - began, 3)
        _judge(task, status, process.returncode, stop)
    status.ended = time.time()
    jobs.write_status(task.folder, status)
    return status


def _clear(task: Task) -> None:
    """Write config.json, remove what an earlier attempt left: old results must not pass for new ones."""
    if task.config and not os.path.exists(os.path.join(task.folder, "config.json")):
        jobs.write_json(os.path.join(task.folder, "config.json"), task.config)
    if task.attempt > 1:
        for name in ("results.json", "history.csv"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(task.folder, name))
        shutil.rmtree(os.path.join(task.folder, "run"), ignore_errors=True)


def _start(task: Task, status: jobs.Status) -> subprocess.Popen | None:
    """Start the process with its log; if that fails, the status says why."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "SWEEP_JOB": task.folder, **task.environment}
    with open(os.path.join(task.folder, "log.txt"), "ab", buffering=0) as log:
        log.write(f"$ {shlex.join(task.command)}   # attempt {task.attempt}\n".encode())
        try:
            return process_tree.start(task.command, environment, log.fileno())
        except (OSError, subprocess.SubprocessError) as error:
            status.state, status.cause, status.detail = "failed", causes.EXIT, f"could not be started: {error}"
            return None


class _Watch:
    """Waits for the end of a process, a time limit or a request to stop; the end is not polled for."""

    def __init__(self, task: Task, process: subprocess.Popen, inbox: queue.SimpleQueue) -> None:
        self.task, self.process, self.inbox = task, process, inbox
        self.hurry = False
        self._heartbeat = time.monotonic()
        threading.Thread(target=self._report_exit, daemon=True).start()

    def _report_exit(self) -> None:
        self.process.wait()
        self.inbox.put(("exited", None))

    def wait(self) -> tuple[str, str] | None:
        """Return when the whole tree is gone: None if the job ended by itself, else (cause, detail) of the stop."""
        stop = self._next_event()
        if stop is not None and os.path.exists(os.path.join(self.task.folder, "results.json")):
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is about to end: let it, and lose no work
                self.process.wait(min(self.task.grace_s, FINISHED_GRACE_S))
                stop = None
        if stop is not None or process_tree.has_leftovers():
            process_tree.end_tree(self.process, self.task.grace_s if stop else 0, self._is_hurried)
        return stop

    def _next_event(self) -> tuple[str, str] | None:
        deadline = time.monotonic() + self.task.timeout_s if self.task.timeout_s else float("inf")
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return causes.TIMEOUT, f"ran longer than {self.task.timeout_s:g} s"
            try:
                kind, cause = self.inbox.get(timeout=min(TICK_S, left))
            except queue.Empty:
                request = self._tick()
                if request:
                    return request
                continue
            if kind == "exited" and not self._was_ended_with_us():
                return None
            self.hurry = cause == STOP_NOW
            return ("interrupted", "the dispatcher was stopped") if cause in (None, STOP_NOW) else cause

    def _was_ended_with_us(self) -> bool:
        """True if the job died of a signal that we got too: Slurm sends SIGTERM to a task and to all below it."""
        if self.process.returncode not in (-signal.SIGTERM, -signal.SIGINT):
            return False
        with contextlib.suppress(queue.Empty):
            return self.inbox.get(timeout=0.5)[0] == "stop"
        return False

    def _tick(self) -> tuple[str, str] | None:
        """Show that we live; look for a request to stop in the folder, which works across machines."""
        if time.monotonic() - self._heartbeat >= claims.HEARTBEAT_S:
            self._heartbeat = time.monotonic()
            with contextlib.suppress(OSError):
                claims.keep_alive(self.task.folder, self.task.attempt)
        request = jobs.read_json(os.path.join(self.task.folder, "stop.json"))
        if isinstance(request, dict) and request.get("attempt") == self.task.attempt:
            return request["cause"], request["detail"]
        return None

    def _is_hurried(self) -> bool:
        with contextlib.suppress(queue.Empty):
            while True:
                self.hurry |= self.inbox.get_nowait()[1] == STOP_NOW
        return self.hurry


def _judge(task: Task, status: jobs.Status, code: int, stop: tuple[str, str] | None) -> None:
    """Fill in state, cause and detail of an attempt that has ended."""
    if stop is not None:
        status.state = "failed" if stop[0] == causes.TIMEOUT else "stopped"
        status.cause, status.detail = stop
        return
    if code == 0:
        results, problem = jobs.read_results(task.folder)
        if results is not None:
            jobs.write_history(task.folder, results)
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
