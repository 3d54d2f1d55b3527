"""A whole client door on a free port, in a thread, around a core that answers by itself.

`EchoCore` implements the interface of `GatewayCore` honestly: it holds what it is asked to hold, forgets what is
cancelled, answers what runs out of time, and keeps its answers for the loop to fetch.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from actors.actor import Source
from actors.effects import Effect, Halt
from actors.metrics import ActorMetrics
from gateway.asgi_bridge import AsgiApp
from gateway.credentials import NO_CREDENTIALS, Credentials
from gateway.grpc_door import GrpcShared
from gateway.grpc_methods import all_methods
from gateway.health import HealthService
from gateway.http1_door import HttpStack
from gateway.http2_limits import Http2Limits
from gateway.loop import GatewayLoop
from gateway.methods import HEALTH_WATCH, METHODS, STREAM_METHODS, Method
from gateway.metrics_page import MetricsPage
from gateway.node_view import NodeView, door_samples
from gateway.sniff import HALF_OPEN_MAX, ClientDoor
from gateway.streams import StreamTable
from gateway.tls import ServerTls
from protocol.config import LimitsConfig
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.local import StopActor
from protocol.message import Message
from protocol.security import TlsConfig
from protocol.types import ClusterId, Incarnation, MemberId, Millis, StoreId
from protocol.wire import rpc_pb2 as rpc

IDENTITY = NodeIdentity(ClusterId(7), MemberId(0x1F), "n1", StoreId(3), Incarnation(1), ())
HOLD = b"hold"
"""A put of this key is not answered until the test says so."""


class EchoCore:
    """Answers a put with its own request, as the previous pair; a range with a header; holds `HOLD`."""

    def __init__(self) -> None:
        self.metrics = ActorMetrics()
        self.answers: list[tuple[int, int, bytes]] = []
        self.leader = MemberId(0x1F)
        self.errors: list[str] = []
        self.learner = False
        self.code = ErrorCode.OK
        self.held: dict[int, Millis | None] = {}
        self.cancelled: list[int] = []
        self.answer_after_ms = 0
        """How long every answer takes."""
        self._later: list[tuple[Millis, tuple[int, int, bytes]]] = []
        self.streams = StreamTable(streams_max=100, election_timeout_ms=1000)
        self.streams.lead(self.leader, Millis(0))

    @property
    def deadline(self) -> Millis | None:
        """When a held call runs out, or an answer is due."""
        due = [due for due in self.held.values() if due is not None]
        return min([*due, *(due for due, _ in self._later[:1])], default=None)

    def start(self, now: Millis) -> list[Effect]:
        """Ask for nothing."""
        return []

    def submit(
        self,
        call_id: int,
        method: Method,
        body: bytes,
        now: Millis,
        deadline: Millis | None,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """Answer by the end of this turn, or hold the call."""
        if method.name == "Put":
            request = rpc.PutRequest.FromString(body)
            if request.key == HOLD:
                self.held[call_id] = deadline
                return
            response: Any = rpc.PutResponse()
            response.prev_kv.key, response.prev_kv.value = request.key, request.value
        elif method.name == "Status":
            response = rpc.StatusResponse(errors=self.errors, isLearner=self.learner)
        else:
            response = rpc.RangeResponse()
        response.header.revision = 5
        done = method.name == "Status" or not self.code
        answer = (call_id, 0 if done else int(self.code), response.SerializeToString() if done else b"")
        if self.answer_after_ms:
            self._later.append((Millis(now + self.answer_after_ms), answer))
        else:
            self.answers.append(answer)

    def cancel(self, call_id: int) -> None:
        """Forget a held call."""
        self.held.pop(call_id, None)
        self.cancelled.append(call_id)

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """End when asked to."""
        return [Halt("stopped")] if isinstance(message, StopActor) else []

    def wake(self, now: Millis) -> list[Effect]:
        """Answer held calls whose time is over, and what is due."""
        while self._later and self._later[0][0] <= now:
            self.answers.append(self._later.pop(0)[1])
        for call_id in [call_id for call_id, due in self.held.items() if due is not None and due <= now]:
            del self.held[call_id]
            self.answers.append((call_id, ErrorCode.DEADLINE_EXCEEDED, b""))
        return []

    def end_turn(self, now: Millis) -> list[Effect]:
        """Nothing is gathered."""
        return []

    def measure(self) -> None:
        """Count nothing."""


class EchoDoor:
    """The door, its loop and its core."""

    def __init__(
        self,
        limits: LimitsConfig | None = None,
        http2_limits: Http2Limits | None = None,
        tls: TlsConfig | None = None,
        half_open_max: int = HALF_OPEN_MAX,
    ) -> None:
        self.asyncio_loop = uvloop.new_event_loop()
        self.core = EchoCore()
        self.health = HealthService()
        self.core.streams.serve(HEALTH_WATCH, self.health.open_watch)
        self.loop = GatewayLoop(self.core, self.asyncio_loop)
        self.limits = limits or LimitsConfig()
        self.shared = GrpcShared(self.loop, all_methods(METHODS, STREAM_METHODS), self.limits, self.health)
        self.page = MetricsPage(self.core.metrics, lambda: [*self.view.samples(), *door_samples(self.shared)])
        self.view = NodeView(self.loop, self.core, IDENTITY, self.page, ("3.7.1", "3.7.0"))
        stack = HttpStack(self.asyncio_loop, self._make_app)
        secured = tls and ServerTls(tls, Path(tls.cert_file), Path(tls.key_file), self.core.metrics)
        self.door = ClientDoor(
            self.loop, "127.0.0.1:0", self.shared, stack, self.limits, http2_limits, secured, half_open_max
        )
        self.loop.doors.append(self.door)
        self.halt: Halt | None = None

    def _make_app(self) -> AsgiApp:
        from gateway.http_app import build_app
        from gateway.json_gateway import JsonGateway

        return build_app(self.view, JsonGateway(self.shared))

    def run(self) -> None:
        """Run until stopped."""
        asyncio.set_event_loop(self.asyncio_loop)
        try:
            self.halt = self.loop.run()
        finally:
            self.asyncio_loop.close()
            asyncio.set_event_loop(None)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Run a function on the loop's thread and return what it returns."""
        done: threading.Event = threading.Event()
        result: list[Any] = []

        def run() -> None:
            try:
                result.append(function(*arguments))
            finally:
                done.set()

        self.asyncio_loop.call_soon_threadsafe(run)
        assert done.wait(10), "the loop does not turn"
        return result[0]

    def answer_held(self) -> None:
        """Answer every held call with an empty body; call it on the loop's thread."""
        for call_id in list(self.core.held):
            del self.core.held[call_id]
            self.core.answers.append((call_id, 0, b""))
        self.loop.mark_dirty(self)

    def flush(self) -> None:
        """Nothing to write: being marked is how a turn is had."""

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.door.port}"


class _LastDoor:
    """Opened after all others: tells that they are open."""

    idle = True

    def __init__(self) -> None:
        self.opened = threading.Event()

    def start(self) -> None:
        """Tell."""
        self.opened.set()

    def drain(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""


@contextmanager
def echo_door(
    limits: LimitsConfig | None = None,
    http2_limits: Http2Limits | None = None,
    tls: TlsConfig | None = None,
    half_open_max: int = HALF_OPEN_MAX,
) -> Iterator[EchoDoor]:
    """Run a door in a thread; it must end without failure."""
    door = EchoDoor(limits, http2_limits, tls, half_open_max)
    last = _LastDoor()
    door.loop.doors.append(last)
    thread = threading.Thread(target=door.run, name="echo-door")
    thread.start()
    try:
        assert last.opened.wait(10), "the door does not start"
        yield door
    finally:
        if thread.is_alive():
            door.asyncio_loop.call_soon_threadsafe(door.loop.stop)
        thread.join(20)
    assert door.halt is not None, "the loop ended without a reason"
    assert not door.halt.failed, door.halt.reason
