"""Leases at the door: what a grant leaves open is chosen here, and keep-alive streams are served.

Owns the ids of new leases and the least time to live; both are decided before the proposal, because apply may know
neither chance nor configuration. Knows no time: when a lease runs out is the business of the leader's lessor.
Invariant: no id is chosen twice by one data directory, whatever life of the gateway chooses.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final, Protocol

from gateway.calls import Lane
from gateway.credentials import Credentials
from gateway.streams import Stream, StreamHandler
from protocol.config import RaftConfig
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.local import LessorAnswered
from protocol.types import Millis
from protocol.wire import rpc_pb2 as rpc

KEEP_ALIVES_OPEN_MAX: Final = 10_000
"""Unanswered requests of one stream."""
RETRY_MS: Final = 20
"""Pause before what the lessor could not answer yet is asked again."""
_ID_MASK: Final = (1 << 63) - 1


class Grants:
    """Completes grants: an id where the client asks for one, and a time that is not too short (rule 45)."""

    def __init__(self, identity: NodeIdentity, config: RaftConfig) -> None:
        # Three half election timeouts, in whole seconds: what etcd makes of the same configuration.
        self.ttl_s_min: Final = -(-3 * config.election_timeout_ms // 2000)
        self._life = f"{identity.cluster:x}/{identity.member:x}/{identity.store:x}/{identity.incarnation:x}"
        self._count = 0

    def complete(self, body: bytes) -> bytes:
        """Return the grant as it is proposed; one that leaves nothing open stays what it was, byte for byte."""
        request = rpc.LeaseGrantRequest.FromString(body)
        if request.ID and self.ttl_s_min <= request.TTL:
            return body
        request.TTL = max(request.TTL, self.ttl_s_min)
        while not request.ID:
            request.ID = self._next_id()
        return request.SerializeToString()

    def _next_id(self) -> int:
        self._count += 1
        digest = blake2b(f"{self._life}/{self._count}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") & _ID_MASK


class Asks(Protocol):
    """How a stream asks the lessor."""

    def __call__(
        self, body: bytes, now: Millis, credentials: Credentials, on_answer: Callable[[int, bytes], None]
    ) -> None:
        """Ask; `on_answer` is told the code and, where it is OK, the whole response."""
        ...


class KeepAlives:
    """Serves `LeaseKeepAlive` streams."""

    def __init__(self, ask: Asks) -> None:
        self._ask = ask

    def open(self, stream: Stream, _now: Millis) -> StreamHandler:
        """Serve one stream."""
        return _KeepAliveStream(self._ask, stream)


class _KeepAliveStream:
    """One client's keep-alives: one answer for each request; the first that cannot be answered ends the stream."""

    def __init__(self, ask: Asks, stream: Stream) -> None:
        self._ask = ask
        self._stream = stream
        self._unanswered = 0
        self._half_closed = False

    def on_message(self, body: bytes, now: Millis) -> None:
        """Ask the leader."""
        if self._unanswered >= KEEP_ALIVES_OPEN_MAX:
            self._stream.end(ErrorCode.TOO_MANY_REQUESTS)
            return
        self._unanswered += 1
        self._ask(body, now, self._stream.head.credentials, self._on_answer)

    def on_half_close(self, now: Millis) -> None:
        """Answer what was asked, then end."""
        self._half_closed = True
        self._end_if_done()

    def on_room(self, now: Millis) -> None:
        """Answers are small and asked for: nothing waits for room."""

    def on_cancel(self) -> None:
        """Answers to come are dropped by the stream."""

    def _on_answer(self, code: int, body: bytes) -> None:
        self._unanswered -= 1
        if code:
            self._stream.end(ErrorCode(code))
            return
        self._stream.send(body)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._half_closed and not self._unanswered:
            self._stream.end()


def answer_lessor_calls(
    lane: Lane,
    answer: Callable[[int, int, bytes], None],
    is_open: Callable[[int], bool],
    message: LessorAnswered,
    now: Millis,
) -> None:
    """Hand out what the leader's lessor says; its state is another store's, so it publishes nothing."""
    batch = lane.inflight.get(message.sequence)
    if batch is None:
        return
    again: list[int] = []
    for position, (call_id, (code, body)) in enumerate(zip(batch.ids, message.results, strict=True)):
        if code == ErrorCode.NOT_LEADER:
            again.append(position)
        else:
            answer(call_id, code, body)
    batch.left = len(again)
    lane.progressed(batch, now)
    if again:
        lane.requeue(message.sequence, again, is_open)
        lane.pause(Millis(now + RETRY_MS))
    else:
        lane.done(message.sequence)
