"""The Slurm engine on a real cluster (slurm_cluster.py): arrays, GPUs, limits, kills, leaving and collecting."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.sweeps import faults, tools
from tests.sweeps.cluster.needs import IN_CI, need_module
from tests.sweeps.cluster.slurm_cluster import SlurmCluster
from toolkit.sweeps import slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    need_module("submitit")
    if sys.platform != "linux" or os.geteuid() != 0:
        if IN_CI:
            pytest.fail("the Slurm tests need Linux and root")
        pytest.skip("the Slurm tests need Linux and root")
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


SLURM = ("--engine", "slurm", "--slurm_gres", "gpu:1", "--slurm_time", "10")


def test_arrays_use_every_gpu_once_and_write_the_same_files(cluster, tmp_path):
    book = tmp_path / "ledger"
    grid = {"key": list(range(10)), "sleep_s": 0.5, "ledger": str(book)}
    run = tools.sweep(tmp_path, grid, *SLURM, "--watch", env=cluster.environment)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = tools.table(tmp_path)
    assert [row["status"] for row in rows] == ["done"] * 10
    found = tools.statuses(tmp_path)
    assert {status["engine"] for status in found.values()} == {"slurm"}
    devices = {name: status["device"] for name, status in found.items()}
    assert set(devices.values()) == {"node1 gpu 0", "node1 gpu 1", "node2 gpu 0", "node2 gpu 1"}
    spans: dict[str, list[tuple[float, float]]] = {}
    for name, status in found.items():
        spans.setdefault(devices[name], []).append((status["started"], status["ended"]))
    for one in spans.values():
        one.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(one))
    assert sorted(key for word, key, *_ in tools.ledger(book) if word == "start") == list(range(10))


def test_begun_here_continued_on_slurm_finished_here_with_the_same_names(cluster, tmp_path):
    grid = [{"key": 1}, {"key": 2, "behave": "crash once"}]
    assert tools.sweep(tmp_path, grid, "--retries", "0").returncode == 1  # the second one died here
    here = tools.statuses(tmp_path)
    grid.append({"key": 3})
    on_slurm = tools.sweep(tmp_path, grid, *SLURM, "--watch", env=cluster.environment)
    assert on_slurm.returncode == 0, on_slurm.stdout
    assert "3 done (1 before)" in on_slurm.stdout
    there = tools.statuses(tmp_path)
    assert set(here) < set(there)
    second = next(status for name, status in there.items() if name.startswith("behave"))
    assert (second["engine"], second["attempt"], second["earlier"][0]["engine"]) == ("slurm", 2, "local")
    assert tools.sweep(tmp_path, [*grid, {"key": 4}]).returncode == 0
    after = tools.statuses(tmp_path)
    assert {name: after[name] for name in there} == there
    assert sorted(status["engine"] for status in after.values()) == ["local", "local", "slurm", "slurm"]


def test_submit_leave_and_collect(cluster, tmp_path):
    book = tmp_path / "ledger"
    grid = {"key": [1, 2, 3], "sleep_s": 2, "ledger": str(book)}
    first = tools.sweep(tmp_path, grid, *SLURM, env=cluster.environment)
    assert first.returncode == 0, first.stderr
    assert "3 jobs are with Slurm" in first.stdout
    second = tools.sweep(tmp_path, grid, *SLURM, "--watch", env=cluster.environment)
    assert second.returncode == 0, second.stdout
    assert [row["status"] for row in tools.table(tmp_path)] == ["done"] * 3
    assert len([event for event in tools.ledger(book) if event[0] == "start"]) == 3


def test_failures_have_the_same_causes_as_here(cluster, tmp_path):
    grid = {"behave": ["todo", "segfault", "no results", "crash once"]}
    run = tools.sweep(tmp_path, grid, *SLURM, "--watch", env=cluster.environment)
    assert run.returncode == 1, run.stdout
    seen = {
        row["behave"]: (row["status"], row["cause"].split(":")[0], row["attempts"]) for row in tools.table(tmp_path)
    }
    assert seen == {
        "todo": ("failed", "exit code", "1"),
        "segfault": ("failed", "signal", "2"),
        "no results": ("failed", "bad results", "1"),
        "crash once": ("done", "", "2"),
    }


def test_a_short_limit_is_kept_and_called_a_timeout(cluster, tmp_path):
    """submitit's own signal would end a job with a limit of one minute at once, see SlurmEngine."""
    grid = {"sleep_s": [3, 300]}
    flags = ("--engine", "slurm", "--slurm_time", "0:12", "--watch")
    run = tools.sweep(tmp_path, grid, *flags, env=cluster.environment)
    seen = {row["sleep_s"]: (row["status"], row["cause"].split(":")[0]) for row in tools.table(tmp_path)}
    assert seen == {"3": ("done", ""), "300": ("failed", "timeout")}, run.stdout


