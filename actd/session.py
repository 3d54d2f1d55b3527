"""A client's side of the conversation, without a socket: which door, which calls are open, what to send, what failed.

Owns failover and retries. Knows no thread, loop or socket: time is an argument, `transport` sends and receives.

Invariants: a call ends exactly once; one whose outcome is unknown is repeated only if it is repeatable; a door
counts as lost when it is silent for `SILENCE_S` while calls wait and then does not answer a hello either.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from actd.calls import Call
from actd.errors import ActdError, CallTimedOut, ClientClosed, ProtocolFault, RequestRefused, error_of
from protocol import codec
from protocol.client import (
    CALLS_PER_BATCH_MAX,
    CLIENT_MESSAGE_BYTES_MAX,
    CLIENT_PROTOCOL_VERSION,
    CallBatch,
    ClientHello,
    ClientHelloReply,
    ClientRefused,
    ReplyBatch,
)
from protocol.errors import PeerFault
from protocol.types import ClusterId

SILENCE_S: Final = 0.5
HELLO_S: Final = 0.5
RETRY_S: Final = 0.05
OPEN_CALLS_SENT_MAX: Final = 8000
"""Calls at the door at once; the rest wait here, so that the door's own limit is never met."""
BATCH_BYTES_MAX: Final = CLIENT_MESSAGE_BYTES_MAX // 2
REPLY_KINDS: Final = frozenset({"ClientHelloReply", "ClientRefused", "ReplyBatch"})


@dataclass(slots=True, eq=False)
class OpenCall:
    """A call that has not ended; `done(result, error)` ends it."""

    call: Call[Any]
    until: float
    done: Callable[[Any, ActdError | None], None]
    sent: bool = False


