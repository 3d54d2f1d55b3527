"""Streaming calls without sockets: messages in, messages out, an end with a status, and word of when to pause.

Owns every open stream between a door and the service behind it. Knows no framing and no method's meaning.

Theory of operation. A door opens a stream and hands in what the client says; the service (a `StreamHandler`) answers
through its `Stream`. What it sends is gathered in the stream's outbox; the door takes it at the end of the turn and
tells how much of it the client has not taken yet. A service that produces without being asked calls `may_send` first:
False means that the client has `ROOM_BYTES` to take, and that `on_room` will tell when to go on.

Invariants:
* a handler hears nothing more after `on_cancel` or after it has ended the stream; `on_cancel` comes at most once;
* a stream ends once, behind everything sent before;
* what all streams hold together is bounded: over `ALL_UNSENT_BYTES_MAX` only a stream that holds nothing has room.
"""

import heapq
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from gateway.credentials import NO_CREDENTIALS, Credentials
from protocol.errors import ErrorCode
from protocol.types import NOBODY, MemberId, Millis

ROOM_BYTES: Final = 1024 * 1024
"""What one stream may have unsent before its producer must pause."""
STREAM_UNSENT_BYTES_MAX: Final = 16 * 1024 * 1024
"""A client whose own requests made more than that to be sent, and who does not read it, is cut off."""
ALL_UNSENT_BYTES_MAX: Final = 256 * 1024 * 1024
"""Unsent bytes of all streams of a gateway."""
NO_LEADER_TIMEOUTS: Final = 3
"""A stream that asks for a leader ends after so many election timeouts without one, as etcd's do."""


class StreamMethod(NamedTuple):
    """One streaming RPC; `number` is its name on the ZeroMQ door."""

    number: int
    service: str
    name: str

    @property
    def path(self) -> bytes:
        """The gRPC path."""
        return f"/{self.service}/{self.name}".encode()


class StreamHead(NamedTuple):
    """What a client says when it opens a stream, besides the method."""

    require_leader: bool = False
    """End the stream rather than let it wait on a member that knows no leader."""
    deadline: Millis | None = None
    credentials: Credentials = NO_CREDENTIALS


class StreamHandler(Protocol):
    """A service's side of one stream; called from within the turn."""

    def on_message(self, body: bytes, now: Millis) -> None:
        """The client says something."""
        ...

    def on_half_close(self, now: Millis) -> None:
        """The client will say nothing more; it still listens."""
        ...

    def on_room(self, now: Millis) -> None:
        """There is room again after there was none."""
        ...

    def on_cancel(self) -> None:
        """Nobody listens any more."""
        ...


class Stream:
    """What a service says to one client."""

    __slots__ = ("_table", "call_id", "handler", "head", "held_bytes", "outbox", "outbox_bytes", "outcome", "stepped")

    def __init__(self, table: "StreamTable", call_id: int, head: StreamHead) -> None:
        self.call_id = call_id
        self.head = head
        self.handler: StreamHandler
        self.outbox: list[tuple[bytes, ...]] = []
        """Messages the door has not taken yet, each in one or more pieces: large pieces are shared, never copied."""
        self.outbox_bytes = 0
        self.held_bytes = 0
        """What the door has taken and the client has not."""
        self.outcome: ErrorCode | None = None
        """How the stream ends, once it does."""
        self.stepped = False
        """Whether the core takes what it says, to answer a unary call with it, and no door."""
        self._table = table

    def send(self, *pieces: bytes) -> None:
        """Send one message; nothing happens once the stream has ended."""
        if self.outcome is not None:
            return
        size = 0
        for piece in pieces:
            size += len(piece)
        if not self.outbox:
            self._table.list_of(self).append(self)
        self.outbox.append(pieces)
        self.outbox_bytes += size
        self._table.unsent_bytes += size

    def end(self, code: ErrorCode = ErrorCode.OK) -> None:
        """End the stream; nothing happens if it has ended."""
        if self.outcome is None:
            self._table.end(self, code)

    @property
    def unsent_bytes(self) -> int:
        """What has been sent and not been taken by the client."""
        return self.outbox_bytes + self.held_bytes

    def may_send(self) -> bool:
        """Return whether a producer may send more; if not, `on_room` follows unless the stream ends."""
        if self.has_room:
            return True
        self._table.paused[self.call_id] = None
        return False

    def pause(self) -> None:
        """Have `on_room` called when the door has taken what was sent and there is room; something was sent."""
        if self.outcome is None:
            assert self.outbox, "the door calls when it takes something"
            self._table.paused[self.call_id] = None

    @property
    def has_room(self) -> bool:
        """Whether there is room now."""
        unsent = self.outbox_bytes + self.held_bytes
        if self.outcome is not None or unsent >= ROOM_BYTES:
            return False
        return not unsent or self._table.unsent_bytes < ALL_UNSENT_BYTES_MAX


