"""Start tasks on this machine and hear of their end: by the guard on Linux, by one process a task elsewhere.

Both run the same run_one_job in another process and watch for our own death, so nothing survives the dispatcher.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import IO, Any

from toolkit.sweeps import process_tree
from toolkit.sweeps.process_tree import ON_LINUX
from toolkit.sweeps.run_job import STOP_NOW, Task, task_to_json

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class GuardSpawner:
    """Hands tasks to one guard process (guard.py). Ended keys arrive in `ended`; None means that the guard died."""

    def __init__(self, ended: queue.SimpleQueue) -> None:
        self.ended = ended
        process_tree.become_reaper()  # of jobs whose guard was killed, see `clean_up`
        self._guard = _start_module("toolkit.sweeps.guard", stdout=subprocess.PIPE)
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, key: str, task: Task) -> None:
        self._send({"run": key, "task": task.__dict__})

    def stop(self, key: str, now: bool) -> None:
        self._send({"stop": key, "now": now})

    def owns(self, pid: int) -> bool:
        """True if process `pid`, which made a claim, is ours."""
        return pid == self._guard.pid

    def clean_up(self, folders: list[str]) -> None:
        """After the guard's death: end the jobs that it ran."""
        self.close()
        process_tree.end_marked(folders)
        process_tree.reap_orphans()

    def close(self) -> None:
        """End the guard and, if there still are any, its jobs."""
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        self._guard.wait()

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # a dead guard is reported through `ended`
            self._guard.stdin.write(json.dumps(message).encode() + b"\n")
            self._guard.stdin.flush()

    def _listen(self) -> None:
        for line in self._guard.stdout:
            self.ended.put(json.loads(line)["ended"])
        self.ended.put(None)


class ProcessSpawner:
    """Starts `python -m toolkit.sweeps.run_job` for each task; works on every system."""

    def __init__(self, ended: queue.SimpleQueue) -> None:
        self.ended = ended
        self._watchers: dict[str, subprocess.Popen] = {}

    def start(self, key: str, task: Task) -> None:
        watcher = _start_module("toolkit.sweeps.run_job", stdout=None)
        self._watchers[key] = watcher
        _write(watcher.stdin, task_to_json(task))
        threading.Thread(target=self._wait, args=(key, watcher), daemon=True).start()

    def stop(self, key: str, now: bool) -> None:
        if key in self._watchers:
            if now:
                _write(self._watchers[key].stdin, STOP_NOW)
            with contextlib.suppress(OSError):
                self._watchers[key].stdin.close()

    def owns(self, pid: int) -> bool:
        return False  # a watcher whose end we have heard of is no more

    def close(self) -> None:
        watchers = list(self._watchers.items())
        for key, _ in watchers:
            self.stop(key, now=False)
        for _, watcher in watchers:
            watcher.wait()

    def _wait(self, key: str, watcher: subprocess.Popen) -> None:
        watcher.wait()
        self.stop(key, now=False)  # closes our end of its pipe
        del self._watchers[key]
        self.ended.put(key)


def make_spawner(ended: queue.SimpleQueue) -> GuardSpawner | ProcessSpawner:
    """The best spawner of this system."""
    return GuardSpawner(ended) if ON_LINUX else ProcessSpawner(ended)


def _start_module(name: str, stdout: int | None) -> subprocess.Popen:
    """Start a module of this project in its own session: a Ctrl-C in the terminal reaches only the dispatcher."""
    # The jobs must not inherit a changed PYTHONPATH, so the project's root goes in front by -c instead of by variable.
    code = f"import sys, runpy; sys.path.insert(0, {ROOT!r}); runpy.run_module({name!r}, run_name='__main__')"
    options: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=stdout, **options)


def _write(pipe: IO[bytes], line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        pipe.write(line.encode() + b"\n")
        pipe.flush()
