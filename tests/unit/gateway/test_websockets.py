"""WebSockets of the JSON gateway on a real door: one message, many messages, refusals, who goes first."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clusters import wait_until
from echo_door import HOLD, EchoDoor, echo_door
from stream_services import Echo
from websocket_client import TIMEOUT_S, WebSocket

from gateway.asgi_bridge import COMMON_NAME
from gateway.http1_door import HttpStack
from gateway.http_guard import guard
from gateway.json_gateway import BODY_FACTOR
from gateway.methods import KEEP_ALIVE_STREAM
from gateway.websockets import over_websockets
from protocol.types import Millis
from protocol.wire import rpc_pb2 as rpc

Connect = Callable[..., WebSocket]
PUT = {"key": "Zm9v", "value": "YmFy"}


@pytest.fixture(name="door")
def running_door() -> Iterator[EchoDoor]:
    """A door around a healthy core, whose keep-alives are echoed."""
    with echo_door() as door:
        yield door


@pytest.fixture(name="connect")
def connecting(door: EchoDoor) -> Iterator[Connect]:
    """Opens WebSockets, and hangs up in the end."""
    opened: list[WebSocket] = []

    def connect(path: str, *subprotocols: str) -> WebSocket:
        opened.append(WebSocket(door.address, path, *subprotocols))
        return opened[-1]

    yield connect
    for each in opened:
        each.hang_up()


def test_a_call_takes_one_message_and_closes(connect: Connect) -> None:
    """The answer is what a POST gives, whatever the handshake's method; then the door says goodbye."""
    talk = connect("/v3/kv/put?method=DELETE")
    assert talk.status == 101
    talk.say(PUT)
    assert talk.hears() == {"header": {"revision": "5"}, "prev_kv": PUT}
    assert talk.hears() is None


def test_errors_come_as_messages(connect: Connect) -> None:
    """What is no message is told in etcd's words, on the WebSocket that is there by then."""
    talk = connect("/v3/kv/put")
    talk.say("[]")
    assert talk.hears()["code"] == 3
    assert talk.hears() is None


def test_a_path_that_is_none_is_refused_before_there_is_a_websocket(connect: Connect) -> None:
    """The handshake is answered with 404, and a page with itself."""
    talk = connect("/v3/kv/nothing")
    assert (talk.status, talk.refusal) == (404, b'{"code":5,"message":"Not Found"}')
    assert connect("/version").status == 200


def test_a_client_that_goes_takes_its_call_with_it(door: EchoDoor, connect: Connect) -> None:
    """Nobody waits for an answer that nobody hears."""
    talk = connect("/v3/kv/put")
    talk.say({"key": b64encode(HOLD).decode()})
    wait_until(lambda: bool(door.core.held), TIMEOUT_S, "the call is held")
    talk.close()
    wait_until(lambda: bool(door.core.cancelled), TIMEOUT_S, "the call is cancelled")


def test_what_is_too_large_ends_the_websocket(door: EchoDoor, connect: Connect) -> None:
    """Nothing is kept of it."""
    talk = connect("/v3/kv/put")
    talk.say("x" * (BODY_FACTOR * door.shared.message_bytes_max + 1))
    answer = talk.hears()
    assert answer is None or answer["code"] == 8
    wait_until(lambda: door.shared.partial_bytes == 0, TIMEOUT_S, "nothing is held")


class Alive(Echo):
    """Says that every lease has nine seconds left."""

    def on_message(self, body: bytes, now: Millis) -> None:
        """Answer."""
        lease = rpc.LeaseKeepAliveRequest.FromString(body).ID
        self.stream.send(rpc.LeaseKeepAliveResponse(ID=lease, TTL=9).SerializeToString())


def test_a_stream_goes_on_both_ways(door: EchoDoor, connect: Connect) -> None:
    """Each value is a message, in both directions, as long as the client likes."""
    door.call(door.core.streams.serve, KEEP_ALIVE_STREAM, lambda stream, _now: Alive(stream))
    talk = connect("/v3/lease/keepalive")
    assert talk.status == 101
    for lease in ("7", "8", "9"):
        talk.say({"ID": lease})
        assert talk.hears() == {"result": {"ID": lease, "TTL": "9"}}
    talk.say('{"ID":"1"}{"ID":"2"}')
    assert [talk.hears()["result"]["ID"] for _ in range(2)] == ["1", "2"]
    talk.close()


def test_a_token_travels_as_a_subprotocol(connect: Connect) -> None:
    """A page can set no field, so it offers the subprotocols `Bearer` and its token; the first is agreed on."""
    talk = connect("/v3/kv/put", "Bearer", "t.1")
    assert (talk.status, talk.subprotocol) == (101, "Bearer")
    assert connect("/v3/kv/put", "other").subprotocol is None


def scope(**fields: str) -> dict[str, Any]:
    """A handshake."""
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    offered = ["Bearer", "t"]
    return {"type": "websocket", "path": "/v3/watch", "scheme": "ws", "headers": headers, "subprotocols": offered}


@pytest.mark.parametrize(
    ("origin", "host", "answer"),
    [
        ("http://a.example", "here", "websocket.accept"),
        ("", "here", "websocket.accept"),
        ("http://b.example", "here", 403),
        ("", "elsewhere", 421),
    ],
)
def test_names_and_origins_are_looked_at_first(origin: str, host: str, answer: str | int) -> None:
    """A page of a site that is not listed gets no WebSocket, for its browser would let it read; nor a false name."""
    heard: list[tuple[bytes, bytes]] = []
    sent: list[Any] = []
    said = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "{}"}])

    async def app(request: Any, receive: Any, _send: Any) -> None:
        heard.extend(request["headers"])
        assert (request["type"], request["method"], request["scheme"]) == ("http", "POST", "http")
        assert (await receive())["body"] == b"{}\n"

    async def receive() -> Any:
        return next(said)

    async def send(event: Any) -> None:
        sent.append(event)

    guarded = over_websockets(guard(app, ["http://a.example"], ["here"]))
    asyncio.run(guarded(scope(origin=origin, host=host) if origin else scope(host=host), receive, send))
    assert sent[0].get("status", sent[0]["type"]) == answer
    if isinstance(answer, str):
        assert (b"authorization", b"t") in heard


def test_whom_a_certificate_names_is_known_on_a_websocket(door: EchoDoor) -> None:
    """The connection that becomes one keeps the name: what is closed to such clients is closed here too."""
    named: list[str] = []
    talks: list[WebSocket] = []
    serve = HttpStack._serve

    def serve_named(stack: HttpStack, waiting: Any, *parts: Any) -> None:
        waiting.common_name = "alice"
        parts[0].loaded_app = recording(parts[0].loaded_app)
        serve(stack, waiting, *parts)

    def recording(app: Any) -> Any:
        async def recorded(scope: Any, receive: Any, send: Any) -> None:
            named.append(scope.get(COMMON_NAME, ""))
            await app(scope, receive, send)

        return recorded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpStack, "_serve", serve_named)
        talks.append(WebSocket(door.address, "/v3/kv/put"))
        talks[0].say(PUT)
        assert talks[0].hears()["prev_kv"] == PUT
    talks[0].hang_up()
    assert named == ["alice"]
