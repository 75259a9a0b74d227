"""What SIGKILL does to each part of a sweep. The full torment is `python -m tests.sweeps.faults --kills 50`."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.sweeps import faults, tools

pytestmark = [
    pytest.mark.provided,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a whole tree after SIGKILL of its root"),
]


def killed_family(folder, *parts: str):
    """A sweep over one job with children, of which these parts are SIGKILLed at once: (dispatcher, pids of the job)."""
    process = tools.start(folder, {"behave": "family", "sleep_s": 300}, "--retries", "1", "--grace_s", "0.5")
    tools.wait_until(lambda: len(tools.jobs_alive(folder)) >= 3, "the family is there")
    before = {one.pid for one in tools.jobs_alive(folder)}
    victims = [one for part in parts for one in faults.family(process)[part]]
    assert len(victims) == len(parts)
    for victim in victims:
        victim.suspend()
    for victim in victims:
        victim.kill()
    return process, before


def attempts(folder) -> list[int]:
    return [status["attempt"] for status in tools.statuses(folder).values()]


def interrupt(process) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_nothing_survives_the_dispatcher(tmp_path):
    process, _ = killed_family(tmp_path, "dispatcher")
    tools.wait_until(lambda: not tools.jobs_alive(tmp_path), "no job is left", 10)
    process.wait()
    tools.wait_until(
        lambda: [s["state"] for s in tools.statuses(tmp_path).values()] == ["stopped"], "it is written", 10
    )


@pytest.mark.parametrize("part", ["guard", "job"])
def test_the_dispatcher_ends_what_is_left_and_runs_it_again(tmp_path, part):
    process, before = killed_family(tmp_path, part)
    tools.wait_until(lambda: attempts(tmp_path) == [2], "a second try")
    assert not before & {one.pid for one in tools.jobs_alive(tmp_path)}
    (status,) = tools.statuses(tmp_path).values()
    assert status["earlier"][0]["cause"] == {"guard": "lost", "job": "signal"}[part]
    interrupt(process)
    assert not tools.jobs_alive(tmp_path)


def test_the_next_start_ends_what_survived_the_death_of_dispatcher_and_guard(tmp_path):
    process, before = killed_family(tmp_path, "dispatcher", "guard")
    process.wait()
    assert tools.jobs_alive(tmp_path)  # no process was left to end them
    again = tools.start(tmp_path, {"behave": "family", "sleep_s": 300})
    tools.wait_until(lambda: attempts(tmp_path) == [2], "a second try")
    assert not before & {one.pid for one in tools.jobs_alive(tmp_path)}
    interrupt(again)
    assert not tools.jobs_alive(tmp_path)


def test_a_few_random_kills_lose_nothing_and_repeat_nothing(tmp_path):
    killed = faults.torment(tmp_path, kills=6, jobs=12, seed=1)
    assert sum(killed.values()) >= 4
    faults.check(tmp_path, jobs=12)
