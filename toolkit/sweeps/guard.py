"""The guard: a small Linux process between the dispatcher and its jobs, so that no job outlives the dispatcher.

It runs each task as a JobRun (run_job.py) in one event loop: a job costs it a vfork and a few small files instead of
the start or fork of an interpreter. If the dispatcher dies, even by SIGKILL, the guard reads the end of its input and
ends every job. If the guard is killed, the jobs become children of the dispatcher, which ends them.

Input, JSON lines: {"run": key, "task": {...}} or {"stop": key, "now": bool}. Output: {"ended": key} when all is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys

import psutil

from toolkit.sweeps import process_tree
from toolkit.sweeps.run_job import STOP_NOW, JobRun, Task


class Guard:
    """State of the guard: the runs by their key, and which process is whose."""

    def __init__(self) -> None:
        self.runs: dict[str, JobRun] = {}
        self.main_processes: dict[int, JobRun] = {}
        self.wakeup_in, wakeup_out = os.pipe()
        os.set_blocking(wakeup_out, False)
        os.set_blocking(self.wakeup_in, False)
        signal.set_wakeup_fd(wakeup_out)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # only the dispatcher decides when jobs end

    def serve(self) -> None:
        """Obey until the input ends; then stop every job and return when nothing is left."""
        unread, listening = b"", True
        while listening or self.runs:
            delay = min((run.delay() for run in self.runs.values()), default=None)
            ready = select.select([self.wakeup_in, *([0] if listening else [])], [], [], delay)[0]
            if self.wakeup_in in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wakeup_in, 4096)
                self._reap()
            if 0 in ready:
                read = os.read(0, 1 << 16)
                *lines, unread = (unread + read).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
                if not read:
                    listening = False
                    for run in self.runs.values():
                        run.ask_to_stop(None)
            self._take_turns()
        self._end_strays()

    def _obey(self, message: dict) -> None:
        if "stop" in message:
            if message["stop"] in self.runs:
                self.runs[message["stop"]].ask_to_stop(STOP_NOW if message["now"] else None)
            return
        key, run = message["run"], JobRun(Task(**message["task"]), self._family, dies_with_us=False)
        try:
            begun = run.begin()
        except OSError as error:  # a full disk, a folder that cannot be written
            self._complain(run, error)
            begun = run.process is not None
        if run.process is not None:
            self.main_processes[run.process.pid] = run
        if begun and not run.is_over:
            self.runs[key] = run
        else:
            self._report(key)

    def _take_turns(self) -> None:
        """Let every run that is due do its next step."""
        for key, run in list(self.runs.items()):
            if not run.is_due:
                continue
            try:
                run.turn()
            except OSError as error:
                self._complain(run, error)
                run.phase = "over"
            if run.is_over:
                del self.runs[key]
                self._report(key)

    @staticmethod
    def _complain(run: JobRun, error: OSError) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"error: {run.task.folder}: {error}\n".encode())

    @staticmethod
    def _report(key: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps({"ended": key}).encode() + b"\n")

    def _reap(self) -> None:
        """Collect ended children: the jobs' main processes with their exit codes, and dead orphans."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                run = self.main_processes.pop(pid, None)
                if run is not None:
                    run.process.returncode = os.waitstatus_to_exitcode(status)

    def _family(self, run: JobRun) -> list[psutil.Process]:
        """What a run has started: all below its process, and our adopted children that bear its mark."""
        found = process_tree.below(run.process.pid) if run.process.returncode is None else []
        for pid in process_tree.children_of_ours():
            if pid not in self.main_processes and process_tree.mark_of(pid) == run.task.folder:
                with contextlib.suppress(psutil.Error):
                    found.append(psutil.Process(pid))
                found += process_tree.below(pid)
        return found

    def _end_strays(self) -> None:
        """At the end, kill every child that there still is: it has rubbed off its mark."""
        while pids := process_tree.children_of_ours():
            for pid in pids:
                for one in [*process_tree.below(pid), psutil.Process(pid)]:
                    with contextlib.suppress(psutil.Error):
                        one.kill()
            process_tree.reap_orphans()


def main() -> None:
    process_tree.become_reaper()
    Guard().serve()


if __name__ == "__main__":
    sys.exit(main())
