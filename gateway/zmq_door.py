"""The ZeroMQ door: a ROUTER socket where clients of `actd` send batches of calls.

Owns the clients it has greeted and their open calls. Knows no method's meaning. What strangers send is answered or
dropped, counted, and logged at most once a second; none of it reaches the core.
Invariants: a client has at most `CALLS_OPEN_MAX` calls open; answers of one turn go to a client in one frame; a
client that is gone is forgotten with its calls.
"""

import time
from typing import Any, Final

import structlog
import zmq

from actors.metrics import ActorMetrics
from gateway.loop import GatewayLoop
from gateway.methods import METHODS_BY_NUMBER
from protocol import codec
from protocol.client import (
    CALLS_PER_BATCH_MAX,
    CLIENT_MESSAGE_BYTES_MAX,
    CLIENT_PROTOCOL_VERSION,
    CallBatch,
    CancelCalls,
    ClientHello,
    ClientHelloReply,
    ClientRefused,
    ReplyBatch,
)
from protocol.config import ClusterConfig
from protocol.errors import WIRE_ERRORS, ErrorCode, PeerFault
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import Millis

CALLS_OPEN_MAX: Final = 10_000
CLIENTS_MAX: Final = 10_000
SILENT_CLIENT_S: Final = 600.0
"""A client that has said nothing for so long and waits for nothing is forgotten; its next call needs a hello."""
RECEIVES_PER_TURN_MAX: Final = 64
FROM_CLIENTS: Final = frozenset({"ClientHello", "CallBatch", "CancelCalls"})

_TEXTS: Final[dict[int, bytes]] = {int(code): error.text.encode() for code, error in WIRE_ERRORS.items()}


class _Client:
    """One greeted client."""

    __slots__ = ("calls", "heard_at", "replies", "route")

    def __init__(self, route: bytes, heard_at: float) -> None:
        self.route = route
        self.calls: dict[int, int] = {}
        """The client's call ids and the loop's."""
        self.replies: list[tuple[int, int, bytes]] = []
        self.heard_at = heard_at


