"""One attempt of one job, from claim to final status, and how to end everything that it has started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import psutil

from toolkit.sweeps import jobs

ON_LINUX, ON_WINDOWS = sys.platform == "linux", os.name == "nt"
MARK = "SWEEP_JOB"  # environment variable with the job's folder; its descendants inherit it
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
TICK_S = 1.0  # how often a running job looks for a request to stop
FINISHED_GRACE_S = 5.0  # a job that has written its results may end by itself, even if a stop comes just then
_libc = ctypes.CDLL(None, use_errno=True) if ON_LINUX else None


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


def become_reaper() -> None:
    """Adopt orphaned descendants from now on (Linux; elsewhere nothing)."""
    if ON_LINUX:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when `parent` ends; exit now if it already has."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def below(pid: int) -> list[psutil.Process]:
    """All descendants of process `pid`."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def children_of_ours() -> list[int]:
    """Pids of our own children. One file on Linux, where a look through all of /proc would take milliseconds."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return [child.pid for child in psutil.Process().children()]


def mark_of(pid: int) -> str | None:
    """The folder of the job that process `pid` belongs to, None if it cannot be told."""
    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).environ().get(MARK)
    return None


def is_running(process: psutil.Process) -> bool:
    """False for zombies and for a pid that another process has by now."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def kill_all(processes: Iterable[psutil.Process]) -> None:
    for one in processes:
        with contextlib.suppress(psutil.Error):
            one.kill()


def end_marked(folders: list[str]) -> None:
    """Kill every process of this machine that belongs to one of these jobs. For when their guard has been killed."""
    for _ in range(100):
        found = [one for one in psutil.process_iter() if is_running(one) and mark_of(one.pid) in folders]
        if not found:
            return
        kill_all(found)
        psutil.wait_procs(found, timeout=0.05)


