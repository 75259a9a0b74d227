"""The guard: a small process between the dispatcher and its jobs, so that no job outlives the dispatcher.

It runs each task in a thread. If the dispatcher dies, even by SIGKILL, the guard reads the end of its input and ends
every job. If the guard is killed, on Linux the jobs become children of the dispatcher, which ends them. There it is a
subreaper: a process that has lost its parent becomes the guard's child, so nothing gets out of sight.

Input, JSON lines: {"run": key, "task": {...}, "limit": n} or {"stop": key, "now": bool}. A task's device runs at most
`limit` tasks at a time; the next one waits here, so that it starts without asking the dispatcher.
Output: {"ended": key, "problem": text or null} when all of it is gone. A Slurm task runs its one job by a Guard too.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from toolkit.sweeps import jobs
from toolkit.sweeps.jobs import Task

ON_LINUX = sys.platform == "linux"
# A Ctrl-C in the terminal reaches only the dispatcher.
OWN_SESSION = (
    {"start_new_session": True} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
)
MARK = "SWEEP_JOB"  # environment variable with the job's folder; its descendants inherit it
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
TICK_S = 0.5  # how often a running job looks for a request to stop
FINISHED_GRACE_S = 5.0  # a job that has written its results may end by itself, even if a stop comes just then
ASKED = (jobs.INTERRUPTED, "it was asked to stop")
_libc = ctypes.CDLL(None, use_errno=True) if ON_LINUX else None


def become_reaper() -> None:
    """Adopt orphaned descendants from now on (Linux; elsewhere nothing)."""
    if ON_LINUX:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when `parent` ends; exit now if it already has."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def ask(method: Callable[[], Any], default: Any = None) -> Any:
    """What a process says or does (a method of psutil's); `default` if it is gone or another user's."""
    try:
        return method()
    except (psutil.Error, OSError):
        return default


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and all its descendants."""
    return [process, *ask(lambda: process.children(recursive=True), [])]


def children_of_ours() -> set[int]:
    """Pids of our own children, from one small file per thread: all of /proc would take milliseconds."""
    found: set[int] = set()
    for path in glob.glob(f"/proc/{os.getpid()}/task/*/children"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            found.update(map(int, file.read().split()))
    return found


def mark_of(process: psutil.Process) -> str | None:
    """The folder of the job that a process belongs to, None if it cannot be told."""
    return ask(process.environ, {}).get(MARK)


def is_running(process: psutil.Process) -> bool:
    """False for zombies and for a pid that another process has by now."""
    return ask(lambda: process.is_running() and process.status() != psutil.STATUS_ZOMBIE, False)


def end_marked(folders: list[str]) -> None:
    """Kill every process of this machine that belongs to one of these jobs. For when their guard has been killed."""
    for _ in range(100):
        found = [one for one in psutil.process_iter() if is_running(one) and mark_of(one) in folders]
        if not found:
            return
        for one in found:
            ask(one.kill)
        psutil.wait_procs(found, timeout=0.05)


class Run:
    """One attempt of one job, from its claim to its final status."""

    thread: threading.Thread

    def __init__(self, task: Task, guard: Guard) -> None:
        self.task, self.guard = task, guard
        self.stop: tuple[str, str] | None = None  # cause and detail
        self.hurry = False
        self.status = jobs.Status()
        self._changed = threading.Event()  # the process has ended, or is asked to
        self._process: subprocess.Popen | None = None
        self._log_start = 0

    def execute(self) -> None:
        """Run the job to its end; nothing if it was not free or is settled. OSError if its folder cannot be written."""
        task = self.task
        os.makedirs(task.folder, exist_ok=True)
        if not jobs.take_claim(task.folder, task.attempt):
            return
        previous = jobs.read_status(task.folder)
        if previous.is_settled:
            return
        if previous.state == "running":  # its guard and all were killed; now that the claim is ours, only it is hit
            end_marked([task.folder])
        resumes = self._clear(previous) if task.attempt > 1 else False
        if task.config:
            jobs.write_json(os.path.join(task.folder, "config.json"), task.config, is_new=task.attempt == 1)
        self.status = status = jobs.next_attempt(previous, task.attempt)
        status.engine, status.device, status.resumed = task.engine, task.device, resumes
        status.script, status.code = task.config.get("script"), task.config.get("code")
        status.host, status.slurm_id, status.started = socket.gethostname(), task.slurm_id, time.time()
        began = time.monotonic()
        try:
            self._start(task.command + (task.resume_argv if resumes else []))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            status.state, status.cause, status.detail = "failed", jobs.EXIT, f"could not be started: {error}"
        else:
            status.pid = self._process.pid
            with contextlib.suppress(OSError):  # a disk that is full now may have room at the end
                jobs.write_status(task.folder, status, is_new=task.attempt == 1)
            self._watch(began + task.timeout_s if task.timeout_s else float("inf"))
            self._end_family()
            self._judge(self._process.returncode)
        status.ended, status.seconds = time.time(), round(time.monotonic() - began, 3)
        jobs.write_status(task.folder, status)

    def _clear(self, previous: jobs.Status) -> bool:
        """Remove what an earlier attempt left: old results must not pass for new ones. True if its run is resumed."""
        folder, run = self.task.folder, os.path.join(self.task.folder, "run")
        for name in ("results.json", "history.csv"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, name))
        is_good = previous.cause in jobs.RESUMABLE or previous.state == "running"
        same_code = previous.code == self.task.config.get("code")
        if self.task.resume_argv and is_good and same_code and os.path.exists(os.path.join(run, "last.pt")):
            return True
        shutil.rmtree(run, ignore_errors=True)
        return False

    def _start(self, command: list[str]) -> None:
        """Start the process in a session of its own, output to its log."""
        task, parent, options = self.task, os.getpid(), dict(OWN_SESSION)
        if ON_LINUX and self.guard.is_alone:  # by a fork (3 ms) where else a vfork (0.7 ms) does
            options["preexec_fn"] = lambda: die_with(parent)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", MARK: task.folder, **task.environment}
        with open(os.path.join(task.folder, "log.txt"), "ab", buffering=0) as log:
            self._log_start = log.tell()
            log.write(f"$ {shlex.join(command)}   # attempt {task.attempt}\n".encode())
            with self.guard.lock:  # the new process must not be taken for an orphan
                options |= {"env": environment, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                self._process = subprocess.Popen(command, **options)
                self.guard.main_processes.add(self._process.pid)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        """Collect the process when it ends, in a thread: with what it has used, where the system says so."""
        if hasattr(os, "wait4"):
            _, code, used = os.wait4(self._process.pid, 0)
            self.status.memory_mb = round(used.ru_maxrss / (1024 if ON_LINUX else 2**20), 1)
            self._process.returncode = os.waitstatus_to_exitcode(code)
        else:
            self._process.wait()
        self.guard.main_processes.discard(self._process.pid)
        self._changed.set()

    def ask_to_stop(self, cause: str, detail: str, now: bool = False) -> None:
        """End the run; `now` spares the grace time. A second request changes nothing but the hurry."""
        self.stop, self.hurry = self.stop or (cause, detail), self.hurry or now
        self._changed.set()

    def _watch(self, time_limit: float) -> None:
        """Wait for the end of the process or a reason to end it; show meanwhile that we live."""
        heartbeat = time.monotonic() + jobs.HEARTBEAT_S
        while self._process.returncode is None and not self.stop:
            now = time.monotonic()
            if now >= time_limit:
                self.ask_to_stop(jobs.TIMEOUT, f"ran longer than {self.task.timeout_s:g} s")
            elif now >= heartbeat:
                heartbeat = now + jobs.HEARTBEAT_S
                with contextlib.suppress(OSError):
                    os.utime(jobs.claim_path(self.task.folder, self.task.attempt))
            elif not self._changed.wait(min(TICK_S, time_limit - now)):
                self.guard.orphans()
                if request := jobs.requested_stop(self.task.folder, self.task.attempt):
                    self.ask_to_stop(*request)
        if self.guard.is_alone and (self._process.returncode or 0) < 0:
            time.sleep(0.5)  # a cluster signals us and the job at once: hear why before it is judged
        # Who has written the results is about to end: let it, and lose no work.
        if self.stop and not self.hurry and os.path.exists(os.path.join(self.task.folder, "results.json")):
            self._changed.clear()
            if self._process.returncode is None:
                self._changed.wait(min(self.task.grace_s, FINISHED_GRACE_S))
            self.stop = None if self._process.returncode is not None else self.stop

    def _end_family(self) -> None:
        """Signal all that is left until nothing is: SIGTERM, then SIGKILL; what a finished job has left is killed."""
        kill_at = time.monotonic() + self.task.grace_s if self.stop else 0.0
        known: dict[int, psutil.Process] = {}  # an orphan of a dead parent is in no later snapshot of the tree
        asked: set[int] = set()
        while True:
            roots = [*self.guard.family(self._process, self.task.folder, bool(self.stop)), *known.values()]
            known = {one.pid: one for root in roots for one in tree(root) if is_running(one)}
            if not known and self._process.returncode is not None:
                return
            for pid, one in known.items():
                if self.hurry or time.monotonic() >= kill_at:
                    ask(one.kill)
                elif pid not in asked:
                    asked.add(pid)
                    ask(one.terminate)
            time.sleep(0.01)

    def _judge(self, code: int) -> None:
        """Fill in state, cause and detail of an attempt that has ended."""
        status, folder = self.status, self.task.folder
        results, problem = jobs.read_results(folder) if code == 0 else (None, "")
        jobs.write_history(folder, results or {})  # of a job that was stopped too: its curve is why
        status.state = "done" if results is not None else "failed"
        if self.stop is not None:
            status.state = "failed" if self.stop[0] == jobs.TIMEOUT else "stopped"
            status.cause, status.detail = self.stop
        elif code == 0:
            status.cause, status.detail = (jobs.BAD_RESULTS, problem) if problem else (None, None)
        else:
            status.cause, status.detail = jobs.explain_exit(code, jobs.read_tail(folder, since=self._log_start))


class Guard:
    """Runs tasks and reports their ends. `is_alone`: if this process is killed, its jobs are not adopted."""

    def __init__(self, report: Callable[[str, str | None], None], is_alone: bool, adopts: bool = ON_LINUX) -> None:
        self.report, self.is_alone, self.adopts = report, is_alone, adopts
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {}
        self.waiting: list[dict[str, Any]] = []
        self.main_processes: set[int] = set()
        if adopts:
            become_reaper()

    def obey(self, message: dict[str, Any]) -> None:
        """Take a message of our input."""
        with self.lock:
            if "run" in message:
                self.waiting.append(message)
                self._start_waiting()
            elif message["stop"] in self.runs:
                self.runs[message["stop"]].ask_to_stop(*ASKED, now=message["now"])
            elif left := [one for one in self.waiting if one["run"] == message["stop"]]:
                self.waiting.remove(left[0])
                self.report(message["stop"], None)

    def _start_waiting(self) -> None:
        """Start each waiting task whose device has room."""
        for message in list(self.waiting):
            task = Task(**message["task"])
            if sum(run.task.device == task.device for run in self.runs.values()) < message["limit"]:
                self.waiting.remove(message)
                self.start(message["run"], task)

    def start(self, key: str, task: Task) -> None:
        """Begin a task in a thread of its own."""
        run = self.runs[key] = Run(task, self)
        run.thread = threading.Thread(target=self._run, args=(key, run))
        run.thread.start()

    def _run(self, key: str, run: Run) -> None:
        problem = None
        try:
            run.execute()
        except Exception as error:  # a full disk, a folder of another user: this job's trouble, not its neighbours'
            problem = f"{type(error).__name__}: {error}"
        with self.lock:
            del self.runs[key]
            self._start_waiting()
            self.report(key, problem)

    def end(self, cause: str, detail: str) -> None:
        """Ask all to stop: our starter is gone or wants us to; on a cluster, its manager does."""
        self.waiting.clear()
        for run in list(self.runs.values()):
            run.ask_to_stop(*(jobs.requested_stop(run.task.folder, run.task.attempt) or (cause, detail)))

    def join(self) -> None:
        """Wait for every run; then kill what removed the mark from its environment and so hid from us."""
        for run in list(self.runs.values()):
            run.thread.join()
        while orphans := self.orphans():
            for one in [one for orphan in orphans for one in tree(orphan)]:
                ask(one.kill)

    def orphans(self) -> list[psutil.Process]:
        """Our adopted children that still run; those that have ended are collected."""
        if not self.adopts:
            return []
        with self.lock:
            pids = children_of_ours() - self.main_processes
        # Both calls fail for one that another thread has just collected.
        alive = [pid for pid in pids if ask(lambda pid=pid: os.waitpid(pid, os.WNOHANG)[0] == 0)]
        return [one for pid in alive if (one := ask(lambda pid=pid: psutil.Process(pid)))]

    def family(self, process: subprocess.Popen, folder: str, is_stopped: bool) -> list[psutil.Process]:
        """The roots of all that a run has started: its process, and our adopted children that bear its mark.

        Where we adopt no process, a child that was orphaned just now is found by its mark among all processes (50 ms).
        """
        others = psutil.process_iter() if is_stopped and not self.adopts else self.orphans()
        main = [ask(lambda: psutil.Process(process.pid))] if process.returncode is None else []
        return [one for one in others if self.is_alone or mark_of(one) == folder] + [one for one in main if one]


def main() -> None:
    def report(key: str, problem: str | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps({"ended": key, "problem": problem}).encode() + b"\n")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: for jobs, too
        numbers.append(signal.SIGHUP)
    for number in numbers:  # only the dispatcher decides when jobs end; SIG_IGN would be inherited by them
        signal.signal(number, lambda *_: None)
    guard = Guard(report, is_alone=False, adopts=ON_LINUX and "--no_adoption" not in sys.argv)
    for line in sys.stdin.buffer:
        guard.obey(json.loads(line))
    guard.end(*ASKED)
    guard.join()