class ZmqDoor:
    """Adapter between a ROUTER socket and a `GatewayLoop`."""

    def __init__(
        self,
        loop: GatewayLoop,
        context: "zmq.Context[zmq.Socket[bytes]]",
        identity: NodeIdentity,
        config: ClusterConfig,
        address: str,
        metrics: ActorMetrics,
    ) -> None:
        self._loop = loop
        self._identity = identity
        self._config = config
        self._address = address
        self._metrics = metrics
        self._context = context
        self._socket: zmq.Socket[bytes] | None = None
        self._clients: dict[bytes, _Client] = {}
        self._dirty: list[_Client] = []
        self._draining = False
        self._planned = False
        self._log = structlog.get_logger().bind(actor="gateway", door="zmq")
        self._logged_at = 0.0

    # --- the loop's side ---------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not any(client.calls or client.replies for client in self._clients.values())

    def start(self) -> None:
        """Listen."""
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.SNDHWM, 1000)
        socket.setsockopt(zmq.RCVHWM, 1000)
        socket.setsockopt(zmq.MAXMSGSIZE, CLIENT_MESSAGE_BYTES_MAX)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 10_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
        socket.bind(f"tcp://{self._address}")
        self._socket = socket
        self._loop.loop.add_reader(int(socket.getsockopt(zmq.FD)), self._receive)
        self._plan()
        self._loop.loop.call_later(60.0, self._forget_silent)

    def drain(self) -> None:
        """Take no more calls."""
        self._draining = True

    def stop(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._loop.loop.remove_reader(int(self._socket.getsockopt(zmq.FD)))
            self._socket.close()
            self._socket = None

    def flush(self) -> None:
        """Send each client the answers of this turn; called by the loop at its end."""
        dirty, self._dirty = self._dirty, []
        for client in dirty:
            replies, client.replies = client.replies, []
            for start in range(0, len(replies), CALLS_PER_BATCH_MAX):
                part = tuple(replies[start : start + CALLS_PER_BATCH_MAX])
                self._send(client.route, ReplyBatch.model_construct(replies=part))
        self._plan_if_readable()

    # --- receiving ---------------------------------------------------------------------------------

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._loop.loop.call_soon(self._receive_planned)

    def _plan_if_readable(self) -> None:
        """The descriptor is edge-triggered: a send may have swallowed the edge."""
        if self._socket is not None and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._plan()

    def _receive_planned(self) -> None:
        self._planned = False
        self._receive()

    def _receive(self) -> None:
        socket = self._socket
        if socket is None:
            return
        now = time.monotonic()
        try:
            for _ in range(RECEIVES_PER_TURN_MAX):
                frames = socket.recv_multipart(zmq.NOBLOCK)
                self._take(frames, now)
        except zmq.Again:
            return
        self._plan()

    def _take(self, frames: list[bytes], now: float) -> None:
        route = frames[0]
        if len(frames) != 2:
            self._fault(route, f"{len(frames) - 1} frames instead of one")
            return
        try:
            message = codec.decode(frames[1], FROM_CLIENTS)
        except PeerFault as error:
            self._fault(route, str(error))
            return
        if isinstance(message, ClientHello):
            self._greet(route, message, now)
            return
        client = self._clients.get(route)
        if client is None:
            self._send(route, ClientRefused(code="hello_first", reason="say ClientHello before anything else"))
            return
        client.heard_at = now
        if isinstance(message, CallBatch):
            self._call(client, message)
        elif isinstance(message, CancelCalls):
            for call_id in message.call_ids:
                number = client.calls.pop(call_id, None)
                if number is not None:
                    self._loop.cancel(number)

    def _greet(self, route: bytes, hello: ClientHello, now: float) -> None:
        identity = self._identity
        if hello.protocol_version != CLIENT_PROTOCOL_VERSION:
            reason = f"protocol version {hello.protocol_version}, this door speaks {CLIENT_PROTOCOL_VERSION}"
            self._send(route, ClientRefused(code="version", reason=reason))
            return
        if hello.cluster not in (0, identity.cluster):
            reason = f"you look for cluster {hello.cluster:x}, this is {identity.cluster:x}"
            self._send(route, ClientRefused(code="cluster", reason=reason))
            return
        if route not in self._clients and len(self._clients) >= CLIENTS_MAX:
            self._send(route, ClientRefused(code="too_many_clients", reason=f"{CLIENTS_MAX} clients are here already"))
            return
        self._clients.setdefault(route, _Client(route, now))
        self._send(
            route,
            ClientHelloReply(
                protocol_version=CLIENT_PROTOCOL_VERSION,
                cluster=identity.cluster,
                member=identity.member,
                name=identity.name,
                doors=tuple(f"tcp://{node.zmq}" for node in self._config.nodes),
                calls_open_max=CALLS_OPEN_MAX,
                request_bytes_max=self._config.limits.request_bytes_max,
            ),
        )

    def _call(self, client: _Client, batch: CallBatch) -> None:
        now_ms = self._loop.now_ms()
        submit = self._loop.submit
        calls = client.calls
        for call_id, number, wait_ms, body in batch.calls:
            method = METHODS_BY_NUMBER.get(number)
            if method is None:
                self._reply(client, call_id, ErrorCode.UNIMPLEMENTED, b"")
            elif self._draining:
                self._reply(client, call_id, ErrorCode.STOPPED, b"")
            elif len(calls) >= CALLS_OPEN_MAX or call_id in calls:
                self._reply(client, call_id, ErrorCode.TOO_MANY_REQUESTS, b"")
            else:
                deadline = Millis(now_ms + wait_ms) if wait_ms > 0 else None
                calls[call_id] = submit(method, body, deadline, _answerer(self, client, call_id))

    def _fault(self, route: bytes, reason: str) -> None:
        self._metrics.count("actd_client_faults_total")
        now = time.monotonic()
        if now - self._logged_at >= 1.0:
            self._logged_at = now
            self._log.warning("client_fault", reason=reason)
        self._send(route, ClientRefused(code="malformed", reason=reason))

    # --- answering ---------------------------------------------------------------------------------

    def answer(self, client: _Client, call_id: int, code: int, body: bytes) -> None:
        """Take the loop's answer to a call."""
        if client.calls.pop(call_id, None) is not None:
            self._reply(client, call_id, code, body)

    def _reply(self, client: _Client, call_id: int, code: int, body: bytes) -> None:
        if not client.replies:
            if not self._dirty:
                self._loop.mark_dirty(self)
            self._dirty.append(client)
        client.replies.append((call_id, code, body if not code else _TEXTS[code]))

    def _send(self, route: bytes, message: Message) -> None:
        socket = self._socket
        if socket is None:
            return
        try:
            socket.send_multipart([route, codec.encode(message)], zmq.NOBLOCK)
        except zmq.Again:
            # The client does not read: its answers would only pile up here.
            self._metrics.count("actd_client_slow_total")
            self._forget(route)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._forget(route)

    def _forget(self, route: bytes) -> None:
        client = self._clients.pop(route, None)
        if client is not None:
            for number in client.calls.values():
                self._loop.cancel(number)
            client.calls.clear()
            client.replies.clear()

    def _forget_silent(self) -> None:
        now = time.monotonic()
        silent = [
            route
            for route, client in self._clients.items()
            if not client.calls and now - client.heard_at > SILENT_CLIENT_S
        ]
        for route in silent:
            self._forget(route)
        if self._socket is not None:
            self._loop.loop.call_later(60.0, self._forget_silent)


def _answerer(door: ZmqDoor, client: _Client, call_id: int) -> Any:
    answer = door.answer

    def on_answer(code: int, body: bytes) -> None:
        answer(client, call_id, code, body)

    return on_answer
