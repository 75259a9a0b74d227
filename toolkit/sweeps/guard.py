"""The guard: a small process between the dispatcher and its jobs, so that no job outlives the dispatcher.

It runs each task as a JobRun in one event loop: a job costs it a vfork and a few small files instead of the start or
fork of an interpreter. If the dispatcher dies, even by SIGKILL, the guard reads the end of its input and ends every
job. If the guard is killed, on Linux the jobs become children of the dispatcher, which ends them. On Linux it is a
subreaper: whatever a job starts, in its own session or orphaned by its parent, becomes a child of the guard when its
own parent ends, so nothing gets out of sight. Elsewhere the process tree below the job has to do.

Input, JSON lines: {"run": key, "task": {...}, "place": name, "limit": n} or {"stop": key, "now": bool}. A place runs
at most `limit` of its tasks at a time; the next one waits here, so that it starts without asking the dispatcher.
Output: {"ended": key, "problem": text or null} when all of it is gone. A Slurm task runs its one job by a Guard too.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable

import psutil

from toolkit.sweeps import jobs
from toolkit.sweeps.run_job import (
    ON_LINUX,
    ON_WINDOWS,
    JobRun,
    Task,
    become_reaper,
    below,
    children_of_ours,
    kill_all,
    mark_of,
)


class Guard:
    """Runs tasks and hears of their ends. `is_alone`: if this process is killed, nobody adopts the jobs."""

    def __init__(self, report: Callable[[str, str | None], None], is_alone: bool, threads: bool = ON_WINDOWS) -> None:
        self.report, self.is_alone, self.threads = report, is_alone, threads
        self.adopts = ON_LINUX and not threads
        self.runs: dict[str, JobRun] = {}
        self.places: dict[str, str] = {}  # key of a running task -> its place
        self.waiting: deque[dict] = deque()
        self.main_processes: dict[int, JobRun] = {}
        self.inbox: deque[dict] = deque()
        self.wakeup_in, self.wakeup_out = socket.socketpair()
        for end in (self.wakeup_in, self.wakeup_out):
            end.setblocking(False)
        signal.set_wakeup_fd(self.wakeup_out.fileno(), warn_on_full_buffer=False)
        if self.adopts:
            become_reaper()
        if not threads:
            signal.signal(signal.SIGCHLD, lambda *_: None)

    def tell(self, message: dict) -> None:
        """Hand in a message, from another thread or from a signal handler."""
        self.inbox.append(message)
        with contextlib.suppress(BlockingIOError):
            self.wakeup_out.send(b"x")

    def listen(self) -> None:
        """Read the input to its end, in a thread."""
        for line in sys.stdin.buffer:
            self.tell(json.loads(line))
        self.tell({"end": True})

    def serve(self, listening: bool) -> None:
        """Work until there is nothing to run and nothing more to hear; then kill what hid from us."""
        while listening or self.runs:
            delay = min((run.delay() for run in self.runs.values()), default=None)
            if not self.inbox and select.select([self.wakeup_in], [], [], delay)[0]:
                with contextlib.suppress(BlockingIOError):
                    self.wakeup_in.recv(4096)
            self._reap()
            while self.inbox:
                message = self.inbox.popleft()
                listening &= "end" not in message
                self._obey(message)
            self._take_turns()
        self._end_strays()

    def _obey(self, message: dict) -> None:
        if "run" in message:
            self.waiting.append(message)
            self._start_waiting()
        elif "stop" in message and message["stop"] in self.runs:
            self.runs[message["stop"]].ask_to_stop(jobs.INTERRUPTED, "it was asked to stop", message["now"])
        elif "stop" in message and (left := [one for one in self.waiting if one["run"] == message["stop"]]):
            self.waiting.remove(left[0])
            self.report(message["stop"], None)
        elif "end" in message:  # our starter is gone or wants us to stop; on a cluster, its manager does
            self.waiting.clear()
            for run in self.runs.values():
                run.ask_to_stop(*(run.request() or message.get("why") or (jobs.INTERRUPTED, "it was asked to stop")))

    def _start_waiting(self) -> None:
        """Start each waiting task whose place has room."""
        for message in list(self.waiting):
            if sum(place == message["place"] for place in self.places.values()) < message["limit"]:
                self.waiting.remove(message)
                self.start(message["run"], Task(**message["task"]), message["place"])

    def start(self, key: str, task: Task, place: str) -> None:
        """Begin a task; it is reported at once if it was not free or cannot be started."""
        run, problem, begun = JobRun(task, self.family, self.is_alone), None, False
        try:
            begun = run.begin()
        except Exception as error:  # a full disk, a folder of another user: this job's trouble, not its neighbours'
            problem = f"{type(error).__name__}: {error}"
        if run.process is not None:
            begun = True
            self.main_processes[run.process.pid] = run
            if self.threads:
                threading.Thread(target=lambda: (run.process.wait(), self.tell({})), daemon=True).start()
        if begun and not run.is_over:
            self.runs[key], self.places[key] = run, place
        else:
            self.report(key, problem)

    def _take_turns(self) -> None:
        """Let every run that is due do its next step; what waits for a place gets the ones that become free."""
        for key, run in list(self.runs.items()):
            if not (run.is_ending or run.process.returncode is not None or run.delay() == 0):
                continue
            problem = None
            try:
                run.turn()
            except OSError as error:
                run.is_over, problem = True, f"{type(error).__name__}: {error}"
            if run.is_over:
                del self.runs[key], self.places[key]
                self._start_waiting()
                self.report(key, problem)

    def _reap(self) -> None:
        """Collect ended children: the jobs' main processes with their exit codes, and dead orphans."""
        if self.threads:
            return
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                run = self.main_processes.pop(pid, None)
                if run is not None:
                    run.process.returncode = os.waitstatus_to_exitcode(status)
                    run.memory_mb = round(used.ru_maxrss / (1024 if ON_LINUX else 2**20), 1)

    def family(self, run: JobRun) -> list[psutil.Process]:
        """What a run has started: all below its process, and our adopted children that bear its mark.

        Where we adopt nobody, a child that was orphaned just now is found by its mark among all processes (50 ms).
        """
        found = below(run.process.pid) if run.process.returncode is None else []
        if not self.adopts and run.stop is not None:
            found += [one for one in psutil.process_iter() if mark_of(one.pid) == run.task.folder]
        for pid in children_of_ours() if self.adopts else ():
            if pid not in self.main_processes and (self.is_alone or mark_of(pid) == run.task.folder):
                with contextlib.suppress(psutil.Error):
                    found.append(psutil.Process(pid))
                found += below(pid)
        return found

    def _end_strays(self) -> None:
        """At the end, kill every child that there still is: it removed the mark from its environment."""
        while self.adopts and (pids := children_of_ours()):
            for pid in pids:
                with contextlib.suppress(psutil.Error):
                    kill_all([*below(pid), psutil.Process(pid)])
            self._reap()


def main() -> None:
    def report(key: str, problem: str | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps({"ended": key, "problem": problem}).encode() + b"\n")

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # only the dispatcher decides when jobs end; SIG_IGN would be inherited by them
            signal.signal(getattr(signal, name), lambda *_: None)
    guard = Guard(report, is_alone=False, threads=ON_WINDOWS or "--threads" in sys.argv)
    threading.Thread(target=guard.listen, daemon=True).start()
    guard.serve(listening=True)
    os._exit(0)  # the thread that reads stdin must not keep us


if __name__ == "__main__":
    main()
