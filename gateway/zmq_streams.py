"""Streaming calls of the ZeroMQ door: what a greeted client says on its streams, and the frames of what it is told.

Owns the streams of one client and how much of each it has taken. Knows no socket and no method's meaning.
Invariant: a stream's messages leave in order, its end behind them; a service hears of room as the client says that it
has taken what it was sent.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from gateway.credentials import Credentials
from gateway.grpc_streams import StreamCalls
from gateway.methods import STREAM_METHODS_BY_NUMBER
from gateway.streams import StreamHead
from protocol import codec
from protocol.client import (
    CALLS_PER_BATCH_MAX,
    STREAM_TAKEN_STEP_BYTES,
    OpenStream,
    SendToStream,
    StreamEnded,
    StreamMessages,
    StreamTaken,
)
from protocol.errors import WIRE_ERRORS, ErrorCode

FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
"""Messages in one frame, unless a single one is larger."""


class _Stream:
    """One open stream."""

    __slots__ = ("call", "sent", "taken")

    def __init__(self) -> None:
        self.call = 0
        """The loop's call id."""
        self.sent = 0
        self.taken = 0

    @property
    def held(self) -> int:
        """Bytes the client should have said to have taken, and has not."""
        return max(0, self.sent - self.taken - STREAM_TAKEN_STEP_BYTES)


class ClientStreams:
    """The streams of one client, by its own call ids."""

    __slots__ = ("_calls", "_say", "open")

    def __init__(self, calls: StreamCalls, say: Callable[[bytes], None]) -> None:
        """`say` queues a frame for the client."""
        self.open: dict[int, _Stream] = {}
        self._calls = calls
        self._say = say

    def start(self, message: OpenStream, streams_max: int, credentials: Credentials) -> None:
        """Open a stream, or tell why not."""
        call_id = message.call_id
        method = STREAM_METHODS_BY_NUMBER.get(message.method)
        if call_id in self.open or len(self.open) >= streams_max:
            self._say_end(call_id, ErrorCode.TOO_MANY_REQUESTS)
        elif method is None:
            self._say_end(call_id, ErrorCode.UNIMPLEMENTED)
        else:
            stream = self.open[call_id] = _Stream()
            head = StreamHead(message.require_leader, credentials=credentials)
            stream.call = self._calls.open_stream(method, head, partial(self._on_stream, call_id))
            for body in message.messages:
                self._calls.stream_message(stream.call, body)

    def hear(self, message: SendToStream) -> None:
        """Take what the client says on a stream; one that is over hears nothing."""
        stream = self.open.get(message.call_id)
        if stream is None:
            return
        for body in message.messages:
            self._calls.stream_message(stream.call, body)
        if message.ended:
            self._calls.stream_half_closed(stream.call)

    def take(self, message: StreamTaken) -> bool:
        """Note what the client has taken; False if that cannot be."""
        stream = self.open.get(message.call_id)
        if stream is None:
            return True
        if not stream.taken <= message.bytes_taken <= stream.sent:
            return False
        stream.taken = message.bytes_taken
        self._calls.stream_held(stream.call, stream.held)
        return True

    def cancel(self, call_ids: Iterable[int]) -> None:
        """Nobody listens to these any more."""
        for call_id in call_ids:
            stream = self.open.pop(call_id, None)
            if stream is not None:
                self._calls.cancel(stream.call)

    def _on_stream(self, call_id: int, messages: list[tuple[bytes, ...]], outcome: ErrorCode | None) -> int:
        stream = self.open.get(call_id)
        if stream is None:
            return 0
        part: list[bytes] = []
        size = 0
        for pieces in messages:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if part and (size + len(body) > FRAME_BYTES_MAX or len(part) >= CALLS_PER_BATCH_MAX):
                self._say_messages(call_id, part)
                part, size = [], 0
            part.append(body)
            size += len(body)
            stream.sent += len(body)
        if part:
            self._say_messages(call_id, part)
        if outcome is not None:
            del self.open[call_id]
            self._say_end(call_id, outcome)
        return stream.held

    def _say_messages(self, call_id: int, messages: list[bytes]) -> None:
        self._say(codec.encode(StreamMessages.make(call_id=call_id, messages=tuple(messages))))

    def _say_end(self, call_id: int, code: ErrorCode) -> None:
        self._say(ended(call_id, code))


def ended(call_id: int, code: ErrorCode) -> bytes:
    """Return the frame that ends a stream."""
    text = WIRE_ERRORS[code].text if code else ""
    return codec.encode(StreamEnded(call_id=call_id, code=int(code), text=text))
