"""What a job gets from the dispatcher and its neighbours: signals, devices, threads, folders, other machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types

import psutil
import pytest

from tests.sweeps import tools
from toolkit.errors import UserError
from toolkit.sweeps import jobs, slurm
from toolkit.sweeps.local import THREAD_VARIABLES, Device, describe_devices, find_devices, job_environment

pytestmark = [pytest.mark.provided, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

HEAD = """
import argparse, json, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--results_path")
parser.add_argument("--key")
args = parser.parse_args()
"""
STATE = """
names = ("SigIgn", "SigBlk", "NoNewPrivs", "Umask")
state = {line.split(":")[0]: line.split()[1] for line in open("/proc/self/status") if line.startswith(names)}
state["files"] = sorted(os.listdir("/proc/self/fd"))[:3] + [str(len(os.listdir("/proc/self/fd")))]
state["nice"], state["cores"] = os.nice(0), len(os.sched_getaffinity(0))
state["path"] = str(sys.path[1:])
ours = ("SWEEP_JOB", "PYTHONUNBUFFERED", "CUDA_VISIBLE_DEVICES", "PWD", "OLDPWD", "_", "SHLVL")
state["environment"] = {n: v for n, v in os.environ.items() if n not in ours and not n.endswith("_THREADS")}
with open(args.results_path, "w") as file:
    json.dump({"best_val_acc": 0.5, "state": json.dumps(state)}, file)
"""


def script(folder, body: str) -> str:
    (folder / "target.py").write_text(HEAD + body)
    return str(folder / "target.py")


def state_of(path) -> dict:
    return json.loads(json.loads(path.read_text())["state"])


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "nohup"])
def test_a_job_inherits_nothing_that_it_would_not_have_from_a_shell(tmp_path, before):
    name, usual = script(tmp_path, STATE), signal.signal(signal.SIGHUP, before)
    try:
        _compare_with_a_shell(tmp_path, name)
    finally:
        signal.signal(signal.SIGHUP, usual)


def _compare_with_a_shell(tmp_path, name: str) -> None:
    assert tools.sweep(tmp_path, {"key": 1}, "--gpus", "none", script=name).returncode == 0
    (here,) = tmp_path.glob("logs/*/results.json")
    shell = subprocess.run(
        ["sh", "-c", f"{sys.executable} {name} --key 1 --results_path {tmp_path}/shell.json </dev/null"]
    )
    assert shell.returncode == 0
    assert state_of(here) == state_of(tmp_path / "shell.json")


def test_a_child_of_a_job_ends_when_it_is_asked_to(tmp_path):
    """As a logger does that a script ends with terminate() and wait(): with SIGTERM ignored it hangs for ever."""
    body = """
child = subprocess.Popen(["sleep", "60"])
child.terminate()
child.wait(20)
json.dump({"best_val_acc": 1}, open(args.results_path, "w"))
"""
    run = tools.sweep(tmp_path, {"key": 1}, script=script(tmp_path, body))
    assert run.returncode == 0, run.stdout


def test_a_job_over_its_time_ends_at_once_unless_it_resists(tmp_path):
    began = time.monotonic()
    tools.sweep(tmp_path, {"key": 1}, "--timeout_s", "1", "--grace_s", "60", script=script(tmp_path, "time.sleep(120)"))
    assert time.monotonic() - began < 30
    (status,) = tools.statuses(tmp_path).values()
    assert (status["cause"], status["seconds"] < 20) == ("timeout", True)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Call it with what nvidia-smi -L prints and its exit code."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def answer(text: str, code: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        program.chmod(0o755)

    return answer


TWO = "GPU 0: NVIDIA H100 (UUID: GPU-a)\nGPU 1: NVIDIA H100 (UUID: GPU-b)"
DIVIDED = """GPU 0: NVIDIA A100 (UUID: GPU-a)
  MIG 1g.5gb      Device  0: (UUID: MIG-one)
  MIG 1g.5gb      Device  1: (UUID: MIG-two)
