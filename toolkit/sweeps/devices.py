"""Which GPUs and how many processor cores the jobs of this machine share."""

from __future__ import annotations

import os
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
    """A place for jobs: one GPU, or the processor (gpu is None). `running` holds the names of its jobs."""

    gpu: str | None
    capacity: int
    running: set[str] = field(default_factory=set)
    alone: bool = False  # its one job has the device for itself

    @property
    def name(self) -> str:
        return "cpu" if self.gpu is None else f"gpu {self.gpu}"


def find_devices(gpus: str, jobs_per_gpu: int, num_workers: int) -> list[Device]:
    """Devices for `--gpus auto|none|0,1,3`. auto without a GPU means `num_workers` jobs on the processor."""
    if jobs_per_gpu < 1 or num_workers < 1:
        raise UserError(f"jobs_per_gpu is {jobs_per_gpu} and num_workers {num_workers}; both must be at least 1")
    if gpus == "none":
        names: list[str] = []
    elif gpus == "auto":
        names = visible_gpus()
    else:
        names = [name.strip() for name in gpus.split(",")]
        if not all(name.isdecimal() for name in names) or len(set(names)) < len(names):
            raise UserError(f"gpus is {gpus!r}; allowed: auto, none, or different numbers like 0,1,3")
        present = installed_gpus()
        missing = [name for name in names if present is not None and int(name) >= present]
        if missing:
            raise UserError(f"gpus is {gpus!r}, but this machine has {present} GPUs, numbered from 0")
    return [Device(name, jobs_per_gpu) for name in names] or [Device(None, num_workers)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use: CUDA_VISIBLE_DEVICES if it is set, else all that are installed."""
    limited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if limited is not None:
        return [name.strip() for name in limited.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index in range(installed_gpus() or 0)]


def installed_gpus() -> int | None:
    """Number of NVIDIA GPUs, None if this machine has no nvidia-smi that would tell. torch is not imported for it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else None


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

    Without it each job starts one thread a core, and the jobs take the cores from each other
    (`python -m bench.dispatch --only threads` measures it). A variable that the user has set is left alone.
    """
    threads = str(max(1, usable_cores() // number_of_jobs))
    environment = {name: threads for name in THREAD_VARIABLES if name not in os.environ}
    environment["CUDA_VISIBLE_DEVICES"] = device.gpu or ""
    return environment
