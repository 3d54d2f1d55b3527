"""The gRPC door on a real port, with the client library of the gRPC project."""

import gzip
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from echo_door import HOLD, EchoDoor, echo_door
from http2_peer import POST, Peer, frame, read_frames

from gateway import http2_frames as wire
from gateway.grpc_wire import frame_message
from protocol.config import LimitsConfig
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.wire import health_pb2 as health
from protocol.wire import rpc_pb2 as rpc

PUT = "/etcdserverpb.KV/Put"


@pytest.fixture(name="door")
def running_door() -> Iterator[EchoDoor]:
    """A door that small requests fill: 64 KiB and the 512 KiB etcd adds."""
    with echo_door(LimitsConfig(request_bytes_max=64 * 1024)) as door:
        yield door


@pytest.fixture(name="channel")
def open_channel(door: EchoDoor) -> Iterator[grpc.Channel]:
    """A channel of the gRPC library."""
    with grpc.insecure_channel(door.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


def put(key: bytes, value: bytes = b"") -> bytes:
    """Return a put request."""
    return rpc.PutRequest(key=key, value=value).SerializeToString()


def refused(call: "grpc.Call | grpc.RpcError") -> tuple[grpc.StatusCode, str]:
    """Return status and text of a call that failed."""
    return call.code(), call.details()


def test_unary_call_is_answered(channel: grpc.Channel) -> None:
    """A put goes in and its answer comes out, byte for byte."""
    answer = rpc.PutResponse.FromString(channel.unary_unary(PUT)(put(b"k", b"v"), timeout=5))

    assert (answer.prev_kv.key, answer.prev_kv.value, answer.header.revision) == (b"k", b"v", 5)


def test_many_calls_at_once_are_each_answered(channel: grpc.Channel) -> None:
    """Answers find their own calls."""
    futures = [channel.unary_unary(PUT).future(put(b"%d" % number), timeout=20) for number in range(500)]

    keys = [rpc.PutResponse.FromString(future.result()).prev_kv.key for future in futures]

    assert keys == [b"%d" % number for number in range(500)]


def test_large_message_passes_both_ways(channel: grpc.Channel) -> None:
    """A message of many frames, larger than every window, arrives and returns whole."""
    value = bytes(range(256)) * 2000

    answer = rpc.PutResponse.FromString(channel.unary_unary(PUT)(put(b"k", value), timeout=10))

    assert answer.prev_kv.value == value


def test_message_over_the_receive_limit_is_refused(channel: grpc.Channel) -> None:
    """The receive limit is the request limit and 512 KiB; over it the text is grpc-go's."""
    body = put(b"k", bytes(64 * 1024 + 512 * 1024))

    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(PUT)(body, timeout=5)

    assert refused(caught.value) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"grpc: received message larger than max ({len(body)} vs. {64 * 1024 + 512 * 1024})",
    )


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
        ("/nope.Service/Method", "unknown service nope.Service"),
        ("/nope", 'malformed method name: "/nope"'),
    ],
)
def test_what_is_not_served_is_unimplemented(channel: grpc.Channel, path: str, text: str) -> None:
    """Names that are unknown, and etcd's own that come later, are refused in the words of grpc-go."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"", timeout=5)

    assert refused(caught.value) == (grpc.StatusCode.UNIMPLEMENTED, text)


@pytest.mark.parametrize("code", [code for code in ErrorCode if code in WIRE_ERRORS and code])
def test_error_codes_have_their_status_and_text(door: EchoDoor, channel: grpc.Channel, code: ErrorCode) -> None:
    """Each of our codes reaches the client as the table says."""
    door.core.code = code

    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(PUT)(put(b"k"), timeout=5)

    status, text = refused(caught.value)
    assert (status.value[0], text) == (WIRE_ERRORS[code].grpc_code, WIRE_ERRORS[code].text)


def test_compressed_request_is_understood(channel: grpc.Channel) -> None:
    """A client that compresses with gzip is served."""
    call = channel.unary_unary(PUT)

    answer = call(put(b"k", b"v" * 5000), timeout=5, compression=grpc.Compression.Gzip)

    assert rpc.PutResponse.FromString(answer).prev_kv.value == b"v" * 5000


def test_unknown_compression_is_unimplemented(channel: grpc.Channel) -> None:
    """A compression nobody here knows is refused by name."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(PUT)(put(b"k", b"v" * 5000), timeout=5, compression=grpc.Compression.Deflate)

    assert refused(caught.value) == (
        grpc.StatusCode.UNIMPLEMENTED,
        'grpc: Decompressor is not installed for grpc-encoding "deflate"',
    )


