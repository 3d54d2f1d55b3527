"""The ZeroMQ door: a ROUTER socket where clients of `actd` send batches of calls.

Owns the clients it has greeted and their open calls. Knows no method's meaning. What strangers send is answered or
dropped, counted, and logged at most once a second; none of it reaches the core.

Invariants: a client has at most `CALLS_OPEN_MAX` calls of `CALL_BYTES_OPEN_MAX` bytes open; answers of one turn go to
a client in as few frames as their sizes allow; a client that does not read has at most `UNREAD_BYTES_MAX` and one
frame waiting; a client that is gone is forgotten with its calls; no turn takes much longer than `SLICE_MS_MAX`.
"""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import zmq

from actors.curve import CLIENTS, Curve
from actors.metrics import ActorMetrics
from gateway.calls import Body
from gateway.credentials import NO_CREDENTIALS, Credentials
from gateway.loop import SLICE_MS_MAX, GatewayLoop
from gateway.methods import METHODS_BY_NUMBER
from gateway.zmq_streams import ClientStreams, ended
from protocol import codec
from protocol.client import (
    CALLS_PER_BATCH_MAX,
    CLIENT_MESSAGE_BYTES_MAX,
    CLIENT_PROTOCOL_VERSION,
    TAKEN_STEP_BYTES,
    UNREAD_BYTES_MAX,
    CallBatch,
    CancelCalls,
    ClientHello,
    ClientHelloReply,
    ClientRefused,
    OpenStream,
    RepliesTaken,
    ReplyBatch,
    ReplyPiece,
    SendToStream,
    StreamTaken,
    UseToken,
)
from protocol.config import ClusterConfig
from protocol.errors import WIRE_ERRORS, ErrorCode, PeerFault
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import Millis

CALLS_OPEN_MAX: Final = 10_000
CALL_BYTES_OPEN_MAX: Final = 64 * 1024 * 1024
CLIENTS_MAX: Final = 10_000
SILENT_CLIENT_S: Final = 600.0
"""A client that has said nothing for so long and waits for nothing is forgotten; its next call needs a hello."""
LOOK_FOR_SILENT_S: Final = 60.0
REPLY_FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
"""Answers in one frame; a larger one leaves in pieces ahead of its frame."""
PIECE_BYTES_MAX: Final = 1024 * 1024
"""A copy of more would hold the loop."""
PIECES_AHEAD_BYTES: Final = 4 * 1024 * 1024
"""Pieces leave while the client is less than that behind with what it says it took."""
OUTBOX_BYTES_MAX: Final = 192 * 1024 * 1024
"""Pieces that wait for one client to take others; an answer over it is refused."""
STALLED_CLIENT_S: Final = 60.0
"""A client that takes no piece and says nothing for so long is cut off."""
DRAIN_QUIET_S: Final = 0.1
"""A draining door listens until nothing has come for so long: what was on its way is refused, not lost."""
RECEIVE_QUEUE_MESSAGES_MAX: Final = 64
"""Frames of one client waiting to be taken; behind them TCP holds the client back."""
SEND_QUEUE_MESSAGES_MAX: Final = 1000
LINGER_ON_STOP_MS: Final = 200
HEARTBEAT_MS: Final = 10_000
HEARTBEAT_TIMEOUT_MS: Final = 30_000
FROM_CLIENTS: Final = frozenset(
    {"ClientHello", "CallBatch", "CancelCalls", "RepliesTaken", "OpenStream", "SendToStream", "StreamTaken", "UseToken"}
)

_TEXTS: Final[dict[int, bytes]] = {int(code): error.text.encode() for code, error in WIRE_ERRORS.items()}
_SIZE_BITS: Final = 32
_SIZE_MASK: Final = (1 << _SIZE_BITS) - 1


