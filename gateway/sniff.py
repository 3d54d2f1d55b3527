"""The client port: one listener, many connections, two protocols told apart by their first bytes.

Owns the listening socket, every connection on it until it is handed over, their number, their backlog of output and the
watch over those that stall. Knows no method; HTTP/2 is `gateway.http2`, HTTP/1.1 is `gateway.http1_door`, TLS, which
comes before either, is `gateway.tls_connection`.

Invariants: a connection writes once per turn; one whose client does not read is not read from either; no more
connections than `connections_max`; with TLS nothing is heard that was not said under it.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Protocol, cast

from gateway.grpc_door import GrpcConnection, GrpcShared, HttpNeighbour
from gateway.http2 import Http2Connection
from gateway.http2_answers import Http2Answers
from gateway.http2_frames import PREFACE
from gateway.http2_limits import Http2Limits
from gateway.listening import forget, listen
from gateway.loop import GatewayLoop
from gateway.tls import ServerTls
from gateway.tls_connection import Handshakes, TlsConnection
from protocol.config import LimitsConfig

SNIFF_BYTES: Final = len(b"PRI * HTTP/2.0\r\n")
"""What tells HTTP/2 from everything else; the rest of the preface is checked by the HTTP/2 core."""
HTTP1_METHODS: Final = tuple(
    method + b" "
    for method in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT")
)
"""What HTTP/1.1 begins with; anything else is a stranger, and is not worth loading the HTTP libraries for."""
RECEIVE_SLICE_BYTES: Final = 64 * 1024
"""What one connection is heard in one go; a socket hands over four times as much, maybe ten thousand requests."""
SWEEP_S: Final = 5.0
"""How often connections are looked at for stalls."""
SILENT_SWEEPS_MAX: Final = 12
"""A connection that has not shown its protocol after so many looks is closed."""
WRITE_HIGH_BYTES: Final = 1024 * 1024
"""Unsent bytes in a socket at which we stop adding, and stop reading; the rest waits in the stream queues."""
WRITE_LOW_BYTES: Final = 128 * 1024
BACKLOG_CONNECTIONS: Final = 1024
HALF_OPEN_MAX: Final = 2000
"""Connections that have not shown their protocol yet; for one more the oldest of them has to go."""


class Http1Stack(Protocol):
    """Where connections go that do not speak HTTP/2, and requests that are not gRPC."""

    def adopt(self, transport: asyncio.Transport, data: bytes, common_name: str) -> None:
        """Take a connection over, with what has been read from it."""
        ...

    def neighbour(
        self, answers: Callable[[], Http2Answers], tell: Callable[[], None], common_name: str
    ) -> HttpNeighbour:
        """Return who serves the plain HTTP requests of one HTTP/2 connection."""
        ...

    @property
    def connections(self) -> int:
        """How many adopted connections are open."""
        ...

    def drain(self) -> None:
        """Close idle connections, and the others after their answer."""
        ...

    def stop(self) -> None:
        """Close all connections."""
        ...


class ClientDoor:
    """The door for gRPC and HTTP."""

    def __init__(
        self,
        loop: GatewayLoop,
        address: str,
        shared: GrpcShared,
        http1: Http1Stack,
        limits: LimitsConfig,
        http2_limits: Http2Limits | None = None,
        tls: ServerTls | None = None,
        half_open_max: int = HALF_OPEN_MAX,
    ) -> None:
        """With `tls` nothing else is spoken."""
        self.loop = loop
        self.shared = shared
        self.http1 = http1
        self.http2_limits = http2_limits or Http2Limits(concurrent_streams_max=limits.concurrent_streams_max)
        self.connections: dict[Connection, None] = {}
        self.half_open: dict[Sniffer | TlsConnection, None] = {}
        """Those of them that have not shown their protocol, oldest first."""
        self._half_open_max = half_open_max
        self._handshakes = None if tls is None else Handshakes(loop.loop, tls, loop.core.metrics)
        self.connections_refused = 0
        self.half_open_dropped = 0
        self.strangers = 0
        """Connections that began with neither protocol."""
        self._address = address
        self._limits = limits
        self._connections_max = limits.connections_max
        self._server: asyncio.Server | None = None
        self._draining = False
        self._sweeper: asyncio.TimerHandle | None = None
        self.port = 0
        """The port in use, once started; of a socket file 0."""

    def start(self) -> None:
        """Listen."""
        listener = listen(self._address, self._limits)
        name = listener.getsockname()
        self.port = name[1] if isinstance(name, tuple) else 0
        create = (
            self.loop.loop.create_unix_server if listener.family is socket.AF_UNIX else self.loop.loop.create_server
        )
        server = create(self._meet, sock=listener, backlog=BACKLOG_CONNECTIONS)
        self._server = self.loop.loop.run_until_complete(server)
        self._sweeper = self.loop.loop.call_later(SWEEP_S, self._sweep)

    def drain(self) -> None:
        """Listen no more; tell every client to go elsewhere once it has its answers."""
        self._draining = True
        if self._server is not None:
            self._server.close()
        self.shared.health.stop_serving()
        for connection in list(self.connections):
            if isinstance(connection, Http2Protocol):
                connection.drain()
            else:
                connection.close()
        self.http1.drain()

    @property
    def idle(self) -> bool:
        """Whether every client is gone."""
        return not self.connections and not self.http1.connections

    def stop(self) -> None:
        """Close everything at once."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
            forget(self._address)
        for connection in list(self.connections):
            connection.close()
        self.http1.stop()

    def _meet(self) -> asyncio.Protocol:
        """Return who hears a new connection."""
        return Sniffer(self) if self._handshakes is None else TlsConnection(self, self._handshakes)

    def enter(self, connection: "Sniffer | TlsConnection") -> bool:
        """Count a connection that has not shown its protocol yet; False if there is no room for it.

        Of those that say nothing there are never so many that nobody else comes in: the oldest goes.
        """
        if self._draining or len(self.connections) + self.http1.connections >= self._connections_max:
            self.connections_refused += 1
            return False
        if len(self.half_open) >= self._half_open_max:
            self.half_open_dropped += 1
            self.loop.core.metrics.count("actd_half_open_dropped_total")
            oldest = next(iter(self.half_open))
            self.leave(oldest)
            oldest.give_up()
        self.connections[connection] = None
        self.half_open[connection] = None
        return True

    def leave(self, connection: "Connection") -> None:
        """Count a connection no more."""
        self.connections.pop(connection, None)
        if not isinstance(connection, Http2Protocol):
            self.half_open.pop(connection, None)

    def welcome(self, common_name: str) -> asyncio.Protocol:
        """Return who hears a connection that is secured, from its first byte on."""
        return Sniffer(self, common_name)

    def _sweep(self) -> None:
        now = self.loop.now_ms()
        for connection in list(self.connections):
            connection.sweep(now)
        self._sweeper = self.loop.loop.call_later(SWEEP_S, self._sweep)


