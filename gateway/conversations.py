"""Calls that take several steps inside the node: ask the store, wait for a key to change, ask again, answer.

Owns the steps of each call: one question or one watcher at a time, the end, and what is tidied up when the client is
gone. Knows no service's meaning: that is a flow, a generator that yields steps and is sent their outcomes.

Theory of operation. A call is a stream of the gateway's `StreamTable`, whether its RPC streams or not: the table gives
it its deadline, its bound and word of the client's end. The first message starts the flow. `Ask` is a call of the core,
`Await` a watcher in the hub; the flow goes on when it is answered. `Refused` is thrown into a flow whose question was
refused, `Gone` into one whose call has ended; it may still ask, to leave nothing behind, but waits for nothing more.

Invariants: a flow has at most one question or one watcher; the flow of a call that has ended waits for no event; every
flow ends, because questions end by the core's deadline and what waits ends with the call.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from gateway.calls import Body
from gateway.credentials import NO_CREDENTIALS, Credentials
from gateway.methods import Method
from gateway.streams import Stream, StreamHandler, StreamHead, StreamMethod, StreamTable
from gateway.watch_hub import Watcher, WatchHub
from gateway.watch_wire import Chunk
from protocol.errors import ErrorCode
from protocol.types import Millis
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc


class Ask(NamedTuple):
    """Ask the store; the outcome is the response's bytes."""

    method: Method
    body: bytes


class Await(NamedTuple):
    """Wait for events from `start` on; the outcome is a list of them, in order, one at least."""

    key: bytes
    range_end: bytes
    start: int
    filters: int = 0
    """`NO_PUT` or `NO_DELETE`."""


class Refused(Exception):
    """A question was refused, or a wait cannot be fulfilled; a flow that lets it pass ends its call with `code`."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


class Gone(Exception):
    """Nobody waits for this call any more."""


Flow = Generator[Ask | Await, Any, None]
T = TypeVar("T")
Steps = Generator[Ask | Await, Any, T]
"""A part of a flow that results in something."""
Say = Callable[[Message], bool]
"""Answers; False if nobody heard it, so that what was done for nothing can be undone."""
M = TypeVar("M", bound=Message)

_ASKED_AGAIN: Final = frozenset(
    {ErrorCode.LEADER_CHANGED, ErrorCode.TIMEOUT_CONNECTION_LOST, ErrorCode.DUPLICATE_BATCH}
)


def ask(method: Method, request: Message, response: type[M], *, repeatable: bool) -> Steps[M]:
    """Ask, and return the response; what is `repeatable` is asked again when a change of leader swallowed it.

    Raises:
        Refused: with the code of the answer.
    """
    body = request.SerializeToString()
    while True:
        try:
            answer: bytes = yield Ask(method, body)
        except Refused as refused:
            if repeatable and refused.code in _ASKED_AGAIN:
                continue
            raise
        return response.FromString(answer)


class Asks(Protocol):
    """How a flow's questions reach the core."""

    def __call__(
        self,
        method: Method,
        body: bytes,
        now: Millis,
        credentials: Credentials,
        on_answer: Callable[[int, bytes], None],
    ) -> None:
        """Ask; `on_answer` is told the code and, where it is OK, the whole response."""
        ...


class Service(NamedTuple):
    """What serves one RPC: its request, and the flow that answers it by `say`."""

    request: type[Message]
    begin: Callable[[Any, Say], Flow]


class Conversations:
    """Opens the streams of services that are flows."""

    def __init__(self, asks: Asks, hub: WatchHub, clock: Callable[[], Millis]) -> None:
        """`clock` tells when the core last heard anything."""
        self.ask = asks
        self.hub = hub
        self.clock = clock
        self.open_flows = 0
        """Flows that have begun and not ended, those that only tidy up included."""

    def opener(self, service: Service) -> Callable[[Stream, Millis], StreamHandler]:
        """Return what opens a stream of `service`."""

        def open_stream(stream: Stream, now: Millis) -> StreamHandler:
            return Conversation(self, service, stream, now)

        return open_stream


