"""The guard: a small Linux process between the dispatcher and its jobs, so that no job outlives the dispatcher.

dispatcher -> guard -> one watcher a job -> the job. The guard forks a watcher (run_one_job) for each task, which costs
about a millisecond instead of the start of an interpreter. If the dispatcher dies, even by SIGKILL, the guard reads the
end of its input and has every watcher end its job. If the guard dies, the watchers get SIGTERM; if a watcher dies, its
job gets SIGKILL and the guard, which adopts what is left, ends the rest.

Input, JSON lines: {"run": key, "task": {...}} or {"stop": key, "now": bool}. Output: {"ended": key} when all is gone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import select
import signal
import sys

import psutil

from toolkit.sweeps import process_tree
from toolkit.sweeps.run_job import Task, listen_to_signals, run_one_job

WATCHER_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Guard:
    """State of the guard: which watcher process runs which job."""

    def __init__(self) -> None:
        self.watchers: dict[int, str] = {}
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
        while listening or self.watchers:
            ready = select.select([self.wakeup_in, *([0] if listening else [])], [], [])[0]
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
                    self._signal_all(signal.SIGTERM)
        self._end_strays()

    def _obey(self, message: dict) -> None:
        if "run" in message:
            guard = os.getpid()
            # Blocked, a signal waits for the watcher's own handlers; our ignoring it would swallow it.
            signal.pthread_sigmask(signal.SIG_BLOCK, WATCHER_SIGNALS)
            pid = os.fork()
            if pid == 0:
                _watch(Task(**message["task"]), guard)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHER_SIGNALS)
            self.watchers[pid] = message["run"]
        else:
            number = signal.SIGUSR1 if message["now"] else signal.SIGTERM
            for pid, key in self.watchers.items():
                if key == message["stop"]:
                    os.kill(pid, number)

    def _signal_all(self, number: int) -> None:
        for pid in self.watchers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self) -> None:
        """Collect ended children; a watcher that was killed leaves its job's processes to us."""
        ended = []
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in self.watchers:
                    ended.append(self.watchers.pop(pid))
                    if status != 0:
                        self._end_strays()
        for key in ended:
            with contextlib.suppress(BrokenPipeError):
                os.write(1, json.dumps({"ended": key}).encode() + b"\n")

    def _end_strays(self) -> None:
        """Kill every child that is no watcher, with all below it."""
        while True:
            children = psutil.Process().children()
            strays = [one for one in children if one.pid not in self.watchers and _is_running(one)]
            if not strays:
                return
            for stray in strays:
                for one in [*_below(stray), stray]:
                    with contextlib.suppress(psutil.Error):
                        one.kill()
            psutil.wait_procs(strays, timeout=1)


def _is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _below(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _watch(task: Task, guard: int) -> None:
    """The life of a forked watcher; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        inbox: queue.SimpleQueue = queue.SimpleQueue()
        listen_to_signals(inbox)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHER_SIGNALS)
        process_tree.die_with_parent(guard, signal.SIGTERM)
        process_tree.become_reaper()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)  # else the dispatcher would not see the end of a dead guard's output
        run_one_job(task, inbox)
        code = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"error: the watcher of {task.folder} failed: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def main() -> None:
    process_tree.become_reaper()
    guard = Guard()
    gc.collect()
    gc.freeze()  # forked watchers then share these pages instead of copying them
    guard.serve()


if __name__ == "__main__":
    sys.exit(main())