Opener = Callable[[Stream, Millis], StreamHandler]
"""Makes a service's side of a new stream; may already send or end."""


class StreamTable:
    """Every open stream of a gateway.

    `dirty` are those with something for their door, `stepped` those with something for the core, `paused` those whose
    service waits for room.
    """

    def __init__(self, streams_max: int, election_timeout_ms: int) -> None:
        self.dirty: list[Stream] = []
        self.stepped: list[Stream] = []
        self.paused: dict[int, None] = {}
        self.unsent_bytes = 0
        self.barred: ErrorCode | None = None
        """Why no stream may be opened now, if none may."""
        self._streams_max = streams_max
        self._patience_ms = NO_LEADER_TIMEOUTS * election_timeout_ms
        self._openers: dict[StreamMethod, Opener] = {}
        self._streams: dict[int, Stream] = {}
        self._deadlines: list[tuple[Millis, int]] = []
        self._leader: MemberId = NOBODY
        self._leaderless_since: Millis | None = Millis(0)
        self._need_leader: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def serve(self, method: StreamMethod, opener: Opener) -> None:
        """Have `opener` serve the streams of `method`."""
        self._openers[method] = opener

    # --- the doors' side ---------------------------------------------------------------------------

    def list_of(self, stream: Stream) -> list[Stream]:
        """Return where a stream that has something to say is listed."""
        return self.stepped if stream.stepped else self.dirty

    def open(self, call_id: int, method: StreamMethod, head: StreamHead, now: Millis, *, stepped: bool = False) -> None:
        """Open a stream; whatever comes of it, its end included, is told through `dirty`, or through `stepped`."""
        stream = Stream(self, call_id, head)
        stream.stepped = stepped
        opener = self._openers.get(method)
        refusal = None
        if opener is None:
            refusal = ErrorCode.UNIMPLEMENTED
        elif self.barred is not None:
            refusal = self.barred
        elif len(self._streams) >= self._streams_max:
            refusal = ErrorCode.TOO_MANY_REQUESTS
        elif head.require_leader and self._leader == NOBODY:
            refusal = ErrorCode.NO_LEADER
        self._streams[call_id] = stream
        if opener is None or refusal is not None:
            self.end(stream, refusal or ErrorCode.UNIMPLEMENTED)
            return
        if head.deadline is not None:
            self._expect(head.deadline, call_id)
        if head.require_leader:
            self._need_leader[call_id] = None
        stream.handler = opener(stream, now)

    def message(self, call_id: int, body: bytes, now: Millis) -> None:
        """Hand in what the client says."""
        stream = self._streams.get(call_id)
        if stream is None or stream.outcome is not None:
            return
        if stream.unsent_bytes > STREAM_UNSENT_BYTES_MAX:
            self._cut(stream, ErrorCode.TOO_MANY_REQUESTS)
            return
        stream.handler.on_message(body, now)

    def half_close(self, call_id: int, now: Millis) -> None:
        """The client has said everything."""
        stream = self._streams.get(call_id)
        if stream is not None and stream.outcome is None:
            stream.handler.on_half_close(now)

    def cancel(self, call_id: int) -> bool:
        """The client is gone; nothing is told any more. False if there is no such stream."""
        stream = self._streams.get(call_id)
        if stream is None:
            return False
        ended = stream.outcome is not None
        stream.outcome = stream.outcome or ErrorCode.CANCELED
        self._forget(stream)
        if not ended:
            stream.handler.on_cancel()
        return True

    def held(self, call_id: int, held_bytes: int, now: Millis) -> None:
        """The door says how much of what it took the client has not taken yet."""
        stream = self._streams.get(call_id)
        if stream is None:
            return
        self.unsent_bytes += held_bytes - stream.held_bytes
        stream.held_bytes = held_bytes
        if call_id in self.paused and stream.has_room:
            del self.paused[call_id]
            stream.handler.on_room(now)

    def take(self, stream: Stream) -> tuple[list[tuple[bytes, ...]], ErrorCode | None]:
        """Return a dirty stream's messages and, if it has ended, how; an ended stream is forgotten."""
        messages, stream.outbox = stream.outbox, []
        self.unsent_bytes -= stream.outbox_bytes
        stream.outbox_bytes = 0
        if stream.outcome is not None:
            self._forget(stream)
        return messages, stream.outcome

    # --- the core's side ---------------------------------------------------------------------------

    @property
    def deadline(self) -> Millis | None:
        """When `wake` has something to do."""
        due = self._deadlines[0][0] if self._deadlines else None
        if self._need_leader and self._leaderless_since is not None:
            patience_ends = Millis(self._leaderless_since + self._patience_ms)
            due = patience_ends if due is None else min(due, patience_ends)
        return due

    def wake(self, now: Millis) -> None:
        """End what has run out of time or has waited too long for a leader."""
        while self._deadlines and self._deadlines[0][0] <= now:
            self._cut_id(heapq.heappop(self._deadlines)[1], ErrorCode.DEADLINE_EXCEEDED)
        if self._leaderless_since is not None and now >= self._leaderless_since + self._patience_ms:
            for call_id in list(self._need_leader):
                self._cut_id(call_id, ErrorCode.NO_LEADER)

    def lead(self, leader: MemberId, now: Millis) -> None:
        """Somebody leads, or nobody."""
        self._leader = leader
        if leader != NOBODY:
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = now

    def end_all(self, code: ErrorCode) -> None:
        """End every stream."""
        for stream in list(self._streams.values()):
            self._cut(stream, code)

    def end(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream for its service, which hears nothing more."""
        if not stream.outbox:
            self.list_of(stream).append(stream)
        stream.outcome = code
        self._need_leader.pop(stream.call_id, None)
        self.paused.pop(stream.call_id, None)

    def check(self) -> None:
        """Assert the invariants."""
        unsent = sum(stream.unsent_bytes for stream in self._streams.values())
        assert unsent == self.unsent_bytes, f"{self.unsent_bytes} unsent bytes counted, {unsent} are"
        listed = {id(stream) for stream in (*self.dirty, *self.stepped)}
        for stream in self._streams.values():
            waits = bool(stream.outbox) or stream.outcome is not None
            assert not waits or id(stream) in listed, f"stream {stream.call_id} has something nobody will take"

    def _expect(self, deadline: Millis, call_id: int) -> None:
        """Remember a deadline, and now and then forget those of streams that are gone."""
        heapq.heappush(self._deadlines, (deadline, call_id))
        if len(self._deadlines) > 2 * len(self._streams) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._streams]
            heapq.heapify(self._deadlines)

    def _cut_id(self, call_id: int, code: ErrorCode) -> None:
        stream = self._streams.get(call_id)
        if stream is not None:
            self._cut(stream, code)

    def _cut(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream over its service's head."""
        if stream.outcome is None:
            self.end(stream, code)
            stream.handler.on_cancel()

    def _forget(self, stream: Stream) -> None:
        if self._streams.pop(stream.call_id, None) is not None:
            self.unsent_bytes -= stream.unsent_bytes
        stream.outbox = []
        stream.outbox_bytes = stream.held_bytes = 0
        self._need_leader.pop(stream.call_id, None)
        self.paused.pop(stream.call_id, None)