def test_deadline_reaches_the_core(door: EchoDoor, channel: grpc.Channel) -> None:
    """grpc-timeout becomes a deadline the core knows."""
    call = channel.unary_unary(PUT).future(put(HOLD), timeout=30)
    wait_for(lambda: len(door.core.held) == 1)

    (due,) = door.core.held.values()

    assert due is not None
    assert 25_000 < due - door.call(door.loop.now_ms) <= 30_001
    call.cancel()


def test_cancel_reaches_the_core(door: EchoDoor, channel: grpc.Channel) -> None:
    """A client that gives up cancels its call."""
    call = channel.unary_unary(PUT).future(put(HOLD), timeout=30)
    wait_for(lambda: len(door.core.held) == 1)

    call.cancel()

    wait_for(lambda: not door.core.held)
    assert len(door.core.cancelled) == 1


def test_lost_connection_cancels_its_calls(door: EchoDoor) -> None:
    """Nobody's calls are nobody's."""
    with socket.create_connection(("127.0.0.1", door.door.port)) as raw:
        peer = Peer(greet=False)
        raw.sendall(wire.PREFACE + wire.settings(()))
        raw.sendall(peer.request(1, frame_message(put(HOLD))) + peer.request(3, frame_message(put(HOLD))))
        wait_for(lambda: len(door.core.held) == 2)

    wait_for(lambda: not door.core.held)


