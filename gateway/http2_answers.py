"""The answering half of an HTTP/2 connection: what its handler may say, and how streams and connections end.

Owns the table of open streams and what is remembered of those we reset. Knows nothing of what clients send.
Invariants: a stream leaves the table when both sides are done with it or when it is reset; nothing is sent on a
stream that is not in the table.
"""

from typing import Final, Protocol

from gateway import http2_frames as wire
from gateway.http2_frames import H2Error
from gateway.http2_hpack import RequestHead
from gateway.http2_limits import Http2Limits
from gateway.http2_send import Sender, Stream

RESET_STREAMS_REMEMBERED_MAX: Final = 4096
"""Streams we reset whose late frames are still ignored in silence."""
DRAIN_PING: Final = b"actd bye"


class Http2Handler(Protocol):
    """Who is told what clients want. Called from within `receive`; may answer at once or later."""

    def on_request(self, stream_id: int, head: RequestHead, body: bytes) -> None:
        """A request has arrived whole."""
        ...

    def on_headers(self, stream_id: int, head: RequestHead) -> None:
        """A request has begun whose body follows."""
        ...

    def on_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """A part of a body; `ended`: it is the last."""
        ...

    def on_reset(self, stream_id: int) -> None:
        """The stream is gone: cancel what it asked for, send nothing on it."""
        ...

    def on_drained(self, stream_id: int) -> None:
        """What is queued on the stream has fallen below what `queued_bytes` was asked to watch for."""
        ...

    def on_closed(self) -> None:
        """The connection is over, and all its streams with it."""
        ...


class Http2Answers:
    """What a handler does with a connection; `Http2Connection` adds what a client does."""

    __slots__ = (
        "_drain_seen",
        "_draining",
        "_goaway_stream_id",
        "_handler",
        "_last_stream_id",
        "_limits",
        "_reset_streams",
        "closed",
        "fault",
        "sender",
        "streams",
    )

    def __init__(self, handler: Http2Handler, limits: Http2Limits) -> None:
        self._handler = handler
        self._limits = limits
        self.streams: dict[int, Stream | None] = {}
        """Open streams; None is a complete request whose answer has not begun."""
        self.sender = Sender(self.streams, limits.output_bytes_per_turn)
        self.closed = False
        self.fault = ""
        """Why we ended the connection, if we did."""
        self._last_stream_id = 0
        self._reset_streams: dict[int, None] = {}
        self._draining = False
        self._drain_seen = False
        self._goaway_stream_id = 0

    # --- out --------------------------------------------------------------------------------------

    def respond(self, stream_id: int, block: bytes, data: bytes, trailers: bytes) -> None:
        """Send a whole answer to a complete request; does nothing if the stream is gone."""
        if stream_id in self.streams:
            self.sender.respond(stream_id, block, data, trailers)

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool = False) -> None:
        """Send the head of an answer; does nothing if the stream is gone."""
        if stream_id in self.streams:
            self.sender.send_headers(stream_id, block, end_stream=end_stream)

    def send_data(self, stream_id: int, data: bytes) -> None:
        """Queue a part of an answer; does nothing if the stream is gone."""
        if stream_id in self.streams:
            self.sender.send_data(stream_id, data)

    def send_trailers(self, stream_id: int, block: bytes) -> None:
        """End an answer with trailers; does nothing if the stream is gone."""
        if stream_id in self.streams:
            self.sender.send_trailers(stream_id, block)

    def end_stream(self, stream_id: int) -> None:
        """End an answer without trailers; does nothing if the stream is gone."""
        if stream_id in self.streams:
            self.sender.end(stream_id)

    def queued_bytes(self, stream_id: int, tell_below: int) -> int:
        """Return what waits to be sent on a stream; where it is `tell_below` or more, `on_drained` follows."""
        return self.sender.queued_bytes(stream_id, tell_below) if stream_id in self.streams else 0

    def allow_stall(self, stream_id: int) -> None:
        """Let the client leave this stream's window closed for as long as it likes."""
        if stream_id in self.streams:
            self.sender.materialize(stream_id).patient = True

    def reset(self, stream_id: int, code: H2Error) -> None:
        """End a stream at once; the handler is not told, it asked for it."""
        if stream_id in self.streams:
            self._drop(stream_id)
            self._send_reset(stream_id, code)

    def take_output(self) -> bytes:
        """Return what is to be written now; `wants_turn` tells whether to ask again."""
        sender = self.sender
        sender.pump()
        if sender.finished:
            self._settle_finished()
        if sender.drained:
            drained, sender.drained = sender.drained, []
            for stream_id in drained:
                if stream_id in self.streams:
                    self._handler.on_drained(stream_id)
        out, sender.out = sender.out, []
        sender.out_bytes = 0
        if self._drain_seen and not self.streams and not self.closed:
            self.closed = True
            self._handler.on_closed()
        return b"".join(out)

    @property
    def needs_flush(self) -> bool:
        """Whether `take_output` has anything to return or to settle."""
        sender = self.sender
        return bool(
            sender.out or sender.finished or sender.drained or sender.has_sendable or self.closed or self._drain_seen
        )

    @property
    def wants_turn(self) -> bool:
        """Whether there is more to take once what was taken has left."""
        return self.sender.has_sendable or bool(self.sender.out)

    def drain(self) -> None:
        """Take no more requests; the connection closes when the last open one is answered and the client knows.

        The GOAWAY names the last request we answer: the client may safely repeat any later one elsewhere. The PING
        comes back when everything before it has been read, so that closing the socket cuts nothing off.
        """
        if self.closed or self._draining:
            return
        self._draining = True
        self._goaway_stream_id = self._last_stream_id
        self.sender.out.append(wire.goaway(self._goaway_stream_id, H2Error.NO_ERROR, "the server stops"))
        self.sender.out.append(wire.ping(DRAIN_PING, ack=False))

    def lost(self) -> None:
        """The socket is gone."""
        if not self.closed:
            self.closed = True
            self.streams.clear()
            self._handler.on_closed()

    # --- ends -------------------------------------------------------------------------------------

    def _settle_finished(self) -> None:
        """Remove streams that are answered; one whose request still flows is told to stop."""
        finished, self.sender.finished = self.sender.finished, []
        for stream in finished:
            if self.streams.pop(stream.stream_id, None) is not None and stream.remote_open:
                self._send_reset(stream.stream_id, H2Error.NO_ERROR)

    def _drop(self, stream_id: int) -> None:
        stream = self.streams.pop(stream_id)
        if stream is not None:
            self.sender.forget(stream)

    def _send_reset(self, stream_id: int, code: H2Error) -> None:
        self.sender.out.append(wire.rst_stream(stream_id, code))
        if len(self._reset_streams) >= RESET_STREAMS_REMEMBERED_MAX:
            del self._reset_streams[next(iter(self._reset_streams))]
        self._reset_streams[stream_id] = None

    def _end(self, code: H2Error, text: str) -> None:
        self.closed = True
        self.fault = f"{code.name}: {text}"
        last = self._goaway_stream_id if self._draining else self._last_stream_id
        self.sender.out.append(wire.goaway(last, code, text))
        self.streams.clear()
        self._handler.on_closed()
