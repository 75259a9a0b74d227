"""Which GPUs and how many processor cores the jobs of this machine share, and why those."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field

from toolkit.errors import UserError

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


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
    """(the GPUs that this process may use, where that is known from); None if nobody can tell."""
    limit = os.environ.get("CUDA_VISIBLE_DEVICES")
    if limit is None:
        return installed_gpus()
    names: list[str] = []
    for name in map(str.strip, limit.split(",")):
        if not re.fullmatch(r"\d+|GPU-.+|MIG-.+", name):  # CUDA ends the list at the first of another kind
            break
        names.append(name)
    return names, f"CUDA_VISIBLE_DEVICES={limit!r}"


def installed_gpus() -> tuple[list[str] | None, str]:
    """The NVIDIA GPUs by number, or by name the parts of one that is divided (MIG). torch is not imported for it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, "there is no nvidia-smi that lists GPUs"
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"nvidia-smi failed: {error}"
    if listed.returncode != 0:
        said = " ".join((listed.stderr or listed.stdout).split())[:200]
        return None, f"nvidia-smi failed with exit code {listed.returncode}: {said}"
    names: list[str] = []
    for line in listed.stdout.splitlines():
        whole, part = re.match(r"GPU (\d+):", line), re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line)
        if part and names and names[-1].isdecimal():
            names.pop()  # the GPU that this and its neighbours are parts of
        names += [found[1] for found in (whole, part) if found]
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
