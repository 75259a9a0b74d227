"""What crosses between the grader and the student's process: one JSON header and plain arrays, nothing else.

A frame is two lengths (header bytes, payload bytes; unsigned 32-bit, big endian), the header, then the raw bytes of the
arrays in the header's order. Nothing is ever unpickled. Both ends use this file, but only the grader's end matters: it
treats each byte that it reads as hostile, bounds every size before it allocates, and raises `ProtocolError`.
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import time
from dataclasses import dataclass, field

import numpy as np

LENGTHS = struct.Struct(">II")
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 96 << 20  # the largest real frame: 3,200 float32 images of 3x28x28 with their masks, 40 MB
MAX_ARRAYS = 512
MAX_DIMENSIONS = 6
MAX_DIGITS, MAX_DEPTH = 20, 12  # of a number, of lists and objects in a header
DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "int64", "uint8", "bool")}


class ProtocolError(Exception):
    """The peer sent something that is not a well-formed frame, or not the array that was asked for."""


class PeerClosed(Exception):
    """The other end of the pipe is gone."""


class PeerTimeout(Exception):
    """The other end did not finish in time."""


@dataclass
class Frame:
    """One message: `header` holds JSON values, `arrays` NumPy arrays by name."""

    header: dict
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def encode(frame: Frame) -> bytes:
    """The bytes of a frame. ProtocolError if an array has a dtype that may not cross or the frame is too large."""
    entries, chunks = [], []
    total = sum(np.asarray(array).nbytes for array in frame.arrays.values())
    if total > MAX_PAYLOAD_BYTES:  # before anything is copied
        raise ProtocolError(f"{total} bytes of arrays are more than allowed")
    for name, array in frame.arrays.items():
        array = np.asarray(array)
        if array.dtype.name not in DTYPES:
            raise ProtocolError(f"array {name!r} has dtype {array.dtype}; allowed: {', '.join(DTYPES)}")
        entries.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)})
        chunks.append(np.ascontiguousarray(array).tobytes())
    try:
        header = json.dumps({**frame.header, "arrays": entries}, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"the header is not plain JSON ({type(error).__name__})") from None
    payload = b"".join(chunks)
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {len(header)} bytes is larger than allowed")
    return LENGTHS.pack(len(header), len(payload)) + header + payload


def _reject_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(text)


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def decode_header(data: bytes) -> dict:
    """The header as a dict.

    ProtocolError for anything but one JSON object of finite numbers, whole characters, keys that occur once, and
    little nesting: whoever uses a value later need not think of the others.
    """
    hooks = {"parse_constant": _reject_constant, "parse_float": _number, "parse_int": _whole_number}
    try:
        header = json.loads(data.decode("utf-8"), object_pairs_hook=_object, **hooks)
        _check_values(header)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the header is not plain JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise ProtocolError("the header is not a JSON object")
    return header


def _check_values(value: object) -> None:
    """ValueError for half characters (lone surrogates) and for deep nesting."""
    level = [value]
    for _depth in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                item.encode("utf-8")  # UnicodeEncodeError is a ValueError
            elif isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below
    raise ValueError("too deeply nested")


def _array_plan(entries: object, payload_bytes: int) -> list[tuple[str, np.dtype, tuple[int, ...], int]]:
    """(name, dtype, shape, bytes) of each declared array; their bytes must add up to the payload exactly."""
    if not isinstance(entries, list) or len(entries) > MAX_ARRAYS:
        raise ProtocolError("'arrays' is not a list of a sensible length")
    plan, names, total = [], set(), 0
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"name", "dtype", "shape"}:
            raise ProtocolError("an array's declaration needs name, dtype and shape")
        name, dtype, shape = entry["name"], entry["dtype"], entry["shape"]
        if not isinstance(name, str) or len(name) > 200 or name in names:
            raise ProtocolError("an array's name is missing, too long or used twice")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ProtocolError(f"an array's dtype may not cross; allowed: {', '.join(DTYPES)}")
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
            raise ProtocolError("an array's shape is not a short list")
        if not all(type(size) is int and 0 <= size <= MAX_PAYLOAD_BYTES for size in shape):
            raise ProtocolError("an array's shape holds something that is not a size")
        size = math.prod(shape) * DTYPES[dtype].itemsize
        total += size
        if total > payload_bytes:
            raise ProtocolError("the arrays declared are larger than the payload")
        names.add(name)
        plan.append((name, DTYPES[dtype], tuple(shape), size))
    if total != payload_bytes:
        raise ProtocolError("the arrays declared are smaller than the payload")
    return plan


def decode(header_bytes: bytes, payload: bytes) -> Frame:
    """A frame from its two parts; every malformed input is a ProtocolError."""
    header = decode_header(header_bytes)
    plan = _array_plan(header.pop("arrays", None), len(payload))
    arrays, offset = {}, 0
    for name, dtype, shape, size in plan:
        if dtype == np.bool_ and any(byte > 1 for byte in set(payload[offset : offset + size])):
            raise ProtocolError("a bool array holds bytes other than 0 and 1")
        # A copy: the array owns its memory and may be written to, and the frame's buffer can go.
        arrays[name] = np.frombuffer(payload, dtype, math.prod(shape), offset).reshape(shape).copy()
        offset += size
    return Frame(header, arrays)


class Channel:
    """Two file descriptors with deadlines. Deadlines are `time.monotonic()` values; None waits without limit."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd = read_fd, write_fd
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def close(self) -> None:
        for fd in {self.read_fd, self.write_fd}:
            os.close(fd)

    def send(self, frame: Frame, deadline: float | None = None) -> None:
        """Write a frame. PeerTimeout if the peer does not read in time, PeerClosed if it is gone."""
        view = memoryview(encode(frame))
        while view:
            self._wait(self.write_fd, select.POLLOUT, deadline)
            try:
                view = view[os.write(self.write_fd, view) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionError):
                raise PeerClosed("the other process closed its end") from None

    def receive(self, deadline: float | None = None) -> Frame:
        """Read one frame. ProtocolError, PeerTimeout and PeerClosed say what else can happen."""
        header_size, payload_size = LENGTHS.unpack(self._read(LENGTHS.size, deadline))
        if header_size > MAX_HEADER_BYTES or payload_size > MAX_PAYLOAD_BYTES:
            raise ProtocolError("a frame announces more bytes than allowed")
        header = self._read(header_size, deadline)
        return decode(header, self._read(payload_size, deadline))

    def pending(self) -> bool:
        """Whether unexpected bytes are waiting."""
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(0))

    def stirs(self, seconds: float) -> bool:
        """Whether an answer begins, or the peer ends, within this many seconds."""
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def _read(self, size: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self.read_fd, select.POLLIN, deadline)
            try:
                chunk = os.read(self.read_fd, min(size - len(data), 1 << 20))
            except BlockingIOError:
                continue
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise PeerClosed("the other process closed its end")
            data += chunk
        return bytes(data)

    @staticmethod
    def _wait(fd: int, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(fd, event)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise PeerTimeout("no answer in time")
            if poll.poll(None if left is None else min(left, 1.0) * 1000 + 1):
                return
