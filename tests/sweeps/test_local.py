"""The local engine: what is run, with what, how failures are told apart, and what the next start does."""

from __future__ import annotations

import argparse
import csv
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dispatcher
from tests.sweeps import tools
from toolkit.sweeps.local import usable_cores

pytestmark = pytest.mark.provided


def causes(folder) -> list[tuple]:
    return sorted((s["state"], s.get("cause"), s["attempt"]) for s in tools.statuses(folder).values())


def test_a_sweep_from_grid_to_table(tmp_path):
    grid = {"learning_rate": [0.1, 0.2], "model_name": ["mlp", "cnn"]}
    run = tools.sweep(tmp_path, grid, "--seeds", "2", "--num_workers", "2")
    assert run.returncode == 0, run.stderr
    rows = tools.table(tmp_path)
    assert len(rows) == 8
    for row in rows:
        expected = float(row["learning_rate"]) + 0.01 * int(row["seed"])
        assert float(row["best_val_acc"]) == pytest.approx(expected)
        assert row["status"] == "done"
        folder = tmp_path / "logs" / row["job"]
        assert {path.name for path in folder.iterdir()} >= {"config.json", "log.txt", "status.json", "results.json"}
        assert (folder / "history.csv").read_text().splitlines() == ["epoch,val_acc", "1,0.5", "2,0.6"]
    assert "0.205 ± 0.007071 (n=2)" in run.stdout


def test_finished_jobs_are_not_run_again_and_a_new_value_runs_alone(tmp_path):
    book = tmp_path / "ledger"
    grid = {"key": [1, 2], "ledger": str(book)}
    assert tools.sweep(tmp_path, grid).returncode == 0
    assert tools.sweep(tmp_path, grid).returncode == 0
    assert [key for word, key, *_ in tools.ledger(book) if word == "start"] == [1, 2]
    assert tools.sweep(tmp_path, {**grid, "key": [3, 1, 2]}).returncode == 0
    assert [key for word, key, *_ in tools.ledger(book) if word == "start"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("behave", "cause", "attempts", "detail"),
    [
        ("exit", "exit code", 2, "exit code 7: the last words"),
        ("user error", "exit code", 1, "exit code 2"),
        ("todo", "exit code", 1, "NotImplementedError: TODO 1.2: define the layers"),
        ("segfault", "signal", 2, "SIGSEGV"),
        ("no results", "bad results", 1, "without writing its results"),
        ("broken results", "bad results", 1, "line 1, column"),
        ("list results", "bad results", 1, "holds a list"),
    ],
)
def test_every_kind_of_failure_has_its_cause_and_only_crashes_are_retried(tmp_path, behave, cause, attempts, detail):
    run = tools.sweep(tmp_path, {"behave": behave})
    assert run.returncode == 1
    (status,) = tools.statuses(tmp_path).values()
    assert (status["state"], status["cause"], status["attempt"]) == ("failed", cause, attempts)
    assert detail in status["detail"]
    assert detail in run.stdout
    assert len(status.get("earlier", [])) == attempts - 1


def test_a_crash_is_retried_and_the_failed_are_tried_again_at_the_next_start(tmp_path):
    assert tools.sweep(tmp_path, {"behave": "crash once"}).returncode == 0
    assert causes(tmp_path) == [("done", None, 2)]
    assert tools.sweep(tmp_path, {"behave": "crash once", "key": 1}, "--retries", "0").returncode == 1
    assert tools.sweep(tmp_path, {"behave": "crash once", "key": 1}, "--retries", "0").returncode == 0
    assert causes(tmp_path) == [("done", None, 2), ("done", None, 2)]


def test_a_job_over_its_time_ends_with_its_family(tmp_path):
    run = tools.sweep(tmp_path, {"behave": "family", "sleep_s": 60}, "--timeout_s", "1.5", "--grace_s", "0.5")
    assert run.returncode == 1, run.stdout
    assert causes(tmp_path) == [("failed", "timeout", 1)]
    assert tools.jobs_alive(tmp_path) == []


def test_what_a_finished_job_leaves_running_is_ended(tmp_path):
    assert tools.sweep(tmp_path, {"behave": "family"}).returncode == 0
    assert causes(tmp_path) == [("done", None, 1)]
    assert tools.jobs_alive(tmp_path) == []


def test_the_first_jobs_dying_of_one_cause_stop_the_sweep(tmp_path):
    run = tools.sweep(tmp_path, {"behave": "todo", "key": list(range(9))})
    assert run.returncode == 1
    assert "the first 3 jobs died of the same cause" in run.stdout
    assert "TODO 1.2" in run.stdout
    assert len(tools.statuses(tmp_path)) == 3
    different = tools.sweep(tmp_path, {"behave": ["todo", "exit", "no results", "well"]}, "--retries", "0")
    assert "stopped early" not in different.stdout
    assert sum(row["status"] == "done" for row in tools.table(tmp_path)) == 1


