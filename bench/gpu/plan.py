"""Which sections there are, how long each may take, and how one is run in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.gpu.rows import Report, Row, append, read

ROOT = Path(__file__).resolve().parents[2]
LEAST_S = 8.0  # a section that has less would only import torch


@dataclass(frozen=True)
class Section:
    """A part of the benchmark: function `name` of `module`, and the seconds after which it is stopped."""

    name: str
    limit_s: float
    module: str = "bench.gpu.commands"


SPEED = "bench.gpu.speed"
# The first one makes the data that others read. The rest stands in the order of how much a missing row would hurt.
SECTIONS = (
    Section("machine", 60, SPEED),
    Section("tests", 60),
    Section("mains", 60),
    Section("long", 90),
    Section("loading", 40, SPEED),
    Section("epoch", 75),
    Section("resume", 50),
    Section("training", 150, SPEED),
    Section("dispatcher", 70),
    Section("image_classifier", 60),
    Section("vgg16", 60),
)


def run_all(sections: Sequence[Section], work: Path, report: Report, *, limit_s: float, tiny: bool) -> None:
    """Run the sections one after the other (tiny: two at a time after the first, as nothing is timed)."""
    ends, lock = time.monotonic() + limit_s, threading.Lock()

    def run(section: Section) -> None:
        rows, log = run_section(section, work, ends - time.monotonic(), tiny)
        with lock:
            report.add(rows, log)
            for row in rows:
                print(f"{row.section}: {row.what}: {row.result}", flush=True)

    run(sections[0])
    with ThreadPoolExecutor(max_workers=2 if tiny else 1) as pool:
        list(pool.map(run, sections[1:]))


def run_section(section: Section, work: Path, left_s: float, tiny: bool) -> tuple[list[Row], str]:
    """Run one section within its own limit and the time that is left → its rows and what it printed."""
    if left_s < LEAST_S:
        return [Row(section.name, "all of it", "not run: no time left")], ""
    limit_s = left_s if tiny else min(section.limit_s, left_s)  # a busy processor may take long for a few steps
    log_path, started = work / f"{section.name}.log", time.monotonic()
    # A little less than its limit is what the section plans with, so that it can still say what it left out.
    words = [section.module, section.name, str(work), str(limit_s - 4), "tiny" if tiny else "full"]
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu.section", *words], cwd=ROOT, stdout=log, stderr=log, env=environment(tiny)
        )
        try:
            process.wait(timeout=limit_s)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_tree(process)
    log_text = log_path.read_text(encoding="utf-8", errors="replace")
    rows = read(work / f"{section.name}.rows")
    if code is None:
        rows.append(Row(section.name, "the rest", f"failed: stopped after {limit_s:.0f} s"))
    elif code:
        rows.append(Row(section.name, "the rest", f"failed: {last_line(log_text) or f'exit code {code}'}"))
    took = f"\n=== {section.name}: {time.monotonic() - started:.1f} s, exit code {code}\n"
    return rows, f"{took}{log_text}"


def environment(tiny: bool) -> dict[str, str]:
    """Python prints at once; two tiny sections share two cores, so each gets one thread."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", **({"OMP_NUM_THREADS": "1"} if tiny else {})}


def end_tree(process: subprocess.Popen) -> None:
    """Kill a process and everything that it started, as far as it is still there."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    if process.poll() is None:
        process.kill()
    process.wait()


def last_line(text: str) -> str:
    """The last line that is not empty: of a traceback the error, of our scripts the message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


class Bench:
    """What a section works with: where it may write, how much time is left, and where its rows go.

    work: folder that all sections share. tiny: a few steps only.
    """

    def __init__(self, name: str, work: Path, limit_s: float, tiny: bool) -> None:
        self.name, self.work, self.tiny = name, work, tiny
        self._ends = time.monotonic() + limit_s

    @property
    def data(self) -> Path:
        """Folder of the made set of full size (section machine)."""
        return self.work / "data"

    def left_s(self) -> float:
        """Seconds until this section is stopped."""
        return self._ends - time.monotonic()

    def add(self, what: str, result: str, how: str = "") -> None:
        """A row of the table."""
        row = Row(self.name, what, result, how)
        append(self.work / f"{self.name}.rows", row)
        print(f"--- {what}: {result}")

    def fail(self, what: str, reason: object) -> None:
        """A row for what did not work."""
        self.add(what, f"failed: {reason}")
