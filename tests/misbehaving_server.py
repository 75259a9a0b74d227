"""A real HTTP server on the loopback address that misbehaves on demand: one Behaviour a request, then good manners."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit


@dataclass
class Behaviour:
    """How one GET is answered. Left alone, it is the file, honouring Range, with status 200 or 206."""

    status: int | None = None  # this status and nothing else
    headers: dict[str, str] = field(default_factory=dict)  # added to the answer
    drop_after: int | None = None  # bytes of the body, then the connection is closed
    reset_after: int | None = None  # bytes of the body, then the connection is reset
    stall_after: int | None = None  # bytes of the body, then silence
    trickle: tuple[int, float] | None = None  # (bytes, seconds): this many bytes at a time, with this pause between
    ignore_range: bool = False  # status 200 and the whole file, whatever was asked
    wrong_start: bool = False  # status 206, but from another byte than asked
    body: bytes | None = None  # another file than the one asked for
    redirect: str | None = None  # 302 to this address
    no_length: bool = False  # no Content-Length: the end of the connection is the end of the file


@dataclass
class Request:
    """What a client asked."""

    path: str
    range: str | None


class MisbehavingServer:
    """Serves `files` (path without slash -> bytes) in a thread. `plan` is consumed one Behaviour a request."""

    def __init__(self, files: dict[str, bytes], *, certificate: Path | None = None) -> None:
        self.files = files
        self.plan: list[Behaviour] = []
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self.sent_first_bytes = threading.Event()  # set whenever a part of a body has left
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake runs in the request's thread, so that a client that refuses it disturbs no other.
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
            self.scheme = "https"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def address(self) -> str:
        """Base address, without a slash at the end."""
        return f"{self.scheme}://127.0.0.1:{self.http.server_port}"

    def url(self, path: str) -> str:
        """Address of one file."""
        return f"{self.address}/{path}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request so far."""
        return [request.range for request in self.requests]

    def next_behaviour(self, request: Request) -> Behaviour:
        """Note the request and take the next behaviour of the plan."""
        with self.lock:
            self.requests.append(request)
            return self.plan.pop(0) if self.plan else Behaviour()

    def __enter__(self) -> MisbehavingServer:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def _handler(server: MisbehavingServer) -> type[BaseHTTPRequestHandler]:
    """Handler class bound to one server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behaviour = server.next_behaviour(Request(self.path, self.headers.get("Range")))
            self.close_connection = True
            with contextlib.suppress(ConnectionError):  # the client may hang up; that is its right
                if behaviour.status or behaviour.redirect:
                    _answer_status(self, behaviour)
                else:
                    _answer_file(self, server, behaviour)

        def log_message(self, *_: object) -> None:
            """Silence: the requests are in server.requests."""

    return Handler


def _answer_status(handler: BaseHTTPRequestHandler, behaviour: Behaviour) -> None:
    """An answer without a file."""
    handler.send_response(302 if behaviour.redirect else behaviour.status)
    for name, value in behaviour.headers.items():
        handler.send_header(name, value)
    if behaviour.redirect:
        handler.send_header("Location", behaviour.redirect)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def _answer_file(handler: BaseHTTPRequestHandler, server: MisbehavingServer, behaviour: Behaviour) -> None:
    """The file from the byte asked for, or 404, or 416."""
    name = urlsplit(handler.path).path.lstrip("/")
    content = behaviour.body if behaviour.body is not None else server.files.get(name)
    if content is None:
        return _answer_status(handler, Behaviour(status=404))
    asked = handler.headers.get("Range")
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not behaviour.ignore_range else 0
    if start >= len(content):
        return _answer_status(handler, Behaviour(status=416, headers={"Content-Range": f"bytes */{len(content)}"}))
    if behaviour.wrong_start:
        start //= 2
    body = content[start:]
    handler.send_response(206 if asked and not behaviour.ignore_range else 200)
    if asked and not behaviour.ignore_range:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if not behaviour.no_length:
        handler.send_header("Content-Length", str(len(body)))
    for header, value in behaviour.headers.items():
        handler.send_header(header, value)
    handler.end_headers()
    _send_body(handler, server, behaviour, body)
    return None


def _send_body(handler: BaseHTTPRequestHandler, server: MisbehavingServer, behaviour: Behaviour, body: bytes) -> None:
    """The bytes, or some of them and then what the behaviour says."""
    limits = (behaviour.drop_after, behaviour.reset_after, behaviour.stall_after)
    stop = next((limit for limit in limits if limit is not None), len(body))
    step, pause_s = behaviour.trickle or (1 << 16, 0.0)
    for begin in range(0, min(stop, len(body)), step):
        handler.wfile.write(body[begin : min(begin + step, stop)])
        server.sent_first_bytes.set()
        if pause_s and server.closing.wait(pause_s):
            return
    if behaviour.stall_after is not None:
        server.closing.wait()
    if behaviour.reset_after is not None:
        time.sleep(0.05)  # let the client read what was sent: a reset throws away what is under way
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
