"""Where there is no guard (macOS, Windows): one watching process a job. Run here on whatever system this is."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

import dispatcher
from tests.sweeps import tools
from toolkit.sweeps import local
from toolkit.sweeps.spawn import ProcessSpawner

pytestmark = pytest.mark.provided


@pytest.fixture
def run_with_watchers(monkeypatch, tmp_path):
    """A sweep in this process whose jobs are watched over one by one: call it with (grid, *flags)."""
    used = []
    monkeypatch.setattr(local, "make_spawner", lambda ended: used.append(ProcessSpawner(ended)) or used[-1])
    monkeypatch.chdir(tools.ROOT)

    def run(grid: dict, *flags: str) -> int:
        return dispatcher.main(tools.command(tmp_path, grid, *flags)[2:])

    yield run
    assert used


def test_jobs_end_as_they_do_under_the_guard(run_with_watchers, tmp_path):
    grid = {"behave": ["well", "todo", "no results"]}
    assert run_with_watchers(grid, "--num_workers", "3", "--retries", "0") == 1
    seen = {row["behave"]: (row["status"], row["cause"].split(":")[0]) for row in tools.table(tmp_path)}
    assert seen == {"well": ("done", ""), "todo": ("failed", "exit code"), "no results": ("failed", "bad results")}


def test_a_job_over_its_time_is_ended_with_its_children(run_with_watchers, tmp_path):
    grid = {"behave": "family", "sleep_s": 60}
    assert run_with_watchers(grid, "--timeout_s", "1", "--grace_s", "0.5") == 1
    (status,) = tools.statuses(tmp_path).values()
    assert (status["state"], status["cause"]) == ("failed", "timeout")
    assert not tools.jobs_alive(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C on Windows")
def test_ctrl_c_ends_the_jobs_and_marks_them(run_with_watchers, tmp_path):
    def press_ctrl_c() -> None:
        tools.wait_until(lambda: any(s["state"] == "running" for s in tools.statuses(tmp_path).values()), "it runs")
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press_ctrl_c)
    finger.start()
    assert run_with_watchers({"sleep_s": 60}, "--grace_s", "0.5") == 130
    finger.join()
    (status,) = tools.statuses(tmp_path).values()
    assert (status["state"], status["cause"]) == ("stopped", "interrupted")
    assert not tools.jobs_alive(tmp_path)
