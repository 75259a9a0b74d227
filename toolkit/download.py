"""Downloads one large file safely over a bad network: time limits, retries, resume, MD5, atomic rename.

`pooch` 1.9 was tried on the server of tests/misbehaving_server.py. It begins again where this continues: when each
connection broke after a quarter of the file it gave up after 5 attempts, and at 500 bytes/s it kept waiting; both
end well here. `filelock` comes with torch and keeps two processes off the same file.
"""

from __future__ import annotations

import errno
import http.client
import os
import random
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import filelock
from tqdm import tqdm

from toolkit.errors import UserError
from toolkit.npz_file import md5_of

CHUNK_BYTES = 1 << 16
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)  # the server says: later
GONE_STATUS = 416  # the range asked for lies outside the file


class DownloadError(UserError):
    """The file could not be fetched; the message says from where and why."""


class _Retry(Exception):
    """This attempt failed in a way that another may cure, after `wait_s` seconds if the server named a time."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Limits:
    """Patience of a download. `attempts` counts failures in a row that brought no new byte."""

    connect_s: float = 10.0
    stall_s: float = 20.0  # no byte for so long, or fewer than `min_bytes_per_s` on average over it, ends an attempt
    min_bytes_per_s: float = 1024.0
    attempts: int = 5
    connect_attempts: int = 3  # a host that cannot be reached at all is given up sooner
    backoff_s: float = 1.0  # doubled after each failure, with up to as much again at random
    max_backoff_s: float = 30.0


IMPATIENT = Limits(connect_s=5.0, connect_attempts=1, attempts=3)  # where something else can be used instead


def unreachable(url: str, timeout_s: float) -> str | None:
    """Why the server of `url` (or its proxy) cannot be connected to within `timeout_s` in all; None if it can.

    Looking up a name has no time limit of its own, and each address of a host may time out in turn: hence the thread.
    """
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    answer = [f"no connection to {address[0]} within {timeout_s:g} s"]

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=timeout_s).close()
            answer[0] = ""
        except (OSError, UnicodeError) as error:
            answer[0] = f"no connection to {address[0]} ({getattr(error, 'strerror', None) or error})"

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answer[0] or None


def fetch(
    url: str,
    path: Path,
    md5: str,
    *,
    magic: bytes = b"",
    limits: Limits = Limits(),
    announce: Callable[[str], None] = print,
) -> None:
    """Download `url` to `path`, which appears only when complete and with the MD5 expected.

    Until then the bytes are in `<path>.part`, which the next call continues. A file that does not start with `magic` is
    given up at once. Raises DownloadError; on KeyboardInterrupt the .part stays.
    """
    part = path.with_name(path.name + ".part")
    _require_connection(url, limits)  # before anything is made on the disk
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(path, announce):
            if path.exists() and md5_of(path) == md5:  # another process was quicker
                return
            _fetch_part(url, part, md5, magic, limits)
            os.replace(part, path)
    except KeyboardInterrupt:
        if part.exists():
            announce(f"download interrupted; {part} keeps {_megabytes(part.stat().st_size)} and is continued next time")
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            part.unlink(missing_ok=True)  # a full disk stops everything else too, so give the space back
            raise DownloadError(f"the disk of {path.parent} is full; free some space or use another folder") from None
        raise DownloadError(f"cannot write to {path.parent} ({error.strerror or error}); use another folder") from None


def _only_one(path: Path, announce: Callable[[str], None]) -> AbstractContextManager:
    """Lock of this download, waiting for the process that has it. The system frees it when that process ends."""
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        announce(f"waiting for another process that is downloading {path.name} (it holds {lock.lock_file})")
        return lock.acquire()


def _fetch_part(url: str, part: Path, md5: str, magic: bytes, limits: Limits) -> None:
    """Complete `part`. Wrong bytes are fetched again once if a .part was continued: it may be of another file."""
    resumed = part.exists() and part.stat().st_size > 0
    for last_try in (not resumed, True):
        _fetch_with_retries(url, part, magic, limits)
        found = md5_of(part)
        if found == md5:
            return
        part.unlink()
        if last_try:
            break
    raise DownloadError(f"{url} sends another file than expected (MD5 {found} instead of {md5}); try another address")


def _fetch_with_retries(url: str, part: Path, magic: bytes, limits: Limits) -> None:
    """Call `_attempt` until the file is complete, with growing pauses; give up when failures bring nothing new."""
    failures, most_bytes = 0, _size(part)
    while True:
        try:
            _attempt(url, part, magic, limits)
            return
        except _Retry as problem:
            # A server that always drops at the same place brings no new byte, however many it sends.
            failures = 1 if _size(part) > most_bytes else failures + 1
            most_bytes = max(most_bytes, _size(part))
            if failures >= limits.attempts:
                raise DownloadError(f"{url} failed {failures} times in a row: {problem}") from None
            time.sleep(max(_pause_s(failures, limits), min(problem.wait_s, limits.max_backoff_s)))


def _require_connection(url: str, limits: Limits) -> None:
    """Raise DownloadError if the server cannot be connected to in `connect_attempts` tries."""
    for attempt in range(1, limits.connect_attempts + 1):
        reason = unreachable(url, limits.connect_s)
        if reason is None:
            return
        if attempt < limits.connect_attempts:
            time.sleep(_pause_s(attempt, limits))
    raise DownloadError(reason)


def _attempt(url: str, part: Path, magic: bytes, limits: Limits) -> None:
    """One request that appends to `part`. Raises _Retry if another may help and DownloadError if none will."""
    offset = _size(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "course-toolkit"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = _opener(limits).open(urllib.request.Request(url, headers=headers), timeout=limits.connect_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == GONE_STATUS and offset:
            return  # the .part is complete, or longer than the file because it is of another one: the MD5 decides
        if error.code in RETRY_STATUS:
            raise _Retry(f"HTTP {error.code} {error.reason}", _retry_after_s(error.headers)) from None
        raise DownloadError(f"{url} answers HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadError(f"{url}: the certificate is not trusted ({cause.verify_message})") from None
        raise _Retry(str(cause) or type(cause).__name__) from None
    with response:
        if response.status == 206 and not (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-"):
            part.unlink(missing_ok=True)
            raise _Retry("the server continued at another place than asked")
        _receive(response, part, offset if response.status == 206 else 0, magic, limits)


def _receive(response: http.client.HTTPResponse, part: Path, offset: int, magic: bytes, limits: Limits) -> None:
    """Write the body of `response` to `part` from `offset` on, with a progress bar if stderr is a terminal."""
    length = response.headers.get("Content-Length")
    total = offset + int(length) if length and length.isdigit() else None
    _require_space(part.parent, (total or 0) - offset)
    chunk = _read(response)
    if offset == 0 and not chunk.startswith(magic[: len(chunk)]):  # looked at before an old .part is overwritten
        raise DownloadError(f"{response.url} does not send a data file; is it the login page of your network?")
    bar = tqdm(total=total, initial=offset, unit="B", unit_scale=True, desc=part.stem, disable=None)
    with bar, open(part, "r+b" if offset else "wb") as file:
        file.seek(offset)  # 0 also where the server ignores Range and sends the whole file
        window_start, window_bytes = time.monotonic(), 0
        while chunk:
            file.write(chunk)
            bar.update(len(chunk))
            window_bytes += len(chunk)
            elapsed = time.monotonic() - window_start
            if elapsed >= limits.stall_s:
                if window_bytes < elapsed * limits.min_bytes_per_s:
                    raise _Retry(f"only {window_bytes / elapsed:.0f} bytes/s")
                window_start, window_bytes = time.monotonic(), 0
            chunk = _read(response)
        if total is not None and file.tell() < total:
            raise _Retry(f"the connection ended after {_megabytes(file.tell())} of {_megabytes(total)}")
        file.flush()
        os.fsync(file.fileno())


def _read(response: http.client.HTTPResponse) -> bytes:
    """The bytes that have arrived (b"" at the end). Errors of the network become _Retry; those of the disk do not."""
    try:
        return response.read1(CHUNK_BYTES)
    except TimeoutError:
        raise _Retry("the server stopped sending") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Retry(str(error) or type(error).__name__) from None


def _opener(limits: Limits) -> urllib.request.OpenerDirector:
    """An opener (proxies and redirects as usual) whose sockets connect with one time limit and read with another."""

    def with_stall_limit(kind: type[http.client.HTTPConnection]) -> type[http.client.HTTPConnection]:
        class Connection(kind):
            def connect(self) -> None:
                super().connect()
                self.sock.settimeout(limits.stall_s)

        return Connection

    class HTTP(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(with_stall_limit(http.client.HTTPConnection), request)

    class HTTPS(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(
                with_stall_limit(http.client.HTTPSConnection), request, context=ssl.create_default_context()
            )

    return urllib.request.build_opener(HTTP, HTTPS)


def _require_space(folder: Path, nbytes: int) -> None:
    """Refuse before the first byte what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise DownloadError(f"the download needs {_megabytes(nbytes)}, but {folder} has {_megabytes(free)} free")


def _retry_after_s(headers: Message) -> float:
    """Seconds from a Retry-After header (its form with a date is left to the usual pauses)."""
    value = headers.get("Retry-After") or ""
    return float(value) if value.isdigit() else 0.0


def _pause_s(failures: int, limits: Limits) -> float:
    """Exponential back-off with jitter, so that a class of students does not return all at the same moment."""
    return min(limits.max_backoff_s, limits.backoff_s * 2 ** (failures - 1)) * random.uniform(1.0, 2.0)


def _size(part: Path) -> int:
    """Bytes already there."""
    return part.stat().st_size if part.exists() else 0


def _megabytes(nbytes: int) -> str:
    """'34.0 MB'."""
    return f"{nbytes / 1e6:.1f} MB"
