"""gRPC on one HTTP/2 connection: requests become calls of the loop, answers become frames.

Owns what gRPC adds to HTTP/2: content type, message framing, timeouts, statuses, health. Knows no socket; requests
that are not gRPC go to `on_http`, the neighbour that speaks plain HTTP.

Invariants: every request is answered exactly once, or its stream is gone; a call whose stream is gone is cancelled;
messages that are still being put together share one byte budget of the whole door.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError

from gateway.calls import Body
from gateway.credentials import NO_CREDENTIALS, Credentials, read_credentials
from gateway.grpc_methods import HEALTH_SERVICE, GrpcMethod, unknown_method
from gateway.grpc_streams import GrpcStreams, OpenStream, StreamCalls
from gateway.grpc_wire import (
    CONTENT_TYPE,
    OK_TRAILERS,
    PREFIX,
    PREFIX_BYTES,
    RECEIVE_OVERHEAD_BYTES,
    RESPONSE_BLOCK,
    GrpcFault,
    MessageReader,
    error_block,
    frame_message,
    open_message,
    parse_timeout,
    too_large,
    trailers_block,
    trailers_only_block,
)
from gateway.health import HealthService
from gateway.http2_answers import Http2Answers
from gateway.http2_hpack import RequestHead
from gateway.streams import StreamHead
from protocol.config import LimitsConfig
from protocol.errors import WIRE_ERRORS, ErrorCode, GrpcCode
from protocol.types import Millis

_CODE_OF: Final = {int(code): int(error.grpc_code) for code, error in WIRE_ERRORS.items()}
_DECOMPRESSORS: Final = (b"", b"identity", b"gzip")


class Calls(StreamCalls, Protocol):
    """What the door needs of the loop."""

    def submit(
        self,
        method: Any,
        body: bytes,
        deadline_ms: Millis | None,
        on_answer: Callable[[int, Body], None],
        credentials: Credentials = NO_CREDENTIALS,
    ) -> int:
        """See `GatewayLoop.submit`."""
        ...

    def now_ms(self) -> Millis:
        """See `GatewayLoop.now_ms`."""
        ...


class HttpNeighbour(Protocol):
    """Serves what is HTTP/2 but not gRPC; the calls are those of `Http2Handler`."""

    def on_headers(self, stream_id: int, head: RequestHead) -> None:
        """A request has begun."""
        ...

    def on_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """A part of its body."""
        ...

    def on_reset(self, stream_id: int) -> None:
        """The stream is gone."""
        ...

    def on_drained(self, stream_id: int) -> None:
        """What is queued on the stream is little again."""
        ...

    def on_closed(self) -> None:
        """The connection is gone."""
        ...


class GrpcShared:
    """What all connections of one door share: the methods, the limits, the counters, the health."""

    def __init__(
        self, calls: Calls, methods: Mapping[bytes, GrpcMethod], limits: LimitsConfig, health: HealthService
    ) -> None:
        self.calls = calls
        self.methods = methods
        self.health = health
        self.message_bytes_max = limits.request_bytes_max + RECEIVE_OVERHEAD_BYTES
        self.partial_bytes_max = limits.pending_bytes_max
        self.partial_bytes = 0
        """Held in messages that are not whole yet."""
        self.received_bytes = 0
        self.sent_bytes = 0


class GrpcHead:
    """What a header block means to gRPC; kept with the block, so worked out once for all calls that repeat it."""

    __slots__ = ("credentials", "encoding", "is_grpc", "method", "refusal", "require_leader", "status", "timeout_ms")

    def __init__(self) -> None:
        self.is_grpc = False
        self.method: GrpcMethod | None = None
        self.refusal = b""
        """The header block of the answer, if the head alone decides it."""
        self.status = int(GrpcCode.UNIMPLEMENTED)
        """What `refusal` says, for the counters."""
        self.timeout_ms = -1
        self.encoding = b""
        self.credentials = NO_CREDENTIALS
        self.require_leader = False
        """Whether the client would rather have an error than wait on a member that knows no leader."""


def read_head(head: RequestHead, methods: Mapping[bytes, GrpcMethod], common_name: str = "") -> GrpcHead:
    """Return what `head` asks of gRPC; never raises."""
    result = GrpcHead()
    content_type = head.field(b"content-type") or b""
    known = methods.get(head.path)
    announced = content_type.startswith(CONTENT_TYPE)
    if not announced and (known is None or head.method != b"POST"):
        return result
    result.is_grpc = True
    result.method = known
    result.encoding = head.field(b"grpc-encoding") or b""
    result.require_leader = head.field(b"hasleader") == b"true"
    result.credentials = read_credentials(head.field, common_name)
    try:
        _check_head(head, content_type, known, result.encoding, methods)
        timeout = head.field(b"grpc-timeout")
        if timeout is not None:
            result.timeout_ms = parse_timeout(timeout)
    except GrpcFault as fault:
        result.refusal = trailers_only_block(fault.code, fault.text, fault.http_status)
        result.status = int(fault.code)
    return result


def _check_head(
    head: RequestHead,
    content_type: bytes,
    known: GrpcMethod | None,
    encoding: bytes,
    methods: Mapping[bytes, GrpcMethod],
) -> None:
    """Raise `GrpcFault` where the head alone decides the answer; the texts are grpc-go's."""
    if content_type[len(CONTENT_TYPE) :][:1] not in (b"", b"+", b";") or not content_type.startswith(CONTENT_TYPE):
        text = f'invalid gRPC request content-type "{content_type.decode("latin-1")}"'
        raise GrpcFault(GrpcCode.INVALID_ARGUMENT, text, 415)
    if head.method != b"POST":
        method = head.method.decode("latin-1")
        raise GrpcFault(GrpcCode.INTERNAL, f"parsed a :method field: {method} which should be POST", 405)
    if known is None:
        raise GrpcFault(GrpcCode.UNIMPLEMENTED, unknown_method(head.path, methods))
    if known.method is None and known.stream is None and known.service != HEALTH_SERVICE:
        raise GrpcFault(GrpcCode.UNIMPLEMENTED, f"method {known.name} not implemented")
    if encoding not in _DECOMPRESSORS:
        text = f'grpc: Decompressor is not installed for grpc-encoding "{encoding.decode("latin-1")}"'
        raise GrpcFault(GrpcCode.UNIMPLEMENTED, text)


