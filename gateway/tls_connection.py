"""TLS on one connection of the client port: handshake, then a transport for the protocols that expect one.

Owns the plumbing around `ssl.SSLObject`: bytes in, bytes out, alerts, the end. Knows no protocol above it; certificates
are `gateway.tls`.

Why not the event loop's own TLS: it drops the alert that tells a client why it was refused, it counts a connection only
after its handshake, and it does as many handshakes in one turn of the loop as clients ask for.

Invariants: a handshake ends, one way or another, within `HANDSHAKE_MS_MAX`; `HANDSHAKES_PER_TURN_MAX` are begun between
two looks at other sockets; nothing is read while the protocol above does not want to read, nor before the handshake's
turn has come.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol, cast

import structlog

from actors.metrics import ActorMetrics
from gateway.tls import ClientRefused, ServerTls

HANDSHAKE_MS_MAX: Final = 10_000
"""How long a client may take to say who it is."""
HANDSHAKES_PER_TURN_MAX: Final = 4
"""Each costs a signature, about a third of a millisecond with an elliptic key and a whole one with RSA."""
PARTING_S: Final = 1.0
"""How long a client that was refused may take to read why."""
READ_BYTES: Final = 256 * 1024
LOG_INTERVAL_S: Final = 1.0
_HANDSHAKE_RECORD: Final = 0x16
_PLAIN_TEXT: Final = b"Client sent an HTTP request to an HTTPS server.\n"
PLAIN_HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: " + str(len(_PLAIN_TEXT)).encode() + b"\r\n\r\n" + _PLAIN_TEXT
)
"""For HTTP/2 as well: after SETTINGS, gRPC takes a connection for a good one, and dials again without a pause."""


class TlsDoor(Protocol):
    """What a connection needs of the door it has come through."""

    def enter(self, connection: Any) -> bool:
        """Count a connection that has not shown its protocol yet; False if there is no room for it."""
        ...

    def leave(self, connection: Any) -> None:
        """Count it no more."""
        ...

    def welcome(self, common_name: str) -> asyncio.Protocol:
        """Return who hears a connection that is secured, from its first byte on."""
        ...


class Handshakes:
    """The handshakes of one door: paced, counted, and their failures told at most once a second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: ServerTls, metrics: ActorMetrics) -> None:
        self.loop = loop
        self.tls = tls
        self._metrics = metrics
        self._waiting: deque[Callable[[], None]] = deque()
        self._log = structlog.get_logger().bind(actor="gateway", door="tls")
        self._told_at = -LOG_INTERVAL_S
        self._untold = 0

    def plan(self, begin: Callable[[], None]) -> None:
        """Have `begin` called when its turn comes."""
        self._waiting.append(begin)
        if len(self._waiting) == 1:
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        for _ in range(min(HANDSHAKES_PER_TURN_MAX, len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            self.loop.call_soon(self._turn)

    def succeeded(self) -> None:
        """Count one."""
        self._metrics.count("actd_tls_handshakes_total")

    def failed(self, why: str, peer: object, detail: str) -> None:
        """Count one that failed, and tell of it unless one was told of just now.

        Args:
            why: one of a few words, for the counter.
            peer: the client's address.
            detail: what OpenSSL says, for the log.
        """
        self._metrics.count(f'actd_tls_handshakes_failed_total{{reason="{why}"}}')
        now = self.loop.time()
        if now - self._told_at < LOG_INTERVAL_S:
            self._untold += 1
            return
        self._log.warning("tls_client_refused", reason=why, detail=detail, client=_address(peer), more=self._untold)
        self._told_at = now
        self._untold = 0


def _address(peer: object) -> str:
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer)


def reason_of(error: ssl.SSLError) -> tuple[str, str]:
    """Return a word for the counter and words for the log."""
    reason = error.reason or "UNKNOWN"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "bad_certificate", error.verify_message
    word = "protocol"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        word = "no_certificate"
    elif "ALERT" in reason:
        word = "client_refused_us"
    return word, reason.replace("_", " ").lower()


class TlsConnection(asyncio.Protocol):
    """One connection, from the first byte on; the protocol of its socket."""

    def __init__(self, door: TlsDoor, handshakes: Handshakes) -> None:
        self._door = door
        self._handshakes = handshakes
        self._began = handshakes.loop.time()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl: ssl.SSLObject | None = None
        self._app: asyncio.Protocol | None = None
        self._paused = False
        """Whether the protocol above does not want to read."""
        self._failed = False
        self.raw: asyncio.Transport

    # --- from the socket --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client to begin, if there is room for one more."""
        self.raw = cast("asyncio.Transport", transport)  # uvloop's has no common base
        if not self._door.enter(self):
            self._failed = True
            self.raw.abort()

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, or with what comes after it."""
        if self._failed or self.raw.is_closing():
            return
        if self._app is not None:
            self._incoming.write(data)
            self.read()
        elif self._ssl is not None:
            self._incoming.write(data)
            self._shake_hands()
        elif data[0] == _HANDSHAKE_RECORD:
            self._incoming.write(data)
            self.raw.pause_reading()
            self._handshakes.plan(self._begin)
        else:
            self._answer_plain(data)

    def pause_writing(self) -> None:
        """The client does not read: tell whoever writes."""
        if self._app is not None:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        if self._app is not None:
            self._app.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol above, or that there will be none."""
        app, self._app = self._app, None
        if app is not None:
            app.connection_lost(exc)
            return
        self._door.leave(self)
        if self._ssl is not None and not self._failed:
            self._refuse("gone", "the client left before the end of the handshake")

    # --- the handshake ----------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._failed or self.raw.is_closing():
            return
        context = self._handshakes.tls.context()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.raw.resume_reading()
        self._shake_hands()

    def _shake_hands(self) -> None:
        assert self._ssl is not None, "begun"
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the client why
            self._refuse(*reason_of(error))
            return
        self._flush()
        try:
            name = self._handshakes.tls.identify(self._ssl.getpeercert())
        except ClientRefused as refused:
            self._refuse("not_allowed", str(refused))
            return
        self._handshakes.succeeded()
        self._door.leave(self)
        app = self._app = self._door.welcome(name)
        app.connection_made(TlsTransport(self, self._ssl))
        self.read()

    def _refuse(self, why: str, detail: str) -> None:
        self._failed = True
        self._handshakes.failed(why, self.raw.get_extra_info("peername"), detail)
        if self._ssl is not None:
            with suppress(ssl.SSLError, ValueError):
                self._ssl.unwrap()
            self._flush()
        self._part()

    def _part(self) -> None:
        """Say nothing more, but listen for a moment.

        A client takes its handshake to be done before we have seen its certificate, and goes on talking. If nobody took
        that in, the kernel would answer it with a reset, and the client would never read why it was refused.
        """
        if not self.raw.is_closing():
            self.raw.write_eof()
            self._handshakes.loop.call_later(PARTING_S, self.raw.abort)

    def _answer_plain(self, data: bytes) -> None:
        """Tell a client that does not speak TLS that it should."""
        self._failed = True
        if data[:1].isalpha():
            self.raw.write(PLAIN_HTTP_ANSWER)
        self._handshakes.failed("plain_text", self.raw.get_extra_info("peername"), "the client does not speak TLS")
        self._part()

    def sweep(self, _now: int) -> None:
        """End a handshake that takes too long."""
        if (self._handshakes.loop.time() - self._began) * 1000 > HANDSHAKE_MS_MAX:
            self.give_up("timeout")

    def give_up(self, why: str = "crowded") -> None:
        """End the connection at once: it takes too long, or stands in the way of others."""
        if self._app is None and not self._failed:
            self._failed = True
            self._handshakes.failed(why, self.raw.get_extra_info("peername"), "the handshake was not finished")
        self.raw.abort()

    def close(self) -> None:
        """End the connection in good order."""
        if self._app is None:
            self._failed = True
        self.shut()

    # --- afterwards -------------------------------------------------------------------------------

    def read(self) -> None:
        """Hand the protocol above what has come."""
        incoming, connection = self._incoming, self._ssl
        assert connection is not None, "secured"
        chunks: list[bytes] = []
        over = False
        try:
            while not self._paused and (incoming.pending or connection.pending()):
                chunk = connection.read(READ_BYTES)
                if not chunk:
                    over = True
                    break
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            over = True
        if self._outgoing.pending:
            self._flush()
        if chunks and self._app is not None:
            self._app.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if over:
            self.shut()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        connection = self._ssl
        assert connection is not None, "secured"
        if self.raw.is_closing():
            return
        try:
            sent = connection.write(data)
            while sent < len(data):
                sent += connection.write(memoryview(data)[sent:])
        except ssl.SSLError:
            self.raw.abort()
            return
        self._flush()

    def pause(self) -> None:
        """Read no more."""
        if not self._paused and not self.raw.is_closing():
            self._paused = True
            self.raw.pause_reading()

    def resume(self) -> None:
        """Read on, first what was left."""
        if self._paused and not self.raw.is_closing():
            self._paused = False
            self.raw.resume_reading()
            self._handshakes.loop.call_soon(self._read_rest)

    def _read_rest(self) -> None:
        if self._app is not None and not self.raw.is_closing():
            self.read()

    def shut(self) -> None:
        """Say that nothing more will come, and close; nobody waits for the client to say the same."""
        if self.raw.is_closing():
            return
        if self._ssl is not None:
            # The client has not said it yet, or the handshake has failed: that is no reason to keep silent.
            with suppress(ssl.SSLError, ValueError):
                self._ssl.unwrap()
            self._flush()
        self.raw.close()

    @property
    def app(self) -> asyncio.Protocol | None:
        """The protocol above."""
        return self._app

    @app.setter
    def app(self, protocol: asyncio.Protocol) -> None:
        if self._app is not None:
            self._app = protocol

    @property
    def paused(self) -> bool:
        """Whether the protocol above does not want to read."""
        return self._paused

    def _flush(self) -> None:
        if self._outgoing.pending and not self.raw.is_closing():
            self.raw.write(self._outgoing.read())


class TlsTransport(asyncio.Transport):
    """What the protocol above writes to."""

    def __init__(self, connection: TlsConnection, secured: ssl.SSLObject) -> None:
        super().__init__({"ssl_object": secured, "sslcontext": secured.context})
        self._connection = connection

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection; addresses are the socket's."""
        own = super().get_extra_info(name)
        return self._connection.raw.get_extra_info(name, default) if own is None else own

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol hear from now on."""
        self._connection.app = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who hears."""
        app = self._connection.app
        assert app is not None, "a connection that is over has no protocol"
        return app

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._connection.raw.is_closing()

    def close(self) -> None:
        """Close after what has been written."""
        self._connection.shut()

    def abort(self) -> None:
        """Close at once."""
        self._connection.raw.abort()

    def is_reading(self) -> bool:
        """Whether the protocol is told what comes."""
        return not self._connection.paused

    def pause_reading(self) -> None:
        """Read no more."""
        self._connection.pause()

    def resume_reading(self) -> None:
        """Read on."""
        self._connection.resume()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        if data:
            self._connection.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all of it."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """TLS has no half of an end."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say how much may wait in the socket before the protocol is told to pause."""
        self._connection.raw.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return these limits."""
        return self._connection.raw.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait, encrypted."""
        return self._connection.raw.get_write_buffer_size()
