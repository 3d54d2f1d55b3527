"""Plain HTTP over HTTP/2: requests that are not gRPC, served by the same ASGI application as HTTP/1.1.

Owns one task per request while it is served. Knows no path. Invariants: a request is served when it is complete, so
that what is wrong with its end is not answered with a page; a body larger than `BODY_BYTES_MAX` is refused, and so is
one that all bodies together have no room for; a request whose stream is gone has its task cancelled;
`PAGES_AT_ONCE_MAX` pages are made at a time, however many are asked for; the application is held up while its client
does not read.

What only waits costs nothing, so the application may give up its place among the pages being made: the scope's
extension `actd.wait` is a function to be called for that; with `patient=True` its client may take its time as well.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from functools import partial
from typing import Any, Final

import structlog

from gateway.http2_answers import Http2Answers
from gateway.http2_frames import H2Error
from gateway.http2_hpack import RequestHead, encode_fields

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
ALL_BODIES_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bodies that are not complete, or not read by the application yet, of all connections; over it: 503."""
UNSENT_BYTES_MAX: Final = 256 * 1024
"""What of an answer waits for its client before the application does."""
PAGES_AT_ONCE_MAX: Final = 16
"""Pages being made at one time: each costs a loop that has better things to do."""
PAGES_WAITING_MAX: Final = 1000
"""Pages waiting for their turn, of all connections; over it: 503."""
_NOT_IN_HTTP2: Final = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
_TOO_LARGE: Final = encode_fields([(b":status", b"413"), (b"content-length", b"0")])
_BUSY: Final = encode_fields([(b":status", b"503"), (b"content-length", b"0"), (b"retry-after", b"1")])
_FAILED: Final = encode_fields([(b":status", b"500"), (b"content-length", b"0")])

Event = MutableMapping[str, Any]
AsgiApp = Callable[[Any, Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]]


COMMON_NAME: Final = "actd.common_name"
"""Where a page finds in its scope whom the client's certificate names; absent if nobody has asked for one."""


def naming(app: AsgiApp, common_name: str) -> AsgiApp:
    """Return `app` as it is for a client whose certificate names `common_name`."""
    if not common_name:
        return app

    async def named(
        scope: Any, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
    ) -> None:
        await app(scope | {COMMON_NAME: common_name}, receive, send)

    return named


class _Exchange:
    """One request and its answer."""

    __slots__ = ("body", "drained", "dropped", "head", "headers_sent", "holds_place", "stream_id", "task", "told")

    def __init__(self, stream_id: int, head: RequestHead) -> None:
        self.stream_id = stream_id
        self.head = head
        self.body = bytearray()
        self.told = False
        """Whether the application has been given the body."""
        self.headers_sent = False
        self.dropped = False
        self.holds_place = False
        """Whether it counts as a page being made."""
        self.drained: asyncio.Event | None = None
        """Set once the client has read, where the application waits for that."""
        self.task: asyncio.Task[None] | None = None


