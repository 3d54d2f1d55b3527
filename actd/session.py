"""A client's side of the conversation, without a socket: which door, which calls are open, what to send, what failed.

Owns failover and retries. Knows no thread, loop or socket: time is an argument, `transport` sends and receives.

Theory of operation. Calls wait here until the door in use has answered a hello. Its answer names a conversation; when
that number changes, the door has begun anew and will not answer what was sent before. A door that is silent while
calls wait is asked again with a hello; one that does not answer is left for the next, and so is one that answers but
does not serve.

Invariants: a call ends exactly once; a call that was sent and has no answer is repeated only if it is repeatable, and
otherwise ends with `outcome_unknown`; a call the door certainly did not begin is sent again whatever it is.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from actd.calls import Call
from actd.errors import ActdError, CallTimedOut, ClientClosed, ProtocolFault, RequestRefused, Unavailable, error_of
from actd.login import LOGIN_S, LOGINS_PER_CALL_MAX, REFUSED_TOKEN, Login, refused_watch
from actd.streams import ClientStreams
from protocol import codec
from protocol.client import (
    CALLS_PER_BATCH_MAX,
    CLIENT_MESSAGE_BYTES_MAX,
    CLIENT_PROTOCOL_VERSION,
    TAKEN_STEP_BYTES,
    CallBatch,
    ClientHello,
    ClientHelloReply,
    ClientMessage,
    ClientRefused,
    RepliesTaken,
    ReplyBatch,
    ReplyPiece,
    StreamEnded,
    StreamMessages,
    UseToken,
)
from protocol.errors import WIRE_ERRORS, ErrorCode, PeerFault
from protocol.types import ClusterId

SILENCE_S: Final = 0.5
"""Silence of a door while calls wait, after which it is asked whether it lives."""
HELLO_S: Final = 0.5
"""How long a hello may take."""
STREAM_SILENCE_S: Final = 2.0
"""The same while streams are open: they may be silent for long, but a dead door must be noticed."""
IDLE_S: Final = 60.0
"""Silence without calls after which the door is greeted again first: it may have forgotten us."""
RETRY_S: Final = 0.05
NOT_SERVED_S: Final = 1.0
"""A door that serves nothing for so long and says that it cannot is left, if there is another."""
LEAVE_S: Final = 1.0
"""How long a door that takes no more calls may still answer open ones."""
OPEN_CALLS_SENT_MAX: Final = 8000
"""Calls at the door at once; the rest wait here, so that the door's own limit is never met."""
OPEN_BYTES_SENT_MAX: Final = 32 * 1024 * 1024
BATCH_BYTES_MAX: Final = CLIENT_MESSAGE_BYTES_MAX // 2
REPLY_KINDS: Final = frozenset(
    {"ClientHelloReply", "ClientRefused", "ReplyBatch", "ReplyPiece", "StreamMessages", "StreamEnded"}
)
FAR_S: Final = 3600.0

_NOT_SERVED: Final = frozenset(
    {
        ErrorCode.NO_LEADER,
        ErrorCode.NOT_LEADER,
        ErrorCode.STOPPED,
        ErrorCode.TIMEOUT,
        ErrorCode.TIMEOUT_LEADER_FAILED,
        ErrorCode.TIMEOUT_CONNECTION_LOST,
        ErrorCode.UNHEALTHY,
    }
)

Done = Callable[[Any, ActdError | None], None]
"""Ends a call: `done(result, None)` or `done(None, error)`."""


class Greeting(Enum):
    """How far we are with the door."""

    NONE = "none"
    """There is no connection."""
    ASKED = "asked"
    """A hello waits for its answer; calls wait here."""
    DONE = "done"
    """The door takes calls."""
    LEAVING = "leaving"
    """The door takes no more calls; it may still answer."""


@dataclass(slots=True, eq=False)
class OpenCall:
    """A call that has not ended. `sent`: a door may have begun it; `number`: its place in the order of asking."""

    number: int
    call: Call[Any]
    until: float
    done: Done
    sent: bool = False
    token: str = ""
    """What it was sent under."""
    logins: int = 0
    """How often it was refused for that."""