class JobRun:
    """One attempt of one job, driven by its guard: `begin`, then `turn` after each event and each delay.

    A run that is asked to stop gets SIGTERM, then SIGKILL, and so does everything that it has started. It is over when
    all is gone and status.json says how it ended.
    """

    def __init__(self, task: Task, family: Callable[[JobRun], list[psutil.Process]], dies_with_us: bool) -> None:
        self.task, self.family, self.dies_with_us = task, family, dies_with_us
        self.is_over = self.is_ending = self.hurry = False
        self.status = jobs.Status()
        self.process: subprocess.Popen | None = None
        self.memory_mb: float | None = None
        self.stop: tuple[str, str] | None = None
        self._log_start = 0
        self._until = self._signal_at = self._kill_at = float("inf")
        self._known: dict[int, psutil.Process] = {}  # an orphan of a dead parent is in no later snapshot of the tree
        self._asked: set[int] = set()

    def begin(self) -> bool:
        """Claim the job and start it; False if it was not free or is settled."""
        task, is_first = self.task, self.task.attempt == 1
        os.makedirs(task.folder, exist_ok=True)
        if not jobs.take_claim(task.folder, task.attempt):
            return False
        previous = jobs.read_status(task.folder)
        if previous.is_settled:
            return False
        if previous.state == "running":  # its guard and all were killed; now that the claim is ours, only it is hit
            end_marked([task.folder])
        resumes = self._clear(previous) if task.attempt > 1 else False
        if task.config:
            jobs.write_json(os.path.join(task.folder, "config.json"), task.config, is_first)
        self.status = status = jobs.next_attempt(previous)
        status.attempt, status.engine, status.device, status.resumed = task.attempt, task.engine, task.device, resumes
        status.script, status.code = task.config.get("script"), task.config.get("code")
        status.host, status.slurm_id, status.started = socket.gethostname(), slurm_id(), time.time()
        self._began = time.monotonic()
        self._until = self._began + task.timeout_s if task.timeout_s else float("inf")
        self._next_tick, self._heartbeat = self._began + TICK_S, self._began + jobs.HEARTBEAT_S
        self._start(task.command + (task.resume_argv if resumes else []))
        if self.process is None:
            self._finish()
        else:
            status.pid = self.process.pid
            jobs.write_status(task.folder, status, is_first)
        return True

    def _clear(self, previous: jobs.Status) -> bool:
        """Remove what an earlier attempt left: old results must not pass for new ones. True if its run is resumed."""
        run = os.path.join(self.task.folder, "run")
        for name in ("results.json", "history.csv"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(self.task.folder, name))
        ended_well = previous.cause in jobs.RESUMABLE or previous.state == "running"
        same_code = previous.code == self.task.config.get("code")
        if self.task.resume_argv and ended_well and same_code and os.path.exists(os.path.join(run, "last.pt")):
            return True
        shutil.rmtree(run, ignore_errors=True)
        return False

    def _start(self, command: list[str]) -> None:
        """Start the process in a session of its own, output to its log; if that fails, the status says why.

        Where its guard may be killed and nobody would adopt the job, Linux is asked to kill it then. That needs a fork
        (3 ms) where else a vfork (0.7 ms) does.
        """
        task, parent, options = self.task, os.getpid(), {"start_new_session": True}
        if ON_WINDOWS:
            options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        if ON_LINUX and self.dies_with_us:
            options["preexec_fn"] = lambda: _die_with(parent)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", MARK: task.folder, **task.environment}
        with open(os.path.join(task.folder, "log.txt"), "ab", buffering=0) as log:
            self._log_start = log.tell()
            log.write(f"$ {shlex.join(command)}   # attempt {task.attempt}\n".encode())
            try:
                self.process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
                )
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                self.status.state, self.status.cause = "failed", jobs.EXIT
                self.status.detail = f"could not be started: {error}"

    def delay(self) -> float:
        """Seconds after which `turn` wants to be called, if nothing happens before."""
        if self.is_ending:
            return 0.01
        return max(0.0, min(self._next_tick, self._until) - time.monotonic())

    def ask_to_stop(self, cause: str, detail: str, now: bool = False) -> None:
        """End the run; `now` spares the grace time. A second request changes nothing but the hurry."""
        self.hurry |= now
        if not self.is_ending:
            self.stop, self.is_ending = (cause, detail), True
            # Who has written the results is about to end: let it, and lose no work.
            is_finishing = os.path.exists(os.path.join(self.task.folder, "results.json"))
            wait_s = min(self.task.grace_s, FINISHED_GRACE_S) if is_finishing else 0
            self._signal_at = time.monotonic() + wait_s
            self._kill_at = self._signal_at + self.task.grace_s

    def turn(self) -> None:
        """Do what is due."""
        now, has_exited = time.monotonic(), self.process.returncode is not None
        if not self.is_ending:
            if has_exited:  # by itself: what it has left behind is killed
                self.is_ending, self._signal_at, self._kill_at = True, 0.0, 0.0
            elif now >= self._until:
                self.ask_to_stop(jobs.TIMEOUT, f"ran longer than {self.task.timeout_s:g} s")
            elif now >= self._next_tick:
                self._tick(now)
        elif has_exited and now < self._signal_at:
            self.stop, self._signal_at, self._kill_at = None, 0.0, 0.0
        if self.is_ending and (now >= self._signal_at or self.hurry):
            self._end_step(now)

    def _end_step(self, now: float) -> None:
        """Signal everything that is left; finish when nothing is."""
        found = self.family(self) + [one for pid in self._known for one in below(pid)]
        self._known.update((one.pid, one) for one in found if one.pid not in self._known)
        if self.process.returncode is None:
            with contextlib.suppress(psutil.Error):
                self._known.setdefault(self.process.pid, psutil.Process(self.process.pid))
        self._known = {pid: one for pid, one in self._known.items() if is_running(one)}
        if now >= self._kill_at or self.hurry:
            kill_all(self._known.values())
        for pid, one in self._known.items():
            if pid not in self._asked:
                with contextlib.suppress(psutil.Error):
                    one.terminate()
        self._asked.update(self._known)
        if not self._known and self.process.returncode is not None:
            self._finish()

    def _tick(self, now: float) -> None:
        """Show that we live; look for a request to stop in the folder, which works across machines."""
        self._next_tick = now + TICK_S
        if now >= self._heartbeat:
            self._heartbeat = now + jobs.HEARTBEAT_S
            with contextlib.suppress(OSError):
                os.utime(jobs.claim_path(self.task.folder, self.task.attempt))
        request = self.request()
        if request:
            self.ask_to_stop(*request)

    def request(self) -> tuple[str, str] | None:
        """(cause, detail) if somebody has asked in the folder that this attempt ends."""
        found = jobs.read_json(os.path.join(self.task.folder, "stop.json"))
        is_ours = isinstance(found, dict) and found.get("attempt") == self.task.attempt
        return (found["cause"], found["detail"]) if is_ours else None

    def _finish(self) -> None:
        """Write how it ended."""
        self.is_over = True
        self.status.ended, self.status.memory_mb = time.time(), self.memory_mb
        self.status.seconds = round(time.monotonic() - self._began, 3)
        if self.process is not None:
            self._judge(self.process.returncode)
        jobs.write_status(self.task.folder, self.status)

    def _judge(self, code: int) -> None:
        """Fill in state, cause and detail of an attempt that has ended."""
        status, folder = self.status, self.task.folder
        results, problem = jobs.read_results(folder) if code == 0 else (None, "")
        jobs.write_history(folder, results or {})  # of a job that was stopped too: its curve is why
        if self.stop is not None:
            status.state = "failed" if self.stop[0] == jobs.TIMEOUT else "stopped"
            status.cause, status.detail = self.stop
        elif results is not None:
            status.state = "done"
        else:
            status.state = "failed"
            said = jobs.explain_exit(code, jobs.read_tail(folder, since=self._log_start))
            status.cause, status.detail = (jobs.BAD_RESULTS, problem) if code == 0 else said


def slurm_id() -> str | None:
    """'12_3' for task 3 of array 12, '12' for a job, None outside Slurm."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")