class PageQueue:
    """The pages all connections have asked for: a few are being made, the others wait in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.body_bytes = 0
        """Of all requests."""
        self._running = 0
        self._waiting: deque[tuple[_Exchange, Callable[[_Exchange], Coroutine[Any, Any, None]]]] = deque()

    def put(self, exchange: _Exchange, serve: Callable[[_Exchange], Coroutine[Any, Any, None]]) -> bool:
        """Have `serve(exchange)` run when its turn comes; False if too many wait."""
        if len(self._waiting) >= PAGES_WAITING_MAX:
            return False
        self._waiting.append((exchange, serve))
        self._start()
        return True

    def _start(self) -> None:
        while self._waiting and self._running < PAGES_AT_ONCE_MAX:
            exchange, serve = self._waiting.popleft()
            if exchange.dropped:
                continue
            self._running += 1
            exchange.holds_place = True
            exchange.task = self.loop.create_task(serve(exchange))
            exchange.task.add_done_callback(partial(self._on_done, exchange))

    def _on_done(self, exchange: _Exchange, _task: "asyncio.Task[None]") -> None:
        self.leave(exchange)

    def leave(self, exchange: _Exchange) -> None:
        """Let the next one begin: this one is made, or only waits."""
        if exchange.holds_place:
            exchange.holds_place = False
            self._running -= 1
            self._start()


class AsgiBridge:
    """Serves the plain requests of one HTTP/2 connection."""

    __slots__ = ("_answers", "_common_name", "_exchanges", "_load", "_pages", "_tell")

    def __init__(
        self,
        pages: PageQueue,
        load: Callable[[], Awaitable[AsgiApp]],
        answers: Callable[[], Http2Answers],
        tell: Callable[[], None],
        common_name: str = "",
    ) -> None:
        self._common_name = common_name
        self._pages = pages
        self._load = load
        self._answers = answers
        self._tell = tell
        self._exchanges: dict[int, _Exchange] = {}

    # --- from the connection ----------------------------------------------------------------------

    def on_headers(self, stream_id: int, head: RequestHead) -> None:
        """A request has begun."""
        self._exchanges[stream_id] = _Exchange(stream_id, head)

    def on_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """A part of its body."""
        exchange = self._exchanges.get(stream_id)
        if exchange is None:
            return
        exchange.body += data
        self._pages.body_bytes += len(data)
        if len(exchange.body) > BODY_BYTES_MAX:
            self._drop(stream_id)
            self._answers().send_headers(stream_id, _TOO_LARGE, end_stream=True)
        elif self._pages.body_bytes > ALL_BODIES_BYTES_MAX or (ended and not self._pages.put(exchange, self._serve)):
            self._drop(stream_id)
            self._answers().send_headers(stream_id, _BUSY, end_stream=True)

    def on_reset(self, stream_id: int) -> None:
        """The stream is gone."""
        self._drop(stream_id)

    def on_drained(self, stream_id: int) -> None:
        """The client has read most of what was queued."""
        exchange = self._exchanges.get(stream_id)
        if exchange is not None and exchange.drained is not None:
            exchange.drained.set()

    def on_closed(self) -> None:
        """The connection is gone."""
        for stream_id in list(self._exchanges):
            self._drop(stream_id)

    def _drop(self, stream_id: int) -> None:
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is not None:
            self._take_body(exchange)
            exchange.dropped = True
            if exchange.task is not None:
                exchange.task.cancel()

    def _take_body(self, exchange: _Exchange) -> bytes:
        body = bytes(exchange.body)
        exchange.body = bytearray()
        self._pages.body_bytes -= len(body)
        return body

    # --- to the application -----------------------------------------------------------------------

    async def _serve(self, exchange: _Exchange) -> None:
        stream_id = exchange.stream_id

        async def receive() -> Event:
            if exchange.told:
                # Nothing more will come but the end, and then the task is cancelled.
                await self._pages.loop.create_future()
            exchange.told = True
            return {"type": "http.request", "body": self._take_body(exchange), "more_body": False}

        async def send(event: Event) -> None:
            if self._send(exchange, event):
                exchange.drained = asyncio.Event()
                await exchange.drained.wait()
                exchange.drained = None

        try:
            app = naming(await self._load(), self._common_name)
            scope = _scope(exchange.head) | {"extensions": {"actd.wait": partial(self._wait, exchange)}}
            await app(scope, receive, send)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - one page's mistake must not end the gateway
            structlog.get_logger().error("http_page_failed", path=str(exchange.head.path), exc_info=error)
            if stream_id in self._exchanges:
                if exchange.headers_sent:
                    self._answers().reset(stream_id, H2Error.INTERNAL_ERROR)
                else:
                    self._answers().send_headers(stream_id, _FAILED, end_stream=True)
                self._tell()
        finally:
            self._take_body(exchange)
            self._exchanges.pop(stream_id, None)

    def _wait(self, exchange: _Exchange, *, patient: bool) -> None:
        """The application only waits from now on, for as long as it likes; and so may its client, if `patient`."""
        if patient:
            self._answers().allow_stall(exchange.stream_id)
        self._pages.leave(exchange)

    def _send(self, exchange: _Exchange, event: Event) -> bool:
        """Send a part of an answer; return whether the client should read before there is more."""
        stream_id = exchange.stream_id
        if stream_id not in self._exchanges:
            return False
        answers = self._answers()
        bodiless = exchange.head.method == b"HEAD"
        if event["type"] == "http.response.start":
            fields = [(b":status", str(event["status"]).encode())]
            fields += [(name.lower(), value) for name, value in event["headers"] if name.lower() not in _NOT_IN_HTTP2]
            answers.send_headers(stream_id, encode_fields(fields))
            exchange.headers_sent = True
        elif event["type"] == "http.response.body":
            body = event.get("body", b"")
            if body and not bodiless:
                answers.send_data(stream_id, bytes(body))
            if not event.get("more_body", False):
                answers.end_stream(stream_id)
                self._tell()
                return False
        self._tell()
        return answers.queued_bytes(stream_id, UNSENT_BYTES_MAX) >= UNSENT_BYTES_MAX


def _scope(head: RequestHead) -> dict[str, Any]:
    """Return the ASGI scope of a request."""
    path, _, query = head.path.partition(b"?")
    fields = list(head.fields)
    if head.authority and head.field(b"host") is None:
        fields.insert(0, (b"host", head.authority))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "method": head.method.decode("latin-1"),
        "scheme": head.scheme.decode("latin-1"),
        "path": _unquoted(path),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": fields,
        "client": None,
        "server": None,
    }


def _unquoted(path: bytes) -> str:
    """Return the path with %XX resolved."""
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(path).decode("utf-8", "replace")