def test_health_check_says_serving(channel: grpc.Channel) -> None:
    """The standard health service knows the server as a whole, and no other name."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")

    assert health.HealthCheckResponse.FromString(check(b"", timeout=5)).status == health.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check(health.HealthCheckRequest(service="x").SerializeToString(), timeout=5)
    assert refused(caught.value) == (grpc.StatusCode.NOT_FOUND, "unknown service")


def test_health_watch_sees_the_stop(door: EchoDoor, channel: grpc.Channel) -> None:
    """A health watcher is told at once, told again when the server stops, and then released."""
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
    assert health.HealthCheckResponse.FromString(next(watch)).status == health.HealthCheckResponse.SERVING

    door.asyncio_loop.call_soon_threadsafe(door.loop.stop)

    assert health.HealthCheckResponse.FromString(next(watch)).status == health.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_stop_lets_open_calls_end(door: EchoDoor, channel: grpc.Channel) -> None:
    """A call that is open when the gateway is asked to stop still gets its answer."""
    call = channel.unary_unary(PUT).future(put(HOLD), timeout=30)
    wait_for(lambda: len(door.core.held) == 1)
    door.asyncio_loop.call_soon_threadsafe(door.loop.stop)
    wait_for(lambda: door.loop.stopping)

    door.asyncio_loop.call_soon_threadsafe(door.answer_held)

    assert call.result() == b""


def test_stop_gives_up_calls_that_do_not_end(door: EchoDoor, channel: grpc.Channel) -> None:
    """What is still open after a while is told that the server stopped."""
    call = channel.unary_unary(PUT).future(put(HOLD), timeout=30)
    wait_for(lambda: len(door.core.held) == 1)

    door.asyncio_loop.call_soon_threadsafe(door.loop.stop)

    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    assert refused(caught.value) == (grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped")


def test_counters_tell_what_happened(door: EchoDoor, channel: grpc.Channel) -> None:
    """Started, handled by code, messages and bytes are counted; what never happened is there as zero."""
    body = put(b"k")
    answer = channel.unary_unary(PUT)(body, timeout=5)
    door.core.code = ErrorCode.NO_SPACE
    with pytest.raises(grpc.RpcError):
        channel.unary_unary(PUT)(body, timeout=5)

    page = door.call(door.page.render).decode()

    labels = 'grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"'
    assert f"grpc_server_started_total{{{labels}}} 2.0\n" in page
    assert f"grpc_server_msg_received_total{{{labels}}} 2.0\n" in page
    assert f"grpc_server_msg_sent_total{{{labels}}} 1.0\n" in page
    assert f'grpc_server_handled_total{{grpc_code="OK",{labels}}} 1.0\n' in page
    assert f'grpc_server_handled_total{{grpc_code="ResourceExhausted",{labels}}} 1.0\n' in page
    assert f"etcd_network_client_grpc_received_bytes_total {float(2 * len(body))}\n" in page
    assert f"etcd_network_client_grpc_sent_bytes_total {float(len(answer))}\n" in page
    watch = 'grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"'
    assert f"grpc_server_started_total{{{watch}}} 0.0\n" in page


# --- without a gRPC library, which would never send these --------------------------------------------


def converse(door: EchoDoor, data: bytes, stream_id: int = 1) -> dict[bytes, bytes]:
    """Send bytes on a new connection; return the fields of all header blocks of a stream, until it ends."""
    peer = Peer(greet=False)
    fields: dict[bytes, bytes] = {}
    with socket.create_connection(("127.0.0.1", door.door.port), timeout=10) as raw:
        raw.sendall(wire.PREFACE + wire.settings(()) + data)
        received = b""
        while True:
            part = raw.recv(65_536)
            assert part, "the server closed instead of answering"
            received += part
            size = 0
            while len(received) >= size + 9 and len(received) >= size + 9 + int.from_bytes(received[size : size + 3]):
                size += 9 + int.from_bytes(received[size : size + 3])
            for sent in read_frames(received[:size]):
                if sent.kind == wire.HEADERS:
                    fields |= dict(peer.fields(sent.payload))
                    if sent.stream_id == stream_id and sent.flags & wire.END_STREAM:
                        return fields
            received = received[size:]


def head(**changes: bytes) -> list[tuple[bytes, bytes]]:
    """Return the usual request fields with some of them changed."""
    names = {name.replace("_", "-").encode(): value for name, value in changes.items()}
    fields = [(name, names.pop(name.removeprefix(b":"), value)) for name, value in POST]
    return fields + list(names.items())


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        (head(content_type=b"application/json"), b"415", b"3"),
        (head(content_type=b"application/grpcx"), b"415", b"3"),
        (head(content_type=b"application/grpc+proto"), b"200", b"0"),
        (head(content_type=b"application/grpc;charset=utf-8"), b"200", b"0"),
        (head(method=b"GET"), b"405", b"13"),
        (head(grpc_timeout=b"soon"), b"400", b"13"),
    ],
)
def test_head_decides(door: EchoDoor, fields: list[tuple[bytes, bytes]], status: bytes, code: bytes) -> None:
    """Content type, method and timeout are checked as grpc-go checks them."""
    peer = Peer(greet=False)
    body = frame(wire.DATA, wire.END_STREAM, 1, frame_message(put(b"k")))

    answer = converse(door, peer.headers(1, fields) + body)

    assert (answer[b":status"], answer[b"grpc-status"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", b"cardinality violation"),
        (b"\0\0\0", b"unexpected EOF"),
        (b"\0\0\0\0\x09k", b"unexpected EOF"),
        (
            b"\x01" + len(gzip.compress(b"x", mtime=0)).to_bytes(4, "big") + gzip.compress(b"x", mtime=0),
            b"compressed flag set",
        ),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_broken_message_is_answered(door: EchoDoor, body: bytes, text: bytes, pieces: int) -> None:
    """A request that ends before its message does gets a status, in one piece or in several."""
    peer = Peer(greet=False)
    half = len(body) // 2 if pieces == 2 else 0
    parts = frame(wire.DATA, 0, 1, body[:half]) if pieces == 2 else b""

    answer = converse(door, peer.headers(1) + parts + frame(wire.DATA, wire.END_STREAM, 1, body[half:]))

    assert answer[b"grpc-status"] == b"13"
    assert text in answer[b"grpc-message"]


def test_partial_messages_share_a_budget() -> None:
    """Many half messages cannot fill the memory: the one that is too much is refused, and the rest is given back."""
    with echo_door(LimitsConfig(pending_bytes_max=1 << 20)) as door:
        peer = Peer(greet=False)
        prefix = b"\0" + (900_000).to_bytes(4, "big")
        data = b"".join(
            peer.headers(stream_id)
            + frame(wire.DATA, 0, stream_id, prefix)
            + frame(wire.DATA, 0, stream_id, bytes(16_000)) * 40
            for stream_id in (1, 3)
        )

        answer = converse(door, data, stream_id=3)

        assert answer[b"grpc-status"] == b"8"
        wait_for(lambda: door.shared.partial_bytes == 0)


def test_garbage_does_not_hurt_others(door: EchoDoor, channel: grpc.Channel) -> None:
    """Random bytes, on the port or behind the preface, end their own connection and nothing else."""
    for data in (
        bytes(range(256)) * 20,
        wire.PREFACE + bytes(range(255, -1, -1)) * 20,
        b"PRI * HTTP/2.0 not really\r\n",
    ):
        with socket.create_connection(("127.0.0.1", door.door.port), timeout=10) as raw:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            try:
                while raw.recv(65_536):
                    pass
            except ConnectionResetError:
                pass  # closed with our bytes unread: also an end

    assert channel.unary_unary(PUT)(put(b"k"), timeout=5)


def wait_for(condition: object, seconds: float = 10.0) -> None:
    """Wait until a condition that another thread brings about holds."""
    assert callable(condition)
    tick = threading.Event()
    for _ in range(int(seconds * 200)):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("the condition was never met")
