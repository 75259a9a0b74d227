"""toolkit.download against a real server on the loopback address that stalls, drops, lies and redirects."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.misbehaving_server import Behaviour, MisbehavingServer
from toolkit.download import DownloadError, Limits, fetch, unreachable

pytestmark = pytest.mark.provided

CONTENT = b"PK" + random.Random(0).randbytes(300_000)
OTHER = b"PK" + random.Random(1).randbytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
# A busy machine can be silent for seconds, so a stall is short only where the server stalls until the test ends.
QUICK = Limits(connect_s=30, stall_s=30, attempts=3, connect_attempts=1, backoff_s=0.01, max_backoff_s=0.05)
IMPATIENT = replace(QUICK, stall_s=0.5)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with MisbehavingServer({"a.npz": CONTENT}) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "a.npz"


def part_of(target: Path) -> Path:
    return target.with_name("a.npz.part")


def write_part(target: Path, content: bytes) -> None:
    target.parent.mkdir(exist_ok=True)
    part_of(target).write_bytes(content)


def get(server: MisbehavingServer, target: Path, **changes: object) -> None:
    fetch(server.url("a.npz"), target, MD5, **{"magic": b"PK", "limits": QUICK, **changes})


def assert_complete(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert {name for name in os.listdir(target.parent) if not name.endswith(".lock")} == {"a.npz"}


def test_a_good_server_is_asked_once(server, target, capsys):
    get(server, target)
    assert_complete(target)
    assert server.ranges == [None]
    assert capsys.readouterr() == ("", ""), "quiet when stderr is not a terminal"


@pytest.mark.parametrize("behaviour", [Behaviour(drop_after=100_000), Behaviour(stall_after=100_000)])
def test_an_interrupted_body_is_continued_where_it_ended(server, target, behaviour):
    server.plan = [behaviour]
    get(server, target, limits=IMPATIENT if behaviour.stall_after else QUICK)
    assert_complete(target)
    assert list(dict.fromkeys(server.ranges)) == [None, "bytes=100000-"]  # the second may be asked twice


def test_a_reset_connection_is_continued(server, target):
    server.plan = [Behaviour(reset_after=100_000)]
    get(server, target)
    assert_complete(target)
    assert len(server.requests) == 2  # how much arrived before the reset is up to the system


def test_a_trickle_counts_as_a_stall_and_what_it_brought_is_kept(server, target):
    server.plan = [Behaviour(trickle=(10, 0.02))]  # 500 bytes/s; each single read returns well within stall_s
    get(server, target, limits=IMPATIENT)
    assert_complete(target)
    assert len(server.requests) >= 2
    assert server.ranges[-1] not in (None, "bytes=0-")


def test_progress_resets_the_count_of_failures(server, target):
    server.plan = [Behaviour(drop_after=50_000) for _ in range(5)]  # more failures than QUICK.attempts
    get(server, target)
    assert_complete(target)
    assert server.ranges == [None, *(f"bytes={n}0000-" for n in (5, 10, 15, 20, 25))]


def test_a_server_that_drops_at_the_same_place_is_given_up(server, target):
    server.plan = [Behaviour(drop_after=50_000, ignore_range=True) for _ in range(50)]
    with pytest.raises(DownloadError, match=r"failed 3 times in a row: the connection ended after 0\.1 MB of 0\.3 MB"):
        get(server, target)
    assert len(server.requests) == 3
    assert not target.exists()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_says_later_is_asked_again(server, target, status):
    server.plan = [Behaviour(status=status, headers={"Retry-After": "0"})] * 2
    get(server, target)
    assert_complete(target)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_final_refusal_is_not_repeated(server, target, status):
    server.plan = [Behaviour(status=status)]
    with pytest.raises(DownloadError, match=rf"a\.npz answers HTTP {status}"):
        get(server, target)
    assert len(server.requests) == 1


def test_an_existing_part_is_continued(server, target):
    write_part(target, CONTENT[:123_456])
    get(server, target)
    assert_complete(target)
    assert server.ranges == ["bytes=123456-"]


def test_a_server_that_ignores_range_starts_anew(server, target):
    write_part(target, CONTENT[:123_456])
    server.plan = [Behaviour(ignore_range=True)]
    get(server, target)
    assert_complete(target)


def test_a_server_that_continues_elsewhere_is_not_believed(server, target):
    server.plan = [Behaviour(drop_after=100_000), Behaviour(wrong_start=True)]
    get(server, target)
    assert_complete(target)
    assert server.ranges == [None, "bytes=100000-", None]


@pytest.mark.parametrize(
    "old",
    [CONTENT + b"more", OTHER + b"more", OTHER[:100_000], OTHER],
    ids=["longer", "other and longer", "other", "other of the same length"],
)
def test_a_part_of_another_file_is_replaced(server, target, old):
    write_part(target, old)
    get(server, target)
    assert_complete(target)


def test_a_complete_part_only_needs_its_name(server, target):
    write_part(target, CONTENT)
    get(server, target)
    assert_complete(target)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_other_content_is_refused_and_leaves_nothing(server, target):
    server.files["a.npz"] = OTHER
    with pytest.raises(DownloadError, match=f"sends another file than expected .MD5 .* instead of {MD5}."):
        get(server, target)
    assert len(server.requests) == 1
    assert not target.exists()
    assert not part_of(target).exists()


def test_too_little_content_is_refused(server, target):
    server.plan = [Behaviour(body=CONTENT[:1000]), Behaviour(body=CONTENT[:1000])]  # its Content-Length agrees with it
    with pytest.raises(DownloadError, match="sends another file than expected"):
        get(server, target)
    assert not target.exists()


def test_a_login_page_is_recognised_and_does_not_cost_the_part(server, target):
    write_part(target, CONTENT[:100_000])
    server.plan = [Behaviour(body=b"<html>Please sign in", ignore_range=True)]
    with pytest.raises(DownloadError, match="does not send a data file; is it the login page"):
        get(server, target)
    assert part_of(target).read_bytes() == CONTENT[:100_000]


def test_redirects_are_followed_and_keep_the_range(server, target):
    with MisbehavingServer({"elsewhere": CONTENT}) as other:
        write_part(target, CONTENT[:100_000])
        server.plan = [Behaviour(redirect=other.url("elsewhere"))]
        get(server, target)
        assert other.ranges == ["bytes=100000-"]
    assert_complete(target)


def test_a_circle_of_redirects_ends(server, target):
    server.plan = [Behaviour(redirect=server.url("a.npz"))] * 100
    with pytest.raises(DownloadError, match="HTTP 302"):
        get(server, target)


def test_a_body_without_a_length_is_accepted(server, target):
    server.plan = [Behaviour(no_length=True)]
    get(server, target)
    assert_complete(target)


def test_a_refused_connection_is_found_out_at_once(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.npz"
        with pytest.raises(DownloadError, match=r"no connection to 127\.0\.0\.1 \("):
            fetch(url, target, MD5, limits=QUICK)
    assert not target.parent.exists(), "nothing is made before the server answers"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops connections that a full queue cannot take")
def test_a_silent_host_is_given_up_after_the_connection_limit():
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # fill the queue of connections that are never accepted
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        assert "no connection to 127.0.0.1" in unreachable(url, 0.3)


def test_a_name_that_does_not_exist_is_reported():
    assert "no connection to course.invalid" in unreachable("https://course.invalid/a.npz", 10)


def test_a_name_that_takes_for_ever_to_look_up_is_given_up(monkeypatch):
    for_ever = threading.Event()  # the system's own look-up takes no time limit, so a hanging one stands in for it

    def look_up(*_: object, **__: object) -> None:
        for_ever.wait()
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert unreachable("https://course.invalid/a.npz", 0.1) == "no connection to course.invalid within 0.1 s"
    for_ever.set()


def test_a_proxy_is_used_and_asked_for_in_place_of_the_host(server, target, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    fetch("http://course.invalid/a.npz", target, MD5, limits=QUICK)
    assert_complete(target)
    assert server.requests[0].path == "http://course.invalid/a.npz"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_an_untrusted_certificate_is_named_and_not_tried_again(tmp_path, target):
    certificate = tmp_path / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -keyout".split()
    subprocess.run([*command, certificate, "-out", tmp_path / "c.pem"], check=True, capture_output=True)
    certificate.write_bytes(certificate.read_bytes() + (tmp_path / "c.pem").read_bytes())
    with (
        MisbehavingServer({"a.npz": CONTENT}, certificate=certificate) as server,
        pytest.raises(DownloadError, match="the certificate is not trusted"),
    ):
        get(server, target)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_one_clear_line_and_gives_the_space_back(server, target):
    target.parent.mkdir()
    part_of(target).symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"the disk of .* is full; free some space"):
        get(server, target)
    assert not part_of(target).is_symlink()
    assert len(server.requests) == 1


def test_a_download_that_cannot_fit_is_refused_before_the_first_byte(server, target):
    server.plan = [Behaviour(headers={"Content-Length": str(10**18)}, no_length=True)]
    with pytest.raises(DownloadError, match=r"the download needs 1000000000000\.0 MB, but .* free"):
        get(server, target)
    assert not part_of(target).exists()


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"cannot write to .*file"):
        get(server, tmp_path / "file" / "a.npz")


def start_fetch(server: MisbehavingServer, target: Path) -> subprocess.Popen:
    """The same download in its own process."""
    code = (
        "import sys; from pathlib import Path; from toolkit.download import *\n"
        f"try: fetch({server.url('a.npz')!r}, Path({str(target)!r}), {MD5!r}, limits=Limits(stall_s=30))\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)


def wait_for_part(target: Path, size: int) -> None:
    """Until `size` bytes are on the disk; the test's own time limit ends a wait in vain."""
    while not (part_of(target).exists() and part_of(target).stat().st_size >= size):
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send Ctrl-C to one process only")
def test_ctrl_c_keeps_the_part_and_the_next_start_continues_it(server, target):
    server.plan = [Behaviour(stall_after=200_000)]
    process = start_fetch(server, target)
    wait_for_part(target, 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    kept = part_of(target).stat().st_size
    assert 0 < kept <= 200_000
    assert out == f"download interrupted; {part_of(target)} keeps {kept / 1e6:.1f} MB and is continued next time\n"
    get(server, target)
    assert_complete(target)
    assert server.ranges == [None, f"bytes={kept}-"]


def test_two_processes_share_one_download(server, target):
    server.plan = [Behaviour(trickle=(60_000, 0.2))]
    processes = [start_fetch(server, target), start_fetch(server, target)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert_complete(target)
    assert server.ranges == [None], "the second process takes the file of the first"


def test_a_killed_process_frees_the_download_for_the_one_that_waits(server, target):
    server.plan = [Behaviour(stall_after=200_000)]
    first = start_fetch(server, target)
    wait_for_part(target, 1)
    second = start_fetch(server, target)
    assert "waiting for another process that is downloading a.npz" in second.stdout.readline()
    first.kill()
    first.communicate()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert_complete(target)
