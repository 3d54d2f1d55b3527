"""The JSON gateway on a real door: one answer, streams, errors, what a slow or vanishing client costs."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from echo_door import HOLD, EchoDoor, echo_door
from http2_peer import Peer, frame, get_http2, plain
from stream_services import Echo

from gateway import http2_frames as wire
from gateway.asgi_bridge import PAGES_AT_ONCE_MAX
from gateway.grpc_door import GrpcShared
from gateway.grpc_methods import all_methods
from gateway.json_gateway import JsonGateway
from gateway.json_paths import PATHS
from gateway.methods import KEEP_ALIVE_STREAM, WATCH
from gateway.streams import ROOM_BYTES, Stream, StreamHandler, StreamMethod
from protocol.config import LimitsConfig
from protocol.errors import ErrorCode
from protocol.types import MemberId, Millis
from protocol.wire import rpc_pb2 as rpc
from tools import generate_openapi

PUT = "/v3/kv/put"
STREAM = "/v3/lease/keepalive"


@pytest.fixture(name="door")
def running_door() -> Iterator[EchoDoor]:
    """A door around a healthy core."""
    with echo_door() as door:
        yield door


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.005)


@contextlib.contextmanager
def posted(door: EchoDoor, path: str, body: Any, **fields: str) -> Iterator[http.client.HTTPResponse]:
    """Post a value (or text) and lend out the response."""
    text = body if isinstance(body, str) else json.dumps(body)
    connection = http.client.HTTPConnection("127.0.0.1", door.door.port, timeout=20)
    try:
        connection.request("POST", path, text, {name.replace("_", "-"): value for name, value in fields.items()})
        yield connection.getresponse()
    finally:
        connection.close()


def post(door: EchoDoor, path: str, body: Any, **fields: str) -> tuple[int, Any]:
    """Return status and value of an answer."""
    with posted(door, path, body, **fields) as response:
        return response.status, json.loads(response.read())


def test_call_is_answered_in_json(door: EchoDoor) -> None:
    """Bytes are base64, 64-bit numbers are text, what is zero is left out; it is counted with gRPC's."""
    with posted(door, PUT, {"key": "Zm9v", "value": "YmFy"}) as response:
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        assert response.headers["grpc-metadata-content-type"] == "application/grpc"
        body = json.loads(response.read())

    assert body == {"header": {"revision": "5"}, "prev_kv": {"key": "Zm9v", "value": "YmFy"}}
    entry = door.shared.methods[b"/etcdserverpb.KV/Put"]
    assert (entry.started, entry.received, entry.sent, entry.handled[0]) == (1, 1, 1, 1)
    assert post(door, "/v3beta/kv/put", {"key": "YQ=="})[0] == 200


def test_errors_have_their_code_and_the_status_that_goes_with_it(door: EchoDoor) -> None:
    """`code` and `message`, and the HTTP status that goes with the code."""
    door.core.code = ErrorCode.FUTURE_REVISION

    assert post(door, "/v3/kv/range", {"key": "YQ=="}) == (
        400,
        {"code": 11, "message": "etcdserver: mvcc: required revision is a future revision"},
    )
    door.core.code = ErrorCode.NO_LEADER
    assert post(door, "/v3/kv/range", {}) == (503, {"code": 14, "message": "etcdserver: no leader"})


def test_what_is_no_request_is_an_invalid_argument(door: EchoDoor) -> None:
    """JSON that is none, or none of this message."""
    for body in ("{", "[]", '{"key":"foo bar"}', '{"key":5}'):
        status, answer = post(door, PUT, body)
        assert (status, answer["code"]) == (400, 3), body


def test_paths_and_methods_that_are_none(door: EchoDoor) -> None:
    """Unknown paths, other methods and methods that nobody serves."""
    assert post(door, "/v3/nothing", {}) == (404, {"code": 5, "message": "Not Found"})
    connection = http.client.HTTPConnection("127.0.0.1", door.door.port, timeout=20)
    connection.request("GET", PUT)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())) == (501, {"code": 12, "message": "Method Not Allowed"})
    connection.request("POST", "/v3alpha/kv/put", "{}")
    assert connection.getresponse().status == 404
    connection.close()