class Sniffer(asyncio.Protocol):
    """A connection whose protocol is not known yet."""

    def __init__(self, door: ClientDoor, common_name: str = "") -> None:
        self._door = door
        self._common_name = common_name
        self._data = b""
        self._sweeps = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first bytes, if there is room for one more."""
        self._transport = socket_transport = cast("asyncio.Transport", transport)  # uvloop's has no common base
        if not self._door.enter(self):
            socket_transport.abort()

    def data_received(self, data: bytes) -> None:
        """Decide as soon as the bytes allow it."""
        self._data = data = self._data + data
        transport, door = self._transport, self._door
        if transport is None or transport.is_closing():
            return
        if PREFACE.startswith(data[:SNIFF_BYTES]):
            if len(data) >= SNIFF_BYTES:
                door.leave(self)
                protocol = Http2Protocol(door, transport, self._common_name)
                transport.set_protocol(protocol)
                protocol.data_received(data)
        elif data.startswith(HTTP1_METHODS):
            door.leave(self)
            door.http1.adopt(transport, data, self._common_name)
        elif not any(method.startswith(data) for method in HTTP1_METHODS):
            door.strangers += 1
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._door.leave(self)

    def sweep(self, _now: int) -> None:
        """Close a connection that says nothing."""
        self._sweeps += 1
        if self._sweeps > SILENT_SWEEPS_MAX:
            self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()

    def give_up(self) -> None:
        """Close it at once: others need the room."""
        if self._transport is not None:
            self._transport.abort()


class Http2Protocol(asyncio.Protocol):
    """Carries bytes between a socket and an `Http2Connection`, once per turn."""

    __slots__ = (
        "_core",
        "_dirty",
        "_door",
        "_loop",
        "_paused",
        "_stalled_at",
        "_stalled_bytes",
        "_transport",
        "_unheard",
        "grpc",
    )

    def __init__(self, door: ClientDoor, transport: asyncio.Transport, common_name: str) -> None:
        self._door = door
        self._loop = door.loop
        self._transport = transport
        self._dirty = False
        self._paused = False
        self._stalled_at = 0
        self._stalled_bytes = 0
        self._unheard = b""
        """Read from the socket and not yet heard; while there is some, nothing more is read."""
        neighbour = door.http1.neighbour(lambda: self._core, self._mark, common_name)
        self.grpc = GrpcConnection(door.shared, neighbour, self._mark, common_name)
        self._core = Http2Connection(self.grpc, self._loop.now_ms(), door.http2_limits)
        self.grpc.answers = self._core
        door.connections[self] = None
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)

    def data_received(self, data: bytes) -> None:
        """Let the core have it; whatever it says is written at the end of the turn."""
        if self._unheard or len(data) > RECEIVE_SLICE_BYTES:
            if not self._unheard:
                self._transport.pause_reading()
                self._loop.loop.call_soon(self._hear)
            self._unheard += data
            return
        core = self._core
        core.receive(data, self._loop.now_ms())
        # Most often a request came, whose answer will mark this connection when it is there.
        if not self._dirty and core.needs_flush:
            self._dirty = True
            self._loop.mark_dirty(self)

    def _hear(self) -> None:
        """Let the core have the next slice of a large read; other connections come in between."""
        data, self._unheard = self._unheard[:RECEIVE_SLICE_BYTES], self._unheard[RECEIVE_SLICE_BYTES:]
        self._core.receive(data, self._loop.now_ms())
        self._mark()
        if self._unheard:
            self._loop.loop.call_soon(self._hear)
        else:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._paused and not self._unheard and not self._transport.is_closing():
            self._transport.resume_reading()

    def _mark(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._loop.mark_dirty(self)

    def flush(self) -> None:
        """Write what the core has to say, unless the client does not read."""
        self._dirty = False
        core = self._core
        if self._transport.is_closing() or (self._paused and not core.closed):
            return
        output = core.take_output()
        if output:
            self._transport.write(output)
        if core.closed:
            self._transport.close()
        elif core.wants_turn and not self._paused:
            self._loop.loop.call_soon(self._mark)

    def pause_writing(self) -> None:
        """The client does not read: neither do we, so that it cannot make us gather more for it."""
        self._paused = True
        if not self._unheard:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused = False
        self._resume_reading()
        self._mark()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel everything that was asked here."""
        self._door.leave(self)
        self._core.lost()

    def drain(self) -> None:
        """Say GOAWAY and finish what is open."""
        self._core.drain()
        self._mark()

    def close(self) -> None:
        """Close the socket after what is being written."""
        self._transport.close()

    def sweep(self, now: int) -> None:
        """End streams and connections whose client makes no progress."""
        core = self._core
        if core.closed:
            self._transport.abort()  # it has had since the last look to read our last words
            return
        if core.needs_watch:
            core.check_stalls(now)
            self._mark()
        unsent = self._transport.get_write_buffer_size() if self._paused else 0
        if not unsent or unsent != self._stalled_bytes:
            self._stalled_at = now
            self._stalled_bytes = unsent
        elif now - self._stalled_at > self._door.http2_limits.stall_ms_max:
            self._transport.abort()


Connection = Sniffer | TlsConnection | Http2Protocol
