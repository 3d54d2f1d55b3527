"""An HTTP/2 server connection without IO: bytes in, calls to a handler; calls of a handler in, bytes out (RFC 9113).

Owns the receiving rules: preface, settings, stream states, windows we grant, floods. `http2_send` owns the sending
half. Knows no socket, loop, clock or gRPC.

Theory of operation. `receive` walks the frames of what arrived. A request that is HEADERS and one final DATA frame,
which is nearly every unary gRPC call, takes the short way: its head is deferred until the DATA frame comes, no stream
object is made, and `streams[id]` is None until the answer leaves. Clients send the HEADERS of many requests and then
their DATA, so the two need not be neighbours; a head whose body is not there when the bytes end is told by itself.
Everything else takes the long way, one method per kind of frame. Faults are exceptions inside and
GOAWAY or RST_STREAM outside: `receive` never raises because of what a client sent.

Invariants:
* the handler hears of a stream once (`on_request` or `on_headers`), then of its data, then at most once of its reset;
* after `on_reset` or `on_closed` the handler sends nothing on the stream;
* every header block is decoded, also that of a refused stream: the HPACK table is the connection's;
* every DATA byte is charged to the connection's window and given back, also on streams that are gone.
"""

from typing import Final

from gateway import http2_frames as wire
from gateway.http2_answers import DRAIN_PING, Http2Answers, Http2Handler
from gateway.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES_DEFAULT,
    FRAME_HEAD,
    FRAME_HEAD_BYTES,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PREFACE,
    STREAM_ID_MASK,
    WINDOW_DEFAULT,
    WORD,
    ConnectionFault,
    H2Error,
    StreamFault,
)
from gateway.http2_hpack import HeaderDecoder, RequestHead, encode_fields
from gateway.http2_limits import DEFAULT_LIMITS, Budget, Http2Limits
from gateway.http2_send import Stream

GAPS_REMEMBERED_MAX: Final = 16
_HEADERS_TOO_LARGE: Final = encode_fields([(b":status", b"431"), (b"content-length", b"0")])