class Session:
    """Everything about a client but the bytes on the wire."""

    def __init__(self, endpoints: tuple[str, ...], cluster: int, name: str) -> None:
        assert endpoints, "a client needs a door"
        self.endpoints = list(endpoints)
        self.closed = False
        self.reconnect = True
        """The transport must open a new socket to `endpoint`."""
        self.hello: ClientHelloReply | None = None
        self._cluster = cluster
        self._name = name or f"actd python {os.getpid()}"
        self._position = 0
        self._ready = False
        self._failed: ActdError | None = None
        self._hello_until = 0.0
        self._heard_at = 0.0
        self._waiting: list[OpenCall] = []
        self._sent: dict[int, OpenCall] = {}
        self._later: list[tuple[float, OpenCall]] = []
        self._next_id = 0

    @property
    def endpoint(self) -> str:
        """The door in use."""
        return self.endpoints[self._position % len(self.endpoints)]

    @property
    def calls_open(self) -> int:
        """How many calls have not ended."""
        return len(self._waiting) + len(self._sent) + len(self._later)

    # --- calls -------------------------------------------------------------------------------------

    def add(self, call: Call[Any], until: float, done: Callable[[Any, ActdError | None], None]) -> None:
        """Take a call; it ends at `until` at the latest."""
        if self.closed:
            done(None, ClientClosed("the client is closed"))
            return
        self._waiting.append(OpenCall(call, until, done))

    def close(self) -> None:
        """End every call and the conversation."""
        self.closed = True
        for open_call in self._take_all():
            open_call.done(None, ClientClosed("the client was closed", outcome_unknown=open_call.sent))

    def _take_all(self) -> list[OpenCall]:
        everything = [*self._sent.values(), *self._waiting, *(open_call for _, open_call in self._later)]
        self._sent, self._waiting, self._later = {}, [], []
        return everything

    # --- time --------------------------------------------------------------------------------------

    def deadline(self, now: float) -> float:
        """Return when `tick` should be called at the latest."""
        if not self.calls_open:
            return now + 3600.0
        due = now + SILENCE_S / 2
        return min([due, *(at for at, _ in self._later)])

    def tick(self, now: float) -> None:
        """End what has run out of time, look after a silent door, bring back what was put off."""
        if self._later:
            self._waiting += [open_call for at, open_call in self._later if at <= now]
            self._later = [(at, open_call) for at, open_call in self._later if at > now]
        self._expire(now)
        if not self.calls_open:
            return
        if self._hello_until and now >= self._hello_until:
            self._lose_door()
        elif not self._hello_until and self._sent and now - self._heard_at >= SILENCE_S:
            # Silent while calls wait: a hello tells a slow door from a dead one.
            self._hello_until = now + HELLO_S
            self._ready = False

    def _expire(self, now: float) -> None:
        for call_id in [call_id for call_id, open_call in self._sent.items() if open_call.until <= now]:
            self._time_out(self._sent.pop(call_id))
        if any(open_call.until <= now for open_call in self._waiting):
            late = [open_call for open_call in self._waiting if open_call.until <= now]
            self._waiting = [open_call for open_call in self._waiting if open_call.until > now]
            for open_call in late:
                self._time_out(open_call)

    def _time_out(self, open_call: OpenCall) -> None:
        unknown = open_call.sent and not open_call.call.repeatable
        where = "no answer from" if open_call.sent else "no door could be reached, last"
        open_call.done(
            None, CallTimedOut(f"call timed out: {where} {self.endpoint}", retryable=True, outcome_unknown=unknown)
        )

    def _lose_door(self) -> None:
        """Go to the next door; what was sent and may not be repeated has an unknown outcome."""
        self._position += 1
        self.reconnect = True
        self._ready = False
        self._hello_until = 0.0
        lost, self._sent = self._sent, {}
        for open_call in lost.values():
            if open_call.call.repeatable:
                open_call.sent = False
                self._waiting.append(open_call)
            else:
                error = CallTimedOut("the connection was lost before an answer came", retryable=True)
                error.outcome_unknown = True
                open_call.done(None, error)

    # --- bytes -------------------------------------------------------------------------------------

    def connected(self, now: float) -> list[bytes]:
        """The transport has a new socket; return what to send first."""
        self.reconnect = False
        self._ready = False
        self._heard_at = now
        return [self._say_hello(now)]

    def _say_hello(self, now: float) -> bytes:
        self._hello_until = now + HELLO_S
        return codec.encode(
            ClientHello(protocol_version=CLIENT_PROTOCOL_VERSION, client=self._name, cluster=ClusterId(self._cluster))
        )

    def take_frames(self, now: float) -> list[bytes]:
        """Return the frames to send now."""
        frames: list[bytes] = []
        if self._hello_until and not self._ready and self._sent:
            frames.append(self._say_hello_again())
        if self._ready:
            while self._waiting and len(self._sent) < OPEN_CALLS_SENT_MAX:
                frames.append(self._next_batch(now))
        return frames

    def _say_hello_again(self) -> bytes:
        # Said once per silence: `tick` set the time by which it must be answered.
        self._ready = True
        return codec.encode(
            ClientHello(protocol_version=CLIENT_PROTOCOL_VERSION, client=self._name, cluster=ClusterId(self._cluster))
        )

    def _next_batch(self, now: float) -> bytes:
        calls: list[tuple[int, int, int, bytes]] = []
        size = 0
        taken = 0
        room = min(CALLS_PER_BATCH_MAX, OPEN_CALLS_SENT_MAX - len(self._sent))
        if not self._sent:
            self._heard_at = now
        for open_call in self._waiting[:room]:
            body = open_call.call.body
            if calls and size + len(body) > BATCH_BYTES_MAX:
                break
            taken += 1
            size += len(body)
            self._next_id += 1
            open_call.sent = True
            self._sent[self._next_id] = open_call
            wait_ms = max(1, int((open_call.until - now) * 1000))
            calls.append((self._next_id, open_call.call.method, wait_ms, body))
        del self._waiting[:taken]
        return codec.encode(CallBatch.model_construct(calls=tuple(calls)))

    def received(self, frame: bytes, now: float) -> None:
        """Take in one frame from the door."""
        try:
            message = codec.decode(frame, REPLY_KINDS)
        except PeerFault as error:
            self._fail(ProtocolFault(f"{self.endpoint} sent what no door sends: {error}"))
            return
        self._heard_at = now
        self._hello_until = 0.0
        if isinstance(message, ReplyBatch):
            sent = self._sent
            for call_id, code, body in message.replies:
                open_call = sent.pop(call_id, None)
                if open_call is not None:
                    self._end(open_call, code, body, now)
        elif isinstance(message, ClientHelloReply):
            self.hello = message
            self._ready = True
            for door in message.doors:
                if door not in self.endpoints:
                    self.endpoints.append(door)
        elif isinstance(message, ClientRefused):
            self._on_refused(message)

    def _on_refused(self, refused: ClientRefused) -> None:
        if refused.code == "hello_first":
            # The door has forgotten us (it was restarted): greet it again on a new connection.
            self._position -= 1
            self._lose_door()
        else:
            self._fail(ProtocolFault(f"{self.endpoint} refused: {refused.reason}"))

    def _fail(self, error: ActdError) -> None:
        for open_call in self._take_all():
            open_call.done(None, error)

    def _end(self, open_call: OpenCall, code: int, body: bytes, now: float) -> None:
        if not code:
            try:
                result = open_call.call.read(body)
            except ValueError as fault:
                open_call.done(None, ProtocolFault(f"unreadable answer: {fault}", outcome_unknown=True))
                return
            open_call.done(result, None)
            return
        error = error_of(code, body.decode(errors="replace"))
        again = error.retryable and (open_call.call.repeatable or not error.outcome_unknown)
        if again and not isinstance(error, RequestRefused) and now + RETRY_S < open_call.until:
            open_call.sent = False
            self._later.append((now + RETRY_S, open_call))
        else:
            open_call.done(None, error)