def test_method_that_nobody_serves_says_so(door: EchoDoor) -> None:
    """A path of the API is never unknown, and asking for what is not served is counted as on gRPC."""
    methods = all_methods({}, {})
    gateway = JsonGateway(GrpcShared(door.loop, methods, door.limits, door.health))
    said: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        said.append(event)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    for path, (service, name) in PATHS.items():
        asyncio.run(gateway({"path": "/v3" + path, "method": "POST", "headers": []}, receive, send))
        assert said[-2]["status"] == 501
        assert json.loads(said[-1]["body"]) == {"code": 12, "message": f"method {name} not implemented"}
        assert methods[f"/{service}/{name}".encode()].handled[12] >= 1


def test_document_of_the_gateway_is_what_the_gateway_is(door: EchoDoor) -> None:
    """`/openapi.json` is made from the tables that serve; every reference in it leads somewhere."""
    connection = http.client.HTTPConnection("127.0.0.1", door.door.port, timeout=20)
    connection.request("GET", "/openapi.json")
    response = connection.getresponse()
    served = response.read().decode()
    connection.close()

    assert response.status == 200
    assert served == generate_openapi.text(), "run python -m tools.generate_openapi"
    document = json.loads(served)
    assert document["paths"].keys() == {f"/v3{path}" for path in PATHS}
    schemas = document["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/([\w.]+)", served)) <= schemas.keys()


def test_large_request_and_large_answer(door: EchoDoor) -> None:
    """A megabyte there and back, in pieces; over the limit it is refused as gRPC refuses it."""
    value = b64encode(bytes(range(256)) * 4096).decode()

    assert post(door, PUT, {"key": "YQ==", "value": value})[1]["prev_kv"]["value"] == value
    with echo_door(LimitsConfig(request_bytes_max=1024)) as small:
        status, answer = post(small, PUT, {"key": "YQ==", "value": value})
        assert (status, answer["code"]) == (429, 8)
        assert answer["message"].startswith("grpc: received message larger than max")
        assert small.shared.partial_bytes == 0


