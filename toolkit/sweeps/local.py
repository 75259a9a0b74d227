"""The local engine: keeps every GPU of this machine (or a number of processor slots) busy with jobs."""

from __future__ import annotations

import queue

from toolkit.sweeps.devices import Device, job_environment
from toolkit.sweeps.engine import Engine
from toolkit.sweeps.run_job import Task
from toolkit.sweeps.spawn import make_spawner


class LocalEngine(Engine):
    """Runs tasks on `devices`. The sweep asks `has_room`, calls `start`, and learns of ends from `wait`."""

    name = "local"

    def __init__(self, devices: list[Device]) -> None:
        self.devices = devices
        self._ended: queue.SimpleQueue = queue.SimpleQueue()
        self._spawner = make_spawner(self._ended)
        self._folders: dict[str, str] = {}
        self._draining: Device | None = None  # gets no new job until it is empty for one that wants to be alone

    @property
    def slots(self) -> int:
        return sum(device.capacity for device in self.devices)

    @property
    def shares_devices(self) -> bool:
        return any(device.capacity > 1 for device in self.devices)

    def has_room(self, alone: bool = False) -> bool:
        return self._place(alone) is not None

    def start(self, tasks: list[tuple[str, Task, bool]]) -> None:
        """Start (name, task, alone) on free places; the caller has asked `has_room` before each."""
        for name, task, alone in tasks:
            device = self._place(alone)
            device.running.add(name)
            device.alone = alone
            if alone:
                self._draining = None
            task.device = device.name
            task.environment = job_environment(device, 1 if alone and device.gpu is None else self.slots)
            self._folders[name] = task.folder
            self._spawner.start(name, task)

    def wait(self, timeout_s: float) -> list[str]:
        """Names of the jobs that have ended, after at most `timeout_s`; an empty list if nothing happened."""
        names: list[str] = []
        try:
            names.append(self._ended.get(timeout=timeout_s))
            while True:
                names.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        if None in names:  # the guard was killed
            names = [name for device in self.devices for name in device.running]
            self._spawner.clean_up([self._folders[name] for name in names])
            self._spawner = make_spawner(self._ended)
        ended = [name for name in names if name]
        for device in self.devices:
            device.running.difference_update(ended)
        return ended

    def owns(self, pid: int | None) -> bool:
        return pid is not None and self._spawner.owns(pid)

    def wake(self) -> None:
        self._ended.put("")

    def stop_all(self, now: bool) -> None:
        for device in self.devices:
            for name in device.running:
                self._spawner.stop(name, now)

    def close(self) -> None:
        self._spawner.close()

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
            and len(device.running) < (1 if device.alone and device.running else device.capacity)
        ]
        return max(free, key=lambda device: device.capacity - len(device.running), default=None)
