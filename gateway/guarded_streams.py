"""Streams that only the role root may have: nothing is served before the store has said that this is one.

Owns what a client says meanwhile. Knows no service. Invariant: the service behind hears nothing of a stream that was
refused, and everything of one that was not, in order.
"""

from collections.abc import Callable
from typing import Protocol

from gateway.credentials import Credentials
from gateway.streams import Opener, Stream, StreamHandler
from protocol.errors import ErrorCode
from protocol.types import Millis


class PermitRoot(Protocol):
    """How a stream asks whether it may be."""

    def __call__(self, now: Millis, credentials: Credentials, on_answer: Callable[[int, bytes], None]) -> bool:
        """Ask; `on_answer` is told 0 or why not. False: nobody need be asked."""
        ...


def for_root(opener: Opener, permit: PermitRoot) -> Opener:
    """Return what opens a stream once it is permitted."""

    def open_stream(stream: Stream, now: Millis) -> StreamHandler:
        return _Guarded(opener, permit, stream, now)

    return open_stream


class _Guarded:
    """One stream, and what stands behind it once that is known."""

    def __init__(self, opener: Opener, permit: PermitRoot, stream: Stream, now: Millis) -> None:
        self._opener = opener
        self._stream = stream
        self._now = now
        self._service: StreamHandler | None = None
        self._held: list[bytes] = []
        self._half_closed = False
        self._gone = False
        if not permit(now, stream.head.credentials, self._on_verdict):
            self._service = opener(stream, now)

    def _on_verdict(self, code: int, _body: bytes) -> None:
        if self._gone:
            return
        if code:
            self._stream.end(ErrorCode(code))
            return
        service = self._service = self._opener(self._stream, self._now)
        for body in self._held:
            service.on_message(body, self._now)
        self._held = []
        if self._half_closed:
            service.on_half_close(self._now)

    def on_message(self, body: bytes, now: Millis) -> None:
        """Hand it on, or keep it: a client of such a stream has one thing to say, and is ended if it says more."""
        self._now = now
        if self._service is not None:
            self._service.on_message(body, now)
        elif self._held:
            self._stream.end(ErrorCode.TOO_MANY_REQUESTS)
        else:
            self._held.append(body)

    def on_half_close(self, now: Millis) -> None:
        """Hand it on, or keep it."""
        self._half_closed = True
        if self._service is not None:
            self._service.on_half_close(now)

    def on_room(self, now: Millis) -> None:
        """Hand it on."""
        if self._service is not None:
            self._service.on_room(now)

    def on_cancel(self) -> None:
        """Hand it on; an answer to come concerns nobody."""
        self._gone = True
        if self._service is not None:
            self._service.on_cancel()