def test_ctrl_c_takes_everything_out_of_the_queue(cluster, tmp_path):
    grid = {"key": list(range(8)), "sleep_s": 300, "behave": "family"}
    process = tools.start(tmp_path, grid, *SLURM, "--watch", "--grace_s", "1", env=cluster.environment)
    tools.wait_until(lambda: sum(s["state"] == "running" for s in tools.statuses(tmp_path).values()) == 4, "4 run")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    states = sorted(status["state"] for status in tools.statuses(tmp_path).values())
    assert states == ["queued"] * 4 + ["stopped"] * 4
    tools.wait_until(lambda: not cluster.run("squeue", "-h").strip(), "the queue is empty")
    assert not tools.jobs_alive(tmp_path)


def test_arrays_larger_than_the_cluster_allows_are_sent_in_chunks(cluster, tmp_path):
    os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
    try:
        assert slurm.max_array_size() == 100
        grid = {"key": list(range(120))}
        run = tools.sweep(tmp_path, grid, "--engine", "slurm", env=cluster.environment)
        assert run.returncode == 0, run.stderr
        ids = {line.split("_")[0] for line in cluster.run("squeue", "-h", "-r", "-o", "%i").split()}
        assert len(ids) == 2
        for one in ids:
            cluster.run("scancel", one)
    finally:
        del os.environ["SLURM_CONF"]
    tools.wait_until(lambda: not cluster.run("squeue", "-h").strip(), "the queue is empty")


def test_refused_submissions_are_one_line(cluster, tmp_path):
    run = tools.sweep(tmp_path, {"key": 1}, "--engine", "slurm", "--slurm_partition", "none", env=cluster.environment)
    assert run.returncode == 2
    last = run.stderr.strip().splitlines()[-1]  # before it stands what sbatch itself says
    assert last.startswith("error: Slurm did not take the jobs")
    assert "partition" in last


def test_hopeless_jobs_are_stopped_on_the_cluster_too(cluster, tmp_path):
    need_module("optuna")
    grid = {"learning_rate": [0.9, 0.8, 0.7, 0.6, 0.01, 0.02], "epochs": 8}
    flags = (*SLURM, "--watch", "--prune", "median", "--metric", "val_acc")
    run = tools.sweep(tmp_path, grid, *flags, env=cluster.environment)
    assert run.returncode == 0, run.stdout
    state = {row["learning_rate"]: (row["status"], row["cause"].split(":")[0]) for row in tools.table(tmp_path)}
    assert state["0.9"] == ("done", "")
    assert state["0.01"] == state["0.02"] == ("stopped", "pruned")


def test_what_somebody_cancels_in_the_queue_is_not_tried_again(cluster, tmp_path):
    process = tools.start(tmp_path, {"key": list(range(5)), "sleep_s": 4}, *SLURM, "--watch", env=cluster.environment)
    tools.wait_until(lambda: sum(s["state"] == "running" for s in tools.statuses(tmp_path).values()) == 4, "4 run")
    (waiting,) = cluster.run("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i").split()
    cluster.run("scancel", waiting)
    assert process.wait(60) == 1  # not everything that was asked for is done
    states = sorted((s["state"], s.get("detail")) for s in tools.statuses(tmp_path).values())
    assert states == [("done", None)] * 4 + [("stopped", "cancelled in Slurm's queue")]


def running(folder) -> list[dict]:
    return [status for status in tools.statuses(folder).values() if status["state"] == "running"]


@pytest.mark.parametrize("how", ["scontrol requeue", "scancel --signal=TERM"])
def test_a_stop_that_nobody_asked_for_is_tried_again(cluster, tmp_path, how):
    """Preemption either puts a task back into the queue or just ends it."""
    book = tmp_path / "ledger"
    grid = {"key": [1], "sleep_s": 6, "ledger": str(book)}
    process = tools.start(tmp_path, grid, *SLURM, "--watch", "--retries", "0", env=cluster.environment)
    tools.wait_until(lambda: tools.ledger(book), "it runs")
    (status,) = running(tmp_path)
    cluster.run(*how.split(), status["slurm_id"])
    if "requeue" in how:  # Slurm would wait two minutes before it starts it again
        tools.wait_until(lambda: "PENDING" in cluster.run("squeue", "-h", "-o", "%T"), "it is in the queue again")
        cluster.run("scontrol", "update", f"jobid={status['slurm_id']}", "StartTime=now")
    assert process.wait(90) == 0, (tmp_path / "dispatcher.out").read_text()
    (status,) = tools.statuses(tmp_path).values()
    assert (status["state"], status["earlier"][0]["cause"]) == ("done", "preempted")
    assert [word for word, *_ in tools.ledger(book)] == ["start", "start", "end"]


