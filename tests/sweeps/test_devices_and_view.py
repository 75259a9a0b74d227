"""Which GPUs the jobs get, and what a person sees on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sweeps import tools
from toolkit.errors import UserError
from toolkit.sweeps.local import THREAD_VARIABLES, Device, find_devices, job_environment, usable_cores

pytestmark = pytest.mark.provided


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """A machine whose nvidia-smi lists two GPUs; there is none where the tests run."""
    if os.name == "nt":
        pytest.skip("the stand-in for nvidia-smi is a shell script")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-a)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-b)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def places(*arguments) -> list[tuple[str | None, int]]:
    return [(device.gpu, device.capacity) for device in find_devices(*arguments)[0]]


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_found_chosen_and_limited(monkeypatch):
    assert places("auto", 2, 1) == [("0", 2), ("1", 2)]
    assert places("1", 1, 1) == [("1", 1)]
    assert places("none", 2, 3) == [(None, 3)]
    with pytest.raises(UserError, match="this machine has 2 GPUs, numbered from 0"):
        find_devices("0,2", 1, 1)
    with pytest.raises(UserError, match="different numbers"):
        find_devices("0,0", 1, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # as a batch system limits a user
    assert places("auto", 1, 1) == [("1", 1)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert places("auto", 1, 2) == [(None, 2)]


def test_jobs_share_the_cores_unless_the_user_has_decided(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    environment = job_environment(Device("1", 2), 2)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert {environment[name] for name in THREAD_VARIABLES} == {str(max(1, usable_cores() // 2))}
    assert job_environment(Device(None, 1), 10_000)["MKL_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # MKL follows it, unless it has a number of its own
    assert not set(THREAD_VARIABLES) & set(job_environment(Device(None, 1), 4))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_a_terminal_shows_a_table_and_a_pipe_plain_lines(tmp_path):
    import pty

    pytest.importorskip("rich")
    ours, terminal = pty.openpty()
    command = tools.command(tmp_path, {"key": [1, 2], "sleep_s": 1.2}, "--num_workers", "2")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, cwd=tools.ROOT, env=environment)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "━" in text
    assert "0 done, 2 running, 0 waiting" in text
    assert "2 done, 0 running, 0 waiting · best best_val_acc 0.1" in text
    plain = tools.sweep(tmp_path, {"key": [1, 2], "sleep_s": 1.2}).stdout
    assert "━" not in plain
    assert "\x1b" not in plain
