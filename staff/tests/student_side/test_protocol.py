"""The pipe's format: a round trip is exact, and every malformed frame is a ProtocolError and never anything else."""

from __future__ import annotations

import json
import os
import struct
import threading
import time

import numpy as np
import pytest

from staff.student_side import protocol
from staff.student_side.protocol import Channel, Frame, PeerClosed, PeerTimeout, ProtocolError


@pytest.fixture
def pipe():
    """(our channel, the peer's raw write end, the peer's raw read end)."""
    to_us, from_us = os.pipe(), os.pipe()
    channel = Channel(to_us[0], from_us[1])
    open_ends = {to_us[1], from_us[0]}
    yield channel, to_us[1], from_us[0]
    channel.close()
    for fd in open_ends:
        try:
            os.close(fd)
        except OSError:
            continue


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def raw(header: object, payload: bytes = b"") -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">II", len(data), len(payload)) + data + payload


@pytest.mark.parametrize("dtype", sorted(protocol.DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_arrays_come_back_exactly(pipe, dtype, shape):
    channel, write_end, _read_end = pipe
    array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2).astype(dtype)
    os.write(write_end, protocol.encode(Frame({"id": 1}, {"x": array})))
    frame = channel.receive(soon())
    assert frame.header == {"id": 1}
    assert frame.arrays["x"].dtype == array.dtype
    assert frame.arrays["x"].flags.writeable
    np.testing.assert_array_equal(frame.arrays["x"], array)


ARRAY = {"name": "x", "dtype": "uint8", "shape": [2]}
MALFORMED = {
    "infinite": raw(b'{"id": 1e999, "arrays": []}'),
    "too many digits": raw(b'{"id": 1' + b"0" * 400 + b', "arrays": []}'),
    "half a character": raw(b'{"id": 1, "name": "\\ud800", "arrays": []}'),
    "half a character as a key": raw(b'{"id": 1, "\\udfff": 1, "arrays": []}'),
    "half a character in an array's name": raw({"id": 1, "arrays": [{**ARRAY, "name": "\ud800"}]}, b"ab"),
    "a key twice": raw(b'{"id": 1, "id": 2, "arrays": []}'),
    "nested deeply": raw(b'{"id": 1, "x": ' + b"[" * 100 + b"]" * 100 + b', "arrays": []}'),
    "not json": raw(b"\x80\x04K\x01."),  # a pickle
    "not an object": raw([1, 2]),
    "not utf-8": raw(b"\xff\xfe{}"),
    "no arrays": raw({"id": 1}),
    "NaN": raw(b'{"arrays": [], "x": NaN}'),
    "infinity": raw(b'{"arrays": [], "x": -Infinity}'),
    "endless integer": raw(b'{"arrays": [], "x": ' + b"9" * 5000 + b"}"),
    "deep nesting": raw(b'{"arrays": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "arrays not a list": raw({"arrays": {"x": 1}}),
    "too many arrays": raw({"arrays": [dict(ARRAY, name=str(i), shape=[0]) for i in range(600)]}),
    "name twice": raw({"arrays": [ARRAY, ARRAY]}, b"1234"),
    "name not text": raw({"arrays": [dict(ARRAY, name=3)]}, b"12"),
    "object dtype": raw({"arrays": [dict(ARRAY, dtype="object")]}, b"12"),
    "dtype not text": raw({"arrays": [dict(ARRAY, dtype=["uint8"])]}, b"12"),
    "negative size": raw({"arrays": [dict(ARRAY, shape=[-1, -2])]}, b"12"),
    "size is a bool": raw({"arrays": [dict(ARRAY, shape=[True, 2])]}, b"12"),
    "size is a float": raw({"arrays": [dict(ARRAY, shape=[2.0])]}, b"12"),
    "too many dimensions": raw({"arrays": [dict(ARRAY, shape=[1] * 9 + [2])]}, b"12"),
    "overflowing product": raw({"arrays": [dict(ARRAY, shape=[2**25] * 6)]}, b"12"),
    "payload too short": raw({"arrays": [dict(ARRAY, shape=[3])]}, b"12"),
    "payload too long": raw({"arrays": [dict(ARRAY, shape=[1])]}, b"12"),
    "extra key": raw({"arrays": [dict(ARRAY, order="F")]}, b"12"),
    "bool that is 2": raw({"arrays": [dict(ARRAY, dtype="bool")]}, b"\x01\x02"),
    "huge header": struct.pack(">II", 2**31, 0),
    "huge payload": struct.pack(">II", 2, 2**32 - 1) + b"{}",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_frames_are_protocol_errors(pipe, name):
    channel, write_end, _ = pipe
    writer = threading.Thread(target=lambda: os.write(write_end, MALFORMED[name]), daemon=True)
    writer.start()
    with pytest.raises(ProtocolError):
        channel.receive(soon())
    writer.join(5)


def test_silence_is_a_timeout_and_a_closed_end_is_said(pipe):
    channel, write_end, read_end = pipe
    with pytest.raises(PeerTimeout):
        channel.receive(soon(0.05))
    os.write(write_end, b"\x00\x00")  # half of the lengths, then nothing more
    with pytest.raises(PeerTimeout):
        channel.receive(soon(0.05))
    os.close(write_end)
    with pytest.raises(PeerClosed):
        channel.receive(soon())
    with pytest.raises(PeerTimeout):  # nothing reads: the pipe fills, the deadline holds
        channel.send(Frame({}, {"x": np.zeros(1 << 22, np.uint8)}), soon(0.05))
    os.close(read_end)
    with pytest.raises(PeerClosed):
        channel.send(Frame({}), soon())


def test_what_may_not_cross_is_refused_when_it_is_sent():
    for array in (np.array(["a"]), np.array([object()]), np.zeros(2, np.float16), np.zeros(2, np.complex64)):
        with pytest.raises(ProtocolError, match="dtype"):
            protocol.encode(Frame({}, {"x": array}))
    with pytest.raises(ProtocolError, match="JSON"):
        protocol.encode(Frame({"x": float("nan")}))
