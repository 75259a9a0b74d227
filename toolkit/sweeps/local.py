"""The local engine: which GPUs or processor cores the jobs share, and why those; it keeps all of them busy."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import UserError
from toolkit.sweeps.guard import OWN_SESSION, become_reaper, end_marked
from toolkit.sweeps.jobs import FOLDER, Status, Task

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIBRARIES = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "NUMEXPR_NUM", "VECLIB_MAXIMUM")
THREAD_VARIABLES = tuple(f"{name}_THREADS" for name in LIBRARIES)


@dataclass
class Device:
    """A place for jobs: one GPU, or the processor (gpu is None). `running`: its jobs, the first started first."""

    gpu: str | None
    capacity: int
    by_bus: bool = False  # its number is nvidia-smi's, which counts by PCI bus; CUDA alone counts the fastest first
    running: dict[str, None] = field(default_factory=dict)
    alone: bool = False  # its one job has the device for itself

    @property
    def name(self) -> str:
        return "cpu" if self.gpu is None else f"gpu {self.gpu}"


def find_devices(gpus: str, jobs_per_gpu: int, num_workers: int) -> tuple[list[Device], str]:
    """(devices, why these) for `--gpus auto|none|0,1,3`; without a GPU `num_workers` jobs run on the processor.

    Numbers count the GPUs that CUDA_VISIBLE_DEVICES leaves, as they do for every CUDA program.
    """
    if jobs_per_gpu < 1 or num_workers < 1:
        raise UserError(f"jobs_per_gpu is {jobs_per_gpu} and num_workers {num_workers}; both must be at least 1")
    found, why = ([], "--gpus none") if gpus == "none" else visible_gpus()
    if gpus not in ("auto", "none"):
        wanted = [name.strip() for name in gpus.split(",")]
        if not all(name.isdecimal() for name in wanted) or len(set(wanted)) < len(wanted):
            raise UserError(f"gpus is {gpus!r}; allowed: auto, none, or different numbers like 0,1,3")
        if found is None:  # no nvidia-smi to ask: the user must know
            found = [str(index) for index in range(1 + max(map(int, wanted)))]
        if max(map(int, wanted)) >= len(found):
            raise UserError(f"gpus is {gpus!r}, but this machine has {len(found)} GPUs, numbered from 0 ({why})")
        found, why = [found[int(name)] for name in wanted], f"--gpus {gpus}; {why}"
    by_bus = "CUDA_VISIBLE_DEVICES" not in os.environ
    devices = [Device(name, jobs_per_gpu, by_bus) for name in found or ()]
    return devices or [Device(None, num_workers)], why


def describe_devices(devices: list[Device], why: str) -> str:
    """'2 GPUs (0, 1), 1 job at a time on each: nvidia-smi lists them'."""
    count = devices[0].capacity
    each = f"{count} job{'s' if count > 1 else ''} at a time"
    if devices[0].gpu is None:
        return f"the processor, {each}: {why}"
    names = ", ".join(str(device.gpu) for device in devices)
    return f"{len(devices)} GPU{'s' if len(devices) > 1 else ''} ({names}), {each} on each: {why}"


def visible_gpus() -> tuple[list[str] | None, str]:
    """(the GPUs that this process may use, where that is known from); None if that is not known."""
    limit = os.environ.get("CUDA_VISIBLE_DEVICES")
    if limit is None:
        return installed_gpus()
    names = dict.fromkeys(map(str.strip, limit.split(",")))  # one that is listed twice is one device
    # CUDA ends the list at the first name of another kind.
    known = itertools.takewhile(lambda name: re.fullmatch(r"\d+|GPU-.+|MIG-.+", name), names)
    return list(known), f"CUDA_VISIBLE_DEVICES={limit!r}"


def installed_gpus() -> tuple[list[str] | None, str]:
    """The NVIDIA GPUs by number, or by name the parts of one that is divided (MIG). torch is not imported for it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, "there is no nvidia-smi"
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"nvidia-smi failed: {error}"
    if listed.returncode != 0:
        said = " ".join((listed.stderr or listed.stdout).split())[:200]
        return None, f"nvidia-smi failed with exit code {listed.returncode}: {said}"
    names: list[str] = []
    for number, part in re.findall(r"^GPU (\d+):|^\s+MIG .*\(UUID: (MIG-[^)]+)\)", listed.stdout, re.MULTILINE):
        if part and names and names[-1].isdecimal():
            names.pop()  # the GPU that this and its neighbours are parts of
        names.append(number or part)
    return names, "nvidia-smi lists " + (", ".join(names) if names else "no GPU")