class Http2Connection(Http2Answers):
    """One connection. Write what `take_output` returns; close the socket once `closed` and all is written."""

    __slots__ = (
        "_control",
        "_decoder",
        "_deferred",
        "_expected",
        "_gaps",
        "_header_block",
        "_header_parts",
        "_header_since",
        "_needed",
        "_now",
        "_opened",
        "_preface_seen",
        "_receive_window",
        "_resets",
        "_rest",
        "_settled",
        "_shortcut",
        "_started",
    )

    def __init__(self, handler: Http2Handler, now: int, limits: Http2Limits = DEFAULT_LIMITS) -> None:
        super().__init__(handler, limits)
        assert limits.stream_window_bytes >= FRAME_BYTES_DEFAULT, "one frame always fits a fresh stream"
        self._now = now
        self._started = now
        self._decoder = HeaderDecoder(limits.header_list_bytes_max)
        self._control = Budget(limits.control_burst_frames, limits.control_frames_per_s)
        self._resets = Budget(limits.reset_burst_streams, limits.reset_streams_per_s)
        self._rest = bytearray()
        self._needed = len(PREFACE)
        self._preface_seen = False
        self._settled = False
        self._shortcut = False
        """Whether requests may take the short way: settings were seen and no header block is open."""
        self._opened = 0
        self._gaps: list[tuple[int, int]] = []
        self._deferred: dict[int, RequestHead] = {}
        """Requests whose body may come in one frame; empty whenever `receive` returns."""
        self._receive_window = limits.connection_window_bytes
        self._expected = 0
        self._header_block = bytearray()
        self._header_parts = 0
        self._header_since = 0
        self.sender.out.append(
            wire.settings(
                (
                    (wire.MAX_CONCURRENT_STREAMS, limits.concurrent_streams_max),
                    (wire.INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
                    (wire.MAX_HEADER_LIST_SIZE, limits.header_list_bytes_max),
                )
            )
            + wire.window_update(0, limits.connection_window_bytes - WINDOW_DEFAULT)
        )

    # --- in ---------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: int) -> None:
        """Take what the client sent, in pieces of any size; never raises because of it."""
        if self.closed:
            return
        self._now = now
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._needed:
                return
            data = bytes(rest)
            rest.clear()
        try:
            position = self._receive_frames(data) if self._preface_seen else self._receive_preface(data)
        except ConnectionFault as fault:
            self._deferred.clear()  # nobody was told of them
            self._end(fault.code, fault.text)
            return
        if self._deferred:
            for stream_id in list(self._deferred):
                self._tell_deferred(stream_id)
        if position < len(data) and not self.closed:
            rest += memoryview(data)[position:]

    def _receive_preface(self, data: bytes) -> int:
        if not data.startswith(PREFACE):
            if PREFACE.startswith(data):
                return 0
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, "not the preface of HTTP/2")
        self._preface_seen = True
        self._needed = FRAME_HEAD_BYTES
        return len(PREFACE) + self._receive_frames(data[len(PREFACE) :])

    def _receive_frames(self, data: bytes) -> int:
        """Handle every whole frame in `data`; return how many bytes that were."""
        size = len(data)
        position = 0
        unpack = FRAME_HEAD.unpack_from
        while size - position >= FRAME_HEAD_BYTES:
            word, flags, stream_id = unpack(data, position)
            length = word >> 8
            if length > FRAME_BYTES_DEFAULT:
                raise ConnectionFault(H2Error.FRAME_SIZE_ERROR, f"frame of {length} bytes")
            start = position + FRAME_HEAD_BYTES
            end = start + length
            if end > size:
                self._needed = FRAME_HEAD_BYTES + length
                return position
            kind = word & 0xFF
            stream_id &= STREAM_ID_MASK
            payload = data[start:end]
            position = end
            if kind == HEADERS and flags | END_STREAM == END_HEADERS | END_STREAM and self._shortcut:
                self._receive_request(stream_id, payload, ended=flags == END_HEADERS | END_STREAM)
            elif kind == DATA and flags == END_STREAM and stream_id in self._deferred and not self._expected:
                self._receive_body(stream_id, payload)
            else:
                self._receive_frame(kind, flags, stream_id, payload)
            if self.closed:
                return size
        self._needed = FRAME_HEAD_BYTES
        return position

    def _receive_request(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        """Handle a plain HEADERS frame; what follows it decides how its stream is told."""
        if (
            stream_id <= self._last_stream_id
            or not stream_id & 1
            or len(self.streams) >= self._limits.concurrent_streams_max
            or self._draining
        ):
            if stream_id in self._deferred:
                self._tell_deferred(stream_id)
            self._on_header_block(stream_id, block, ended=ended)
            return
        head = self._decoder.cache.get(block)
        if head is None:
            head = self._decoder.request(block)
        if ended or head.fault or head.oversized:
            self._on_request_head(stream_id, head, ended=ended)
            return
        if stream_id != self._last_stream_id + 2:
            self._note_gap(stream_id)
        self._last_stream_id = stream_id
        self._opened += 1
        self.streams[stream_id] = None
        self._deferred[stream_id] = head

    def _receive_body(self, stream_id: int, body: bytes) -> None:
        """Handle the only DATA frame of a deferred request."""
        head = self._deferred[stream_id]
        size = len(body)
        if head.content_length not in (-1, size):
            self._receive_frame(DATA, END_STREAM, stream_id, body)
            return
        del self._deferred[stream_id]
        self._charge(size)
        self._handler.on_request(stream_id, head, body)

    def _tell_deferred(self, stream_id: int) -> None:
        """What follows is not the only DATA frame: open the stream the long way."""
        self._open(stream_id, self._deferred.pop(stream_id), ended=False)

    def _receive_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Handle one frame the long way."""
        if self._expected and (kind != CONTINUATION or stream_id != self._expected):
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, "a header block was interrupted")
        if not self._settled and (kind != wire.SETTINGS or flags & ACK):
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, "the preface is not followed by SETTINGS")
        if stream_id in self._deferred:
            self._tell_deferred(stream_id)
        method = _RECEIVERS.get(kind)
        try:
            if method is None:
                self._spend_control()
            else:
                method(self, flags, stream_id, payload)
        except StreamFault as fault:
            self._refuse(fault.stream_id, fault.code)

    # --- requests ---------------------------------------------------------------------------------

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        payload = _unpadded(flags, payload)
        depends_on_itself = False
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(H2Error.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            depends_on_itself = WORD.unpack_from(payload)[0] & STREAM_ID_MASK == stream_id
            payload = payload[5:]
        ended = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._on_header_block(stream_id, payload, ended=ended)
        else:
            self._expected = stream_id
            self._header_block = bytearray(payload)
            self._header_parts = -1 if ended else 1
            self._header_since = self._now
            self._shortcut = False
        if depends_on_itself:
            raise StreamFault(stream_id, H2Error.PROTOCOL_ERROR)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._expected:
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, "CONTINUATION of nothing")
        ended = self._header_parts < 0
        parts = abs(self._header_parts) + 1
        self._header_parts = -parts if ended else parts
        self._header_block += payload
        limits = self._limits
        if parts > limits.continuation_frames_max or len(self._header_block) > limits.header_block_bytes_max:
            raise ConnectionFault(H2Error.ENHANCE_YOUR_CALM, "header block too large")
        if flags & END_HEADERS:
            block = bytes(self._header_block)
            self._expected = 0
            self._header_block = bytearray()
            self._shortcut = True
            self._on_header_block(stream_id, block, ended=ended)

    def _on_header_block(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        """Handle a whole header block: it opens a stream, or ends one as trailers."""
        if not stream_id & 1:
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        try:
            if stream_id <= self._last_stream_id:
                self._on_trailers(stream_id, block, ended=ended)
                return
        except StreamFault as fault:
            self._refuse(fault.stream_id, fault.code)
            return
        self._on_request_head(stream_id, self._decoder.request(block), ended=ended)

    def _on_request_head(self, stream_id: int, head: RequestHead, *, ended: bool) -> None:
        """Open a stream, or refuse it."""
        if stream_id != self._last_stream_id + 2:
            self._note_gap(stream_id)
        self._last_stream_id = stream_id
        self._opened += 1
        if self._draining or len(self.streams) >= self._limits.concurrent_streams_max:
            self._refuse(stream_id, H2Error.REFUSED_STREAM)
        elif head.fault:
            self._refuse(stream_id, H2Error.PROTOCOL_ERROR)
        elif head.oversized:
            self.streams[stream_id] = Stream(stream_id, head, remote_open=not ended, send_window=0)
            self.sender.send_headers(stream_id, _HEADERS_TOO_LARGE, end_stream=True)
            self._settle_finished()
        else:
            self._open(stream_id, head, ended=ended)

    def _open(self, stream_id: int, head: RequestHead, *, ended: bool) -> None:
        """Tell the handler of a request: whole if it has no body, else its head."""
        if ended:
            if head.content_length > 0:
                self._refuse(stream_id, H2Error.PROTOCOL_ERROR)
                return
            self.streams[stream_id] = None
            self._handler.on_request(stream_id, head, b"")
            return
        stream = Stream(stream_id, head, remote_open=True, send_window=self.sender.initial_window)
        stream.receive_window = self._limits.stream_window_bytes
        self.streams[stream_id] = stream
        self._handler.on_headers(stream_id, head)

    def _note_gap(self, stream_id: int) -> None:
        """Remember ids the client skipped: they are closed, but were never opened."""
        if len(self._gaps) < GAPS_REMEMBERED_MAX:
            self._gaps.append((self._last_stream_id + 1 | 1, stream_id - 2))

    def _on_trailers(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        fault = self._decoder.trailers(block)
        stream = self.streams.get(stream_id)
        if stream is None and stream_id not in self.streams:
            if stream_id in self._reset_streams:
                self._spend_control()
                return
            skipped = any(first <= stream_id <= last for first, last in self._gaps)
            code = H2Error.PROTOCOL_ERROR if skipped else H2Error.STREAM_CLOSED
            raise ConnectionFault(code, f"HEADERS on closed stream {stream_id}")
        if stream is None or not stream.remote_open:
            raise StreamFault(stream_id, H2Error.STREAM_CLOSED)
        if fault or not ended:
            raise StreamFault(stream_id, H2Error.PROTOCOL_ERROR)
        self._finish_body(stream, b"")

    # --- bodies -----------------------------------------------------------------------------------

    def _charge(self, size: int) -> None:
        """Account for DATA: it is consumed at once, so the window is given back, half of it at a time."""
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFault(H2Error.FLOW_CONTROL_ERROR, "more DATA than the connection window")
        full = self._limits.connection_window_bytes
        if self._receive_window < full >> 1:
            self.sender.out.append(wire.window_update(0, full - self._receive_window))
            self._receive_window = full

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, "DATA on stream 0")
        if self._is_idle(stream_id):
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, f"DATA on idle stream {stream_id}")
        charged = len(payload)
        self._charge(charged)
        data = _unpadded(flags, payload)
        stream = self.streams.get(stream_id)
        if stream is None or not stream.remote_open:
            self._spend_control()
            if stream_id in self._reset_streams:
                return
            raise StreamFault(stream_id, H2Error.STREAM_CLOSED)
        stream.receive_window -= charged
        if stream.receive_window < 0:
            raise StreamFault(stream_id, H2Error.FLOW_CONTROL_ERROR)
        if flags & END_STREAM:
            self._finish_body(stream, data)
            return
        if not data:
            self._spend_control()
        full = self._limits.stream_window_bytes
        if stream.receive_window < full >> 1:
            self.sender.out.append(wire.window_update(stream_id, full - stream.receive_window))
            stream.receive_window = full
        stream.received += len(data)
        head = stream.head
        if head is not None and 0 <= head.content_length < stream.received:
            raise StreamFault(stream_id, H2Error.PROTOCOL_ERROR)
        self._handler.on_data(stream_id, data, ended=False)

    def _finish_body(self, stream: Stream, data: bytes) -> None:
        """Handle the end of a request's body."""
        stream.received += len(data)
        head = stream.head
        if head is not None and head.content_length not in (-1, stream.received):
            raise StreamFault(stream.stream_id, H2Error.PROTOCOL_ERROR)
        stream.remote_open = False
        self._handler.on_data(stream.stream_id, data, ended=True)

    # --- the other kinds of frames ----------------------------------------------------------------

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._spend_control()
        if not stream_id:
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, "PRIORITY on stream 0")
        idle = self._is_idle(stream_id)
        if len(payload) != 5:
            raise self._fault(stream_id, H2Error.FRAME_SIZE_ERROR, idle=idle)
        if WORD.unpack_from(payload)[0] & STREAM_ID_MASK == stream_id:
            raise self._fault(stream_id, H2Error.PROTOCOL_ERROR, idle=idle)

    def _fault(self, stream_id: int, code: H2Error, *, idle: bool) -> Exception:
        """Choose the smallest thing to end: RST_STREAM must not be sent on an idle stream."""
        return ConnectionFault(code, f"on idle stream {stream_id}") if idle else StreamFault(stream_id, code)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(H2Error.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        if not stream_id or self._is_idle(stream_id):
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, f"RST_STREAM on stream {stream_id}")
        self._spend_reset()
        if stream_id in self.streams:
            self._drop(stream_id)
            self._handler.on_reset(stream_id)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._spend_control()
        if stream_id:
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFault(H2Error.FRAME_SIZE_ERROR, "acknowledgement of SETTINGS with a payload")
            return
        if len(payload) % wire.SETTING.size:
            raise ConnectionFault(H2Error.FRAME_SIZE_ERROR, "SETTINGS is not a multiple of 6 bytes")
        window = self.sender.initial_window
        for name, value in wire.SETTING.iter_unpack(payload):
            self._apply_setting(name, value)
            if name == wire.INITIAL_WINDOW_SIZE:
                window = value
        if window != self.sender.initial_window:
            # Touches every open stream, so it costs accordingly; and only once, whatever the frame repeats.
            self._spend_control(1 + len(self.streams) // 64)
            self.sender.set_initial_window(window)
        self.sender.out.append(wire.SETTINGS_ACK)
        if not self._settled:
            self._settled = True
            self._shortcut = True

    def _apply_setting(self, name: int, value: int) -> None:
        if name == wire.HEADER_TABLE_SIZE:
            if value < wire.HEADER_TABLE_DEFAULT:
                self.sender.set_table_lowered()
        elif name == wire.ENABLE_PUSH:
            if value > 1:
                raise ConnectionFault(H2Error.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        elif name == wire.INITIAL_WINDOW_SIZE:
            if value > wire.WINDOW_LIMIT:
                raise ConnectionFault(H2Error.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
        elif name == wire.MAX_FRAME_SIZE:
            if not FRAME_BYTES_DEFAULT <= value <= wire.FRAME_BYTES_LIMIT:
                raise ConnectionFault(H2Error.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
            self.sender.set_frame_bytes_max(value)

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ConnectionFault(H2Error.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._spend_control()
        if stream_id:
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(H2Error.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        if not flags & ACK:
            self.sender.out.append(wire.ping(payload, ack=True))
        elif payload == DRAIN_PING and self._draining:
            self._drain_seen = True

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._spend_control()
        if stream_id:
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(H2Error.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._spend_control()
        if len(payload) != 4:
            raise ConnectionFault(H2Error.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        increment: int = WORD.unpack(payload)[0] & STREAM_ID_MASK
        if not stream_id:
            if not increment:
                raise ConnectionFault(H2Error.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self.sender.open_window(increment)
        elif self._is_idle(stream_id):
            raise ConnectionFault(H2Error.PROTOCOL_ERROR, f"WINDOW_UPDATE on idle stream {stream_id}")
        elif stream_id in self.streams:
            if not increment:
                raise StreamFault(stream_id, H2Error.PROTOCOL_ERROR)
            self.sender.open_stream_window(self.sender.materialize(stream_id), increment)

    # --- limits -----------------------------------------------------------------------------------

    def _is_idle(self, stream_id: int) -> bool:
        """Whether the stream has not been opened yet; even ids are ours, and we open none."""
        return stream_id > self._last_stream_id or not stream_id & 1

    def _spend_control(self, amount: int = 1) -> None:
        limits = self._limits
        earned = self._opened * limits.control_frames_per_request
        earned += self.sender.sent_bytes // limits.sent_bytes_per_control_frame
        if not self._control.spend(self._now, earned, amount):
            raise ConnectionFault(H2Error.ENHANCE_YOUR_CALM, "too many frames that carry no work")

    def _spend_reset(self) -> None:
        if not self._resets.spend(self._now):
            raise ConnectionFault(H2Error.ENHANCE_YOUR_CALM, "too many requests were cancelled or refused")

    @property
    def needs_watch(self) -> bool:
        """Whether `check_stalls` could find something: the client owes us bytes or a window."""
        return not self.closed and (not self._settled or bool(self._expected) or bool(self.sender.unsent_bytes))

    def check_stalls(self, now: int) -> None:
        """End what has waited too long for the client; call now and then. May close the connection."""
        if self.closed:
            return
        self._now = now
        limits = self._limits
        if not self._settled and now - self._started > limits.preface_ms_max:
            self._end(H2Error.SETTINGS_TIMEOUT, "no preface and SETTINGS in time")
        elif self._expected and now - self._header_since > limits.preface_ms_max:
            self._end(H2Error.ENHANCE_YOUR_CALM, "a header block was not completed in time")
        elif self.sender.unsent_bytes > limits.unsent_bytes_max:
            self._end(H2Error.ENHANCE_YOUR_CALM, "the client does not read its answers")
        elif self.sender.unsent_bytes:
            for stream in [stream for stream in self.streams.values() if stream is not None and stream.queue]:
                if stream.patient:
                    continue
                if not stream.blocked_since:
                    stream.blocked_since = now
                elif now - stream.blocked_since > limits.stall_ms_max:
                    self.reset(stream.stream_id, H2Error.CANCEL)
                    self._handler.on_reset(stream.stream_id)

    def _refuse(self, stream_id: int, code: H2Error) -> None:
        """The client broke a rule on this stream: reset it and tell the handler if it knows it."""
        self._spend_reset()
        known = stream_id in self.streams
        if known:
            self._drop(stream_id)
        self._send_reset(stream_id, code)
        if known:
            self._handler.on_reset(stream_id)


def _unpadded(flags: int, payload: bytes) -> bytes:
    """Return a HEADERS or DATA payload without its padding."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(H2Error.FRAME_SIZE_ERROR, "padded frame without its length")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(H2Error.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - padding]


_RECEIVERS: Final = {
    DATA: Http2Connection._on_data,
    HEADERS: Http2Connection._on_headers,
    wire.PRIORITY: Http2Connection._on_priority,
    wire.RST_STREAM: Http2Connection._on_rst_stream,
    wire.SETTINGS: Http2Connection._on_settings,
    wire.PUSH_PROMISE: Http2Connection._on_push_promise,
    wire.PING: Http2Connection._on_ping,
    wire.GOAWAY: Http2Connection._on_goaway,
    wire.WINDOW_UPDATE: Http2Connection._on_window_update,
    CONTINUATION: Http2Connection._on_continuation,
}