def _truncated(held: int) -> GrpcFault:
    """Return the status for a request that ended before its message did."""
    if held:
        return GrpcFault(GrpcCode.INTERNAL, "unexpected EOF")
    return GrpcFault(
        GrpcCode.INTERNAL, "cardinality violation: received no request message from non-client-streaming RPC"
    )


class GrpcConnection:
    """The `Http2Handler` of one connection."""

    __slots__ = ("_calls", "_http", "_live", "_partial", "_shared", "_streams", "_tell", "answers", "common_name")

    def __init__(
        self, shared: GrpcShared, http: HttpNeighbour, tell: Callable[[], None], common_name: str = ""
    ) -> None:
        """`tell` is called when there is output that no `receive` will fetch."""
        self.common_name = common_name
        """Whom the client's certificate names; "" where nobody has asked for one."""
        self.answers: Http2Answers
        """Set by whoever makes the connection; each of the two needs the other."""
        self._shared = shared
        self._calls = shared.calls
        self._http = http
        self._tell = tell
        self._live: dict[int, int] = {}
        """Stream to call id."""
        self._partial: dict[int, tuple[GrpcHead, MessageReader]] = {}
        self._streams = GrpcStreams(self._calls, lambda: self.answers, tell, shared)

    # --- from the connection ----------------------------------------------------------------------

    def on_request(self, stream_id: int, head: RequestHead, body: bytes) -> None:
        """A request has arrived whole: the way of nearly every call."""
        asked = head.route
        if asked is None:
            asked = head.route = read_head(head, self._shared.methods, self.common_name)
        assert type(asked) is GrpcHead, "the door owns the route"
        if asked.refusal:
            self._refuse(stream_id, asked)
            return
        if not asked.is_grpc:
            self._http.on_headers(stream_id, head)
            self._http.on_data(stream_id, body, ended=True)
            return
        if asked.method is not None and asked.method.stream is not None:
            self._hear_stream(stream_id, self._start_stream(stream_id, asked), body, ended=True)
            return
        size = len(body) - PREFIX_BYTES
        try:
            if size < 0:
                raise _truncated(len(body))
            flag, length = PREFIX.unpack_from(body)
            bytes_max = self._shared.message_bytes_max
            if length > bytes_max:
                raise too_large(length, bytes_max)
            if length > size:
                raise _truncated(len(body))
            message = body[PREFIX_BYTES : PREFIX_BYTES + length]
            if flag:
                message = open_message(flag, message, asked.encoding, bytes_max)
        except GrpcFault as fault:
            self._fault(stream_id, asked, fault)
            return
        self._call(stream_id, asked, message)

    def on_headers(self, stream_id: int, head: RequestHead) -> None:
        """A request has begun whose body follows."""
        asked = head.route
        if asked is None:
            asked = head.route = read_head(head, self._shared.methods, self.common_name)
        assert isinstance(asked, GrpcHead), "the door owns the route"
        if not asked.is_grpc:
            self._http.on_headers(stream_id, head)
        elif asked.refusal:
            self._refuse(stream_id, asked)
        elif asked.method is not None and asked.method.stream is not None:
            self._start_stream(stream_id, asked)
        else:
            self._partial[stream_id] = (asked, MessageReader(asked.encoding, self._shared.message_bytes_max))

    def on_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """A part of a body."""
        waiting = self._partial.get(stream_id)
        if waiting is None:
            opened = self._streams.open.get(stream_id)
            if opened is not None:
                self._hear_stream(stream_id, opened, data, ended=ended)
                return
            # Plain HTTP, or what follows the only message of a unary call; the neighbour knows its own streams.
            self._http.on_data(stream_id, data, ended=ended)
            return
        asked, reader = waiting
        try:
            message = self._feed(reader, data)
            if message is None and ended:
                raise _truncated(reader.held_bytes)
        except GrpcFault as fault:
            self._forget_partial(stream_id)
            self._fault(stream_id, asked, fault)
            return
        if message is not None:
            self._forget_partial(stream_id)
            self._call(stream_id, asked, message)

    def _feed(self, reader: MessageReader, data: bytes) -> bytes | None:
        """Add to a message, within the budget all connections share."""
        shared = self._shared
        held = reader.held_bytes
        try:
            message = reader.feed(data)
        finally:
            shared.partial_bytes += reader.held_bytes - held
        if shared.partial_bytes > shared.partial_bytes_max:
            raise GrpcFault(GrpcCode.RESOURCE_EXHAUSTED, WIRE_ERRORS[ErrorCode.TOO_MANY_REQUESTS].text)
        return message

    def on_reset(self, stream_id: int) -> None:
        """The client gave up: so does the call."""
        call_id = self._live.pop(stream_id, None)
        if call_id is not None:
            self._calls.cancel(call_id)
        self._forget_partial(stream_id)
        self._streams.cancel(stream_id, GrpcCode.CANCELED)
        self._http.on_reset(stream_id)

    def on_drained(self, stream_id: int) -> None:
        """A stream's queue is short again."""
        self._streams.drained(stream_id)
        self._http.on_drained(stream_id)

    def on_closed(self) -> None:
        """The connection is over: nobody waits for its calls."""
        for call_id in self._live.values():
            self._calls.cancel(call_id)
        self._live.clear()
        for stream_id in list(self._partial):
            self._forget_partial(stream_id)
        for stream_id in list(self._streams.open):
            self._streams.cancel(stream_id, GrpcCode.CANCELED)
        self._http.on_closed()

    # --- streaming calls --------------------------------------------------------------------------

    def _start_stream(self, stream_id: int, asked: GrpcHead) -> OpenStream:
        entry = asked.method
        assert entry is not None, "without a method the head was refused"
        deadline = Millis(self._calls.now_ms() + asked.timeout_ms) if asked.timeout_ms >= 0 else None
        reader = MessageReader(asked.encoding, self._shared.message_bytes_max)
        return self._streams.start(
            stream_id, entry, StreamHead(asked.require_leader, deadline, asked.credentials), reader
        )

    def _hear_stream(self, stream_id: int, opened: OpenStream, data: bytes, *, ended: bool) -> None:
        """Take a part of what the client says on a stream."""
        streams = self._streams
        try:
            message = self._feed(opened.reader, data)
            while message is not None:
                self._shared.received_bytes += len(message)
                streams.message(opened, message)
                message = self._feed(opened.reader, b"")
            if ended:
                if opened.reader.held_bytes or (not opened.heard and opened.entry.kind == "server_stream"):
                    raise _truncated(opened.reader.held_bytes)
                streams.half_close(opened)
        except GrpcFault as fault:
            streams.cancel(stream_id, fault.code)
            if opened.head_sent:
                self.answers.send_trailers(stream_id, trailers_block(fault.code, fault.text))
            else:
                self.answers.send_headers(stream_id, trailers_only_block(fault.code, fault.text), end_stream=True)

    # --- calls ------------------------------------------------------------------------------------

    def _call(self, stream_id: int, asked: GrpcHead, message: bytes) -> None:
        entry = asked.method
        assert entry is not None, "without a method the head was refused"
        entry.started += 1
        entry.received += 1
        self._shared.received_bytes += len(message)
        if entry.method is None:
            self._check_health(stream_id, entry, message)
            return
        deadline = None
        if asked.timeout_ms >= 0:
            deadline = Millis(self._calls.now_ms() + asked.timeout_ms)
        answer = partial(self._answer, stream_id, entry)
        self._live[stream_id] = self._calls.submit(entry.method, message, deadline, answer, asked.credentials)

    def _answer(self, stream_id: int, entry: GrpcMethod, code: int, body: Body) -> None:
        del self._live[stream_id]
        if code:
            entry.handled[_CODE_OF[code]] += 1
            self.answers.send_headers(stream_id, error_block(code), end_stream=True)
        elif isinstance(body, bytes):
            size = len(body)
            entry.handled[0] += 1
            entry.sent += 1
            self._shared.sent_bytes += size
            self.answers.respond(stream_id, RESPONSE_BLOCK, PREFIX.pack(0, size) + body, OK_TRAILERS)
        else:
            self._answer_in_pieces(stream_id, entry, body)
        self._tell()

    def _answer_in_pieces(self, stream_id: int, entry: GrpcMethod, pieces: tuple[bytes, ...]) -> None:
        """Send an answer that is too large to be copied: its pieces leave as they are."""
        size = sum(map(len, pieces))
        entry.handled[0] += 1
        entry.sent += 1
        self._shared.sent_bytes += size
        answers = self.answers
        answers.send_headers(stream_id, RESPONSE_BLOCK)
        for piece in (PREFIX.pack(0, size), *pieces):
            answers.send_data(stream_id, piece)
        answers.send_trailers(stream_id, OK_TRAILERS)

    def _refuse(self, stream_id: int, asked: GrpcHead) -> None:
        if asked.method is not None:
            asked.method.started += 1
            asked.method.handled[asked.status] += 1
        self.answers.send_headers(stream_id, asked.refusal, end_stream=True)

    def _fault(self, stream_id: int, asked: GrpcHead, fault: GrpcFault) -> None:
        if asked.method is not None:
            asked.method.started += 1
            asked.method.handled[fault.code] += 1
        self.answers.send_headers(stream_id, trailers_only_block(fault.code, fault.text), end_stream=True)

    def _forget_partial(self, stream_id: int) -> None:
        waiting = self._partial.pop(stream_id, None)
        if waiting is not None:
            self._shared.partial_bytes -= waiting[1].held_bytes

    # --- health -----------------------------------------------------------------------------------

    def _check_health(self, stream_id: int, entry: GrpcMethod, message: bytes) -> None:
        try:
            answer = self._shared.health.check(message)
        except DecodeError:
            self._end_health(stream_id, entry, GrpcCode.INTERNAL, "grpc: failed to unmarshal the received message")
            return
        if answer is None:
            self._end_health(stream_id, entry, GrpcCode.NOT_FOUND, "unknown service")
            return
        entry.sent += 1
        entry.handled[0] += 1
        self.answers.respond(stream_id, RESPONSE_BLOCK, frame_message(answer), OK_TRAILERS)

    def _end_health(self, stream_id: int, entry: GrpcMethod, code: GrpcCode, text: str) -> None:
        entry.handled[code] += 1
        self.answers.send_headers(stream_id, trailers_only_block(code, text), end_stream=True)
