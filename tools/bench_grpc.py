"""A small gRPC load generator: raw HTTP/2 frames, one body per call, so that keys can vary.

Owns just enough of HTTP/2 for unary calls without TLS. `python -m tools.bench_grpc` is started by `tools.bench` as a
process of its own, so that its work is not mixed with anybody else's.
"""

import asyncio
import functools
import json
import random
import socket
import struct
import sys
import time
from typing import cast

from hpack import Decoder, Encoder, HPACKError

from protocol.wire import rpc_pb2 as rpc

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW_BYTES = (1 << 31) - 1 - 65535
TIMEOUT_S = 300.0
"""A load that takes longer has lost an answer."""
SEQUENCE_MAX = 20_000
"""Bodies made before the clock starts; a longer load begins again from the first."""


class BenchFailed(RuntimeError):
    """A figure that would mean nothing; the text says why."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def opening() -> bytes:
    """Return what a client says first: preface, settings, a window that never closes."""
    settings = struct.pack(">HIHI", 3, 1 << 20, 4, (1 << 31) - 1)
    return PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_BYTES))


def heads(path: str) -> tuple[bytes, bytes]:
    """Return the header block of a connection's first call, and that of every later one.

    As gRPC's own clients make them: the first puts its fields into the dynamic table, the later ones refer to them.
    """
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "bench"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    encoder = Encoder()
    return bytes(encoder.encode(fields)), bytes(encoder.encode(fields))


def call(stream: int, block: bytes, body: bytes) -> bytes:
    """Return the frames of one unary call."""
    message = b"\0" + struct.pack(">I", len(body)) + body
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message)


def frames_in(data: bytearray) -> list[tuple[int, int, int, bytes]]:
    """Take whole frames off the front of `data`."""
    found = []
    at = 0
    while len(data) - at >= 9:
        length = int.from_bytes(data[at : at + 3], "big")
        if len(data) - at < 9 + length:
            break
        stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
        found.append((data[at + 3], data[at + 4], stream, bytes(data[at + 9 : at + 9 + length])))
        at += 9 + length
    del data[:at]
    return found


def unary(address: str, path: str, body: bytes, timeout_s: float = 5.0) -> bytes:
    """Make one blocking call on a connection of its own; return the response message.

    Raises:
        BenchFailed: the server answered with an error, or not in HTTP/2.
        OSError: there is no connection.
    """
    host, _, port = address.rpartition(":")
    decoder = Decoder()
    message = b""
    with socket.create_connection((host, int(port)), timeout_s) as connection:
        connection.sendall(opening() + call(1, heads(path)[0], body))
        data = bytearray()
        while True:
            chunk = connection.recv(1 << 16)
            if not chunk:
                raise BenchFailed("the connection ended early")
            data += chunk
            for kind, flags, stream, payload in frames_in(data):
                if kind == DATA and stream == 1:
                    message += payload
                elif kind == HEADERS and stream == 1:
                    fields: dict[str, str] = dict(decoder.decode(payload))  # type: ignore[arg-type]  # text by default
                    status = fields.get("grpc-status", "0")
                    if status != "0":
                        raise BenchFailed(f"grpc-status {status}: {fields.get('grpc-message', '')}")
                    if flags & END_STREAM:
                        return message[5:]


def reason_in(block: bytes) -> str:
    """Return the error in a call's last header block, as far as it can be read without the blocks before it."""
    try:
        fields: dict[str, str] = dict(Decoder().decode(block))  # type: ignore[arg-type]  # text by default
    except HPACKError:
        return "not readable"
    return f"grpc-status {fields.get('grpc-status', 'missing')}: {fields.get('grpc-message', '')}"