GPU 1: NVIDIA A100 (UUID: GPU-b)"""


def gpus(wanted: str = "auto") -> list[str | None]:
    return [device.gpu for device in find_devices(wanted, 1, 1)[0]]


@pytest.mark.parametrize(
    ("visible", "wanted", "expected"),
    [
        ("2,3", "auto", ["2", "3"]),
        ("2,3", "0", ["2"]),  # numbers count what is visible, as in every CUDA program
        ("2,3", "1,0", ["3", "2"]),
        ("0,-1,1", "auto", ["0"]),  # CUDA's own rule
        ("NoDevFiles", "auto", [None]),  # what Slurm sets for a job without GPUs
        ("", "auto", [None]),
        ("MIG-one,MIG-two", "auto", ["MIG-one", "MIG-two"]),
        (" 1 ,0,1", "auto", ["1", "0"]),  # one device, however often it is listed
        ("GPU-b", "auto", ["GPU-b"]),
    ],
)
def test_what_is_visible_is_what_is_used(monkeypatch, nvidia_smi, visible, wanted, expected):
    nvidia_smi(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus(wanted) == expected


def test_numbers_beyond_what_is_visible_are_refused(monkeypatch, nvidia_smi):
    nvidia_smi(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(UserError, match=r"gpus is '2', but this machine has 2 GPUs.*CUDA_VISIBLE_DEVICES='2,3'"):
        gpus("2")


def test_each_part_of_a_divided_gpu_is_a_device(nvidia_smi):
    nvidia_smi(DIVIDED)
    assert gpus() == ["MIG-one", "MIG-two", "1"]


def test_numbers_of_nvidia_smi_mean_the_same_to_the_job(monkeypatch, nvidia_smi):
    nvidia_smi(TWO)
    found, _ = find_devices("auto", 1, 1)
    assert job_environment(found[0], 2)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")  # the user's own numbers, in the user's own order
    found, _ = find_devices("auto", 1, 1)
    assert "CUDA_DEVICE_ORDER" not in job_environment(found[0], 2)


def test_one_line_says_on_what_the_jobs_run_and_why(nvidia_smi):
    nvidia_smi("NVIDIA-SMI has failed: driver not loaded", 9)
    line = describe_devices(*find_devices("auto", 1, 2))
    assert line == (
        "the processor, 2 jobs at a time: nvidia-smi failed with exit code 9: NVIDIA-SMI has failed: driver not loaded"
    )
    nvidia_smi(TWO)
    assert describe_devices(*find_devices("auto", 2, 1)) == (
        "2 GPUs (0, 1), 2 jobs at a time on each: nvidia-smi lists 0, 1"
    )


def test_who_sets_one_number_of_threads_has_decided(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert set(job_environment(Device(None, 1), 2)) >= set(THREAD_VARIABLES)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not set(job_environment(Device(None, 1), 2)) & set(THREAD_VARIABLES)


@pytest.mark.parametrize(("decided", "threads"), [({}, "3"), ({"MKL_NUM_THREADS": "1"}, None)])
def test_a_slurm_task_has_a_thread_per_core_unless_somebody_has_decided(tmp_path, monkeypatch, decided, threads):
    started = []
    guard = types.SimpleNamespace(start=lambda key, task: started.append(task), join=lambda: None)
    monkeypatch.setattr(slurm, "Guard", lambda **_: guard)
    monkeypatch.setattr(slurm.signal, "signal", lambda *_: None)
    for name in (*THREAD_VARIABLES, "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PYTHONPATH": "", "SLURM_CPUS_PER_TASK": "3", **decided}.items():
        monkeypatch.setenv(name, value)
    slurm.run_task(jobs.Task(str(tmp_path), [], 1))
    assert started[0].environment.get("OMP_NUM_THREADS") == threads


def claim(folder, **owner) -> None:
    folder.mkdir()
    assert jobs.take_claim(str(folder), 1)
    path = folder / "claim.1"
    path.write_text(json.dumps({**json.loads(path.read_text()), **owner}))


@pytest.mark.parametrize("part", [0, 2])
def test_a_pid_means_nothing_on_another_machine_or_in_another_container(tmp_path, monkeypatch, part):
    """Host name and pid may agree between containers; the owner's pid is not running here, but it lives there."""
    parts = jobs.this_machine().split(" ")
    parts[part] = "elsewhere"
    claim(tmp_path / "job", machine=" ".join(parts), pid=2**22 + 1)
    assert jobs.is_alive(str(tmp_path / "job"), 1)
    claim(tmp_path / "ours", pid=2**22 + 1)
    assert not jobs.is_alive(str(tmp_path / "ours"), 1)


@pytest.mark.parametrize("off_s", [-130, 130])
def test_a_clock_that_is_set_while_a_job_runs_makes_nobody_dead(tmp_path, monkeypatch, off_s):
    """As when a laptop wakes up: every start time that is told in seconds since 1970 shifts with the clock."""
    claim(tmp_path / "job")
    usual, boot = jobs.psutil.Process.create_time, jobs.psutil.boot_time()
    monkeypatch.setattr(jobs.psutil.Process, "create_time", lambda process: usual(process) + off_s)
    monkeypatch.setattr(jobs.psutil, "boot_time", lambda: boot + off_s)
    monkeypatch.setattr(jobs.time, "time", lambda: 1e9)
    assert jobs.is_alive(str(tmp_path / "job"), 1)
    other = subprocess.Popen(["sleep", "60"])  # a later process with the owner's pid is not the owner
    try:
        claim(tmp_path / "other", pid=other.pid)
        assert not jobs.is_alive(str(tmp_path / "other"), 1)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("off_s", [-4000, -130, 130, 4000])