def test_what_a_person_cancels_while_it_runs_is_not_tried_again(cluster, tmp_path):
    process = tools.start(tmp_path, {"sleep_s": 60}, *SLURM, "--watch", env=cluster.environment)
    (status,) = tools.wait_until(lambda: running(tmp_path), "it runs")
    cluster.run("scancel", status["slurm_id"])
    assert process.wait(60) == 1
    (status,) = tools.statuses(tmp_path).values()
    assert (status["state"], status["cause"], status["attempt"]) == ("stopped", "interrupted", 1)


def test_jobs_are_submitted_from_inside_an_allocation_too(cluster, tmp_path):
    words = tools.command(tmp_path, {"key": [1, 2]}, *SLURM, "--watch", "--slurm_extra", "mem=100")
    inside = ["srun", "--ntasks=1", "--mem-per-cpu=90", "--gres=gpu:1", *words]
    run = subprocess.run(inside, env=cluster.environment, cwd=tools.ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [row["status"] for row in tools.table(tmp_path)] == ["done", "done"]


def test_a_task_that_cannot_begin_is_quoted(cluster, tmp_path):
    blocked = tools.start(tmp_path, {"key": list(range(4)), "sleep_s": 8}, *SLURM, "--watch", env=cluster.environment)
    tools.wait_until(lambda: len(running(tmp_path)) == 4, "every GPU is busy")
    other = tmp_path / "other"
    other.mkdir()
    process = tools.start(other, {"key": 9}, *SLURM, "--watch", "--retries", "0", env=cluster.environment)
    tools.wait_until(lambda: list(other.glob("logs/slurm/*/*.pkl")), "it is submitted")
    tools.wait_until((other / "logs/slurm/submitted.json").exists, "and noted")
    for path in other.glob("logs/slurm/*/*.pkl"):
        path.unlink()
    assert process.wait(90) == 1
    (status,) = tools.statuses(other).values()
    assert status["cause"] == "lost"
    assert "it said: " in status["detail"]
    assert "_submitted.pkl" in status["detail"]  # the last line of its traceback: what it could not find
    assert blocked.wait(60) == 0


def test_the_useful_line_of_an_error_and_one_time_out_of_sbatch(cluster, tmp_path):
    """A stand-in for sbatch times out once, then is the real one."""
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "sbatch"
    real = shutil.which("sbatch")
    stand_in.write_text(
        f"#!/bin/sh\nif [ ! -e {tmp_path}/once ]; then touch {tmp_path}/once\n"
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1; fi\n"
        f'exec {real} "$@"\n'
    )
    stand_in.chmod(0o755)
    environment = {**cluster.environment, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    run = tools.sweep(tmp_path, {"key": 1}, *SLURM, "--watch", env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Socket timed out" in run.stdout
    assert "trying again" in run.stdout
    bad = tools.sweep(
        tmp_path, {"key": 2}, *SLURM, "--slurm_extra", "qos=none", "--slurm_extra", "nodelist=nowhere", env=environment
    )
    assert bad.returncode == 2
    assert re.search(r"error: Slurm did not take the jobs: .*(node|qos|QOS)", bad.stderr)


def test_no_time_limit_and_odd_folders(cluster, tmp_path):
    run = tools.sweep(
        tmp_path, {"key": 1}, "--engine", "slurm", "--slurm_time", "0", "--watch", env=cluster.environment
    )
    assert run.returncode == 0, run.stdout
    odd = tmp_path / "50%j"
    odd.mkdir()
    run = tools.sweep(odd, {"key": 1}, *SLURM, env=cluster.environment)
    assert run.returncode == 2
    assert "choose a folder without it" in run.stderr
    quoted = tmp_path / "two words, a 'quote', \"another\", $HOME and ümlauts"
    quoted.mkdir()
    run = tools.sweep(quoted, {"key": 1}, *SLURM, "--watch", "--retries", "0", env=cluster.environment)
    assert run.returncode == 0, run.stdout + run.stderr


def test_jobs_killed_at_random_are_each_done_once(cluster, tmp_path):
    """SIGKILL of jobs, array tasks and dispatcher; more kills: python -m tests.sweeps.faults --slurm --kills 50."""
    killed = faults.torment(tmp_path, kills=8, jobs=12, seed=3, environment=cluster.environment)
    assert sum(killed.values()) >= 6
    faults.check(tmp_path, jobs=12)
