"""Plain HTTP on the client port: connections handed to uvicorn, and the same pages for HTTP/2 without gRPC.

Owns the hand-over and the loading of the HTTP libraries, which happens with the first such request and off the loop's
thread: a node that only sees gRPC never pays for them. h11 parses, because it is bounded by construction.

Invariants: a connection is either waiting here or uvicorn's, and is counted once; while it waits it is not read.
"""

import asyncio
import copy
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from gateway.asgi_bridge import BODY_BYTES_MAX, AsgiApp, AsgiBridge, PageQueue, naming
from gateway.grpc_door import HttpNeighbour
from gateway.http2_answers import Http2Answers
from gateway.websockets import over_websockets

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

HEAD_BYTES_MAX: Final = 64 * 1024
"""Request line and fields of one HTTP/1.1 request."""
KEEP_ALIVE_S: Final = 75
"""How long an idle HTTP/1.1 connection stays; longer than the scrape intervals people use."""


class _Waiting(asyncio.Protocol):
    """A connection whose protocol class is being loaded."""

    def __init__(self, stack: "HttpStack", transport: asyncio.Transport, data: bytes, common_name: str) -> None:
        self.transport = transport
        self.data = data
        self.common_name = common_name
        self.lost = False
        self._stack = stack

    def data_received(self, data: bytes) -> None:
        """Keep what was on its way when reading was paused."""
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        """The client did not wait."""
        self.lost = True
        self._stack.waiting.pop(self, None)


class HttpStack:
    """The HTTP libraries, loaded on demand, and the connections they serve."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make_app: Callable[[], AsgiApp]) -> None:
        """`make_app` imports and builds the application; called once, on another thread."""
        self._loop = loop
        self._make_app = make_app
        self._loading: asyncio.Future[tuple[Config, ServerState]] | None = None
        self._loaded: tuple[Config, ServerState] | None = None
        self._app: AsgiApp | None = None
        self.waiting: dict[_Waiting, None] = {}
        self._pages = PageQueue(loop)
        self._log = structlog.get_logger().bind(actor="gateway", door="http")

    @property
    def connections(self) -> int:
        """How many connections are here."""
        served = len(self._loaded[1].connections) if self._loaded is not None else 0
        return len(self.waiting) + served

    # --- loading ----------------------------------------------------------------------------------

    def _load(self) -> "tuple[Config, ServerState]":
        """Import the libraries and build the application; runs on another thread."""
        from uvicorn.config import Config
        from uvicorn.protocols.http.h11_impl import H11Protocol
        from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
        from uvicorn.server import ServerState

        # Its warnings are about what strangers send; errors of the application are still told.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._app = app = self._make_app()
        config = Config(
            over_websockets(app),
            http=H11Protocol,
            ws=WSProtocol,
            ws_max_size=BODY_BYTES_MAX,
            ws_per_message_deflate=False,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        )
        config.load()
        return config, ServerState()

    async def app(self) -> AsgiApp:
        """Return the application, loading it first if need be."""
        if self._loaded is None:
            if self._loading is None:
                self._loading = self._loop.run_in_executor(None, self._load)
            self._loaded = await asyncio.shield(self._loading)
        assert self._app is not None, "loading makes it"
        return self._app

    # --- HTTP/1.1 ---------------------------------------------------------------------------------

    def adopt(self, transport: asyncio.Transport, data: bytes, common_name: str) -> None:
        """Take a connection over, with what has been read from it."""
        waiting = _Waiting(self, transport, data, common_name)
        transport.set_protocol(waiting)
        self.waiting[waiting] = None
        if self._loaded is not None:
            self._serve(waiting, *self._loaded)
            return
        transport.pause_reading()
        task = self._loop.create_task(self._serve_later(waiting))
        task.add_done_callback(self._on_served)

    async def _serve_later(self, waiting: _Waiting) -> None:
        await self.app()
        assert self._loaded is not None, "loading sets it"
        if not waiting.lost and not waiting.transport.is_closing():
            self._serve(waiting, *self._loaded)
            waiting.transport.resume_reading()

    def _on_served(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._log.error("http_stack_failed", error=repr(error), exc_info=error)

    def _serve(self, waiting: _Waiting, config: "Config", state: "ServerState") -> None:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        self.waiting.pop(waiting, None)
        if waiting.common_name:
            # A configuration of its own, since a connection that becomes a WebSocket takes the application from there.
            config = copy.copy(config)
            config.loaded_app = naming(config.loaded_app, waiting.common_name)
        protocol = H11Protocol(config, state, {}, self._loop)
        waiting.transport.set_protocol(protocol)
        protocol.connection_made(waiting.transport)
        protocol.data_received(waiting.data)

    # --- HTTP/2 -----------------------------------------------------------------------------------

    def neighbour(
        self, answers: Callable[[], Http2Answers], tell: Callable[[], None], common_name: str
    ) -> HttpNeighbour:
        """Return who serves the plain HTTP requests of one HTTP/2 connection."""
        return AsgiBridge(self._pages, self.app, answers, tell, common_name)

    # --- the end ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Close idle connections, and the others after their answer."""
        for waiting in list(self.waiting):
            waiting.transport.close()
        for protocol in self._served():
            # A WebSocket that has said goodbye has nothing to add.
            if not protocol.transport.is_closing():
                protocol.shutdown()

    def stop(self) -> None:
        """Close all connections."""
        for waiting in list(self.waiting):
            waiting.transport.close()
        for protocol in self._served():
            protocol.transport.close()

    def _served(self) -> list[Any]:
        return list(self._loaded[1].connections) if self._loaded is not None else []
