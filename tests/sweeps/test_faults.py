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


@pytest.mark.parametrize("part", ["dispatcher", "guard", "watcher"])
def test_nothing_survives_the_sudden_death_of_a_part(tmp_path, part):
    process = tools.start(tmp_path, {"behave": "family", "sleep_s": 300}, "--retries", "1", "--grace_s", "0.5")
    tools.wait_until(lambda: len(tools.jobs_alive(tmp_path)) >= 3, "the family is there")
    before = {one.pid for one in tools.jobs_alive(tmp_path)}
    (victim,) = faults.family(process)[part]
    victim.kill()
    tools.wait_until(lambda: not before & {one.pid for one in tools.jobs_alive(tmp_path)}, "nobody is left", 10)
    if part == "dispatcher":
        process.wait()
    else:  # it lives, and runs the job again
        tools.wait_until(lambda: [s["attempt"] for s in tools.statuses(tmp_path).values()] == [2], "a second try")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    (status,) = tools.statuses(tmp_path).values()
    assert (status["state"], status["cause"]) == ("stopped", "interrupted")
    assert not tools.jobs_alive(tmp_path)


def test_a_few_random_kills_lose_nothing_and_repeat_nothing(tmp_path):
    killed = faults.torment(tmp_path, kills=6, jobs=12, seed=1)
    assert sum(killed.values()) >= 4
    faults.check(tmp_path, jobs=12)
