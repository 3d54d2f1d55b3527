"""etcd's JSON gateway as an ASGI application: `POST /v3/...` becomes a call of the loop, its answer JSON.

Owns what HTTP adds to an RPC: paths, status codes, error bodies, metadata in header fields, chunks. Calls go where
gRPC's go, so checks, deadlines and counters are the same. Knows no socket; messages are `gateway.json_wire`'s.

Invariants: a call whose client is gone is cancelled; what a request makes us hold counts in the budget that the gRPC
door uses; a stream whose client does not read is paused by its service; no step renders more than `PART_BYTES` in the
loop's thread, whatever the answer's size.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from gateway.calls import Body, whole
from gateway.credentials import read_credentials
from gateway.grpc_door import GrpcShared
from gateway.grpc_wire import GrpcFault, parse_timeout, too_large
from gateway.json_paths import OLD_PREFIX, PREFIX, JsonRoute, json_routes
from gateway.json_wire import JsonFault, JsonValues, parts_of, quoted, read_message
from gateway.streams import ROOM_BYTES, StreamHead
from protocol.errors import WIRE_ERRORS, ErrorCode, GrpcCode
from protocol.types import Millis

PART_BYTES: Final = 32 * 1024
"""Of an answer, rendered and sent in one go."""
BODY_FACTOR: Final = 2
"""A body may be so much larger than the message it says: base64 takes four bytes for three, and fields have names."""
TELL_BELOW_BYTES: Final = ROOM_BYTES // 4
"""A stream's service hears of room when less waits for the client."""

HTTP_STATUS: Final[dict[GrpcCode, int]] = {
    GrpcCode.OK: 200,
    GrpcCode.CANCELED: 499,
    GrpcCode.UNKNOWN: 500,
    GrpcCode.INVALID_ARGUMENT: 400,
    GrpcCode.DEADLINE_EXCEEDED: 504,
    GrpcCode.NOT_FOUND: 404,
    GrpcCode.ALREADY_EXISTS: 409,
    GrpcCode.PERMISSION_DENIED: 403,
    GrpcCode.RESOURCE_EXHAUSTED: 429,
    GrpcCode.FAILED_PRECONDITION: 400,
    GrpcCode.ABORTED: 409,
    GrpcCode.OUT_OF_RANGE: 400,
    GrpcCode.UNIMPLEMENTED: 501,
    GrpcCode.INTERNAL: 500,
    GrpcCode.UNAVAILABLE: 503,
    GrpcCode.DATA_LOSS: 500,
    GrpcCode.UNAUTHENTICATED: 401,
}
_JSON: Final = (b"content-type", b"application/json")
_FROM_GRPC: Final = (b"grpc-metadata-content-type", b"application/grpc")
"""The metadata of gRPC's answers, which the gateway hands on."""
_METADATA: Final = b"grpc-metadata-"

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class _Gone(Exception):
    """The client is."""


def _fault_of(code: int) -> GrpcFault:
    error = WIRE_ERRORS[ErrorCode(code)]
    return GrpcFault(error.grpc_code, error.text)


def _code_of(code: int) -> GrpcCode:
    return WIRE_ERRORS[ErrorCode(code)].grpc_code if code else GrpcCode.OK


def _error_text(fault: GrpcFault) -> str:
    return f'{{"code":{int(fault.code)},"message":{quoted(fault.text)}}}'


class RequestFields:
    """What a request's header fields say to the RPC behind it."""

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self.metadata: dict[bytes, bytes] = {}
        """The RPC's metadata: what comes as `Grpc-Metadata-*`, and `Authorization` as it is."""
        self.announced_bytes = 0
        """How long its body says to be; 0: it does not say."""
        self._timeout: bytes | None = None
        for name, value in fields:
            if name.startswith(_METADATA):
                self.metadata[name[len(_METADATA) :]] = value
            elif name == b"authorization":
                self.metadata[name] = value
            elif name == b"grpc-timeout":
                self._timeout = value
            elif name == b"content-length" and value.isdigit():
                self.announced_bytes = int(value)

    def timeout_ms(self) -> int | None:
        """How long the client waits, or None.

        Raises:
            GrpcFault: it says so in a way nobody understands.
        """
        if self._timeout is None:
            return None
        try:
            return parse_timeout(self._timeout)
        except GrpcFault:
            text = f"invalid grpc-timeout: {self._timeout.decode('latin-1')}"
            raise GrpcFault(GrpcCode.INVALID_ARGUMENT, text) from None


