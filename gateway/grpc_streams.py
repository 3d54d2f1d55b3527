"""Streaming gRPC calls of one connection: DATA becomes messages of a stream, its messages become DATA.

Owns framing, response heads and trailers of streaming calls, and their way of telling back-pressure. Knows no service:
what is said on a stream is between the client and `gateway.streams`.

Invariants: the head leaves before the first message; small messages of one turn share a piece of DATA, large ones are
queued as they are, never copied; the service hears of room when less than `TELL_BELOW_BYTES` is queued.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from gateway.grpc_methods import GrpcMethod
from gateway.grpc_wire import OK_TRAILERS, PREFIX, RESPONSE_BLOCK, MessageReader, error_block, trailers_block
from gateway.http2_answers import Http2Answers
from gateway.streams import ROOM_BYTES, StreamHead, StreamMethod
from protocol.errors import WIRE_ERRORS, ErrorCode, GrpcCode

TELL_BELOW_BYTES: Final = ROOM_BYTES // 4
SHARED_PIECE_BYTES: Final = 16 * 1024
"""A piece of a message that is larger goes into the queue by itself, because many streams may share its bytes."""


class StreamCalls(Protocol):
    """What streaming calls need of the loop."""

    def open_stream(
        self,
        method: StreamMethod,
        head: StreamHead,
        on_stream: Callable[[list[tuple[bytes, ...]], ErrorCode | None], int],
    ) -> int:
        """See `GatewayLoop.open_stream`."""
        ...

    def stream_message(self, call_id: int, body: bytes) -> None:
        """See `GatewayLoop.stream_message`."""
        ...

    def stream_half_closed(self, call_id: int) -> None:
        """See `GatewayLoop.stream_half_closed`."""
        ...

    def stream_held(self, call_id: int, held_bytes: int) -> None:
        """See `GatewayLoop.stream_held`."""
        ...

    def cancel(self, call_id: int) -> None:
        """See `GatewayLoop.cancel`."""
        ...


class StreamCounts(Protocol):
    """What the door counts over all its connections."""

    sent_bytes: int
    partial_bytes: int


class OpenStream:
    """One streaming call."""

    __slots__ = ("call_id", "entry", "head_sent", "heard", "reader")

    def __init__(self, entry: GrpcMethod, reader: MessageReader) -> None:
        self.entry = entry
        self.reader = reader
        self.call_id = 0
        self.head_sent = False
        self.heard = False
        """Whether the client has said anything."""


class GrpcStreams:
    """The streaming calls of one connection, by HTTP/2 stream id."""

    __slots__ = ("_answers", "_calls", "_counts", "_tell", "open")

    def __init__(
        self,
        calls: StreamCalls,
        answers: Callable[[], Http2Answers],
        tell: Callable[[], None],
        counts: StreamCounts,
    ) -> None:
        """`tell` is called when there is output that no `receive` will fetch."""
        self.open: dict[int, OpenStream] = {}
        self._calls = calls
        self._answers = answers
        self._tell = tell
        self._counts = counts

    def start(self, stream_id: int, entry: GrpcMethod, head: StreamHead, reader: MessageReader) -> OpenStream:
        """Open the call behind an HTTP/2 stream."""
        assert entry.stream is not None, "only a streaming method is started here"
        entry.started += 1
        opened = self.open[stream_id] = OpenStream(entry, reader)
        self._answers().allow_stall(stream_id)
        opened.call_id = self._calls.open_stream(entry.stream, head, partial(self._on_stream, stream_id))
        return opened

    def message(self, opened: OpenStream, body: bytes) -> None:
        """Hand in a message."""
        opened.heard = True
        opened.entry.received += 1
        self._calls.stream_message(opened.call_id, body)

    def half_close(self, opened: OpenStream) -> None:
        """The client's side of the stream is complete."""
        self._calls.stream_half_closed(opened.call_id)

    def drained(self, stream_id: int) -> None:
        """Less than `TELL_BELOW_BYTES` is queued on the stream."""
        opened = self.open.get(stream_id)
        if opened is not None:
            self._calls.stream_held(opened.call_id, 0)

    def cancel(self, stream_id: int, code: GrpcCode) -> None:
        """The stream is gone, or ends for a fault the door has found; it is counted as `code`."""
        opened = self._forget(stream_id)
        if opened is not None:
            opened.entry.handled[code] += 1
            self._calls.cancel(opened.call_id)

    def _forget(self, stream_id: int) -> OpenStream | None:
        opened = self.open.pop(stream_id, None)
        if opened is not None:
            self._counts.partial_bytes -= opened.reader.held_bytes
        return opened

    def _on_stream(self, stream_id: int, messages: list[tuple[bytes, ...]], outcome: ErrorCode | None) -> int:
        """Send what the service says; return what waits for the client to take it."""
        opened = self.open.get(stream_id)
        if opened is None:
            return 0
        answers = self._answers()
        if messages:
            if not opened.head_sent:
                opened.head_sent = True
                answers.send_headers(stream_id, RESPONSE_BLOCK)
            opened.entry.sent += len(messages)
            self._send(answers, stream_id, messages)
        if outcome is not None:
            self._forget(stream_id)
            self._end(answers, stream_id, opened, outcome)
        self._tell()
        if outcome is not None:
            return 0
        queued = answers.queued_bytes(stream_id, TELL_BELOW_BYTES)
        return queued if queued >= TELL_BELOW_BYTES else 0

    def _send(self, answers: Http2Answers, stream_id: int, messages: list[tuple[bytes, ...]]) -> None:
        small: list[bytes] = []
        total = small_bytes = 0
        for pieces in messages:
            size = sum(map(len, pieces))
            total += size
            small.append(PREFIX.pack(0, size))
            small_bytes += size
            for piece in pieces:
                if len(piece) > SHARED_PIECE_BYTES or small_bytes > SHARED_PIECE_BYTES:
                    answers.send_data(stream_id, b"".join(small))
                    small, small_bytes = [], 0
                if len(piece) > SHARED_PIECE_BYTES:
                    answers.send_data(stream_id, piece)
                else:
                    small.append(piece)
        answers.send_data(stream_id, b"".join(small))
        self._counts.sent_bytes += total

    @staticmethod
    def _end(answers: Http2Answers, stream_id: int, opened: OpenStream, outcome: ErrorCode) -> None:
        if not outcome:
            opened.entry.handled[0] += 1
            if opened.head_sent:
                answers.send_trailers(stream_id, OK_TRAILERS)
            else:
                answers.send_headers(stream_id, RESPONSE_BLOCK)
                answers.send_trailers(stream_id, OK_TRAILERS)
            return
        error = WIRE_ERRORS[outcome]
        opened.entry.handled[error.grpc_code] += 1
        if opened.head_sent:
            answers.send_trailers(stream_id, trailers_block(error.grpc_code, error.text))
        else:
            answers.send_headers(stream_id, error_block(outcome), end_stream=True)
