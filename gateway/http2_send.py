"""The sending half of an HTTP/2 connection: answers, windows, queues.

Owns what is to be written, the client's windows and the queues of answers that do not fit them. Knows no receiving
rules and no header decoding. Invariants:
* never more DATA on a stream or connection than the client's windows allow, never a frame larger than it accepts;
* frames of one stream leave in order; streams with queued data take turns, one frame each;
* `unsent_bytes` is the sum of all queued DATA.
"""

from collections import deque
from struct import Struct
from typing import Final

from gateway.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES_DEFAULT,
    FRAME_HEAD,
    HEADERS,
    WINDOW_DEFAULT,
    WINDOW_LIMIT,
    ConnectionFault,
    H2Error,
    StreamFault,
    frame_head,
    header_frames,
)
from gateway.http2_hpack import TABLE_SIZE_ZERO, RequestHead

_DATA_HEAD: Final = Struct(">IBI")


class Stream:
    """One open stream that is more than a complete request awaiting its answer in one piece."""

    __slots__ = (
        "blocked_since",
        "closing_block",
        "ended",
        "head",
        "patient",
        "queue",
        "queued_bytes",
        "receive_window",
        "received",
        "remote_open",
        "send_window",
        "stream_id",
        "tell_below",
    )

    def __init__(self, stream_id: int, head: RequestHead | None, *, remote_open: bool, send_window: int) -> None:
        self.stream_id = stream_id
        self.head = head
        self.remote_open = remote_open
        self.received = 0
        """Body bytes so far; compared with content-length at the end."""
        self.receive_window = 0
        self.send_window = send_window
        self.queue: deque[memoryview | bytes] = deque()
        self.queued_bytes = 0
        self.closing_block: bytes | None = None
        """Trailers to send when the queue is empty."""
        self.ended = False
        """The handler has said all it will say."""
        self.blocked_since = 0
        self.patient = False
        """The client may leave its window closed for as long as it likes: little is queued, and more never will be."""
        self.tell_below = 0
        """Once fewer bytes than that are queued, the handler is told, once; 0: it does not ask."""


