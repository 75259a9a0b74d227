"""The guard as it works on Windows, where no signal tells of the end of a child; run on any system."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

import dispatcher
from tests.sweeps import tools
from toolkit.sweeps import command, local

pytestmark = pytest.mark.provided


@pytest.fixture
def run_with_threads(monkeypatch, tmp_path):
    """A sweep in this process whose guard waits for its jobs in threads: call it with (grid, *flags)."""
    monkeypatch.setattr(command, "LocalEngine", lambda devices: local.LocalEngine(devices, ["--no_adoption"]))
    monkeypatch.chdir(tools.ROOT)
    return lambda grid, *flags: dispatcher.main(tools.command(tmp_path, grid, *flags)[2:])


def test_jobs_end_as_they_do_under_the_guard(run_with_threads, tmp_path):
    grid = {"behave": ["well", "todo", "no results"]}
    assert run_with_threads(grid, "--num_workers", "3", "--retries", "0") == 1
    seen = {row["behave"]: (row["status"], row["cause"].split(":")[0]) for row in tools.table(tmp_path)}
    assert seen == {"well": ("done", ""), "todo": ("failed", "exit code"), "no results": ("failed", "bad results")}


def test_a_job_over_its_time_is_ended_with_its_children(run_with_threads, tmp_path):
    grid = {"behave": "family", "sleep_s": 60}
    assert run_with_threads(grid, "--timeout_s", "1", "--grace_s", "0.5") == 1
    (status,) = tools.statuses(tmp_path).values()
    assert (status["state"], status["cause"]) == ("failed", "timeout")
    assert not tools.jobs_alive(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C on Windows")
def test_ctrl_c_ends_the_jobs_and_marks_them(run_with_threads, tmp_path):
    def press_ctrl_c() -> None:
        tools.wait_until(lambda: any(s["state"] == "running" for s in tools.statuses(tmp_path).values()), "it runs")
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press_ctrl_c)
    finger.start()
    assert run_with_threads({"sleep_s": 60}, "--grace_s", "0.5") == 130
    finger.join()
    (status,) = tools.statuses(tmp_path).values()
    assert (status["state"], status["cause"]) == ("stopped", "interrupted")
    assert not tools.jobs_alive(tmp_path)