def test_client_that_vanishes_has_its_call_cancelled(door: EchoDoor) -> None:
    """What nobody waits for is forgotten."""
    body = json.dumps({"key": b64encode(HOLD).decode()}).encode()
    with socket.create_connection(("127.0.0.1", door.door.port), timeout=20) as raw:
        raw.sendall(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        wait_for(lambda: door.call(lambda: len(door.core.held)) == 1)

    wait_for(lambda: door.call(lambda: len(door.core.cancelled)) == 1)


def test_timeout_of_the_client_is_kept(door: EchoDoor) -> None:
    """`Grpc-Timeout` bounds the wait; one that is none is refused."""
    held = {"key": b64encode(HOLD).decode()}

    assert post(door, PUT, held, grpc_timeout="50m") == (504, {"code": 4, "message": "context deadline exceeded"})
    assert post(door, PUT, held, grpc_timeout="soon") == (400, {"code": 3, "message": "invalid grpc-timeout: soon"})


# --- streams -------------------------------------------------------------------------------------------


class Source:
    """Sends `count` large messages as fast as the client takes them."""

    def __init__(self, stream: Stream, count: int, size: int) -> None:
        self.stream = stream
        self.left = count
        self.held_max = 0
        self.cancelled = False
        self.message = rpc.WatchResponse(cancel_reason="x" * size).SerializeToString()

    def on_message(self, body: bytes, now: Millis) -> None:
        """Begin."""
        self.on_room(now)

    def on_half_close(self, now: Millis) -> None:
        """Go on."""

    def on_room(self, now: Millis) -> None:
        """Go on."""
        while self.left and self.stream.may_send():
            self.stream.send(self.message)
            self.left -= 1
            self.held_max = max(self.held_max, self.stream.unsent_bytes)
        if not self.left:
            self.stream.end()

    def on_cancel(self) -> None:
        """Stop."""
        self.cancelled = True


def serve(
    door: EchoDoor, make: Callable[[Stream], StreamHandler], method: StreamMethod = KEEP_ALIVE_STREAM
) -> list[Any]:
    """Serve a streaming method with what `make` makes; return what was made."""
    made: list[Any] = []

    def opener(stream: Stream, _now: Millis) -> StreamHandler:
        made.append(make(stream))
        return made[-1]

    door.core.streams.serve(method, opener)
    return made


def lines(response: http.client.HTTPResponse) -> list[Any]:
    """Every line of an answer."""
    return [json.loads(line) for line in response.read().splitlines()]


def test_stream_of_objects_is_answered_line_by_line(door: EchoDoor) -> None:
    """Objects may follow each other with or without space; each result is a line of its own."""
    made = serve(door, Echo)

    with posted(door, STREAM, '{"ID":7} {"ID":"8"}') as response:
        assert response.status == 200
        said = lines(response)

    # The echo's bytes are a request's; read as a response the number is the header's place, which 7 does not fit.
    assert len(said) == 4
    assert all("result" in line for line in said)
    assert [told.split()[0] for told in made[0].told] == ["message", "message", "half_close"]
    entry = door.shared.methods[KEEP_ALIVE_STREAM.path]
    assert (entry.started, entry.received, entry.sent, entry.handled[0]) == (1, 2, 4, 1)


def test_both_sides_talk_in_turn(door: EchoDoor) -> None:
    """An answer comes while the request goes on, so that a watch may be added to."""
    serve(door, Echo)
    with socket.create_connection(("127.0.0.1", door.door.port), timeout=20) as raw:
        raw.sendall(b"POST /v3/lease/keepalive HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        answers = raw.makefile("rb")
        for _ in range(3):
            raw.sendall(b'8\r\n{"ID":7}\r\n')
            while b'"result"' not in answers.readline():
                continue
        raw.sendall(b"0\r\n\r\n")
        while answers.readline() != b"0\r\n":
            continue


def test_error_of_a_stream_before_and_after_its_head(door: EchoDoor) -> None:
    """Before anything was said the status tells as well; later a line is all there can be."""

    class Failing(Echo):
        """Fails at once, or after an answer."""

        def on_message(self, body: bytes, now: Millis) -> None:
            """Fail."""
            if body != b"\x08\x01":
                self.stream.send(b"")
            self.stream.end(ErrorCode.COMPACTED)

    serve(door, Failing)
    error = {"error": {"code": 11, "message": "etcdserver: mvcc: required revision has been compacted"}}

    with posted(door, STREAM, {"ID": 1}) as response:
        assert (response.status, lines(response)) == (400, [error])
    with posted(door, STREAM, {"ID": 2}) as response:
        assert (response.status, lines(response)) == (200, [{"result": {}}, error])
    with posted(door, STREAM, '{"ID":"no"}') as response:
        assert response.status == 400
        assert lines(response)[0]["error"]["code"] == 3
    assert door.shared.partial_bytes == 0


def test_stream_that_asks_for_a_leader(door: EchoDoor) -> None:
    """Metadata comes as `Grpc-Metadata-*`."""
    serve(door, Echo)
    door.call(door.core.streams.lead, MemberId(0), Millis(0))

    with posted(door, STREAM, {"ID": 1}, grpc_metadata_hasleader="true") as response:
        assert (response.status, lines(response)) == (
            503,
            [{"error": {"code": 14, "message": "etcdserver: no leader"}}],
        )


def test_client_that_does_not_read_pauses_the_producer(door: EchoDoor) -> None:
    """What waits for a client is bounded, others are served, and in the end everything arrives."""
    made = serve(door, lambda stream: Source(stream, 200, 100_000), WATCH)
    with posted(door, "/v3/watch", {}) as response:
        first = response.readline()
        assert post(door, PUT, {"key": "YQ=="})[0] == 200
        assert made[0].left > 0
        rest = lines(response)

    assert json.loads(first) == {"result": {"cancel_reason": "x" * 100_000}}
    assert len(rest) == 199
    assert made[0].held_max < ROOM_BYTES + 100_100


def test_stream_whose_client_vanishes_is_cancelled(door: EchoDoor) -> None:
    """The service stops producing, and nothing is left of the stream."""
    made = serve(door, lambda stream: Source(stream, 1_000_000, 100_000), WATCH)
    with posted(door, "/v3/watch", {}) as response:
        response.readline()

    wait_for(lambda: bool(made[0].cancelled))
    wait_for(lambda: door.call(lambda: (len(door.core.streams), door.core.streams.unsent_bytes)) == (0, 0))


# --- over HTTP/2 ---------------------------------------------------------------------------------------


def test_json_over_http2(door: EchoDoor) -> None:
    """`curl --http2-prior-knowledge` gets the same answers, of calls and of streams."""
    serve(door, lambda stream: Source(stream, 30, 100_000), WATCH)
    peer = Peer(greet=False)
    body = frame(wire.DATA, wire.END_STREAM, 1, b'{"key":"YQ=="}')
    windows = frame(wire.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4)) + frame(
        wire.WINDOW_UPDATE, 0, 1, (2**30).to_bytes(4)
    )

    status, text = get_http2(door.door.port, peer.headers(1, plain(b"/v3/kv/put", b"POST")) + body, peer)
    assert (status, json.loads(text)["prev_kv"]) == (200, {"key": "YQ=="})

    peer = Peer(greet=False)
    request = peer.headers(1, plain(b"/v3/watch", b"POST")) + windows + frame(wire.DATA, wire.END_STREAM, 1, b"{}")
    status, text = get_http2(door.door.port, request, peer)
    assert status == 200
    assert [len(json.loads(line)["result"]["cancel_reason"]) for line in text.splitlines()] == [100_000] * 30


def test_calls_that_wait_leave_room_for_pages_over_http2(door: EchoDoor) -> None:
    """More locks than pages may be made at once wait, and a page is made all the same."""
    body = frame(wire.DATA, wire.END_STREAM, 1, json.dumps({"key": b64encode(HOLD).decode()}).encode())
    with contextlib.ExitStack() as open_sockets:
        for _ in range(PAGES_AT_ONCE_MAX + 1):
            raw = open_sockets.enter_context(socket.create_connection(("127.0.0.1", door.door.port), timeout=20))
            request = Peer(greet=False).headers(1, plain(b"/v3/kv/put", b"POST")) + body
            raw.sendall(wire.PREFACE + wire.settings(()) + request)
        wait_for(lambda: door.call(lambda: len(door.core.held)) == PAGES_AT_ONCE_MAX + 1)
        peer = Peer(greet=False)

        assert get_http2(door.door.port, peer.headers(1, plain(b"/livez"), end_stream=True), peer) == (200, "ok\n")

    wait_for(lambda: door.call(lambda: len(door.core.held)) == 0)


def test_client_over_http2_that_does_not_read_pauses_the_producer(door: EchoDoor) -> None:
    """With the windows closed the service soon stops; they open, and the rest comes."""
    made = serve(door, lambda stream: Source(stream, 100, 100_000), WATCH)
    peer = Peer(greet=False)
    request = peer.headers(1, plain(b"/v3/watch", b"POST")) + frame(wire.DATA, wire.END_STREAM, 1, b"{}")
    with socket.create_connection(("127.0.0.1", door.door.port), timeout=20) as raw:
        raw.sendall(wire.PREFACE + wire.settings(()) + request)
        wait_for(lambda: bool(made) and door.call(lambda: bool(door.core.streams.paused)))
        assert made[0].left > 0
        raw.sendall(frame(wire.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4)))
        raw.sendall(frame(wire.WINDOW_UPDATE, 0, 1, (2**30).to_bytes(4)))
        received = 0
        while received < 10_000_000:
            part = raw.recv(65_536)
            assert part, "the server closed instead of answering"
            received += len(part)

    assert made[0].held_max < ROOM_BYTES + 100_100
