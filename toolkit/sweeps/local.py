"""The local engine: keeps every GPU of this machine (or a number of processor slots) busy with jobs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from typing import Any

from toolkit.sweeps.devices import Device, job_environment
from toolkit.sweeps.jobs import FOLDER, Status
from toolkit.sweeps.run_job import Task, become_reaper, end_marked

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Engine:
    """Base of LocalEngine and SlurmEngine: what a sweep knows of them."""

    name: str
    slots: int  # how many jobs run at a time when all is busy
    shares_devices = False  # True if a job may have run out of memory because of its neighbours
    leaves = False  # True if the dispatcher ends when everything is in the engine's queue
    runs_ahead = False  # a task may be handed in before there is room for it

    def has_room(self, alone: bool = False) -> bool:
        """True if `start` may be called now, for a task that wants a device for itself or not."""
        raise NotImplementedError

    def start(self, name: str, task: Task, alone: bool) -> None:
        """Start a task, or put it in the engine's queue."""
        raise NotImplementedError

    def wait(self, timeout_s: float) -> list[str]:
        """Names of the tasks that have ended, after at most about `timeout_s`."""
        raise NotImplementedError

    def wake(self) -> None:
        """End a `wait` early; may be called in a signal handler."""
        raise NotImplementedError

    def stop_all(self, now: bool) -> None:
        """Ask every task to end, `now` without its grace time."""
        raise NotImplementedError

    def close(self, wait: bool = True) -> None:
        """End what belongs to this process; without `wait` it may end a little later."""

    def owns(self, pid: int | None) -> bool:
        """True if the owner of a claim is our own helper, so that its being alive does not mean that the job is."""
        return False

    def has_queued(self, name: str) -> bool:
        """True if job `name` waits or runs in the engine's queue since an earlier start of the dispatcher."""
        return False

    def in_queue(self) -> Collection[str]:
        """Names of started tasks that do not run yet."""
        return ()

    def fate(self, name: str, status: Status) -> Status | None:
        """What the engine knows better of an ended task: state, cause and detail, or state queued: it runs again."""
        return None


class LocalEngine(Engine):
    """Runs tasks on `devices`. The sweep asks `has_room`, calls `start`, and learns of ends from `wait`.

    If it `runs_ahead`, each device gets one task more than it runs at a time: the guard starts it when there is room.
    """

    name = "local"

    def __init__(self, devices: list[Device], guard_flags: Sequence[str] = ()) -> None:
        self.devices, self._guard_flags = devices, guard_flags
        self._ended: queue.SimpleQueue = queue.SimpleQueue()
        self._problems: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._draining: Device | None = None  # gets no new job until it is empty for one that wants to be alone
        become_reaper()  # of jobs whose guard was killed, see `wait`
        self._start_guard()

    def _start_guard(self) -> None:
        """In a session of its own: a Ctrl-C in the terminal reaches only the dispatcher."""
        options: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        # The jobs must not inherit a changed PYTHONPATH, so the project's root goes in front by -c, not by variable.
        code = f"import sys; sys.path.insert(0, {ROOT!r}); import toolkit.sweeps.guard as guard; guard.main()"
        command = [sys.executable, "-c", code, *self._guard_flags]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        threading.Thread(target=self._listen, args=(self._guard,), daemon=True).start()

    def _listen(self, guard: subprocess.Popen) -> None:
        with guard.stdout:
            for line in guard.stdout:
                message = json.loads(line)
                if message["problem"]:
                    self._problems[message["ended"]] = message["problem"]
                self._ended.put(message["ended"])
        self._ended.put(None)

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # that the guard is dead is heard through `_ended`
            self._guard.stdin.write(json.dumps(message).encode() + b"\n")
            self._guard.stdin.flush()

    @property
    def slots(self) -> int:
        return sum(device.capacity for device in self.devices)

    @property
    def shares_devices(self) -> bool:
        return any(device.capacity > 1 for device in self.devices)

    def has_room(self, alone: bool = False) -> bool:
        return self._place(alone) is not None

    def start(self, name: str, task: Task, alone: bool) -> None:
        device = self._place(alone)
        device.running[name] = None
        device.alone = alone
        if alone:
            self._draining = None
        task.device = device.name
        task.environment = job_environment(device, 1 if alone and device.gpu is None else self.slots)
        self._folders[name] = task.folder
        limit = 1 if alone else device.capacity
        self._send({"run": name, "task": vars(task), "place": device.name, "limit": limit})

    def wait(self, timeout_s: float) -> list[str]:
        names: list[str | None] = []
        with contextlib.suppress(queue.Empty):
            names.append(self._ended.get(timeout=timeout_s))
            while True:
                names.append(self._ended.get_nowait())
        if None in names:  # the guard was killed: its jobs are our children now
            names = [name for device in self.devices for name in device.running]
            self.close()
            end_marked([self._folders[name] for name in names])
            with contextlib.suppress(ChildProcessError, AttributeError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            self._start_guard()
        ended = [name for name in names if name]
        for device in self.devices:
            for name in ended:
                device.running.pop(name, None)
        return ended

    def owns(self, pid: int | None) -> bool:
        return pid == self._guard.pid

    def in_queue(self) -> set[str]:
        return {name for one in self.devices for name in list(one.running)[1 if one.alone else one.capacity :]}

    def fate(self, name: str, status: Status) -> Status | None:
        problem = self._problems.pop(name, None)
        return Status("failed", cause=FOLDER, detail=problem) if problem else None

    def wake(self) -> None:
        self._ended.put("")

    def stop_all(self, now: bool) -> None:
        for device in self.devices:
            for name in device.running:
                self._send({"stop": name, "now": now})

    def close(self, wait: bool = True) -> None:
        """End the guard and, if there still are any, its jobs."""
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        if wait:
            self._guard.wait()

    def _place(self, alone: bool) -> Device | None:
        """The device with most room for one more job, None if it must wait."""
        if alone:
            empty = [device for device in self.devices if not device.running]
            if not empty and self._draining is None:
                self._draining = min(self.devices, key=lambda device: len(device.running))
            return empty[0] if empty else None
        free = [
            device
            for device in self.devices
            if device is not self._draining
            and len(device.running) < (1 if device.alone and device.running else device.capacity + self.runs_ahead)
        ]
        return max(free, key=lambda device: device.capacity - len(device.running), default=None)
