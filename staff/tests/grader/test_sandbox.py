"""A hostile module in every layer: it reaches nothing, ends in time and leaves no process and no file behind."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from staff.grader import functions, processes, sandbox
from staff.grader.client import Budget, CheckFailed, StudentError, StudentProcess
from staff.grader.sandbox import Limits, SandboxError, temporary_place

ROOT = Path(__file__).resolve().parents[3]

HOSTILE = '''
import ctypes, gc, os, signal, socket, subprocess, sys, threading, time

def attempt(action):
    """1 if the action worked."""
    try:
        action()
        return 1.0
    except BaseException:
        return 0.0

def read_secret(): open(SECRET).read()
def list_grader(): os.listdir(os.path.dirname(SECRET))
def network(): socket.create_connection(("192.0.2.1", 80), timeout=2)
def loopback():
    s = socket.socket(); s.settimeout(2); s.connect(("127.0.0.1", PORT))
def kill_parent(): os.kill(GRADER, signal.SIGTERM)
def parent_memory(): open(f"/proc/{GRADER}/mem", "rb").close()
def parent_environment(): open(f"/proc/{GRADER}/environ", "rb").read()
def parent_files(): os.listdir(f"/proc/{GRADER}/fd")
def write_outside(): open("/var/tmp/from-a-submission", "w").close()
def write_shm(): open("/dev/shm/from-a-submission", "w").close()
def write_own_tree(): open(__file__, "a").close()
def chmod_outside(): os.chmod(os.path.dirname(SECRET), 0o777)
def touch_outside(): os.utime(SECRET)
def squeeze_parent():
    import resource
    resource.prlimit(GRADER, resource.RLIMIT_NOFILE, (1000, 1000))
def become_root():
    os.setuid(0)
    open("/root/.x").close()
def grader_argv(): assert open(f"/proc/{GRADER}/cmdline").read()
def environment(): assert "SECRET_OF_THE_GRADER" in os.environ

ACTIONS = [read_secret, list_grader, network, loopback, kill_parent, parent_memory, parent_environment, parent_files,
           write_outside, write_own_tree, chmod_outside, touch_outside, squeeze_parent, become_root,
           grader_argv, environment]

def memory_of_no_process(): os.memfd_create("x")
def named_socket():
    s = socket.socket(socket.AF_UNIX); s.settimeout(2); s.connect(NAMED); s.sendall(b"x")
def named_datagram():
    pair = socket.socketpair(type=socket.SOCK_DGRAM); pair[0].sendto(b"x", NAMED + "d")
def named_message():
    pair = socket.socketpair(type=socket.SOCK_SEQPACKET); pair[0].sendmsg([b"x"], (), 0, NAMED + "d")
def a_pair_works():
    one, other = socket.socketpair(); one.sendall(b"x"); assert other.recv(1) == b"x"

def unnamed(number, which):
    actions = [memory_of_no_process, named_socket, named_datagram, named_message, a_pair_works]
    return attempt(actions[int(which)])

def run(number, which):
    return attempt(ACTIONS[int(which)])

def write_where_possible():
    for folder in ("/tmp", "/dev/shm", "/var/tmp", os.environ["TMPDIR"]):
        attempt(lambda: open(folder + "/from-a-submission", "w").write("x"))
    return 0.0

def memory():
    held = []
    while True:
        held.append(bytearray(64 << 20))
        for i in range(0, 64 << 20, 4096): held[-1][i] = 1

def disk():
    number = 0
    while True:
        number += 1
        with open(os.environ["TMPDIR"] + f"/{number}", "wb") as file:
            for _ in range(32): file.write(b"x" * (1 << 20))

def forks():
    while True:
        try: os.fork()
        except OSError: time.sleep(0.01)

def orphan():
    """A grandchild in its own session that ignores signals and wants to outlive everybody."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (1, 2, 3, 15): signal.signal(number, signal.SIG_IGN)
            time.sleep(600)
        os._exit(0)
    return 1.0

def endless():
    while True: pass

def deadlock():
    lock = threading.Lock(); lock.acquire(); lock.acquire()

def leave(): os._exit(0)
def crash(): ctypes.string_at(0)
def cpu_seconds():
    [threading.Thread(target=endless).start() for _ in range(2)]; endless()
def shout():
    for _ in range(30_000): print("y" * 60)
    return 2.0
def forge():
    for fd in range(3, 64):
        try: os.write(fd, b"\\0\\0\\0\\x02\\0\\0\\0\\0{}")
        except OSError: pass
    return 1.0
