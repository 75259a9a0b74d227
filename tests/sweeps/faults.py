"""Kill jobs, the guard and the dispatcher at random moments, and see that every job is done once.

    python -m tests.sweeps.faults --kills 50 --jobs 60

Prints what was killed and ends with an error if a job was lost, was run by two processes at a time, was started again
after it was done, or if any process of a job outlived its dispatcher.
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
from pathlib import Path

import psutil

from tests.sweeps import tools


def family(dispatcher: subprocess.Popen) -> dict[str, list[psutil.Process]]:
    """The processes of a running sweep by their part: dispatcher, guard, watcher, job."""
    found: dict[str, list[psutil.Process]] = {"dispatcher": [], "guard": [], "job": []}
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(dispatcher.pid)
        found["dispatcher"].append(root)
        for guard in root.children():
            if "toolkit.sweeps.guard" in " ".join(guard.cmdline()):
                found["guard"].append(guard)
                found["job"] += guard.children()
    return found


def kill_one(dispatcher: subprocess.Popen, chance: random.Random) -> str | None:
    """SIGKILL a random process of the sweep; the name of its part, None if that part is not there just now."""
    part = chance.choices(("job", "guard", "dispatcher"), (5, 2, 3))[0]
    victims = family(dispatcher)[part]
    if not victims:
        return None
    with contextlib.suppress(psutil.Error):
        chance.choice(victims).kill()
        return part
    return None


def torment(folder: Path, kills: int, jobs: int, seed: int) -> Counter:
    """Run a sweep of `jobs` jobs through `kills` kills to its end; how often each part was killed."""
    chance = random.Random(seed)
    grid = {"key": list(range(jobs)), "sleep_s": 0.3, "ledger": str(folder / "ledger")}
    flags = ("--num_workers", "3", "--retries", "1000", "--stop_after", "0", "--grace_s", "0.5")
    killed: Counter = Counter()
    dispatcher = tools.start(folder, grid, *flags)
    while sum(killed.values()) < kills and dispatcher.poll() != 0:
        time.sleep(chance.uniform(0.02, 0.5))
        part = kill_one(dispatcher, chance)
        killed.update([part] if part else [])
        if part == "dispatcher":
            dispatcher.wait()
            if chance.random() < 0.5:  # else the next start meets the jobs that are just being ended
                tools.wait_until(lambda: not tools.jobs_alive(folder), "no job outlives its dispatcher", 10)
        if dispatcher.poll() is not None:
            dispatcher = tools.start(folder, grid, *flags)
    assert dispatcher.wait(300) == 0, (folder / "dispatcher.out").read_text()[-2000:]
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
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        killed = torment(Path(name), args.kills, args.jobs, args.seed)
        counts = check(Path(name), args.jobs)
        print(f"{sum(killed.values())} kills {dict(killed)} in {time.monotonic() - began:.0f} s: {counts}")


if __name__ == "__main__":
    main()