class JsonGateway:
    """Serves every path below `/v3/` and `/v3beta/`."""

    def __init__(self, shared: GrpcShared) -> None:
        """`shared` has the calls, the methods, and the budgets of the door."""
        self.shared = shared
        self.calls = shared.calls
        self._routes: Mapping[str, JsonRoute] = json_routes(shared.methods)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path: str = scope["path"]
        route = None
        for prefix in (PREFIX, OLD_PREFIX):
            if path.startswith(prefix + "/"):
                route = self._routes.get(path[len(prefix) :])
        try:
            if route is None:
                raise GrpcFault(GrpcCode.NOT_FOUND, "Not Found")
            if scope["method"] != "POST":
                raise GrpcFault(GrpcCode.UNIMPLEMENTED, "Method Not Allowed")
            fields = RequestFields(scope["headers"])
            body_max = BODY_FACTOR * self.shared.message_bytes_max
            if fields.announced_bytes > body_max:
                # Who waits for an answer before it sends so much would otherwise wait for ever.
                raise too_large(fields.announced_bytes, body_max)
            # Locks and watches take as long as they take: they must not be in the way of pages that are being made.
            scope.get("extensions", {}).get("actd.wait", _no_wait)(patient=route.entry.stream is not None)
            if route.entry.stream is not None:
                await _StreamExchange(self, route, fields, receive, send).serve()
            elif route.entry.method is not None:
                await self._serve_call(route, fields, receive, send)
            else:
                route.entry.started += 1
                route.entry.handled[GrpcCode.UNIMPLEMENTED] += 1
                raise GrpcFault(GrpcCode.UNIMPLEMENTED, f"method {route.entry.name} not implemented")
        except GrpcFault as fault:
            await _send_fault(send, fault)
        except _Gone:
            return

    # --- one answer -----------------------------------------------------------------------------------

    async def _serve_call(self, route: JsonRoute, fields: RequestFields, receive: Receive, send: Send) -> None:
        message = await self.read_request(route, receive)
        entry = route.entry
        entry.started += 1
        entry.received += 1
        code, body = await self._ask(route, fields, message, receive)
        if code:
            fault = _fault_of(code)
            entry.handled[fault.code] += 1
            raise fault
        entry.handled[0] += 1
        entry.sent += 1
        answer = whole(body)
        self.shared.sent_bytes += len(answer)
        if len(answer) <= PART_BYTES:
            text = route.form.render(route.response.FromString(answer)).encode()
            await _send_head(send, 200, [_JSON, _FROM_GRPC, (b"content-length", b"%d" % len(text))])
            await send({"type": "http.response.body", "body": text})
            return
        await _send_head(send, 200, [_JSON, _FROM_GRPC])
        async for piece in self.render(route, answer):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _ask(self, route: JsonRoute, fields: RequestFields, message: bytes, receive: Receive) -> tuple[int, Body]:
        """Make the call; cancel it when the client goes away."""
        timeout_ms = fields.timeout_ms()
        deadline = None if timeout_ms is None else Millis(self.calls.now_ms() + timeout_ms)
        answered: asyncio.Future[tuple[int, Body]] = asyncio.get_running_loop().create_future()

        def on_answer(code: int, body: Body) -> None:
            if not answered.done():
                answered.set_result((code, body))

        credentials = read_credentials(fields.metadata.get)
        call_id = self.calls.submit(route.entry.method, message, deadline, on_answer, credentials)
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((answered, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise _Gone
            return answered.result()
        finally:
            gone.cancel()
            if not answered.done():
                answered.cancel()
                self.calls.cancel(call_id)
                route.entry.handled[GrpcCode.CANCELED] += 1

    async def read_request(self, route: JsonRoute, receive: Receive) -> bytes:
        """Return the message of a request, as protobuf.

        Raises:
            GrpcFault: there is too much of it, or it is not what it should be.
        """
        shared = self.shared
        body_max = BODY_FACTOR * shared.message_bytes_max
        body = bytearray()
        try:
            async for piece in _pieces(receive):
                body += piece
                shared.partial_bytes += len(piece)
                if len(body) > body_max:
                    raise too_large(len(body), body_max)
                if shared.partial_bytes > shared.partial_bytes_max:
                    raise _fault_of(ErrorCode.TOO_MANY_REQUESTS)
            if len(body) <= PART_BYTES:
                return self.encode(route, bytes(body))
            return await asyncio.get_running_loop().run_in_executor(None, self.encode, route, bytes(body))
        finally:
            shared.partial_bytes -= len(body)

    def encode(self, route: JsonRoute, body: bytes) -> bytes:
        """Return what JSON says as protobuf.

        Raises:
            GrpcFault: it says something else.
        """
        try:
            message = read_message(route.request, body).SerializeToString()
        except JsonFault as fault:
            raise GrpcFault(GrpcCode.INVALID_ARGUMENT, str(fault)) from None
        if len(message) > self.shared.message_bytes_max:
            raise too_large(len(message), self.shared.message_bytes_max)
        self.shared.received_bytes += len(message)
        return message

    async def render(self, route: JsonRoute, answer: bytes) -> AsyncIterator[bytes]:
        """Yield a response as JSON in pieces; they are made on another thread, for one may be most of the answer."""
        loop = asyncio.get_running_loop()
        texts = route.form.render_parts(parts_of(route.response, answer, PART_BYTES))
        while (text := await loop.run_in_executor(None, next, texts, None)) is not None:
            yield text.encode()


class _StreamExchange:
    """One streaming call: JSON objects in, lines of JSON out."""

    def __init__(
        self, gateway: JsonGateway, route: JsonRoute, fields: RequestFields, receive: Receive, send: Send
    ) -> None:
        self._gateway = gateway
        self._calls = gateway.calls
        self._route = route
        self._entry = route.entry
        self._fields = fields
        self._receive = receive
        self._send = send
        self._call_id = 0
        self._head_sent = False
        self._news = asyncio.Event()
        self._messages: deque[tuple[bytes, ...]] = deque()
        self._queued_bytes = 0
        self._outcome: ErrorCode | None = None
        self._fault: GrpcFault | None = None
        """What is wrong with what the client says."""
        self._gone = False

    async def serve(self) -> None:
        """Serve until the service, the client or time ends it."""
        timeout_ms = self._fields.timeout_ms()
        only = None
        if self._entry.kind == "server_stream":
            only = await self._gateway.read_request(self._route, self._receive)
        assert self._entry.stream is not None, "only a streaming method is served here"
        head = StreamHead(
            require_leader=self._fields.metadata.get(b"hasleader") == b"true",
            deadline=None if timeout_ms is None else Millis(self._calls.now_ms() + timeout_ms),
            credentials=read_credentials(self._fields.metadata.get),
        )
        self._entry.started += 1
        self._call_id = self._calls.open_stream(self._entry.stream, head, self._on_stream)
        hearing = asyncio.ensure_future(self._hear(only))
        try:
            await self._tell()
        finally:
            hearing.cancel()
            if self._outcome is None:
                code = GrpcCode.CANCELED if self._fault is None else self._fault.code
                self._entry.handled[code] += 1
                self._calls.cancel(self._call_id)

    # --- what the client says -------------------------------------------------------------------------

    async def _hear(self, only: bytes | None) -> None:
        """Hand in what the client says, then wait until it is gone."""
        try:
            if only is not None:
                self._say(only)
            else:
                await self._hear_values()
            self._calls.stream_half_closed(self._call_id)
            await _until_gone(self._receive)
            self._gone = True
        except _Gone:
            self._gone = True
        except JsonFault as fault:
            self._fault = GrpcFault(GrpcCode.INVALID_ARGUMENT, str(fault))
        except GrpcFault as fault:
            self._fault = fault
        self._news.set()

    async def _hear_values(self) -> None:
        shared = self._gateway.shared
        values = JsonValues(BODY_FACTOR * shared.message_bytes_max)
        held = 0
        try:
            async for piece in _pieces(self._receive):
                for value in values.feed(piece):
                    self._say(self._gateway.encode(self._route, value))
                shared.partial_bytes += values.held_bytes - held
                held = values.held_bytes
                if shared.partial_bytes > shared.partial_bytes_max:
                    raise _fault_of(ErrorCode.TOO_MANY_REQUESTS)
            values.finish()
        finally:
            shared.partial_bytes -= held

    def _say(self, message: bytes) -> None:
        self._entry.received += 1
        self._calls.stream_message(self._call_id, message)

    # --- what the service says ------------------------------------------------------------------------

    def _on_stream(self, messages: list[tuple[bytes, ...]], outcome: ErrorCode | None) -> int:
        """Take what the service says; return what waits for the client to take it."""
        self._messages += messages
        for pieces in messages:
            self._queued_bytes += sum(map(len, pieces))
        self._outcome = outcome
        self._news.set()
        return self._queued_bytes if outcome is None and self._queued_bytes >= TELL_BELOW_BYTES else 0

    async def _tell(self) -> None:
        """Send what the service says, as it comes, and how it ends."""
        while True:
            await self._tell_messages()
            if self._gone:
                raise _Gone
            if self._fault is not None:
                await self._end(self._fault)
                return
            if self._outcome is not None and not self._messages:
                self._entry.handled[_code_of(self._outcome)] += 1
                await self._end(_fault_of(self._outcome) if self._outcome else None)
                return
            if not self._messages:
                self._news.clear()
                await self._news.wait()

    async def _tell_messages(self) -> None:
        """Send each message as one piece, which HTTP/1.1 makes a chunk: some clients take a chunk for a line."""
        while self._messages and not self._gone:
            message = b"".join(self._messages.popleft())
            self._entry.sent += 1
            self._gateway.shared.sent_bytes += len(message)
            if len(message) <= PART_BYTES:
                text = self._route.form.render(self._route.response.FromString(message)).encode()
            else:
                text = b"".join([piece async for piece in self._gateway.render(self._route, message)])
            await self._write(b'{"result":%b}\n' % text)
            self._taken(len(message))

    def _taken(self, size: int) -> None:
        """The client has taken a message; tell the service where that makes room."""
        before = self._queued_bytes
        self._queued_bytes -= size
        if before >= TELL_BELOW_BYTES > self._queued_bytes and self._outcome is None:
            self._calls.stream_held(self._call_id, 0)

    async def _write(self, data: bytes) -> None:
        if not self._head_sent:
            self._head_sent = True
            await _send_head(self._send, 200, [_JSON, _FROM_GRPC])
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _end(self, fault: GrpcFault | None) -> None:
        if fault is None:
            if not self._head_sent:
                await _send_head(self._send, 200, [_JSON, _FROM_GRPC])
            await self._send({"type": "http.response.body", "body": b""})
            return
        if not self._head_sent:
            await _send_head(self._send, HTTP_STATUS[fault.code], [_JSON])
        body = f'{{"error":{_error_text(fault)}}}\n'.encode()
        await self._send({"type": "http.response.body", "body": body})


def _no_wait(*, patient: bool) -> None:
    """Over HTTP/1.1 a request is in nobody's way."""


# --- ASGI ----------------------------------------------------------------------------------------------


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    """Yield a request's body as it comes; raise `_Gone` if the client goes in the middle of it."""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise _Gone
        yield event.get("body", b"")
        if not event.get("more_body", False):
            return


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_head(send: Send, status: int, fields: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": fields})


async def _send_fault(send: Send, fault: GrpcFault) -> None:
    """Answer with an error, as etcd's gateway does since 3.6."""
    body = _error_text(fault).encode()
    fields = [_JSON, (b"content-length", b"%d" % len(body))]
    if fault.code == GrpcCode.UNAUTHENTICATED:
        fields.append((b"www-authenticate", fault.text.encode()))
    await _send_head(send, HTTP_STATUS[fault.code], fields)
    await send({"type": "http.response.body", "body": body})