class Conversation:
    """One call."""

    __slots__ = ("_events", "_flow", "_gone", "_now", "_service", "_shared", "_waits", "_watcher", "behind", "stream")

    def __init__(self, shared: Conversations, service: Service, stream: Stream, now: Millis) -> None:
        self.stream = stream
        self.behind: dict[Watcher, None] = {}
        self._shared = shared
        self._service = service
        self._flow: Flow | None = None
        self._waits: Await | None = None
        """What is waited for, and cannot be watched before the hub is ready."""
        self._watcher: Watcher | None = None
        self._events: list[mvcc.Event] = []
        self._gone = False
        self._now = now

    # --- from the client ---------------------------------------------------------------------------

    def on_message(self, body: bytes, now: Millis) -> None:
        """Take the request; a client has only one."""
        if self._flow is not None:
            return
        try:
            request = self._service.request.FromString(body)
        except DecodeError:
            self.stream.end(ErrorCode.MALFORMED)
            return
        self._now = now
        self._flow = self._service.begin(request, self._say)
        self._shared.open_flows += 1
        self._go_on(None)

    def on_half_close(self, now: Millis) -> None:
        """The request was all there is."""
        if self._flow is None:
            self.stream.end(ErrorCode.MALFORMED)

    def on_room(self, now: Millis) -> None:
        """Events that waited may come."""
        self._shared.hub.on_room(self)

    def on_cancel(self) -> None:
        """The call has ended: what it waits for is given up; what it has asked it hears of, to tidy up."""
        self._gone = True
        if self._stop_watching():
            self._go_on(Gone())

    # --- the flow ----------------------------------------------------------------------------------

    def _say(self, message: Message) -> bool:
        heard = self.stream.outcome is None
        self.stream.send(message.SerializeToString())
        return heard

    def _go_on(self, outcome: object) -> None:
        """Tell the flow what came of its step, and begin the next."""
        flow = self._flow
        assert flow is not None, "only a flow that has begun goes on"
        try:
            step = flow.throw(outcome) if isinstance(outcome, Exception) else flow.send(outcome)
        except StopIteration:
            self._end(ErrorCode.OK)
        except Refused as refused:
            self._end(refused.code)
        except Gone:
            self._end(ErrorCode.CANCELED)
        else:
            if isinstance(step, Ask):
                now = self._now = max(self._now, self._shared.clock())
                self._shared.ask(step.method, step.body, now, self.stream.head.credentials, self._on_answer)
            elif self._gone:
                self._go_on(Gone())
            else:
                self._waits = step
                self.resume()

    def _end(self, code: ErrorCode) -> None:
        self._shared.open_flows -= 1
        self._shared.hub.forget(self)
        self.stream.end(code)

    def _on_answer(self, code: int, body: bytes) -> None:
        if code:
            self._go_on(Refused(ErrorCode(code)))
        else:
            self._go_on(body)

    # --- from the hub ------------------------------------------------------------------------------

    def resume(self) -> None:
        """Watch, as soon as the hub is ready."""
        hub, step = self._shared.hub, self._waits
        if step is None or not hub.ready(self, previous=False):
            return
        self._waits = None
        if hub.watchers >= hub.watchers_max:
            self._go_on(Refused(ErrorCode.TOO_MANY_REQUESTS))
            return
        self._watcher = Watcher(self, 0, step.key, step.range_end, step.filters)
        hub.add(self._watcher, step.start)

    def tell(self, watcher: Watcher, chunk: Chunk) -> None:
        """Keep events until the hub has told everybody: only then may watchers come and go."""
        if not self._events:
            self._shared.hub.want_settle(self)
        self._events += rpc.WatchResponse.FromString(chunk.payload).events

    def settle(self) -> None:
        """Go on with what was told."""
        if self._events:
            events, self._events = self._events, []
            self._stop_watching()
            self._go_on(events)

    def tell_compacted(self, watcher: Watcher, compacted: int) -> None:
        """What was waited for may have happened and be gone from the log."""
        self._stop_watching()
        self._go_on(Refused(ErrorCode.COMPACTED))

    def _stop_watching(self) -> bool:
        """Return whether something was waited for."""
        waited = self._waits is not None or self._watcher is not None
        self._waits = None
        watcher, self._watcher = self._watcher, None
        self._events = []
        if watcher is not None:
            self._shared.hub.remove(watcher)
        self._shared.hub.no_settle(self)
        return waited


class SteppedCalls:
    """Unary calls that are served by conversations: each is a stream that says one thing and ends."""

    def __init__(self, streams: StreamTable, methods: Mapping[int, StreamMethod]) -> None:
        """`methods` are the streams behind unary methods, by number."""
        self._streams = streams
        self._methods = methods

    def open(
        self,
        call_id: int,
        method: Method,
        body: bytes,
        now: Millis,
        deadline: Millis | None,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """Begin a call; `collect` returns its answer one day."""
        streams = self._streams
        head = StreamHead(deadline=deadline, credentials=credentials)
        streams.open(call_id, self._methods[method.number], head, now, stepped=True)
        streams.message(call_id, body, now)
        streams.half_close(call_id, now)

    def collect(self) -> list[tuple[int, int, Body]]:
        """Return the answers of calls that have ended."""
        answers: list[tuple[int, int, Body]] = []
        ended, self._streams.stepped = self._streams.stepped, []
        for stream in ended:
            messages, outcome = self._streams.take(stream)
            assert outcome is not None, "a call that says something ends with it"
            answers.append((stream.call_id, outcome, b"".join(messages[0]) if messages else b""))
        return answers
