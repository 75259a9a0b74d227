"""What the tests of the dispatcher share: run it as a user does, look for processes that it left behind."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
TOY = str(Path(__file__).with_name("toy.py"))


def command(folder: Path, config: Any, *flags: str, script: str = TOY) -> list[str]:
    """The command line of a sweep in `folder` over `config`."""
    path = folder / "grid.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    own = ["--config_path", str(path), "--log_dir", str(folder / "logs"), "--script", script]
    own += ["--grid_search_results_path", str(folder / "grid_results.csv")]
    return [sys.executable, str(ROOT / "dispatcher.py"), *own, *flags]


def sweep(folder: Path, config: Any, *flags: str, script: str = TOY, **options: Any) -> subprocess.CompletedProcess:
    """Run a sweep to its end in the project's folder."""
    options = {"cwd": ROOT, **options}
    return subprocess.run(
        command(folder, config, *flags, script=script), capture_output=True, text=True, timeout=120, **options
    )


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "grid_results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def statuses(folder: Path) -> dict[str, dict]:
    """Job name -> content of its status.json."""
    return {path.parent.name: json.loads(path.read_text()) for path in (folder / "logs").glob("*/status.json")}


def ledger(path: Path) -> list[tuple[str, int, int, float]]:
    """What the jobs noted: (start|end, key, pid, time)."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(word, int(key), int(pid), float(when)) for word, key, pid, when in map(str.split, lines)]


def jobs_alive(folder: Path) -> list[psutil.Process]:
    """Processes that belong to a job under `folder`, whatever became of their parents: the mark is inherited."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get("SWEEP_JOB", "")
            if mark.startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """Wait for `condition` to become true; the limit only keeps a broken test from hanging."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"after {timeout_s} s still not: {what}")


def start(folder: Path, config: Any, *flags: str, script: str = TOY, env: dict | None = None) -> subprocess.Popen:
    """Start a sweep and leave it running."""
    words = command(folder, config, *flags, script=script)
    with open(folder / "dispatcher.out", "ab") as out:
        return subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=env)


def clean_environment() -> dict[str, str]:
    """This process's environment without the variables that the dispatcher leaves alone if they are set."""
    return {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
