"""What runs tasks: the local engine and the Slurm engine have this in common, and a sweep knows no more of them."""

from __future__ import annotations

from collections.abc import Collection

from toolkit.sweeps.jobs import Status
from toolkit.sweeps.run_job import Task


class Engine:
    """Base of LocalEngine and SlurmEngine. The methods below `owns` are for engines with a queue of their own."""

    name: str
    slots: int  # how many jobs run at a time when all is busy
    shares_devices = False  # True if a job may have run out of memory because of its neighbours
    leaves = False  # True if the dispatcher ends when everything is in the engine's queue

    def has_room(self, alone: bool = False) -> bool:
        """True if `start` may be called now, for a task that wants a device for itself or not."""
        raise NotImplementedError

    def start(self, tasks: list[tuple[str, Task, bool]]) -> None:
        """Start (name, task, alone)."""
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

    def close(self) -> None:
        """End what belongs to this process."""
        raise NotImplementedError

    def owns(self, pid: int | None) -> bool:
        """True if the owner of a claim is our own helper, so that its being alive does not mean that the job is."""
        return False

    def has_queued(self, name: str) -> bool:
        """True if job `name` waits or runs in the engine's queue since an earlier start of the dispatcher."""
        return False

    def in_queue(self) -> Collection[str]:
        """Names of started tasks that do not run yet."""
        return ()

    def fate(self, name: str) -> Status | None:
        """State, cause and detail of a task that is gone without having written them, if the engine knows more."""
        return None