def usable_cores() -> int:
    """Processor cores for this process: its affinity, and the share that a container (cgroup v2) allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def job_environment(device: Device, number_of_jobs: int) -> dict[str, str]:
    """What tells a job its GPU and its share of the cores, if `number_of_jobs` run at a time.

    Without it each job starts one thread per core, and the jobs take the cores from each other
    (`python -m bench.dispatch --only threads` measures it). Who sets one of the variables decides: none is added.
    """
    environment = {"CUDA_VISIBLE_DEVICES": device.gpu or ""}
    if device.by_bus and "CUDA_DEVICE_ORDER" not in os.environ:
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if not any(name in os.environ for name in THREAD_VARIABLES):
        environment |= dict.fromkeys(THREAD_VARIABLES, str(max(1, usable_cores() // number_of_jobs)))
    return environment


class Engine:
    """What a sweep knows of LocalEngine and SlurmEngine. Both also have:

    has_room(alone): may `start` be called now, for a task that wants a device for itself or not?
    start(name, task, alone): start a task, or put it in the engine's queue.
    wait(timeout_s): names of the tasks that have ended, after about this long at most.
    wake(): end a `wait` early; may be called in a signal handler.
    stop_all(now): ask every task to end; `now`: without its grace time.
    """

    name: str
    slots: int  # how many jobs run at a time when all is busy
    shares_devices = False  # True if a job may have run out of memory because of its neighbours
    leaves = False  # True if the dispatcher ends when everything is in the engine's queue
    runs_ahead = False  # a task may be handed in before there is room for it

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
        self.slots = sum(device.capacity for device in devices)
        self.shares_devices = any(device.capacity > 1 for device in devices)
        become_reaper()  # of jobs whose guard was killed, see `wait`
        self._start_guard()

    def _start_guard(self) -> None:
        """In a session of its own: a Ctrl-C in the terminal reaches only the dispatcher."""
        # The jobs must not inherit a changed PYTHONPATH, so the project's root goes in front by -c, not by variable.
        code = f"import sys; sys.path.insert(0, {ROOT!r}); import toolkit.sweeps.guard as guard; guard.main()"
        command = [sys.executable, "-c", code, *self._guard_flags]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **OWN_SESSION)
        threading.Thread(target=self._listen, args=(self._guard,), daemon=True).start()

    def _listen(self, guard: subprocess.Popen) -> None:
        with guard.stdout:
            for line in guard.stdout:
                message = json.loads(line)
                self._problems[message["ended"]] = message["problem"]
                self._ended.put(message["ended"])
        self._ended.put(None)

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # that the guard is dead is heard through `_ended`
            self._guard.stdin.write(json.dumps(message).encode() + b"\n")
            self._guard.stdin.flush()

    def has_room(self, alone: bool = False) -> bool:
        return self._place(alone) is not None

    def start(self, name: str, task: Task, alone: bool) -> None:
        device = self._place(alone)
        device.running[name] = None
        device.alone = alone
        task.device = device.name
        task.environment = job_environment(device, 1 if alone and device.gpu is None else self.slots)
        self._folders[name] = task.folder
        self._send({"run": name, "task": vars(task), "limit": 1 if alone else device.capacity})

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
        for device in self.devices:
            device.running = {name: None for name in device.running if name not in names}
        return [name for name in names if name]

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

        def room(device: Device) -> int:
            if alone or device.alone:
                return not device.running
            return device.capacity + self.runs_ahead - len(device.running)

        best = max(self.devices, key=room)
        return best if room(best) > 0 else None