class Sender:
    """Collects output in `out`; the connection takes it from there.

    `streams` is shared with the connection: a value of None is a complete request whose send window nobody touched.
    """

    __slots__ = (
        "_frame_bytes_max",
        "_granted_bytes",
        "_output_bytes_per_turn",
        "_sendable",
        "_shrink_table",
        "drained",
        "finished",
        "initial_window",
        "out",
        "out_bytes",
        "streams",
        "unsent_bytes",
        "window",
    )

    def __init__(self, streams: dict[int, Stream | None], output_bytes_per_turn: int) -> None:
        self.streams = streams
        self.out: list[bytes | memoryview] = []
        self.out_bytes = 0
        """DATA in `out`; what else is there is small and earned."""
        self.window = WINDOW_DEFAULT
        self.initial_window = WINDOW_DEFAULT
        self.unsent_bytes = 0
        self.finished: list[Stream] = []
        """Streams whose last frame is in `out`; the connection removes them."""
        self.drained: list[int] = []
        """Streams whose handler asked to be told that their queue is short again."""
        self._frame_bytes_max = FRAME_BYTES_DEFAULT
        self._output_bytes_per_turn = output_bytes_per_turn
        self._sendable: dict[int, Stream] = {}
        self._shrink_table = False
        self._granted_bytes = WINDOW_DEFAULT

    @property
    def sent_bytes(self) -> int:
        """DATA sent since the connection began."""
        return self._granted_bytes - self.window

    # --- what the client tells us ---------------------------------------------------------------

    def set_frame_bytes_max(self, value: int) -> None:
        """Take over SETTINGS_MAX_FRAME_SIZE; larger frames than 256 KiB would only hold others up."""
        self._frame_bytes_max = min(value, 256 * 1024)

    def set_table_lowered(self) -> None:
        """The client's decoder shrank: say so in the next header block (RFC 7541, section 4.2)."""
        self._shrink_table = True

    def set_initial_window(self, value: int) -> None:
        """Take over SETTINGS_INITIAL_WINDOW_SIZE; windows of open streams move by the difference."""
        change = value - self.initial_window
        self.initial_window = value
        for stream in self.streams.values():
            if stream is None:
                continue
            stream.send_window += change
            if stream.send_window > WINDOW_LIMIT:
                raise ConnectionFault(H2Error.FLOW_CONTROL_ERROR, "SETTINGS push a stream window over 2^31-1")
            self._refresh(stream)

    def open_window(self, increment: int) -> None:
        """Take over a WINDOW_UPDATE of the connection."""
        self.window += increment
        self._granted_bytes += increment
        if self.window > WINDOW_LIMIT:
            raise ConnectionFault(H2Error.FLOW_CONTROL_ERROR, "connection window over 2^31-1")

    def open_stream_window(self, stream: Stream, increment: int) -> None:
        """Take over a WINDOW_UPDATE of a stream."""
        stream.send_window += increment
        if stream.send_window > WINDOW_LIMIT:
            raise StreamFault(stream.stream_id, H2Error.FLOW_CONTROL_ERROR)
        self._refresh(stream)

    def materialize(self, stream_id: int) -> Stream:
        """Return the stream `stream_id`, which is open, as an object."""
        stream = self.streams[stream_id]
        if stream is None:
            stream = Stream(stream_id, None, remote_open=False, send_window=self.initial_window)
            self.streams[stream_id] = stream
        return stream

    # --- what the handler says ------------------------------------------------------------------

    def respond(self, stream_id: int, block: bytes, data: bytes, trailers: bytes) -> None:
        """Send a whole answer: headers, one piece of data, trailers. The stream must be open and unanswered."""
        size = len(data)
        streams = self.streams
        if (
            streams[stream_id] is None
            and size <= self.window
            and size <= self.initial_window
            and size <= self._frame_bytes_max
            and self.out_bytes < self._output_bytes_per_turn
            and not self._shrink_table
        ):
            del streams[stream_id]
            self.window -= size
            self.out_bytes += size
            pack = FRAME_HEAD.pack
            self.out += (
                pack(len(block) << 8 | HEADERS, END_HEADERS, stream_id),
                block,
                pack(size << 8, 0, stream_id),
                data,
                pack(len(trailers) << 8 | HEADERS, END_HEADERS | END_STREAM, stream_id),
                trailers,
            )
            return
        self.send_headers(stream_id, block, end_stream=False)
        self.send_data(stream_id, data)
        self.send_trailers(stream_id, trailers)

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """Send the header block of an answer; with `end_stream` the answer is complete."""
        if self._shrink_table:
            self._shrink_table = False
            block = TABLE_SIZE_ZERO + block
        frames = header_frames(stream_id, block, end_stream=end_stream, frame_bytes_max=self._frame_bytes_max)
        self.out.append(frames)
        if end_stream:
            stream = self.materialize(stream_id)
            stream.ended = True
            self.finished.append(stream)

    def send_data(self, stream_id: int, data: bytes) -> None:
        """Queue `data`; it leaves as the windows allow."""
        if not data:
            return
        stream = self.materialize(stream_id)
        assert not stream.ended, f"data after the end of stream {stream_id}"
        stream.queue.append(memoryview(data) if len(data) > self._frame_bytes_max else data)
        stream.queued_bytes += len(data)
        self.unsent_bytes += len(data)
        self._refresh(stream)

    def send_trailers(self, stream_id: int, block: bytes) -> None:
        """End the answer with trailers, behind whatever is queued."""
        stream = self.materialize(stream_id)
        assert not stream.ended, f"trailers after the end of stream {stream_id}"
        stream.ended = True
        stream.closing_block = block
        if not stream.queue:
            self._close(stream)

    def end(self, stream_id: int) -> None:
        """End the answer without trailers, behind whatever is queued."""
        stream = self.materialize(stream_id)
        assert not stream.ended, f"two ends of stream {stream_id}"
        stream.ended = True
        if not stream.queue:
            self._close(stream)

    def forget(self, stream: Stream) -> None:
        """Drop what is queued on a stream that was reset."""
        self.unsent_bytes -= stream.queued_bytes
        stream.queue.clear()
        stream.queued_bytes = 0
        self._sendable.pop(stream.stream_id, None)

    def queued_bytes(self, stream_id: int, tell_below: int) -> int:
        """Return what is queued on a stream; if that is `tell_below` or more, `drained` will list it once it is not."""
        stream = self.materialize(stream_id)
        if stream.queued_bytes >= tell_below:
            stream.tell_below = tell_below
        return stream.queued_bytes

    # --- queues ---------------------------------------------------------------------------------

    @property
    def has_sendable(self) -> bool:
        """Whether `pump` would move something now, had this turn room for it."""
        return bool(self._sendable) and self.window > 0

    def _refresh(self, stream: Stream) -> None:
        """Put the stream in or out of the round of those that can send."""
        if stream.queue and stream.send_window > 0:
            self._sendable[stream.stream_id] = stream
        else:
            self._sendable.pop(stream.stream_id, None)

    def pump(self) -> None:
        """Move queued data to `out`, a frame per stream in turn, as far as windows and this turn's share go."""
        sendable = self._sendable
        while sendable and self.window > 0 and self.out_bytes < self._output_bytes_per_turn:
            stream_id = next(iter(sendable))
            stream = sendable.pop(stream_id)
            self._send_frame(stream)
            if not stream.queue:
                if stream.ended:
                    self._close(stream)
            elif stream.send_window > 0:
                sendable[stream_id] = stream  # to the end of the round

    def _send_frame(self, stream: Stream) -> None:
        """Send one DATA frame from the front of the stream's queue."""
        room = min(self.window, stream.send_window, self._frame_bytes_max)
        piece = stream.queue.popleft()
        if len(piece) > room:
            rest = memoryview(piece)
            stream.queue.appendleft(rest[room:])
            piece = rest[:room]
        size = len(piece)
        last = not stream.queue and stream.ended and stream.closing_block is None
        self.out += (_DATA_HEAD.pack(size << 8 | DATA, END_STREAM if last else 0, stream.stream_id), piece)
        self.out_bytes += size
        self.window -= size
        self.unsent_bytes -= size
        stream.send_window -= size
        stream.queued_bytes -= size
        stream.blocked_since = 0
        if stream.queued_bytes < stream.tell_below:
            stream.tell_below = 0
            self.drained.append(stream.stream_id)
        if last:
            stream.closing_block = b""

    def _close(self, stream: Stream) -> None:
        """Send what ends the stream, unless its last DATA frame did."""
        block = stream.closing_block
        if block is None:
            self.out.append(frame_head(0, DATA, END_STREAM, stream.stream_id))
        elif block:
            self.out.append(
                header_frames(stream.stream_id, block, end_stream=True, frame_bytes_max=self._frame_bytes_max)
            )
        self.finished.append(stream)