def test_each_gpu_gets_its_number_of_jobs_and_is_never_overbooked(tmp_path):
    book = tmp_path / "ledger"
    grid = {"key": list(range(12)), "sleep_s": 0.2, "ledger": str(book)}
    run = tools.sweep(tmp_path, grid, "--gpus", "0,3", "--jobs_per_gpu", "2", env=tools.clean_environment())
    assert run.returncode == 0, run.stderr
    rows = tools.table(tmp_path)
    assert {row["gpu"] for row in rows} == {"0", "3"}
    devices = {int(row["key"]): row["gpu"] for row in rows}
    events = sorted((when, word, devices[key]) for word, key, _, when in tools.ledger(book))
    busy, peak = {"0": 0, "3": 0}, {"0": 0, "3": 0}
    for _, word, gpu in events:
        busy[gpu] += 1 if word == "start" else -1
        peak[gpu] = max(peak[gpu], busy[gpu])
    assert peak == {"0": 2, "3": 2}


def test_jobs_on_the_processor_share_its_cores_and_see_no_gpu(tmp_path):
    grid = {"key": [1, 2]}
    tools.sweep(tmp_path, grid, "--gpus", "none", "--num_workers", "2", env=tools.clean_environment())
    rows = tools.table(tmp_path)
    assert {row["threads"] for row in rows} == {str(max(1, usable_cores() // 2))}
    assert {row["gpu"] for row in rows} == {""}


def test_out_of_memory_on_a_shared_gpu_is_tried_again_alone(tmp_path):
    run = tools.sweep(
        tmp_path, {"behave": "needs the gpu alone", "key": [1, 2, 3]}, "--gpus", "0", "--jobs_per_gpu", "3"
    )
    assert run.returncode == 0, run.stdout
    found = tools.statuses(tmp_path).values()
    assert all(status["state"] == "done" for status in found)
    retried = [status for status in found if status["attempt"] == 2]
    assert retried
    assert all(status["earlier"][0]["cause"] == "out of memory" for status in retried)


def test_ctrl_c_ends_every_tree_marks_the_jobs_and_the_next_start_goes_on(tmp_path):
    book = tmp_path / "ledger"
    grid = {"behave": "family", "key": [1, 2, 3], "sleep_s": 3, "ledger": str(book)}
    process = tools.start(tmp_path, grid, "--num_workers", "2", "--grace_s", "1")
    tools.wait_until(lambda: len(tools.jobs_alive(tmp_path)) >= 6, "both families are there")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert tools.jobs_alive(tmp_path) == []
    assert causes(tmp_path) == [("stopped", "interrupted", 1)] * 2
    again = tools.sweep(tmp_path, grid, "--num_workers", "3")
    assert again.returncode == 0, again.stdout
    assert sorted(key for word, key, *_ in tools.ledger(book) if word == "end") == [1, 2, 3]


def test_a_second_ctrl_c_does_not_wait_for_the_grace_time(tmp_path):
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    process = tools.start(tmp_path, {"key": 1}, "--grace_s", "60", script=str(script))
    (job,) = tools.wait_until(lambda: tools.jobs_alive(tmp_path), "the job runs")
    tools.wait_until(lambda: _ignores_sigterm(job.pid), "it ignores SIGTERM")
    process.send_signal(signal.SIGTERM)  # a system that shuts down asks so, and it counts as a first Ctrl-C
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)  # in its grace time
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert tools.jobs_alive(tmp_path) == []
    assert causes(tmp_path) == [("stopped", "interrupted", 1)]


STUBBORN = """
import argparse, signal, time
parser = argparse.ArgumentParser()
parser.add_argument("--results_path")
parser.add_argument("--key")
parser.parse_args()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(300)
"""


def _ignores_sigterm(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as file:
        ignored = next(line.split()[1] for line in file if line.startswith("SigIgn"))
    return bool(int(ignored, 16) >> (signal.SIGTERM - 1) & 1)


def test_two_dispatchers_on_one_folder_run_every_job_once(tmp_path):
    book = tmp_path / "ledger"
    grid = {"key": list(range(20)), "sleep_s": 0.1, "ledger": str(book)}
    both = [tools.start(tmp_path, grid, "--num_workers", "2") for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    starts = [key for word, key, *_ in tools.ledger(book) if word == "start"]
    assert sorted(starts) == list(range(20))
    assert causes(tmp_path) == [("done", None, 1)] * 20


def test_a_job_that_was_started_by_another_dispatcher_and_failed_gets_our_tries(tmp_path):
    grid = {"key": [1], "sleep_s": 4.0}
    first = tools.start(tmp_path, grid, "--num_workers", "1", "--retries", "0")
    tools.wait_until(lambda: tools.jobs_alive(tmp_path), "the job runs")
    second = tools.start(tmp_path, grid, "--num_workers", "1", "--retries", "1")
    tools.wait_until(lambda: b"\n" in (tmp_path / "dispatcher.out").read_bytes().partition(b"\n")[2], "both have begun")
    for process in tools.jobs_alive(tmp_path):
        process.kill()
    assert (first.wait(60), second.wait(60)) == (1, 0)
    assert causes(tmp_path) == [("done", None, 2)]


def test_launch_experiment_returns_flags_and_metrics(tmp_path):
    args = argparse.Namespace(script=tools.TOY, log_dir=str(tmp_path))
    result = dispatcher.launch_experiment(args, {"learning_rate": 0.3, "augment": True})
    assert result["learning_rate"] == 0.3
    assert result["best_val_acc"] == pytest.approx(0.3)
    assert result["status"] == "done"
    failed = dispatcher.launch_experiment(args, {"behave": "todo"})
    assert failed["status"] == "failed"
    assert "TODO 1.2" in failed["cause"]


def test_the_config_file_of_a_job_says_how_to_repeat_it(tmp_path):
    tools.sweep(tmp_path, {"learning_rate": 0.3, "augment": True})
    (path,) = (tmp_path / "logs").glob("*/config.json")
    assert json.loads(path.read_text())["argv"] == ["--augment", "--learning_rate", "0.3"]


def test_code_that_is_not_that_of_the_results_is_named(tmp_path):
    script, models = tmp_path / "train.py", tmp_path / "parts" / "models.py"
    models.parent.mkdir()
    for file in (models, models.with_name("__init__.py"), tmp_path / "bystander.py"):
        file.write_text("")
    script.write_text(
        "def build():\n    from parts import (\n        models,  # late\n    )\n" + Path(tools.TOY).read_text()
    )
    assert "note:" not in tools.sweep(tmp_path, {"key": [1]}, script=str(script)).stdout
    (tmp_path / "bystander.py").write_text("x = 1")
    assert "note:" not in tools.sweep(tmp_path, {"key": [1]}, script=str(script)).stdout
    models.write_text("depth = 2")
    again = tools.sweep(tmp_path, {"key": [1]}, script=str(script))
    assert re.search(
        r"note: 1 of the finished jobs .* \(changed: \S*parts/models.py\); they are not run again", again.stdout
    )
    assert "best best_val_acc 0.1" in again.stdout  # what earlier starts found counts


def test_the_report_does_not_call_a_dead_job_running(tmp_path):
    tools.sweep(tmp_path, {"key": [1, 2]})
    first, _ = sorted(tmp_path.glob("logs/*/status.json"))
    first.write_text(json.dumps({"state": "running", "attempt": 1, "pid": 1}))  # its claim is that of the ended guard
    words = [sys.executable, "dispatcher.py", "report", str(tmp_path / "logs")]
    assert subprocess.run(words, cwd=tools.ROOT, timeout=60).returncode == 0
    with open(tmp_path / "logs/grid_results.csv", newline="") as file:
        rows = {row["key"]: (row["status"], row["cause"].split(":")[0]) for row in csv.DictReader(file)}
    assert rows == {"1": ("stopped", "lost"), "2": ("done", "")}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell with head")
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    command = shlex.join(tools.command(tmp_path, {"key": list(range(500))}, "--dry_run"))
    run = subprocess.run(f"{command} | head -n 1", shell=True, capture_output=True, text=True, cwd=tools.ROOT)
    assert len(run.stdout.splitlines()) == 1
    assert run.stderr == ""


def test_a_result_that_is_no_number_is_never_the_best(tmp_path):
    grid = {"learning_rate": ["nan", 0.1, 0.2]}
    run = tools.sweep(tmp_path, grid)
    assert run.returncode == 0, run.stderr
    assert "best best_val_acc 0.2 by learning_rate=0.2" in run.stdout
    assert [line.split()[0] for line in run.stdout.splitlines()[-3:-1]] == ["0.2", "0.1"]


RESUMES = """
import argparse, json, os, signal
parser = argparse.ArgumentParser()
parser.add_argument("--results_path")
parser.add_argument("--output_dir")
parser.add_argument("--resume")
parser.add_argument("--end")
args = parser.parse_args()
if args.resume:
    assert args.resume == args.output_dir
    json.dump({"best_val_acc": float(open(args.resume + "/last.pt").read())}, open(args.results_path, "w"))
else:
    os.makedirs(args.output_dir)
    open(args.output_dir + "/last.pt", "w").write("0.75")
    os.kill(os.getpid(), signal.SIGKILL) if args.end == "kill" else exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills itself with a signal")
def test_an_attempt_that_was_ended_from_outside_resumes_from_its_checkpoint(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(RESUMES)
    run = tools.sweep(tmp_path, {"end": ["kill", "crash"]}, "--stop_after", "0", script=str(script))
    found = {row["end"]: (row["status"], row["attempts"], row.get("best_val_acc")) for row in tools.table(tmp_path)}
    assert found == {"kill": ("done", "2", "0.75"), "crash": ("failed", "2", "")}, run.stdout  # a crash begins afresh
    script.write_text(RESUMES + "# another line")  # a checkpoint of other code is not that of this run
    for path in tmp_path.glob("logs/end=kill*/status.json"):
        path.write_text(json.dumps({"state": "stopped", "cause": "interrupted", "attempt": 2, "code": "other"}))
    again = tools.sweep(tmp_path, {"end": "kill"}, "--retries", "0", script=str(script))
    assert again.returncode == 1
