"""Streaming gRPC on a real port, with the client library of the gRPC project."""

import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from echo_door import EchoDoor, echo_door
from stream_services import END, FAIL, Echo, Flood

from gateway.methods import HEALTH_WATCH
from gateway.streams import ROOM_BYTES, Stream, StreamHandler
from protocol.types import Millis

STREAM = "/grpc.health.v1.Health/Watch"
"""The door serves a test's service under the name of a streaming method it has anyway."""


@pytest.fixture(name="door")
def running_door() -> Iterator[EchoDoor]:
    """A door whose streaming method echoes."""
    with echo_door() as door:
        yield door


@pytest.fixture(name="channel")
def open_channel(door: EchoDoor) -> Iterator[grpc.Channel]:
    """A channel of the gRPC library."""
    with grpc.insecure_channel(door.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


def serve(door: EchoDoor, make: Callable[[Stream], StreamHandler]) -> list[StreamHandler]:
    """Serve the streaming method with what `make` makes; return what was made."""
    made: list[StreamHandler] = []

    def opener(stream: Stream, _now: Millis) -> StreamHandler:
        made.append(make(stream))
        return made[-1]

    door.core.streams.serve(HEALTH_WATCH, opener)
    return made


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.005)


class Said:
    """A client's side of a stream: an iterator that a test feeds."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = list(messages)
        self._changed = threading.Condition()
        self._closed = False

    def say(self, message: bytes) -> None:
        """Say one thing more."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify()

    def close(self) -> None:
        """Say nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def __iter__(self) -> "Said":
        return self

    def __next__(self) -> bytes:
        with self._changed:
            assert self._changed.wait_for(lambda: self._messages or self._closed, 20)
            if not self._messages:
                raise StopIteration
            return self._messages.pop(0)


def test_both_sides_talk_in_turn(door: EchoDoor, channel: grpc.Channel) -> None:
    """Messages travel both ways on one stream while it is open, and its end has the service's status."""
    serve(door, Echo)
    said = Said(b"a")
    call = channel.stream_stream(STREAM)(said, timeout=20)

    assert [next(call), next(call)] == [b"a", b"a"]
    said.say(b"b" * 100_000)
    assert [next(call), next(call)] == [b"b" * 100_000] * 2
    said.say(END)

    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK
    said.close()


def test_half_closed_stream_is_answered(door: EchoDoor, channel: grpc.Channel) -> None:
    """A client that closes its side gets what is still coming."""
    serve(door, Echo)

    assert list(channel.stream_stream(STREAM)(iter([b"x", b"y"]), timeout=20)) == [b"x", b"x", b"y", b"y"]


def test_failure_of_the_service_has_its_status_with_and_without_messages(door: EchoDoor, channel: grpc.Channel) -> None:
    """An error ends the stream, behind messages or as the only answer."""
    serve(door, Echo)
    for before in ([], [b"m"]):
        said = Said(*before, FAIL)
        call = channel.stream_stream(STREAM)(said, timeout=20)
        received = []
        with pytest.raises(grpc.RpcError) as caught:
            received += [next(call), next(call), next(call)]
        said.close()

        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
        assert caught.value.details() == "etcdserver: mvcc: required revision has been compacted"


def test_cancelled_stream_reaches_the_service(door: EchoDoor, channel: grpc.Channel) -> None:
    """A client that cancels frees what its stream holds."""
    made = serve(door, Echo)
    said = Said(b"x")
    call = channel.stream_stream(STREAM)(said, timeout=20)
    assert next(call) == b"x"

    call.cancel()
    said.close()

    wait_for(lambda: bool(made) and "cancel" in made[0].told)  # type: ignore[attr-defined]
    assert door.call(lambda: len(door.core.streams)) == 0


def test_lost_connection_cancels_its_streams(door: EchoDoor) -> None:
    """A client that vanishes frees what its streams hold."""
    made = serve(door, Echo)
    channel = grpc.insecure_channel(door.address)
    said = Said(b"x")
    call = channel.stream_stream(STREAM)(said, timeout=20)
    assert next(call) == b"x"

    channel.close()
    said.close()

    wait_for(lambda: "cancel" in made[0].told)  # type: ignore[attr-defined]


def test_deadline_of_a_stream_is_kept(door: EchoDoor, channel: grpc.Channel) -> None:
    """A stream with a deadline ends then."""
    serve(door, Echo)
    said = Said(b"x")
    call = channel.stream_stream(STREAM)(said, timeout=0.3)

    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    said.close()

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: door.call(lambda: len(door.core.streams)) == 0)


def test_flood_arrives_whole_and_never_piles_up(door: EchoDoor, channel: grpc.Channel) -> None:
    """A producer far faster than its client keeps little in memory, and every message arrives in order."""
    made = serve(door, lambda stream: Flood(stream, 400, 50_000))
    call = channel.unary_stream(STREAM)(b"go", timeout=60)

    received = [message[:8] for message in call]

    assert received == [b"%08d" % number for number in range(400)]
    flood = made[0]
    assert isinstance(flood, Flood)
    assert flood.held_max < ROOM_BYTES + 50_000


def test_client_that_does_not_read_pauses_the_producer(door: EchoDoor, channel: grpc.Channel) -> None:
    """While a client reads nothing its producer stops soon, and others are served; then it goes on."""
    made = serve(door, lambda stream: Flood(stream, 2000, 50_000))
    call = channel.unary_stream(STREAM)(b"go", timeout=60)
    assert next(call)[:8] == b"%08d" % 0
    flood = made[0]
    assert isinstance(flood, Flood)

    other = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)

    assert other == b"\x08\x01"
    assert flood.left > 0
    assert flood.held_max < ROOM_BYTES + 50_000
    assert sum(1 for _ in call) == 1999


def test_stop_ends_open_streams(door: EchoDoor, channel: grpc.Channel) -> None:
    """A gateway that stops ends its streams at once, so that clients go elsewhere."""
    serve(door, Echo)
    said = Said(b"x")
    call = channel.stream_stream(STREAM)(said, timeout=20)
    assert next(call) == b"x"

    door.asyncio_loop.call_soon_threadsafe(door.loop.stop)

    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    said.close()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "etcdserver: server stopped"


def test_streams_are_counted(door: EchoDoor, channel: grpc.Channel) -> None:
    """Open streams are what was started and not handled, as dashboards compute it."""
    serve(door, Echo)
    said = Said(b"x")
    call = channel.stream_stream(STREAM)(said, timeout=20)
    assert next(call) == b"x"
    entry = door.shared.methods[HEALTH_WATCH.path]

    assert (entry.started, entry.received, sum(entry.handled)) == (1, 1, 0)
    assert next(call) == b"x"
    said.say(END)
    assert list(call) == []
    said.close()

    wait_for(lambda: entry.handled[0] == 1)
    assert (entry.sent, sum(entry.handled)) == (2, 1)


def test_request_that_is_cut_short_is_refused(door: EchoDoor, channel: grpc.Channel) -> None:
    """A server-streaming call without its request is told so in the words of grpc-go."""
    serve(door, Echo)

    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(STREAM)(iter([]), timeout=20))

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "cardinality violation" in caught.value.details()