class _Client:
    """One greeted client."""

    __slots__ = (
        "bytes_open",
        "bytes_sent",
        "bytes_taken",
        "calls",
        "conversation",
        "credentials",
        "frames",
        "heard_at",
        "outbox",
        "outbox_bytes",
        "replies",
        "route",
        "streams",
    )

    def __init__(
        self, route: bytes, conversation: int, heard_at: float, streams: Callable[["_Client"], ClientStreams]
    ) -> None:
        self.route = route
        self.conversation = conversation
        self.credentials = NO_CREDENTIALS
        self.calls: dict[int, int] = {}
        """By the client's call id: the loop's, and the size of the request, packed into one number."""
        self.bytes_open = 0
        self.replies: list[tuple[int, int, bytes]] = []
        self.outbox: deque[Message] = deque()
        """Large answers in pieces, each with its end, that leave as the client takes them."""
        self.outbox_bytes = 0
        self.bytes_sent = 0
        self.bytes_taken = 0
        self.heard_at = heard_at
        self.frames: list[bytes] = []
        """What streams have to say, behind the replies of the turn."""
        self.streams = streams(self)

    @property
    def unread(self) -> int:
        """Bytes of answers it has not said to have taken."""
        return self.bytes_sent - self.bytes_taken

    @property
    def held(self) -> int:
        """What of that it should have said to have taken, and what waits for it."""
        return max(0, self.bytes_sent - self.bytes_taken - TAKEN_STEP_BYTES) + self.outbox_bytes


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
        curve: Curve | None = None,
    ) -> None:
        self._loop = loop
        self._curve = curve
        self._identity = identity
        self._config = config
        self._address = address
        self._metrics = metrics
        self._context = context
        self._socket: zmq.Socket[bytes] | None = None
        self._clients: dict[bytes, _Client] = {}
        self._conversations = 0
        self._dirty: list[_Client] = []
        self._held = 0
        """Bytes that all clients together hold back, which is memory of this process."""
        self._draining = False
        self._heard_at = 0.0
        """When a message came last; kept while draining."""
        self._planned = False
        self._log = structlog.get_logger().bind(actor="gateway", door="zmq")
        self._logged_at = 0.0

    # --- the loop's side ---------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        if self._draining and self._clients and time.monotonic() - self._heard_at < DRAIN_QUIET_S:
            return False
        return not any(
            client.calls or client.replies or client.frames or client.outbox for client in self._clients.values()
        )

    @property
    def clients(self) -> int:
        """How many clients have been greeted and not forgotten."""
        return len(self._clients)

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be had.
        """
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, LINGER_ON_STOP_MS)
        socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES_MAX)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES_MAX)
        socket.setsockopt(zmq.MAXMSGSIZE, CLIENT_MESSAGE_BYTES_MAX)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        if self._curve is not None:
            self._curve.secure_door(socket, CLIENTS)
        try:
            socket.bind(f"tcp://{self._address}")
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise OSError(error.errno, f"cannot listen on {self._address} for ZeroMQ clients: {error}") from error
        self._socket = socket
        self._loop.loop.add_reader(int(socket.getsockopt(zmq.FD)), self._receive)
        self._plan()
        self._loop.loop.call_later(LOOK_FOR_SILENT_S, self._forget_silent)

    def drain(self) -> None:
        """Take no more calls, and tell clients so that they send none."""
        self._draining = True
        self._heard_at = time.monotonic()
        for route in list(self._clients):
            self._refuse(route, "stopping", "this node is being stopped")

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
            frames, client.frames = client.frames, []
            for part in _frames(replies):
                if not self._send_counted(client, codec.encode(ReplyBatch.make(replies=tuple(part)))):
                    break
            else:
                for frame in frames:
                    if not self._send_counted(client, frame):
                        break
                else:
                    self._send_pieces(client)
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
        """Take what has arrived, for one slice of time, and one message at least."""
        socket = self._socket
        if socket is None:
            return
        now = time.monotonic()
        until = now + SLICE_MS_MAX / 1000
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._heard_at = now
            self._take(frames, now)
            now = time.monotonic()
            if now >= until:
                self._plan()
                return

    def _take(self, frames: list[bytes], now: float) -> None:
        route = frames[0]
        if len(frames) != 2:
            self._fault(route, f"{len(frames) - 1} frames instead of one", now)
            return
        try:
            message = codec.decode(frames[1], FROM_CLIENTS, array_max=CALLS_PER_BATCH_MAX)
        except PeerFault as error:
            self._fault(route, str(error), now)
            return
        if isinstance(message, ClientHello):
            self._greet(route, message, now)
            return
        client = self._clients.get(route)
        if client is None:
            self._refuse(route, "hello_first", "say ClientHello before anything else", message)
            return
        client.heard_at = now
        if isinstance(message, CallBatch):
            self._call(client, message)
        elif isinstance(message, CancelCalls):
            self._cancel(client, message)
        elif isinstance(message, RepliesTaken):
            self._note_taken(client, message.bytes_taken, now)
        elif isinstance(message, SendToStream):
            client.streams.hear(message)
        elif isinstance(message, OpenStream):
            self._open_stream(client, message)
        elif isinstance(message, UseToken):
            client.credentials = Credentials(message.token) if message.token else NO_CREDENTIALS
        elif isinstance(message, StreamTaken) and not client.streams.take(message):
            self._fault(route, f"{message.bytes_taken} bytes taken of stream {message.call_id}", now)

    def _greet(self, route: bytes, hello: ClientHello, now: float) -> None:
        identity = self._identity
        client = self._clients.get(route)
        if hello.protocol_version != CLIENT_PROTOCOL_VERSION:
            reason = f"protocol version {hello.protocol_version}, this door speaks {CLIENT_PROTOCOL_VERSION}"
            self._refuse(route, "version", reason)
            return
        if hello.cluster not in (0, identity.cluster):
            self._refuse(route, "cluster", f"you look for cluster {hello.cluster:x}, this is {identity.cluster:x}")
            return
        if self._draining:
            self._refuse(route, "stopping", "this node is being stopped")
            return
        if client is None:
            if len(self._clients) >= CLIENTS_MAX:
                self._refuse(route, "too_many_clients", f"{CLIENTS_MAX} clients are here already")
                return
            self._conversations += 1
            client = self._clients[route] = _Client(
                route, identity.incarnation << 32 | self._conversations, now, self._streams_of
            )
        client.heard_at = now
        self._send(
            route,
            ClientHelloReply(
                protocol_version=CLIENT_PROTOCOL_VERSION,
                cluster=identity.cluster,
                member=identity.member,
                name=identity.name,
                conversation=client.conversation,
                doors=tuple(f"tcp://{node.zmq}" for node in self._config.nodes if node.zmq),
                calls_open_max=CALLS_OPEN_MAX,
                request_bytes_max=self._config.limits.request_bytes_max,
                unread_bytes_max=UNREAD_BYTES_MAX,
            ),
        )

    def _call(self, client: _Client, batch: CallBatch) -> None:
        if self._draining:
            self._refuse(client.route, "stopping", "this node is being stopped", batch)
            return
        now_ms = self._loop.now_ms()
        submit = self._loop.submit
        calls = client.calls
        credentials = client.credentials
        for call_id, number, wait_ms, body in batch.calls:
            method = METHODS_BY_NUMBER.get(number)
            size = len(body)
            if method is None:
                self._reply(client, call_id, ErrorCode.UNIMPLEMENTED, b"")
            elif len(calls) >= CALLS_OPEN_MAX or call_id in calls or client.bytes_open + size > CALL_BYTES_OPEN_MAX:
                self._reply(client, call_id, ErrorCode.TOO_MANY_REQUESTS, b"")
            else:
                deadline = Millis(now_ms + wait_ms) if wait_ms > 0 else None
                client.bytes_open += size
                calls[call_id] = (
                    submit(method, body, deadline, self._answerer(client, call_id), credentials) << _SIZE_BITS | size
                )

    def _open_stream(self, client: _Client, message: OpenStream) -> None:
        if self._draining:
            self._refuse(client.route, "stopping", "this node is being stopped", message)
        elif message.call_id in client.calls:
            self._say(client, ended(message.call_id, ErrorCode.TOO_MANY_REQUESTS))
        else:
            client.streams.start(message, CALLS_OPEN_MAX - len(client.calls), client.credentials)

    def _cancel(self, client: _Client, message: CancelCalls) -> None:
        for call_id in message.call_ids:
            packed = client.calls.pop(call_id, None)
            if packed is not None:
                client.bytes_open -= packed & _SIZE_MASK
                self._loop.cancel(packed >> _SIZE_BITS)
        client.streams.cancel(message.call_ids)

    def _note_taken(self, client: _Client, bytes_taken: int, now: float) -> None:
        if not client.bytes_taken <= bytes_taken <= client.bytes_sent:
            self._fault(client.route, f"{bytes_taken} bytes taken, of {client.bytes_sent} sent", now)
            return
        held = client.held
        client.bytes_taken = bytes_taken
        self._held += client.held - held
        if client.outbox:
            self._mark(client)

    def _fault(self, route: bytes, reason: str, now: float) -> None:
        self._metrics.count("actd_client_faults_total")
        if now - self._logged_at >= 1.0:
            self._logged_at = now
            self._log.warning("client_fault", reason=reason)
        self._refuse(route, "malformed", reason)

    def _refuse(self, route: bytes, code: str, reason: str, refused: Message | None = None) -> None:
        call_ids: tuple[int, ...] = ()
        if isinstance(refused, CallBatch):
            call_ids = tuple(call[0] for call in refused.calls)
        elif isinstance(refused, OpenStream):
            call_ids = (refused.call_id,)
        self._send(route, ClientRefused(code=code, reason=reason, call_ids=call_ids))

    # --- answering ---------------------------------------------------------------------------------

    def _answerer(self, client: _Client, call_id: int) -> Callable[[int, Body], None]:
        def on_answer(code: int, body: Body) -> None:
            packed = client.calls.pop(call_id, None)
            if packed is not None:
                client.bytes_open -= packed & _SIZE_MASK
                self._reply(client, call_id, code, body)

        return on_answer

    def _reply(self, client: _Client, call_id: int, code: int, body: Body) -> None:
        self._mark(client)
        if code:
            body = _TEXTS[code]
        elif not isinstance(body, bytes) or len(body) > REPLY_FRAME_BYTES_MAX:
            pieces = (body,) if isinstance(body, bytes) else body
            size = sum(map(len, pieces))
            if client.outbox_bytes + size <= OUTBOX_BYTES_MAX:
                self._queue_pieces(client, call_id, pieces, size)
                return
            code, body = ErrorCode.RESPONSE_TOO_LARGE, _TEXTS[ErrorCode.RESPONSE_TOO_LARGE]
        client.replies.append((call_id, code, body))

    def _streams_of(self, client: _Client) -> ClientStreams:
        return ClientStreams(self._loop, partial(self._say, client))

    def _mark(self, client: _Client) -> None:
        """Have what is queued for a client sent at the end of the turn."""
        if not client.replies and not client.frames:
            if not self._dirty:
                self._loop.mark_dirty(self)
            self._dirty.append(client)

    def _say(self, client: _Client, frame: bytes) -> None:
        """Queue a frame of a stream."""
        self._mark(client)
        client.frames.append(frame)

    def _queue_pieces(self, client: _Client, call_id: int, pieces: tuple[bytes, ...], size: int) -> None:
        """Put a large answer behind those that wait already."""
        for piece in pieces:
            for at in range(0, len(piece), PIECE_BYTES_MAX):
                part = piece if len(piece) <= PIECE_BYTES_MAX else piece[at : at + PIECE_BYTES_MAX]
                client.outbox.append(ReplyPiece.make(call_id=call_id, piece=part))
        client.outbox.append(ReplyBatch.make(replies=((call_id, 0, b""),)))
        client.outbox_bytes += size
        self._held += size

    def _send_pieces(self, client: _Client) -> None:
        """Send what waits for the client, as far as it keeps up; when it says that it took some, more follows."""
        outbox = client.outbox
        while outbox and client.unread < PIECES_AHEAD_BYTES:
            message = outbox.popleft()
            frame = codec.encode(message)
            held = client.held
            client.bytes_sent += len(frame)
            if isinstance(message, ReplyPiece):
                client.outbox_bytes -= len(message.piece)
            self._held += client.held - held
            if not self._send_frame(client.route, frame):
                return

    def _send_counted(self, client: _Client, frame: bytes) -> bool:
        """Send a frame that the client must say to have taken; False if it was cut off instead."""
        crowded = self._held > self._config.limits.pending_bytes_max and client.held > 0
        if client.unread > UNREAD_BYTES_MAX or crowded:
            self._cut_off(client.route)
            return False
        held = client.held
        client.bytes_sent += len(frame)
        self._held += client.held - held
        return self._send_frame(client.route, frame)

    def _send(self, route: bytes, message: Message) -> None:
        self._send_frame(route, codec.encode(message))

    def _send_frame(self, route: bytes, frame: bytes) -> bool:
        socket = self._socket
        if socket is None:
            return False
        try:
            socket.send_multipart([route, frame], zmq.NOBLOCK)
        except zmq.Again:
            self._cut_off(route)
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._forget(route)
            return False
        return True

    def _cut_off(self, route: bytes) -> None:
        """The client does not read: its answers would only pile up here. It may say hello again."""
        self._metrics.count("actd_client_slow_total")
        self._forget(route)

    def _forget(self, route: bytes) -> None:
        client = self._clients.pop(route, None)
        if client is not None:
            self._held -= client.held
            for packed in client.calls.values():
                self._loop.cancel(packed >> _SIZE_BITS)
            client.calls.clear()
            client.replies.clear()
            client.streams.cancel(list(client.streams.open))
            client.frames.clear()
            client.outbox.clear()

    def _forget_silent(self) -> None:
        now = time.monotonic()
        silent = [
            route
            for route, client in self._clients.items()
            if not client.calls and not client.streams.open and now - client.heard_at > SILENT_CLIENT_S
        ]
        for route in silent:
            self._forget(route)
        for client in list(self._clients.values()):
            if client.outbox and now - client.heard_at > STALLED_CLIENT_S:
                self._cut_off(client.route)
        if self._socket is not None:
            self._loop.loop.call_later(LOOK_FOR_SILENT_S, self._forget_silent)


def _frames(replies: list[tuple[int, int, bytes]]) -> list[list[tuple[int, int, bytes]]]:
    """Split answers so that no frame has too many, nor too many bytes unless it is one answer."""
    if len(replies) <= CALLS_PER_BATCH_MAX and sum(len(body) for _, _, body in replies) <= REPLY_FRAME_BYTES_MAX:
        return [replies] if replies else []
    frames: list[list[tuple[int, int, bytes]]] = []
    part: list[tuple[int, int, bytes]] = []
    size = 0
    for reply in replies:
        if part and (len(part) >= CALLS_PER_BATCH_MAX or size + len(reply[2]) > REPLY_FRAME_BYTES_MAX):
            frames.append(part)
            part, size = [], 0
        part.append(reply)
        size += len(reply[2])
    frames.append(part)
    return frames