'''


@contextlib.contextmanager
def named_sockets():
    """A stream and a datagram socket ("d" appended) that every user of this machine may write to."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as stream:
        os.chmod(folder, 0o755)
        stream.bind(f"{folder}/s")
        stream.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(f"{folder}/sd")
            for name in ("s", "sd"):
                os.chmod(f"{folder}/{name}", 0o777)
            yield f"{folder}/s"


@pytest.fixture
def student(layer, tmp_path):
    """A StudentProcess in the layer on trial, with the hostile module as its submission."""
    secret = tmp_path / "grader" / "labels.txt"
    secret.parent.mkdir()
    secret.write_text("hidden")
    os.environ["SECRET_OF_THE_GRADER"] = "x"
    processes.guard_grader()
    name, without = layer
    limits = Limits(memory_mb=1500, disk_mb=100, file_mb=64, cpu_s=30, without=without)
    with socket.create_server(("127.0.0.1", 0)) as server, temporary_place() as place, named_sockets() as name_of_both:
        port = server.getsockname()[1]
        values = f"SECRET, GRADER, PORT, NAMED = {str(secret)!r}, {os.getpid()}, {port}, {name_of_both!r}\n"
        (place.tree / "m.py").write_text(values + HOSTILE)
        student = StudentProcess(place, name, limits, Budget(60, 200), [str(secret), str(ROOT / "staff")])
        yield student
        student.end()
        assert not (left := list(place.scratch.iterdir())), left
    assert not place.root.exists()


def call(student, function, *arrays, timeout_s=60.0):
    named = [np.array(array, dtype=np.float64) for array in arrays]
    return float(functions.call(student, "m", function, *named, as_tensors=True, timeout_s=timeout_s))


ACTIONS = HOSTILE.split("ACTIONS = [")[1].split("]")[0].replace("\n", " ").replace(" ", "").split(",")


def test_reaches_nothing_outside(student):
    reached = [action for i, action in enumerate(ACTIONS) if call(student, "run", 0, i)]
    # A namespace has process 1 and may reuse our number for its own process; nothing of ours is among them.
    assert reached == []
    assert student.in_force[0] == student.layer


def test_neither_memory_of_no_process_nor_sockets_with_a_name(student):
    worked = [call(student, "unnamed", 0, which) for which in range(5)]
    if "seccomp" not in student.in_force:
        pytest.skip("this layer is tried without the filter of system calls")
    assert worked == [0, 0, 0, 0, 1]


def test_leaves_no_file_in_places_that_everybody_may_write(student):
    call(student, "write_where_possible")
    student.end()
    for folder in ("/tmp", "/dev/shm", "/var/tmp"):
        assert not os.path.exists(f"{folder}/from-a-submission"), folder


def test_a_bomb_or_a_loop_costs_only_its_own_check(student):
    """After each incident the next question is answered again, and no process is left."""
    incidents = {
        "memory": ("MemoryError", "ended the process", "memory"),
        "disk": ("OSError", "ended the process", "File too large"),
        "endless": ("did not finish",),
        "deadlock": ("did not finish",),
        "leave": ("exit status 0",),
        "crash": ("ended the process",),
    }
    for function, words in incidents.items():
        with pytest.raises(CheckFailed) as caught:
            call(student, function, timeout_s=3.0 if function in ("endless", "deadlock") else 40.0)
        assert any(word in str(caught.value) for word in words), f"{function}: {caught.value}"
        assert call(student, "run", 0, ACTIONS.index("environment")) == 0.0
    assert student.restarts >= 4


def test_forks_and_orphans_do_not_survive(student):
    before = set(processes.descendants(os.getpid()))
    # Where seccomp is in force there is no new process at all, and the attempt is an error of the student's.
    with contextlib.suppress(StudentError):
        call(student, "orphan", timeout_s=5.0)
    with pytest.raises(CheckFailed):
        call(student, "forks", timeout_s=3.0)
    uid = student.worker.uid if student.worker else None
    student.end()
    time.sleep(0.2)
    left = set(processes.descendants(os.getpid())) - before
    assert not left
    assert not uid or not processes.of_user(uid)


def test_what_a_spared_process_starts_is_no_stray():
    # The spared one starts a process every few milliseconds, so a search made of two looks at /proc finds strays.
    forever = "import subprocess\nwhile True: subprocess.run(['true'])"
    with subprocess.Popen([sys.executable, "-c", forever]) as spared:
        try:
            time.sleep(0.3)
            others = set(processes.descendants(os.getpid())) - set(processes.descendants(spared.pid)) - {spared.pid}
            found = [processes.strays({spared.pid} | others) for _ in range(200)]
            assert processes.strays(others), "without the pardon it is a stray"
        finally:
            spared.kill()
    assert not any(found)


def test_output_is_drained_and_forged_frames_are_noticed(student):
    assert call(student, "shout") == 2.0
    with pytest.raises(CheckFailed, match=r"malformed|another question|unexpected answer"):
        [call(student, function, *arguments) for function, *arguments in (("forge",), ("run", 0, 0))]
    assert call(student, "run", 0, ACTIONS.index("environment")) == 0.0
    student.end()
    assert len(student.printed) <= 4000


def test_a_visible_secret_means_no_grading(tmp_path):
    with temporary_place() as place:
        student = StudentProcess(place, "limits", Limits(without=("landlock",)), Budget(), [str(Path(__file__))])
        with pytest.raises(SandboxError, match="does not hide"):
            student.start()


def test_requiring_a_layer_that_is_missing_fails_closed(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="--require bwrap: bubblewrap is not installed"):
        sandbox.choose_layer("bwrap")
    layer, reasons = sandbox.choose_layer()
    assert layer in ("user", "limits")
    assert "not installed" in reasons[0]
