"""The client port's HTTP/2 and gRPC: any bytes a socket can bring, cut anywhere, onto the real core.

Promises: `receive` never raises; only whole frames leave; streams stay below their bound; a connection that is lost
leaves no call and no byte behind.
"""

from functools import cache
from typing import Final

from hpack import Encoder

from fuzz.target import Material, Target, expect
from fuzz.world import GatewayWorld
from gateway import http2_frames as wire
from gateway.grpc_door import GrpcConnection, GrpcShared
from gateway.grpc_methods import all_methods
from gateway.health import HealthService
from gateway.http2 import Http2Connection
from gateway.http2_hpack import RequestHead, encode_fields
from gateway.http2_limits import Http2Limits
from gateway.methods import METHODS, STREAM_METHODS
from protocol.config import LimitsConfig
from protocol.wire import rpc_pb2 as rpc

TIGHT: Final = Http2Limits(
    control_burst_frames=30,
    reset_burst_streams=10,
    concurrent_streams_max=4,
    header_list_bytes_max=2048,
    header_block_bytes_max=4096,
    unsent_bytes_max=200_000,
)
LIMITS: Final = (Http2Limits(), TIGHT)
NOT_FOUND: Final = encode_fields([(b":status", b"404"), (b"content-length", b"0")])


class _Pages:
    """Answers whatever is not gRPC with 404."""

    def __init__(self) -> None:
        self.connection: Http2Connection

    def on_headers(self, stream_id: int, head: RequestHead) -> None:
        """Refuse the page."""
        self.connection.send_headers(stream_id, NOT_FOUND, end_stream=True)

    def on_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """Nobody reads it."""

    def on_reset(self, stream_id: int) -> None:
        """It was answered at once."""

    def on_drained(self, stream_id: int) -> None:
        """It was answered at once."""

    def on_closed(self) -> None:
        """It was answered at once."""


@cache
def _world() -> tuple[GatewayWorld, GrpcShared]:
    world = GatewayWorld()
    methods = all_methods(METHODS, STREAM_METHODS)
    return world, GrpcShared(world.gateway, methods, LimitsConfig(), HealthService())


def _check_frames(data: bytes) -> None:
    """Raise unless it is whole frames."""
    at = 0
    while at < len(data):
        expect(len(data) - at >= wire.FRAME_HEAD_BYTES, "half a frame head has left")
        word, _, _ = wire.FRAME_HEAD.unpack_from(data, at)
        at += wire.FRAME_HEAD_BYTES + (word >> 8)
    expect(at == len(data), "half a frame has left")


def run(data: bytes) -> None:
    """Byte 0 chooses the limits and whether the greeting is there already, byte 1 the size of the pieces."""
    material = Material(data)
    choice = material.number(256)
    piece_bytes = (1, 7, 64, 1 << 16)[material.number(256) % 4]
    world, shared = _world()
    world.core.renew()
    limits = LIMITS[choice & 1]
    pages = _Pages()
    grpc = GrpcConnection(shared, pages, lambda: None)
    connection = Http2Connection(grpc, 1000, limits)
    grpc.answers = pages.connection = connection
    stream = (wire.PREFACE + wire.settings(()) if choice & 2 else b"") + material.rest()
    output = b""
    for at in range(0, len(stream), piece_bytes):
        connection.receive(stream[at : at + piece_bytes], 1000 + at)
        if piece_bytes > 7 or at % 64 == 0:
            world.turn()
            output += _output(connection)
        expect(len(connection.streams) <= limits.concurrent_streams_max, "more streams than are allowed")
    connection.check_stalls(2000 + len(stream))
    world.turn()
    _check_frames(output + _output(connection))
    connection.lost()
    world.check()
    expect(not connection.streams, "streams of a lost connection")
    expect(shared.partial_bytes == 0, f"{shared.partial_bytes} bytes of messages nobody will finish")


def _output(connection: Http2Connection) -> bytes:
    output = connection.take_output()
    while connection.wants_turn:
        output += connection.take_output()
    return output


def _frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return wire.frame_head(len(payload), kind, flags, stream_id) + payload


def _request(encoder: Encoder, stream_id: int, path: bytes, body: bytes, *more: tuple[bytes, bytes]) -> bytes:
    fields = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more,
    ]  # fmt: skip
    block = encoder.encode(fields)
    message = b"\0" + len(body).to_bytes(4, "big") + body
    return _frame(wire.HEADERS, wire.END_HEADERS, stream_id, block) + _frame(
        wire.DATA, wire.END_STREAM, stream_id, message
    )


def seeds() -> list[bytes]:
    """Proper conversations of every kind, and the floods that are known by name."""
    put = rpc.PutRequest(key=b"k", value=b"v").SerializeToString()
    watch = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"k")).SerializeToString()
    calls = []
    for path, method in METHODS.items():
        encoder = Encoder()
        calls.append(_request(encoder, 1, path, put) + _request(encoder, 3, path, b"\xff" * 9))
        expect(method.path == path, "methods are listed by their path")
    for path in STREAM_METHODS:
        encoder = Encoder()
        calls.append(_request(encoder, 1, path, watch, (b"hasleader", b"true"), (b"grpc-timeout", b"1S")))
    encoder = Encoder()
    odd = (
        _request(encoder, 1, b"/etcdserverpb.KV/Put", put, (b"grpc-encoding", b"gzip"), (b"authorization", b"t.1"))
        + _request(encoder, 3, b"/nobody/Knows", b"")
        + _frame(wire.RST_STREAM, 0, 1, bytes(4))
        + _frame(wire.PING, 0, 0, bytes(8))
        + _frame(wire.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")
        + _frame(wire.GOAWAY, 0, 0, bytes(8))
    )
    block = Encoder().encode([(b":method", b"GET"), (b":path", b"/health"), (b"x", b"y" * 40)])
    split = _frame(wire.HEADERS, wire.END_STREAM, 1, block[:5]) + _frame(
        wire.CONTINUATION, wire.END_HEADERS, 1, block[5:]
    )
    floods = [
        _frame(wire.PING, 0, 0, bytes(8)) * 40,
        wire.settings(()) * 40,
        _frame(wire.CONTINUATION, 0, 1, b"\0") * 40,
        b"".join(
            _frame(wire.HEADERS, 4, 2 * n + 1, b"\x82\x86\x84") + _frame(3, 0, 2 * n + 1, bytes(4)) for n in range(20)
        ),
        _frame(wire.HEADERS, 0x2C, 1, b"\xff" + bytes(5) + b"\x82\x86\x84"),
    ]
    streams = [*calls, odd, split, *floods, wire.PREFACE + wire.settings(()) + calls[0]]
    return [bytes((choice, cut)) + stream for stream in streams for choice, cut in ((2, 3), (3, 1))]


HTTP2: Final = Target(
    "http2",
    "bytes of a client's connection, onto HTTP/2 and gRPC",
    run,
    seeds,
    (
        wire.PREFACE, wire.settings(()), b":path", b":method", b"content-type", b"application/grpc", b"grpc-timeout",
        b"grpc-encoding", b"gzip", b"/etcdserverpb.KV/Put", b"/etcdserverpb.Watch/Watch", bytes(4), b"\x82\x86\x84",
        b"\0\0\4\3\0\0\0\0\1", b"\0\0\0\4\1\0\0\0\0", b"\0\0\4\x08\0\0\0\0\0", b"\0\0\0\x09\4\0\0\0\1",
    ),
)  # fmt: skip