class Session:
    """Everything about a client but the bytes on the wire."""

    def __init__(
        self,
        endpoints: tuple[str, ...],
        cluster: int,
        name: str,
        may_use: Callable[[str], bool] = bool,
        login: Login | None = None,
    ) -> None:
        """`may_use` says whether a door that others tell of can be used."""
        self._may_use = may_use
        assert endpoints, "a client needs a door"
        self.endpoints = list(endpoints)
        self.closed = False
        self.reconnect = False
        """The transport must open a new socket to `endpoint` and say `connected`; set by `tick`."""
        self.hello: ClientHelloReply | None = None
        self.greeting = Greeting.NONE
        self.login = login or Login()
        self._cluster = cluster
        self._name = name or f"actd python {os.getpid()}"
        self._position = 0
        self._reconnect_at = 0.0
        self._hello_until = 0.0
        self._leave_at = 0.0
        self._heard_at = 0.0
        self._served_at = 0.0
        self._next_until = float("inf")
        """No open call ends earlier than this."""
        self._refusals: dict[str, ActdError] = {}
        """Doors that have refused us since one last took us, and why."""
        self._frames: list[bytes] = []
        self._asked = 0
        self._waiting: list[OpenCall] = []
        self._sent: dict[int, OpenCall] = {}
        self._sent_bytes = 0
        self._pieces: dict[int, list[bytes]] = {}
        """What has come of large answers, by the ids of calls that are sent."""
        self._later: list[tuple[float, OpenCall]] = []
        self._next_id = 0
        self._bytes_taken = 0
        self._bytes_told = 0
        self.streams = ClientStreams(self._frame)
        """Streaming calls; they are opened again at the next door by themselves."""

    @property
    def endpoint(self) -> str:
        """The door in use."""
        return self.endpoints[self._position % len(self.endpoints)]

    @property
    def calls_open(self) -> int:
        """How many calls have not ended."""
        return len(self._waiting) + len(self._sent) + len(self._later)

    @property
    def active(self) -> bool:
        """Whether a door is needed."""
        return bool(self._waiting or self._sent or self._later or self.streams)

    # --- calls -------------------------------------------------------------------------------------

    def add(self, call: Call[Any], until: float, done: Done) -> None:
        """Take a call; it ends at `until` at the latest."""
        if self.closed:
            done(None, ClientClosed("the client is closed"))
            return
        if until < self._next_until:
            self._next_until = until
        self._asked += 1
        self._waiting.append(OpenCall(self._asked, call, until, done))

    def close(self) -> None:
        """End every call and the conversation."""
        self.closed = True
        self._end_all(lambda unknown: ClientClosed("the client was closed", outcome_unknown=unknown))
        self.streams.end_all(lambda: ClientClosed("the client was closed"))

    def _end_all(self, make_error: Callable[[bool], ActdError]) -> None:
        """End every call, each with an error of its own that says whether its outcome is known."""
        everything = [*self._sent.values(), *self._waiting, *(open_call for _, open_call in self._later)]
        self._sent, self._waiting, self._later = {}, [], []
        self._pieces = {}
        self._sent_bytes = 0
        for open_call in everything:
            open_call.done(None, make_error(open_call.sent and not open_call.call.repeatable))

    def _take_sent(self, call_id: int) -> OpenCall | None:
        open_call = self._sent.pop(call_id, None)
        if self._pieces:
            self._pieces.pop(call_id, None)
        if open_call is not None:
            self._sent_bytes -= len(open_call.call.body)
        return open_call

    def _give_up_sent(self) -> None:
        """The door will not answer what it was sent: repeat what may be repeated, the rest is unknown."""
        self.streams.lost()
        lost, self._sent, self._sent_bytes = self._sent, {}, 0
        self._pieces = {}
        again: list[OpenCall] = []
        for open_call in lost.values():
            if open_call.call.repeatable:
                open_call.sent = False
                again.append(open_call)
            else:
                text = "the connection was lost before an answer came"
                open_call.done(None, Unavailable(text, retryable=True, outcome_unknown=True))
        self._put_back(again)

    def _not_begun(self, call_ids: Iterable[int]) -> None:
        """The door says that it has not touched these calls."""
        call_ids = list(call_ids)
        self.streams.lost(call_ids)
        again: list[OpenCall] = []
        for call_id in call_ids:
            open_call = self._take_sent(call_id)
            if open_call is not None:
                open_call.sent = False
                again.append(open_call)
        self._put_back(again)

    def _put_back(self, again: list[OpenCall]) -> None:
        """Have calls sent again in the order in which they were asked, however their batches came back."""
        if again:
            self._waiting = sorted([*again, *self._waiting], key=lambda open_call: open_call.number)

    # --- time --------------------------------------------------------------------------------------

    def deadline(self, now: float) -> float:
        """Return when `tick` should be called at the latest."""
        if not self.active:
            return now + FAR_S
        due = min([self._next_until, *(at for at, _ in self._later), now + FAR_S])
        if self.greeting is Greeting.NONE:
            return min(due, self._reconnect_at)
        if self.greeting is Greeting.ASKED:
            return min(due, self._hello_until)
        if self.greeting is Greeting.LEAVING:
            return min(due, self._leave_at)
        if not self.login.ready and not self.login.asking:
            due = min(due, self.login.at)
        if self.streams:
            due = min(due, self._heard_at + STREAM_SILENCE_S, self.streams.due())
        return min(due, self._heard_at + SILENCE_S) if self._sent else due

    def tick(self, now: float) -> None:
        """End what has run out of time, look after the door, bring back what was put off."""
        if self._later:
            self._waiting += [open_call for at, open_call in self._later if at <= now]
            self._later = [(at, open_call) for at, open_call in self._later if at > now]
        if now >= self._next_until:
            self._expire(now)
        if not self.active:
            return
        if self.greeting is Greeting.ASKED:
            if now >= self._hello_until:
                self._lose_door(now)
        elif self.greeting is Greeting.LEAVING:
            if now >= self._leave_at or not self._sent:
                self._lose_door(now)
        elif self.greeting is Greeting.DONE:
            silence = now - self._heard_at
            patience = SILENCE_S if self._sent else STREAM_SILENCE_S if self.streams else IDLE_S
            if silence >= patience:
                # A hello tells a slow door from a dead one, and one that has forgotten us from one that has not.
                self._say_hello(now)
        if self.greeting is Greeting.NONE and now >= self._reconnect_at:
            self.reconnect = True

    def _expire(self, now: float) -> None:
        for call_id in [call_id for call_id, open_call in self._sent.items() if open_call.until <= now]:
            open_call = self._take_sent(call_id)
            assert open_call is not None, "it was just listed"
            self._time_out(open_call)
        late = [open_call for open_call in self._waiting if open_call.until <= now]
        if late:
            self._waiting = [open_call for open_call in self._waiting if open_call.until > now]
        late += [open_call for _, open_call in self._later if open_call.until <= now]
        self._later = [(at, open_call) for at, open_call in self._later if open_call.until > now]
        for open_call in late:
            self._time_out(open_call)
        still_open = (*self._sent.values(), *self._waiting, *(open_call for _, open_call in self._later))
        self._next_until = min((open_call.until for open_call in still_open), default=float("inf"))

    def _time_out(self, open_call: OpenCall) -> None:
        unknown = open_call.sent and not open_call.call.repeatable
        where = "no answer from" if open_call.sent else "no door took it, last"
        refusal = self._refusals.get(self.endpoint)
        text = f"call timed out: {where} {self.endpoint}" + (f" ({refusal})" if refusal else "")
        open_call.done(None, CallTimedOut(text, retryable=True, outcome_unknown=unknown))

    # --- the door ----------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The transport has a new socket to `endpoint`."""
        self.reconnect = False
        self.hello = None
        self._frames = []
        self._say_hello(now)

    def _say_hello(self, now: float) -> None:
        self.greeting = Greeting.ASKED
        self._hello_until = now + HELLO_S
        self._frame(
            ClientHello(protocol_version=CLIENT_PROTOCOL_VERSION, client=self._name, cluster=ClusterId(self._cluster))
        )

    def _frame(self, message: ClientMessage) -> None:
        self._frames.append(codec.encode(message))

    def _lose_door(self, now: float, pause_s: float = 0.0) -> None:
        """Go to the next door."""
        self._position += 1
        self.greeting = Greeting.NONE
        self._reconnect_at = now + pause_s
        self._frames = []
        self._give_up_sent()

    def _leave(self, now: float, within_s: float) -> None:
        """Send this door nothing more; go to the next one when everything is answered, or after a while."""
        self.greeting = Greeting.LEAVING
        self._leave_at = now + within_s

    def take_frames(self, now: float) -> list[bytes]:
        """Return the frames to send now."""
        if self.login.cures and self.greeting is Greeting.DONE:
            self._see_to_login(now)
        takes = self.greeting is Greeting.DONE and self.login.ready
        while takes and self._waiting and len(self._sent) < self._sent_max:
            if self._sent_bytes >= OPEN_BYTES_SENT_MAX:
                break
            self._add_batch(now)
        self.streams.open_at(takes, now, self._make_id)
        frames, self._frames = self._frames, []
        return frames

    def _see_to_login(self, now: float) -> None:
        """Show the password if that is due, and tell the door the token if it does not know it."""
        login = self.login
        if login.due(now) and self.active:
            open_call = OpenCall(0, login.call(), now + LOGIN_S, self._on_login, sent=True, logins=LOGINS_PER_CALL_MAX)
            self._next_until = min(self._next_until, open_call.until)
            call_id, body = self._make_id(), open_call.call.body
            self._sent[call_id] = open_call
            self._sent_bytes += len(body)
            self._frame(CallBatch.make(calls=((call_id, open_call.call.method, int(LOGIN_S * 1000), body),)))
        elif login.token and not login.announced:
            login.announced = True
            self._frame(UseToken(token=login.token))

    def _on_login(self, token: str | None, error: ActdError | None) -> None:
        error = self.login.answered(token, error, self._heard_at)
        if error is not None:
            code, text = error.code, str(error)
            self._end_all(lambda _unknown: error_of(code, text))
            self.streams.end_all(lambda: error_of(code, text))

    def _make_id(self) -> int:
        self._next_id += 1
        return self._next_id

    @property
    def _sent_max(self) -> int:
        assert self.hello is not None, "the door was greeted"
        return min(OPEN_CALLS_SENT_MAX, self.hello.calls_open_max)

    def _add_batch(self, now: float) -> None:
        assert self.hello is not None, "the door was greeted"
        body_max = min(self.hello.request_bytes_max, BATCH_BYTES_MAX)
        room = min(CALLS_PER_BATCH_MAX, self._sent_max - len(self._sent))
        calls: list[tuple[int, int, int, bytes]] = []
        too_large: list[OpenCall] = []
        size = taken = 0
        sent = self._sent
        token = self.login.token
        if not sent:
            self._heard_at = now
        for open_call in self._waiting[:room]:
            body = open_call.call.body
            if len(body) > body_max:
                too_large.append(open_call)
                taken += 1
                continue
            if calls and size + len(body) > BATCH_BYTES_MAX:
                break
            taken += 1
            size += len(body)
            self._next_id = call_id = self._next_id + 1
            open_call.sent = True
            open_call.token = token
            sent[call_id] = open_call
            calls.append((call_id, open_call.call.method, max(1, int((open_call.until - now) * 1000)), body))
        del self._waiting[:taken]
        self._sent_bytes += size
        if calls:
            self._frame(CallBatch.make(calls=tuple(calls)))
        for open_call in too_large:
            # The door would say the same, if the frame got through at all.
            code = ErrorCode.REQUEST_TOO_LARGE
            open_call.done(None, error_of(code, WIRE_ERRORS[code].text))

    # --- what the door says ------------------------------------------------------------------------

    def received(self, frame: bytes, now: float) -> None:
        """Take in one frame from the door."""
        if self.greeting is Greeting.NONE:
            return  # from a door that was just left
        try:
            message = codec.decode(frame, REPLY_KINDS)
        except PeerFault as error:
            self._on_refused_by_door(ProtocolFault(f"{self.endpoint} sent what no door sends: {error}"), now)
            return
        self._heard_at = now
        if self.greeting is Greeting.ASKED:
            self._hello_until = now + HELLO_S
        if isinstance(message, ReplyBatch):
            self._on_replies(message, len(frame), now)
        elif isinstance(message, ReplyPiece):
            if message.call_id in self._sent:
                self._pieces.setdefault(message.call_id, []).append(message.piece)
            self._count_taken(len(frame))
        elif isinstance(message, ClientHelloReply):
            self._on_hello_reply(message, now)
        elif isinstance(message, ClientRefused):
            self._on_refused(message, now)
        elif isinstance(message, StreamMessages):
            self._served_at = now
            if self.login.cures and refused_watch(self.streams.method_of(message.call_id), message.messages):
                self.login.doubt(self.login.token)
                self.streams.put_off(message.call_id, now + RETRY_S)
            self.streams.on_messages(message.call_id, message.messages)
            self._count_taken(len(frame))
        elif isinstance(message, StreamEnded):
            self._on_stream_ended(message, len(frame), now)

    def _on_stream_ended(self, message: StreamEnded, frame_bytes: int, now: float) -> None:
        self._count_taken(frame_bytes)
        error = error_of(message.code, message.text) if message.code else None
        if error is not None and message.code in REFUSED_TOKEN and self.login.cures:
            self.login.doubt(self.login.token)
            if self.streams.count_refusal(message.call_id) <= LOGINS_PER_CALL_MAX:
                error = Unavailable(message.text, code=message.code, retryable=True)
        self.streams.on_end(message.call_id, error, now + RETRY_S)
        if message.code in _NOT_SERVED and self.greeting is Greeting.DONE and len(self.endpoints) > 1:
            self._leave(now, LEAVE_S)

    def _on_hello_reply(self, hello: ClientHelloReply, now: float) -> None:
        if self.hello is None or self.hello.conversation != hello.conversation:
            self._bytes_taken = self._bytes_told = 0
            self._served_at = now
            self._give_up_sent()
            self.login.announced = False
        self.hello = hello
        self._refusals = {}
        if self.greeting is Greeting.ASKED:
            self.greeting = Greeting.DONE
            # The door may wait for it before it sends more.
            self._tell_taken()
        for door in hello.doors:
            if door not in self.endpoints and self._may_use(door):
                self.endpoints.append(door)

    def _on_refused(self, refused: ClientRefused, now: float) -> None:
        self._not_begun(refused.call_ids)
        text = f"{self.endpoint} refused: {refused.reason}"
        if refused.code == "hello_first":
            if self.greeting is not Greeting.ASKED:
                self._say_hello(now)
        elif refused.code == "stopping":
            if self.greeting is Greeting.ASKED:
                self._lose_door(now, RETRY_S)
            elif self.greeting is Greeting.DONE:
                self._leave(now, LEAVE_S)
        elif refused.code == "too_many_clients":
            self._on_refused_by_door(Unavailable(text, retryable=True), now)
        else:
            self._on_refused_by_door(ProtocolFault(text), now)

    def _on_refused_by_door(self, error: ActdError, now: float) -> None:
        """This door will not do. When none will, everybody is told."""
        self._refusals[self.endpoint] = error
        if all(endpoint in self._refusals for endpoint in self.endpoints):
            self._refusals = {}
            kind, text, retryable = type(error), str(error), error.retryable
            self._end_all(lambda unknown: kind(text, retryable=retryable, outcome_unknown=unknown))
            if not retryable:
                self.streams.end_all(lambda: kind(text))
        self._lose_door(now, RETRY_S)

    def _on_replies(self, message: ReplyBatch, frame_bytes: int, now: float) -> None:
        for call_id, code, body in message.replies:
            ahead = self._pieces.get(call_id) if self._pieces else None
            open_call = self._take_sent(call_id)
            if open_call is not None:
                self._on_reply(open_call, code, b"".join((*ahead, body)) if ahead and not code else body, now)
        self._count_taken(frame_bytes)

    def _count_taken(self, frame_bytes: int) -> None:
        self._bytes_taken += frame_bytes
        # While a greeting is under way the door may have begun another conversation, in which nothing was sent yet.
        if self.greeting is not Greeting.ASKED:
            self._tell_taken()

    def _tell_taken(self) -> None:
        if self._bytes_taken - self._bytes_told >= TAKEN_STEP_BYTES:
            self._bytes_told = self._bytes_taken
            self._frame(RepliesTaken(bytes_taken=self._bytes_taken))

    def _useless(self, code: int, now: float) -> bool:
        return code == ErrorCode.STOPPED or now - self._served_at >= NOT_SERVED_S

    def _on_reply(self, open_call: OpenCall, code: int, body: bytes, now: float) -> None:
        if not code:
            self._served_at = now
            try:
                result = open_call.call.read(body)
            except ValueError as fault:
                # The answer was OK, whatever it says: a write took effect.
                unknown = not open_call.call.repeatable
                open_call.done(None, ProtocolFault(f"unreadable answer: {fault}", outcome_unknown=unknown))
                return
            open_call.done(result, None)
            return
        if code in REFUSED_TOKEN and self.login.cures and open_call.logins < LOGINS_PER_CALL_MAX:
            # It was not begun, whatever it is.
            self.login.doubt(open_call.token)
            open_call.logins += 1
            open_call.sent = False
            self._put_back([open_call])
            return
        error = error_of(code, body.decode(errors="replace"))
        if code not in _NOT_SERVED:
            self._served_at = now
        elif self.greeting is Greeting.DONE and len(self.endpoints) > 1 and self._useless(code, now):
            self._leave(now, LEAVE_S)
        error.outcome_unknown = error.outcome_unknown and not open_call.call.repeatable
        again = error.retryable and not error.outcome_unknown and not isinstance(error, RequestRefused)
        if again and now + RETRY_S < open_call.until:
            open_call.sent = False
            self._later.append((now + RETRY_S, open_call))
        else:
            open_call.done(None, error)
