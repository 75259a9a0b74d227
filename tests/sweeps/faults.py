"""Kill jobs, what watches over them, and the dispatcher at random moments; see that every job is done once.

    python -m tests.sweeps.faults --kills 50 --jobs 60             the local engine
    python -m tests.sweeps.faults --kills 50 --jobs 60 --slurm     a Slurm cluster on this machine (needs root)

Prints what was killed and ends with an error if a job was lost, was run by two processes at a time, was started again
after it was done, or if any process of a job outlived its dispatcher (on Slurm: its task).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.sweeps import tools
from tests.sweeps.cluster.slurm_cluster import SlurmCluster

Family = dict[str, list[psutil.Process]]


def family(dispatcher: subprocess.Popen) -> Family:
    """The processes of a running local sweep by their part: dispatcher, guard, job."""
    found: Family = {"dispatcher": [], "guard": [], "job": []}
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(dispatcher.pid)
        found["dispatcher"].append(root)
        for guard in root.children():
            if "toolkit.sweeps.guard" in " ".join(guard.cmdline()):
                found["guard"].append(guard)
                # Orphans of the job are the guard's children, too: the job is the one that runs the script.
                found["job"] += [child for child in guard.children() if "--results_path" in child.cmdline()]
    return found


def slurm_family(dispatcher: subprocess.Popen, folder: Path) -> Family:
    """The same on Slurm: dispatcher, job, and instead of the guard the array tasks that each watch over a job."""
    found: Family = {"dispatcher": [], "task": [], "job": tools.jobs_alive(folder)}
    with contextlib.suppress(psutil.Error):
        found["dispatcher"].append(psutil.Process(dispatcher.pid))
    for job in found["job"]:
        with contextlib.suppress(psutil.Error):
            found["task"] += [one for one in [job.parent()] if one and "submitit" in " ".join(one.cmdline())]
    return found


def kill_one(members: Family, chance: random.Random) -> str | None:
    """SIGKILL a random process of the sweep; the name of its part, None if that part is not there just now."""
    weights = {"job": 5, "guard": 2, "task": 3, "dispatcher": 3}
    part = chance.choices(list(members), [weights[part] for part in members])[0]
    victims = members[part]
    if not victims:
        return None
    with contextlib.suppress(psutil.Error):
        chance.choice(victims).kill()
        return part
    return None


def torment(folder: Path, kills: int, jobs: int, seed: int, environment: dict[str, str] | None = None) -> Counter:
    """Run a sweep of `jobs` jobs through `kills` kills to its end; how often each part was killed.

    `environment` is that of a Slurm cluster; without it the local engine is tormented.
    """
    chance = random.Random(seed)
    grid = {"key": list(range(jobs)), "sleep_s": 1.0 if environment else 0.3, "ledger": str(folder / "ledger")}
    flags = ["--retries", "1000", "--stop_after", "0", "--grace_s", "0.5"]
    flags += ["--engine", "slurm", "--watch", "--slurm_gres", "gpu:1"] if environment else ["--num_workers", "3"]
    look: Callable[[], Family] = lambda: slurm_family(dispatcher, folder) if environment else family(dispatcher)  # noqa: E731
    killed: Counter = Counter()
    dispatcher = tools.start(folder, grid, *flags, env=environment)
    while sum(killed.values()) < kills and dispatcher.poll() != 0:
        time.sleep(chance.uniform(0.02, 0.5))
        members = look()
        # Where a start takes long, most kills would otherwise hit dispatchers that have no jobs yet.
        is_spared = not all(members.values()) and chance.random() < 0.9
        part = None if is_spared else kill_one(members, chance)
        killed.update([part] if part else [])
        if part == "dispatcher":
            dispatcher.wait()
            if not environment and chance.random() < 0.5:  # else the next start meets jobs that are just being ended
                tools.wait_until(lambda: not tools.jobs_alive(folder), "no job outlives its dispatcher", 10)
        if dispatcher.poll() is not None:
            dispatcher = tools.start(folder, grid, *flags, env=environment)
    assert dispatcher.wait(600) == 0, (folder / "dispatcher.out").read_text()[-2000:]
    return killed


def check(folder: Path, jobs: int) -> dict[str, int]:
    """Every job done exactly once, never by two processes at a time, never again after it was done."""
    found = tools.statuses(folder)
    assert len(found) == jobs
    for name, status in found.items():
        assert status["state"] == "done", (name, status)
        assert all(attempt["state"] != "done" for attempt in status.get("earlier", [])), (name, status)
    events = tools.ledger(folder / "ledger")
    assert not [event for event in events if event[0] == "overlap"]
    done_at = {
        int((folder / "logs" / name / "config.json").read_text().split('"key": ')[1].split(",")[0]): status["ended"]
        for name, status in found.items()
    }
    for word, key, _, when in events:
        assert word != "start" or when < done_at[key], f"job {key} was started after it was done"
    assert {key for word, key, *_ in events if word == "end"} == set(range(jobs))
    assert not tools.jobs_alive(folder)
    return {"starts": sum(event[0] == "start" for event in events), "jobs": jobs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slurm", action="store_true", help="start a Slurm cluster here and torment that")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = None
        if args.slurm:
            environment = stack.enter_context(SlurmCluster(folder / "cluster")).environment
        began = time.monotonic()
        killed = torment(folder, args.kills, args.jobs, args.seed, environment)
        counts = check(folder, args.jobs)
        print(f"{sum(killed.values())} kills {dict(killed)} in {time.monotonic() - began:.0f} s: {counts}")


if __name__ == "__main__":
    main()
