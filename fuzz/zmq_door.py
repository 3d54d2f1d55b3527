"""The ZeroMQ door: frames of several strangers, onto the real core.

Promises: nothing a client sends raises; what the door answers is a message of its own protocol; a door whose clients
are forgotten holds nothing of them.
"""

from functools import cache
from typing import Any, Final

import msgpack

from actors.metrics import ActorMetrics
from fuzz.target import Material, Target, expect
from fuzz.world import CLUSTER, CONFIG, IDENTITY, GatewayWorld
from gateway.methods import METHODS_BY_NUMBER, STREAM_METHODS_BY_NUMBER
from gateway.zmq_door import ZmqDoor
from protocol import codec
from protocol.client import (
    CallBatch,
    CancelCalls,
    ClientHello,
    DoorMessage,
    OpenStream,
    RepliesTaken,
    SendToStream,
    StreamTaken,
    UseToken,
)
from protocol.message import Message
from protocol.wire import rpc_pb2 as rpc

ROUTES: Final = (b"\0a", b"\0b")
KINDS: Final = (b"ClientHello", b"CallBatch", b"CancelCalls", b"RepliesTaken", b"OpenStream", b"SendToStream",
                b"StreamTaken", b"UseToken")  # fmt: skip


class _Socket:
    """A ROUTER that keeps what is sent; the door sees nothing else of it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send_multipart(self, parts: list[bytes], _flags: int) -> None:
        """Keep a frame."""
        self.sent.append(parts[1])

    def getsockopt(self, _option: int) -> int:
        """Nothing is readable: frames are handed in."""
        return 0


class _HandFedDoor(ZmqDoor):
    """A door whose frames come from an input instead of a socket."""

    def __init__(self, world: GatewayWorld) -> None:
        context: Any = None
        super().__init__(world.gateway, context, IDENTITY, CONFIG, "127.0.0.1:3", ActorMetrics())
        self.kept = _Socket()
        socket: Any = self.kept
        self._socket = socket

    def take(self, route: bytes, frame: bytes) -> None:
        """A client's frame has arrived."""
        self._take([route, frame], 1000.0)

    def forget_all(self) -> None:
        """Every client is gone."""
        for route in list(self._clients):
            self._forget(route)
        expect(self._held == 0, f"{self._held} bytes held for nobody")


@cache
def _world() -> tuple[GatewayWorld, _HandFedDoor]:
    world = GatewayWorld()
    return world, _HandFedDoor(world)


def run(data: bytes) -> None:
    """Frames, each behind a byte that says whose it is and two that say how long it is; bit 7 greets first."""
    world, door = _world()
    world.core.renew()
    door.kept.sent.clear()
    material = Material(data)
    while material:
        choice = material.number(256)
        route = ROUTES[choice & 1]
        if choice & 0x80:
            door.take(route, codec.encode(ClientHello(protocol_version=1, client="f", cluster=CLUSTER)))
        door.take(route, material.take(material.number(1 << 16)))
        if choice & 2:
            world.turn()
    world.turn()
    for frame in door.kept.sent:
        expect(isinstance(codec.decode(frame), DoorMessage), "no word of a door")
    door.forget_all()
    world.check()


def _input(*frames: bytes, first: int = 0x82) -> bytes:
    return b"".join(
        bytes((first if number == 0 else 2,)) + len(frame).to_bytes(2, "big") + frame
        for number, frame in enumerate(frames)
    )


def _raw(kind: str, **fields: Any) -> bytes:
    packed: bytes = msgpack.packb((kind, fields))
    return packed


def seeds() -> list[bytes]:
    """Every kind in its proper form, and with values that no field should have."""
    put = rpc.PutRequest(key=b"k", value=b"v").SerializeToString()
    watch = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"k")).SerializeToString()
    calls: list[Message] = [CallBatch(calls=((number, number, 1000, put),)) for number in METHODS_BY_NUMBER]
    streams: list[Message] = [
        OpenStream(call_id=number, method=number, require_leader=True, messages=(watch,))
        for number in STREAM_METHODS_BY_NUMBER
    ]
    talk: list[Message] = [
        OpenStream(call_id=1, method=102, require_leader=False, messages=(watch,)),
        CallBatch(calls=((2, 1, 0, put), (3, 1, 5, put), (3, 1, 5, put))),
        SendToStream(call_id=1, messages=(watch, b"\xff"), ended=True),
        StreamTaken(call_id=1, bytes_taken=9),
        RepliesTaken(bytes_taken=1),
        UseToken(token="t.1"),  # noqa: S106 - of nobody
        CancelCalls(call_ids=(1, 2, 9)),
    ]
    huge = "9" * 60
    odd = [
        _raw("OpenStream", call_id=huge, method=3, require_leader="yes", messages=[]),
        _raw("CallBatch", calls=[[huge, 0, 0, b""], [1, 1, huge, put]]),
        _raw("CallBatch", calls=[[(1 << 64) - 1, 1, (1 << 64) - 1, put], [-(1 << 63), 2, 1 << 62, put]]),
        _raw("CallBatch", calls=[[1, 1, -5, put], [2, 999, 0, put], [3, 1, 1.0, "text"], [4, True, None, put]]),
        _raw("ClientHello", protocol_version=1, client="\udcff".encode("utf-8", "surrogatepass"), cluster=huge),
        _raw("StreamTaken", call_id=-1, bytes_taken=huge),
        _raw("UseToken", token="x" * 3000),
        msgpack.packb(["CallBatch", [[[]] * 100] * 50]),
        b"\x91" * 2000,
        b"\xdd\xff\xff\xff\xff",
        b"",
    ]
    each = [_input(codec.encode(message)) for message in (*calls, *streams)]
    return [*each, _input(*map(codec.encode, talk)), *(_input(frame, frame) for frame in odd), _input(*odd, first=2)]


ZMQ: Final = Target(
    "zmq",
    "frames of clients of the ZeroMQ door",
    run,
    seeds,
    (
        *KINDS, b"call_id", b"calls", b"messages", b"bytes_taken", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7),
        b"\xa2" + b"99", b"\xd9\x3c" + b"9" * 60, b"\xcb\x7f\xf0" + bytes(6), b"\xc0", b"\xc3", b"\x82", b"\x02",
    ),
)  # fmt: skip
