"""The dispatcher next to GNU parallel: overhead per job; large grids; pretend GPUs kept busy; threads shared fairly.

    python -m bench.dispatch               all parts, about four minutes on two cores
    python -m bench.dispatch --only jobs   one part: jobs, plan, busy, threads
    python -m bench.dispatch --quick       does it work? Its numbers mean nothing, and a missed bar is not a failure

Every part prints what was measured, its bar, and whether it holds; the exit code is 1 if one does not.
`jobs` needs GNU parallel and xargs (Debian: parallel, findutils).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from toolkit.sweeps import jobs
from toolkit.sweeps.grid import get_experiment_list
from toolkit.sweeps.script import find_script, probe

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    jobs: int = 200  # trivial ones, next to GNU parallel
    values: int = 10  # of each of four flags: 10,000 jobs to plan and to resume
    busy_jobs: int = 80  # of half a second on four pretend GPUs
    steps: int = 120  # of each job that computes


QUICK = Size(rounds=1, jobs=20, values=3, busy_jobs=8, steps=2)
# Starts as fast as an interpreter with argparse can, so that what differs is the dispatcher.
TRIVIAL = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--results_path")
parser.add_argument("--key")
parser.add_argument("--sleep_s", type=float, default=0)
args = parser.parse_args()
if args.sleep_s:
    import time
    time.sleep(args.sleep_s)
with open(args.results_path, "w") as file:
    file.write('{"best_val_acc": 0.5}')
"""
ADD_BCD = "".join(f'parser.add_argument("--{name}")\n' for name in "bcd")
# Matrix products as a small network makes them; torch takes its number of threads from OMP_NUM_THREADS.
HEAVY = """
import argparse, json, time
parser = argparse.ArgumentParser()
parser.add_argument("--results_path")
parser.add_argument("--key")
parser.add_argument("--steps", type=int)
args = parser.parse_args()
import torch
torch.manual_seed(0)
a = torch.randn(64, 16, 28, 28)
layer = torch.nn.Conv2d(16, 32, 3, padding=1)
for _ in range(args.steps):
    layer(a).sum().backward()
with open(args.results_path, "w") as file:
    json.dump({"best_val_acc": 0.5, "threads": torch.get_num_threads()}, file)
"""