class Connection(asyncio.Protocol):
    """One connection that keeps a number of calls in flight."""

    def __init__(self, path: str, bodies: list[bytes], first: int, inflight: int, total: int) -> None:
        self._block, self._later_block = heads(path)
        self._bodies = bodies
        self._first = first
        self._inflight = inflight
        self._left = total
        self._next = 1
        self._buffer = bytearray()
        self._started: dict[int, float] = {}
        self._got_data: set[int] = set()
        self.latencies: list[float] = []
        self.failed = 0
        self.reason = ""
        """What the server said to the first call that failed."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello and fill the pipe."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport.write(opening() + b"".join(self._more(self._inflight)))

    def _more(self, count: int) -> list[bytes]:
        now = time.perf_counter()
        calls = []
        for _ in range(min(count, self._left)):
            body = self._bodies[(self._first + self._next // 2) % len(self._bodies)]
            calls.append(call(self._next, self._block, body))
            self._started[self._next] = now
            self._block = self._later_block
            self._next += 2
            self._left -= 1
        return calls

    def data_received(self, data: bytes) -> None:
        """Count answers and send as many calls anew; a call without a message has failed."""
        self._buffer += data
        now = time.perf_counter()
        ended = 0
        out = []
        for kind, flags, stream, payload in frames_in(self._buffer):
            if kind == DATA and len(payload) >= 5:
                self._got_data.add(stream)
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self.latencies.append(now - self._started.pop(stream))
                if stream in self._got_data:
                    self._got_data.discard(stream)
                else:
                    self.failed += 1
                    self.reason = self.reason or reason_in(payload)
                ended += 1
            elif kind in (RST_STREAM, GOAWAY):
                self._fail(f"the server ended stream {stream} by a frame of type {kind}")
                return
            elif kind == SETTINGS and not flags & ACK:
                out.append(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                out.append(frame(PING, ACK, 0, payload))
        out += self._more(ended)
        if out:
            self._transport.write(b"".join(out))
        if not self._started and not self._left and not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """A connection that ends early has failed its calls."""
        self._fail(str(error or "the connection ended early"))

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(BenchFailed(reason))
        self._transport.close()


async def _run(
    address: str, path: str, bodies: list[bytes], connections: int, inflight: int, total: int
) -> list[Connection]:
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    share = total // connections
    opened = []
    for number in range(connections):
        make = functools.partial(Connection, path, bodies, number * share, inflight, share)
        _, connection = await loop.create_connection(make, host, int(port))
        opened.append(connection)
    await asyncio.wait_for(asyncio.gather(*(connection.done for connection in opened)), TIMEOUT_S)
    return opened


def _refuse_failures(opened: list[Connection]) -> None:
    failed = sum(connection.failed for connection in opened)
    if failed:
        reason = next(connection.reason for connection in opened if connection.failed)
        raise BenchFailed(f"{failed} calls failed; the server said of one: {reason}")


async def latencies_of(
    address: str, path: str, bodies: list[bytes], connections: int, inflight: int, total: int
) -> list[float]:
    """Run calls, none of which may fail, and return the seconds each took."""
    opened = await _run(address, path, bodies, connections, inflight, total)
    _refuse_failures(opened)
    return [latency for connection in opened for latency in connection.latencies]


async def load(
    address: str, path: str, bodies: list[bytes], connections: int, inflight: int, total: int
) -> dict[str, float]:
    """Run calls and return requests per second, p50 and p99 in milliseconds, and how many were answered and failed.

    Each connection walks through `bodies` from a place of its own, so that together they send every body.
    """
    began = time.perf_counter()
    opened = await _run(address, path, bodies, connections, inflight, total)
    took = time.perf_counter() - began
    latencies = sorted(latency for connection in opened for latency in connection.latencies)
    return {
        "per_s": len(latencies) / took,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
        "answered": len(latencies),
        "failed": sum(connection.failed for connection in opened),
    }


def sequence_of_keys(total: int, keys: int) -> list[bytes]:
    """Return the keys a varied load walks through again and again, the same ones on every run."""
    rng = random.Random(1)
    return [b"bench/%012d" % rng.randrange(keys) for _ in range(min(total, SEQUENCE_MAX))]


def bodies_of(method: str, keys: list[bytes], value_bytes: int) -> list[bytes]:
    """Return one request per key; `method` is Put, Range or SerializableRange."""
    rng = random.Random(2)
    if method == "Put":
        return [rpc.PutRequest(key=key, value=rng.randbytes(value_bytes)).SerializeToString() for key in keys]
    serializable = method == "SerializableRange"
    return [rpc.RangeRequest(key=key, serializable=serializable).SerializeToString() for key in keys]


def main() -> int:
    """`python -m tools.bench_grpc ADDRESS METHOD CONNECTIONS INFLIGHT TOTAL KEYS VALUE_BYTES`: varied keys."""
    import uvloop

    address, method = sys.argv[1:3]
    connections, inflight, total, keys, value_bytes = (int(word) for word in sys.argv[3:8])
    bodies = bodies_of(method, sequence_of_keys(total, keys), value_bytes)
    path = "/etcdserverpb.KV/Put" if method == "Put" else "/etcdserverpb.KV/Range"
    print(json.dumps(uvloop.run(load(address, path, bodies, connections, inflight, total))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