def test_a_clock_that_is_off_makes_nobody_dead(tmp_path, monkeypatch, off_s):
    claim(tmp_path / "job", machine="another")
    path = str(tmp_path / "job")
    now = [1000.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])

    def beat(seconds: float) -> None:
        now[0] += seconds
        os.utime(jobs.claim_path(path, 1), (now[0] + off_s, now[0] + off_s))

    for _ in range(30):
        assert jobs.is_alive(path, 1)
        beat(15)
    now[0] += jobs.SILENT_S - 1
    assert jobs.is_alive(path, 1)  # the last beat is news
    now[0] += jobs.SILENT_S + 1
    assert not jobs.is_alive(path, 1)


def test_the_job_of_another_container_is_not_run_too(tmp_path):
    grid = {"key": [1, 2], "ledger": str(tmp_path / "ledger")}
    assert tools.sweep(tmp_path, grid, "--dry_run").returncode == 0
    assert tools.sweep(tmp_path, {**grid, "key": 1}).returncode == 0
    (done,) = [path.parent for path in tmp_path.glob("logs/*/claim.1")]
    machine = jobs.this_machine().split(" ")
    machine[-1] = "pid:[1]"
    owner = json.loads((done / "claim.1").read_text())
    (done / "claim.1").write_text(json.dumps({**owner, "machine": " ".join(machine)}))
    (done / "status.json").write_text(json.dumps({"state": "running", "attempt": 1}))
    process = tools.start(tmp_path, grid)
    tools.wait_until(
        lambda: sum(s["state"] == "done" for s in tools.statuses(tmp_path).values()) == 1, "the other is done"
    )
    time.sleep(2)
    process.send_signal(2)
    process.wait(30)
    assert [key for word, key, *_ in tools.ledger(tmp_path / "ledger") if word == "start"] == [1, 2]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to become another user")
def test_the_folder_of_another_user_is_one_failed_job_and_no_more(tmp_path):
    grid = {"key": [1, 2, 3]}
    lines = tools.sweep(tmp_path, grid, "--dry_run").stdout.splitlines()
    first = next(word for word in lines[0].split() if word.endswith("results.json")).rsplit("/", 1)[0]
    os.makedirs(first)
    os.chmod(first, 0o700)
    for path in [tmp_path, tmp_path / "logs"]:
        os.chmod(path, 0o777)
    (tmp_path / "grid_results.csv").write_text("")
    for parent in [tmp_path, *tmp_path.parents][:-1]:
        os.chmod(parent, os.stat(parent).st_mode | 0o5)
    (tmp_path / "grid.json").unlink()
    _, *words = tools.command(tmp_path, grid)
    as_other = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    packages = os.path.dirname(os.path.dirname(psutil.__file__))
    options = {"cwd": tools.ROOT, "capture_output": True, "text": True, "timeout": 120}
    options["env"] = {**os.environ, "PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"}
    can_start = "import psutil, subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    for python in (sys.executable, "/usr/bin/python3"):  # ours may lie in root's own folder
        if subprocess.run([*as_other, python, "-c", can_start], **options).returncode == 0:
            break
    else:
        pytest.skip("another user can run no Python with psutil here")
    run = subprocess.run([*as_other, python, *words], **options)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "PermissionError" in run.stdout
    assert sum(status["state"] == "done" for status in tools.statuses(tmp_path).values()) == 2


def test_what_cannot_be_started_fails_alone(tmp_path):
    """The guard's neighbours go on, whatever is wrong with one task: its folder is a file here."""
    grid = {"key": [1, 2, 3]}
    lines = tools.sweep(tmp_path, grid, "--dry_run").stdout.splitlines()
    first = next(word for word in lines[0].split() if word.endswith("results.json")).rsplit("/", 1)[0]
    (tmp_path / "logs").mkdir()
    with open(first, "w"):
        pass
    run = tools.sweep(tmp_path, grid, "--stop_after", "0")
    assert run.returncode == 1, run.stderr
    assert "FileExistsError" in run.stdout
    assert sum(status["state"] == "done" for status in tools.statuses(tmp_path).values()) == 2


def test_a_full_disk_is_one_line_with_a_cure_that_works(tmp_path):
    """A file system of 200 kB is full after a job's log; `--resume` is no flag of the dispatcher."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    small = tmp_path / "logs"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (small / "ballast").write_bytes(b"x" * 40_000)
        name = script(tmp_path, 'print("x" * 200_000)\njson.dump({"best_val_acc": 1}, open(args.results_path, "w"))')
        run = tools.sweep(tmp_path, {"key": [1, 2]}, script=name)
        assert run.returncode == 2, run.stdout + run.stderr
        assert run.stderr.startswith("error: No space left on device")
        assert "give the same command again" in run.stderr
        assert "--resume" not in run.stderr
        assert len(run.stderr.strip().splitlines()) == 1
    finally:
        subprocess.run(["umount", str(small)], check=True)