def cost(command: list[str], **options) -> tuple[float, float]:
    """(wall time, processor time) in seconds of a command and all below it; it must succeed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, **options)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{command} failed:\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def dispatcher(folder: Path, script: Path, grid: dict, *flags: str) -> list[str]:
    (folder / "grid.json").write_text(json.dumps(grid))
    command = [sys.executable, str(ROOT / "dispatcher.py"), "--config_path", str(folder / "grid.json")]
    command += ["--script", str(script), "--log_dir", str(folder / "logs")]
    return [*command, "--grid_search_results_path", str(folder / "table.csv"), *flags]


def verdict(name: str, value: str, bar: str, holds: bool) -> bool:
    print(f"{name:44s} {value:>24s}   bar {bar:16s} {'ok' if holds else 'MISSED'}", flush=True)
    return holds


def bench_jobs(size: Size) -> bool:
    """Trivial jobs, two at a time. Overhead is what a tool costs beyond xargs -P 2, which only starts them.

    Measured as wall time and as processor time. On a busy machine only the latter can be trusted: Linux gives every
    session its own share, and of the three only the dispatcher puts each job into a session.
    """
    for tool in ("parallel", "xargs"):
        if shutil.which(tool) is None:
            raise SystemExit(f"error: {tool} is missing (apt-get install parallel findutils)")
    costs: dict[str, list[tuple[float, float]]] = {"xargs": [], "parallel": [], "dispatcher": []}
    for number in range(size.rounds + 1):  # in turn, so that a busy neighbour hits all three
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            script = folder / "trivial.py"
            script.write_text(TRIVIAL)
            keys = "\n".join(map(str, range(size.jobs)))
            job = [sys.executable, str(script), "--key", "{}", "--results_path", f"{folder}/{{}}.json"]
            costs["xargs"].append(cost(["xargs", "-P", "2", "-I", "{}", *job], input=keys))
            parallel = ["parallel", "--will-cite", "-j", "2", "--joblog", f"{folder}/log", "--results", f"{folder}/out"]
            costs["parallel"].append(cost([*parallel, *job], input=keys, env={**os.environ, "HOME": name}))
            own = dispatcher(folder, script, {"key": list(range(size.jobs))}, "--gpus", "none", "--num_workers", "2")
            costs["dispatcher"].append(cost(own))
        if number == 0:  # the first round also compiles and fills caches
            costs = {tool: [] for tool in costs}
    holds = True
    for kind, what in enumerate(("wall", "processor")):
        least = {tool: min(one[kind] for one in several) for tool, several in costs.items()}
        over = {tool: 1000 * (value - least["xargs"]) / size.jobs for tool, value in least.items()}
        for tool, several in costs.items():
            spread = f"{least[tool]:.2f} .. {max(one[kind] for one in several):.2f} s"
            print(f"  {what:9s} {tool:12s} {spread:18s} n={size.rounds}; {over[tool]:6.2f} ms per job beyond xargs")
        ratio = over["dispatcher"] / over["parallel"]
        holds &= verdict(f"overhead ({what}), dispatcher / parallel", f"{ratio:.2f}", "<= 0.50", ratio <= 0.5)
    return holds


def bench_plan(size: Size) -> bool:
    """Plan a grid of 10,000 jobs, and resume it when all are done, tables and report included; time and peak memory."""
    grid = {name: list(range(size.values)) for name in ("a", "b", "c", "d")}
    count = size.values**4
    holds = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "trivial.py"
        script.write_text(TRIVIAL.replace('"--key"', '"--a"').replace("args =", ADD_BCD + "args ="))
        for what, flags in (("plan", ["--dry_run"]), ("resume", [])):
            if what == "resume":
                settle(folder, script, grid)
            several = [measured(dispatcher(folder, script, grid, *flags)) for _ in range(size.rounds)]
            took, processor = (statistics.median(one[kind] for one in several) for kind in (0, 1))
            memory = max(one[2] for one in several)
            print(f"  {what}: {processor:.2f} s of processor time")
            shown = f"{took:.2f} s, {memory:.0f} MB"
            holds &= verdict(
                f"{what} {count:,} jobs (n={size.rounds})", shown, "2 s, 150 MB", took < 2 and memory < 150
            )
    return holds


def measured(command: list[str]) -> tuple[float, float, float]:
    """(seconds, processor seconds, peak memory in MB) of a command. A fresh process measures it, so it is its alone."""
    code = (
        "import resource, subprocess, sys, time; t = time.perf_counter();"
        "p = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); t = time.perf_counter() - t;"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(p.returncode, t, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    returncode, took, processor, memory = done.stdout.split()
    if returncode != "0":
        raise SystemExit(f"{command} failed:\n{done.stderr[-1000:]}")
    return float(took), float(processor), float(memory)


def settle(folder: Path, script: Path, grid: dict) -> None:
    """Write the folders that 10,000 done jobs leave behind."""
    found = find_script(str(script))
    with probe(found):
        for point in get_experiment_list(grid):
            job = jobs.Job.build(found.name, point, found.to_argv(point))
            home = folder / "logs" / job.name
            home.mkdir(parents=True)
            jobs.write_json(str(home / "config.json"), {"script": found.name, "config": point, "argv": job.argv})
            jobs.write_status(str(home), jobs.Status("done", 1, seconds=1.0, started=1.0, ended=2.0))
            (home / "results.json").write_text('{"best_val_acc": 0.5}')


def bench_busy(size: Size) -> bool:
    """Four pretend GPUs and jobs of half a second: the share of the time in which a job's process is there."""
    shares = []
    for _ in range(size.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            script = folder / "trivial.py"
            script.write_text(TRIVIAL)
            grid = {"key": list(range(size.busy_jobs)), "sleep_s": 0.5}
            cost(dispatcher(folder, script, grid, "--gpus", "0,1,2,3"))
            spans = [json.loads(path.read_text()) for path in folder.glob("logs/*/status.json")]
            first, last = min(one["started"] for one in spans), max(one["ended"] for one in spans)
            shares.append(sum(one["seconds"] for one in spans) / (4 * (last - first)))
    share = statistics.median(shares)
    return verdict(
        "4 pretend GPUs busy, jobs of 0.5 s", f"{100 * share:.1f}% (n={size.rounds})", ">= 98%", share >= 0.98
    )


def bench_threads(size: Size) -> bool:
    """Convolutions in torch, as many jobs at a time as cores: threads shared out, and not."""
    cores = len(os.sched_getaffinity(0))
    shared, greedy = [], []
    for _ in range(size.rounds):
        for times, own in ((shared, {}), (greedy, {"OMP_NUM_THREADS": str(cores), "MKL_NUM_THREADS": str(cores)})):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                script = folder / "heavy.py"
                script.write_text(HEAVY)
                clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
                flags = ("--gpus", "none", "--num_workers", str(cores))
                command = dispatcher(folder, script, {"key": list(range(2 * cores)), "steps": size.steps}, *flags)
                times.append(cost(command, env={**clean, **own})[0])
    gain = min(greedy) / min(shared)
    shown = f"threads shared {min(shared):.1f} s, all threads for each {min(greedy):.1f} s, best of {size.rounds}"
    print(f"  {2 * cores} jobs, {cores} at a time on {cores} cores: {shown}")
    return verdict("gain by sharing the threads", f"{gain:.2f} x", ">= 1", gain >= 1)


def main() -> int:
    parts = {"jobs": bench_jobs, "plan": bench_plan, "busy": bench_busy, "threads": bench_threads}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=parts, help="one part instead of all")
    parser.add_argument("--rounds", type=int, default=5, help="repeats of each part (default: 5)")
    parser.add_argument("--quick", action="store_true", help="see that it works; the numbers mean nothing")
    args = parser.parse_args()
    size = QUICK if args.quick else Size(args.rounds)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start would compile the dispatcher again
    held = [parts[name](size) for name in ([args.only] if args.only else parts)]
    return 0 if all(held) or args.quick else 1


if __name__ == "__main__":
    sys.exit(main())
