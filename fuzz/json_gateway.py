"""The JSON gateway: bodies, streams of values, paths and header fields, onto the real core.

Promises: what is no message is told with `JsonFault` or an HTTP status; a message that was read is written and read
again as the same; where a stream of values is cut makes no difference; every request gets one answer.
"""

import asyncio
import json
from functools import cache
from typing import Any, Final

from google.protobuf.message import Message

from fuzz.target import INPUT_BYTES_MAX, Material, Target, expect
from fuzz.world import GatewayWorld
from gateway.grpc_door import GrpcShared
from gateway.grpc_methods import all_methods
from gateway.health import HealthService
from gateway.json_gateway import JsonGateway
from gateway.json_paths import json_routes
from gateway.json_wire import JsonFault, JsonValues, form_of, read_message
from gateway.methods import METHODS, STREAM_METHODS
from protocol.config import LimitsConfig
from protocol.wire import rpc_pb2 as rpc

ANSWER_S_MAX: Final = 10.0
"""A lock or a campaign answers never, and its client goes; everything else has answered by then."""
_ROUTES: Final = json_routes(all_methods(METHODS, STREAM_METHODS))
_PATHS: Final = tuple(sorted(_ROUTES))
_REQUESTS: Final = {route.request.DESCRIPTOR.full_name: route.request for route in _ROUTES.values()}
_FORMS: Final[tuple[type[Message], ...]] = (*_REQUESTS.values(), rpc.RangeResponse, rpc.TxnResponse, rpc.WatchResponse)
_Event = dict[str, Any]


@cache
def _world() -> tuple[GatewayWorld, JsonGateway]:
    world = GatewayWorld()
    shared = GrpcShared(world.gateway, all_methods(METHODS, STREAM_METHODS), LimitsConfig(), HealthService())
    return world, JsonGateway(shared)


def _body(material: Material) -> None:
    """A body is a message or a fault, and a message is the same after a round trip."""
    form = _FORMS[material.number(256) % len(_FORMS)]
    try:
        message = read_message(form, material.rest())
    except JsonFault:
        return
    text = form_of(form.DESCRIPTOR).render(message)
    again = read_message(form, text.encode())
    expect(again == message, f"{text} is read as something else")
    json.loads(text)


def _values(material: Material) -> None:
    """Values of a stream, whole and byte by byte."""

    def split(data: bytes, size: int) -> tuple[list[bytes], str]:
        values = JsonValues(2 * INPUT_BYTES_MAX)
        found: list[bytes] = []
        try:
            for at in range(0, len(data), size):
                found += values.feed(data[at : at + size])
            values.finish()
        except JsonFault as fault:
            return found, str(fault)
        return found, ""

    data = material.rest()
    whole, piecewise = split(data, len(data) or 1), split(data, 1)
    if whole[1] == "":
        expect(whole == piecewise, "cuts make a difference")
    expect(piecewise[0][: len(whole[0])] == whole[0], "cuts make a difference to values before a fault")


def _request(material: Material) -> None:
    """A request to any path with any header fields."""
    choice = material.number(256)
    path = "/v3" + _PATHS[choice % len(_PATHS)]
    if choice == 255:
        path = material.take(12).decode("latin-1")
    method = "POST" if material.number(8) else "GET"
    fields = [
        (material.take(material.number(32)).lower(), material.take(material.number(64)))
        for _ in range(material.number(4))
    ]
    pieces = [material.take(1 + material.number(256)) for _ in range(material.number(4))] + [material.rest()]
    world, gateway = _world()
    world.core.renew()
    sent: list[_Event] = []
    world.loop.run_until_complete(_exchange(gateway, {"path": path, "method": method, "headers": fields}, pieces, sent))
    starts = [event for event in sent if event["type"] == "http.response.start"]
    expect(len(starts) <= 1, "two answers to one request")
    expect(not starts or 200 <= starts[0]["status"] < 600, "no HTTP status")
    world.check()
    expect(gateway.shared.partial_bytes == 0, f"{gateway.shared.partial_bytes} bytes held for nobody")


async def _exchange(gateway: JsonGateway, scope: _Event, pieces: list[bytes], sent: list[_Event]) -> None:
    left = list(pieces)

    async def receive() -> _Event:
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}
        # The client stays until everything that can be answered has been, then goes.
        for _ in range(6):
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(event: _Event) -> None:
        sent.append(event)

    await asyncio.wait_for(gateway({"type": "http", **scope}, receive, send), ANSWER_S_MAX)


KINDS: Final = (_body, _values, _request)


def run(data: bytes) -> None:
    """Byte 0 chooses what is asked."""
    material = Material(data)
    KINDS[material.number(256) % len(KINDS)](material)


def seeds() -> list[bytes]:
    """Proper bodies for every path, odd numbers, odd text, deep nesting, fields that lie."""
    bodies: list[bytes] = [
        b'{"key":"Zm9v","value":"YmFy","lease":"-1","prev_kv":true}',
        b'{"key":"Zm9v","rangeEnd":"AA==","limit":1e3,"sort_order":"DESCEND","sort_target":4,"keys_only":null}',
        b'{"compare":[{"key":"YQ","target":"MOD","mod_revision":"7"}],"success":[{"request_put":{"key":"YQ"}}]}',
        b'{"create_request":{"key":"YQ==","start_revision":"1","filters":["NOPUT",1]}}{"progress_request":{}}',
        b'{"ID":"9223372036854775807","TTL":9.0}',
        b'{"key":"-_-_","limit":"1e400","x":[1,2,{"y":"\\ud800"}]}',
        b'{"name":"\\ud800","password":"\xff"}',
        b'{"key":"a=b","limit":' + b"9" * 5000 + b"}",
        b'{"a":' * 1500 + b"1" + b"}" * 1500,
        b"[" * 3000,
        b'{"key":"a" , "key":"b"}',
        b' \n{} \t{"a":"}\\"{"}  {',
        b"NaN", b"", b"null", b"-", b'{"limit":-0.0}', b'{"peerURLs":["http://a:1",null]}',
    ]  # fmt: skip
    found = [bytes((0, number)) + body for number in range(len(_FORMS)) for body in bodies]
    found += [b"\1" + body for body in bodies]
    head = bytes((1, 0))
    found += [bytes((2, number)) + head + b"\0" + bodies[number % len(bodies)] for number in range(len(_PATHS))]
    lying = (
        bytes((14,)) + b"content-length" + bytes((63,)) + b"9" * 63,
        bytes((12,)) + b"grpc-timeout" + bytes((9,)) + b"99999999H",
        bytes((12,)) + b"grpc-timeout" + bytes((3,)) + b"-1S",
        bytes((23,)) + b"grpc-metadata-hasleader" + bytes((4,)) + b"true",
        bytes((13,)) + b"authorization" + bytes((2,)) + b"\xff\xfe",
    )
    return found + [bytes((2, number, 1, 1)) + field + b"\0{}" for number in (0, 9, 30, 40) for field in lying]


JSON: Final = Target(
    "json",
    "requests to the JSON gateway: bodies, streams of values, paths and fields",
    run,
    seeds,
    (
        b'"key":"Zm9v"', b'"value":', b'"lease":"', b"null", b"true", b'{"', b"[]", b"1e309", b"-0", b'"\\ud800"',
        b"\\", b'"', b"9223372036854775808", b"create_request", b"success", b"request_txn", b"compare", b"\xff",
    ),
)  # fmt: skip
