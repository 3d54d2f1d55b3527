"""The gateway's process loop: uvloop around a `GatewayCore`, its local links, its lifeline and its doors.

Owns the event loop, turns, call ids and the way to the end. Knows no protocol of any door and no method.

Theory of operation. Doors hand in requests (`submit`) while sockets are being read. The first thing that happens in an
iteration of the loop plans one `_end_turn` behind everything else of that iteration: there the core closes its batches,
answers go to the callbacks of their calls, links are flushed, and every connection that has output writes once.

Invariants:
* a call's callback runs exactly once, unless the call is cancelled first; never from within `submit`;
* the ZeroMQ descriptor is edge-triggered: the inbox is read until it is empty, or again in the next iteration;
* no step takes long: what is left after a slice of work is done in the next iteration, behind other sockets.
"""

import asyncio
import itertools
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog

from actors.actor import Source
from actors.effects import Effect, Halt, Log, RunInBackground, Send, SendPeer, SpawnHelper
from actors.lifeline import Lifeline, LifelineCut
from actors.links import LocalLinks
from actors.memory import FreedMemory
from actors.metrics import ActorMetrics
from gateway.calls import Body
from gateway.credentials import NO_CREDENTIALS, Credentials
from gateway.streams import StreamHead, StreamMethod, StreamTable
from protocol import codec, local
from protocol.errors import ErrorCode
from protocol.message import Message
from protocol.types import Millis

BEAT_INTERVAL_MS: Final = 1000
DRAIN_MS_MAX: Final = 2000
"""How long open calls may take to end once the gateway is asked to stop."""
GOODBYE_MS_MAX: Final = 500
"""How long clients may take to read their last answers after that."""
SLICE_MS_MAX: Final = 10
"""Work done in one go before other sockets are looked at; clients ping, and count a silence as a failure."""
ANSWERS_PER_SLICE: Final = 256
"""Answers handed out between two looks at the clock."""
STORY_EVENTS_MAX: Final = 50
STORY_LINE_CHARS_MAX: Final = 300

OnAnswer = Callable[[int, Body], None]
"""Told the `ErrorCode` and, where that is OK, the whole response."""
OnStream = Callable[[list[tuple[bytes, ...]], ErrorCode | None], int]
"""Takes messages of a stream, each in pieces, and how it ended, if it did; returns how many bytes wait unsent there."""


class Core(Protocol):
    """What the loop needs of a `GatewayCore`."""

    metrics: ActorMetrics
    answers: list[tuple[int, int, Body]]
    streams: StreamTable

    @property
    def deadline(self) -> Millis | None:
        """When `wake` is wanted."""
        ...

    def start(self, now: Millis) -> list[Effect]:
        """See `actors.actor`."""
        ...

    def submit(
        self,
        call_id: int,
        method: Any,
        body: bytes,
        now: Millis,
        deadline: Millis | None,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """Take a request; its answer appears in `answers`."""
        ...

    def cancel(self, call_id: int) -> None:
        """Nobody waits for this call any more."""
        ...

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """See `actors.actor`."""
        ...

    def wake(self, now: Millis) -> list[Effect]:
        """See `actors.actor`."""
        ...

    def end_turn(self, now: Millis) -> list[Effect]:
        """See `actors.actor`."""
        ...


class Door(Protocol):
    """Where clients come in."""

    def start(self) -> None:
        """Listen; called before the loop runs. Raises `OSError` if the address cannot be had."""
        ...

    def drain(self) -> None:
        """Take no more requests and tell clients so; open calls go on."""
        ...

    @property
    def idle(self) -> bool:
        """Whether every client has been told everything."""
        ...

    def stop(self) -> None:
        """Close everything at once."""
        ...


class Flushable(Protocol):
    """A connection that gathers output during a turn."""

    def flush(self) -> None:
        """Write what has been gathered."""
        ...


class GatewayLoop:
    """Runs one gateway until it halts. Doors call `submit`, `open_stream`, what belongs to them, and `mark_dirty`."""

    def __init__(
        self,
        core: Core,
        loop: asyncio.AbstractEventLoop,
        links: LocalLinks | None = None,
        lifeline: Lifeline | None = None,
        on_metrics: Callable[[local.MetricsReported], None] | None = None,
    ) -> None:
        """Without links and lifeline the core is on its own, as in tests of doors."""
        self.core = core
        self.loop = loop
        self.doors: list[Door] = []
        self._freed_memory = FreedMemory()
        self.stopping = False
        self._links = links
        self._lifeline = lifeline
        self._on_metrics = on_metrics
        self._log = structlog.get_logger().bind(actor="gateway")
        self._story: deque[tuple[object, ...]] = deque(maxlen=STORY_EVENTS_MAX)
        self._sources: dict[str, Source] = {}
        self._calls: dict[int, OnAnswer] = {}
        self._call_ids = itertools.count(1)
        self._streams: dict[int, OnStream] = {}
        self._answers: deque[tuple[int, int, Body]] = deque()
        self._dirty: list[Flushable] = []
        self._turn_planned = False
        self._links_planned = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = Millis(0)
        self._halt: Halt | None = None
        self._stop_due = Millis(0)

    # --- for the doors ------------------------------------------------------------------------------

    def now_ms(self) -> Millis:
        """Return the loop's monotonic clock in milliseconds, as of the start of this iteration."""
        return Millis(int(self.loop.time() * 1000))

    @property
    def calls_open(self) -> int:
        """How many calls wait for an answer."""
        return len(self._calls)

    def submit(
        self,
        method: Any,
        body: bytes,
        deadline_ms: Millis | None,
        on_answer: OnAnswer,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> int:
        """Hand a request to the core; `on_answer(code, body)` is called later in this turn or another.

        Args:
            method: an entry of `gateway.methods.METHODS`.
            body: the protobuf request as the client sent it.
            deadline_ms: instant on the clock of `now_ms` after which nobody waits, or None.
            on_answer: must not raise.
            credentials: what the request says of who makes it.

        Returns:
            The call id, for `cancel`.
        """
        call_id = next(self._call_ids)
        self._calls[call_id] = on_answer
        self.core.submit(call_id, method, body, Millis(int(self.loop.time() * 1000)), deadline_ms, credentials)
        if not self._turn_planned:
            self._plan_turn()
        return call_id

    def cancel(self, call_id: int) -> None:
        """Forget a call or a stream: its callback will not run. What was asked may still take effect."""
        if self._calls.pop(call_id, None) is not None:
            self.core.cancel(call_id)
            self._plan_turn()
        elif self._streams.pop(call_id, None) is not None:
            self.core.streams.cancel(call_id)
            self._plan_turn()

    def open_stream(self, method: StreamMethod, head: StreamHead, on_stream: OnStream) -> int:
        """Open a streaming call; `on_stream` is called at the end of turns, never from within this call.

        Returns:
            The call id, for `stream_message`, `stream_half_closed`, `stream_held` and `cancel`.
        """
        call_id = next(self._call_ids)
        self._streams[call_id] = on_stream
        self.core.streams.open(call_id, method, head, self.now_ms())
        self._plan_turn()
        return call_id

    def stream_message(self, call_id: int, body: bytes) -> None:
        """Hand in what the client says on a stream."""
        self.core.streams.message(call_id, body, self.now_ms())
        self._plan_turn()

    def stream_half_closed(self, call_id: int) -> None:
        """The client has said everything on a stream."""
        self.core.streams.half_close(call_id, self.now_ms())
        self._plan_turn()

    def stream_held(self, call_id: int, held_bytes: int) -> None:
        """The client has taken some of what the door holds; `held_bytes` are left."""
        self.core.streams.held(call_id, held_bytes, self.now_ms())
        self._plan_turn()

    def mark_dirty(self, connection: Flushable) -> None:
        """Have `connection.flush()` called at the end of this turn; the caller sees to it that it marks once."""
        self._dirty.append(connection)
        if not self._turn_planned:
            self._plan_turn()

    # --- life ---------------------------------------------------------------------------------------

    def run(self) -> Halt:
        """Run until the core halts, the supervisor is gone or a stop is complete; return why."""
        loop = self.loop
        loop.set_exception_handler(self._on_loop_exception)
        if self._lifeline is not None:
            loop.add_signal_handler(signal.SIGTERM, self.stop)
            # The launcher's terminal sends SIGINT to the whole group; the supervisor decides what it means.
            loop.add_signal_handler(signal.SIGINT, lambda: None)
            loop.add_reader(self._lifeline.fileno(), self._on_lifeline)
        if self._links is not None:
            loop.add_reader(self._links.fileno(), self._on_links)
        try:
            self._perform(self.core.start(self.now_ms()))
            for door in self.doors:
                door.start()
            self._beat()
            self._plan_links()
            self._plan_turn()
            if self._halt is None:
                loop.run_forever()
        except OSError as error:
            self._halt = Halt(f"{type(error).__name__}: {error}", failed=True)
        finally:
            for door in self.doors:
                door.stop()
        assert self._halt is not None, "the loop ends with a halt"
        self._say_goodbye(self._halt)
        return self._halt

    def stop(self) -> None:
        """Take no more requests, let open ones end for a while, then end. Safe to call twice."""
        if self.stopping:
            return
        self.stopping = True
        now = self.now_ms()
        self._stop_due = Millis(now + DRAIN_MS_MAX)
        for door in self.doors:
            door.drain()
        self.core.streams.end_all(ErrorCode.STOPPED)
        self.loop.call_later(DRAIN_MS_MAX / 1000, self._plan_turn)
        self._plan_turn()

    def _advance_stop(self, now: Millis) -> None:
        """Go on stopping: first calls end, then the core, then the connections."""
        if self._halt is None:
            if self._calls and now < self._stop_due:
                return
            self._perform(self.core.handle(local.StopActor(), Source("supervisor"), now))
            self._hand_out_all()
            for on_answer in list(self._calls.values()):
                on_answer(ErrorCode.STOPPED, b"")
            self._calls.clear()
            self._flush_connections()
            self._end(Halt("asked to stop"))
            self._stop_due = Millis(now + GOODBYE_MS_MAX)
            self.loop.call_later(GOODBYE_MS_MAX / 1000, self._plan_turn)
        if now >= self._stop_due or all(door.idle for door in self.doors):
            self.loop.stop()
        else:
            self.loop.call_later(0.01, self._plan_turn)

    def _end(self, halt: Halt) -> None:
        self._halt = self._halt or halt

    def _fail(self, error: BaseException) -> None:
        """Our own code is wrong: tell the story and end at once."""
        if self._halt is None or not self._halt.failed:
            self._log.error("actor_failed", error=repr(error), story=self._told_story(), exc_info=error)
            self._halt = Halt(f"{type(error).__name__}: {error}", failed=True)
        self.loop.stop()

    def _on_loop_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) or error is None:
            # A client's socket failed in a way asyncio tells of; the connection is already being closed.
            self._log.warning("loop_warning", message=str(context.get("message")), error=repr(error))
            return
        self._fail(error)

    def _told_story(self) -> list[str]:
        return [" ".join(str(part) for part in line)[:STORY_LINE_CHARS_MAX] for line in self._story]

    def _say_goodbye(self, halt: Halt) -> None:
        story = tuple(self._told_story()) if halt.failed else ()
        getattr(self._log, "error" if halt.failed else "info")("actor_halted", reason=halt.reason, fatal=halt.fatal)
        if self._lifeline is not None:
            self._lifeline.send(
                local.ActorHalted(
                    actor="gateway", reason=halt.reason, failed=halt.failed, fatal=halt.fatal, story=story
                )
            )
        if self._links is not None:
            self._links.close(drain=not halt.failed)

    # --- turns --------------------------------------------------------------------------------------

    def _plan_turn(self) -> None:
        if not self._turn_planned:
            self._turn_planned = True
            self.loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn_planned = False
        core = self.core
        now = self.now_ms()
        deadline = core.deadline
        if deadline is not None and now >= deadline:
            self._perform(core.wake(now))
        effects = core.end_turn(now)
        if effects:
            self._perform(effects)
        if core.answers or self._answers:
            self._hand_out()
        if core.streams.dirty:
            self._hand_out_streams()
        if self._links is not None:
            self._links.flush()
        if self._dirty:
            self._flush_connections()
        if self._links is not None and self._links.pending:
            self._plan_links()
        deadline = core.deadline
        if deadline is not None:
            self._arm_timer(deadline)
        if self.stopping:
            self._advance_stop(now)

    def _hand_out(self) -> None:
        """Give answers to their callbacks, for one slice of time."""
        waiting = self._answers
        waiting += self.core.answers
        self.core.answers = []
        calls = self._calls
        until = time.monotonic() + SLICE_MS_MAX / 1000
        while waiting:
            for _ in range(min(ANSWERS_PER_SLICE, len(waiting))):
                call_id, code, body = waiting.popleft()
                on_answer = calls.pop(call_id, None)
                if on_answer is not None:
                    on_answer(code, body)
            if time.monotonic() > until:
                break
        if waiting:
            self._plan_turn()

    def _hand_out_streams(self) -> None:
        """Give streams' messages to their doors, for one slice of time."""
        table = self.core.streams
        dirty, table.dirty = table.dirty, []
        now = self.now_ms()
        until = time.monotonic() + SLICE_MS_MAX / 1000
        for position, stream in enumerate(dirty):
            if position & 63 == 63 and time.monotonic() > until:
                table.dirty += dirty[position:]
                self._plan_turn()
                break
            messages, outcome = table.take(stream)
            call_id = stream.call_id
            if outcome is not None:
                on_stream = self._streams.pop(call_id, None)
                if on_stream is not None:
                    on_stream(messages, outcome)
                continue
            on_stream = self._streams.get(call_id)
            if on_stream is not None:
                table.held(call_id, on_stream(messages, None), now)
        if table.dirty:
            self._plan_turn()

    def _hand_out_all(self) -> None:
        self._answers += self.core.answers
        self.core.answers = []
        while self._answers:
            self._hand_out()
        while self.core.streams.dirty:
            self._hand_out_streams()

    def _flush_connections(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def _arm_timer(self, due: Millis) -> None:
        """See to it that a turn begins at `due`; an earlier timer does, since a turn arms the next."""
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.loop.call_at(due / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._plan_turn()

    # --- links and lifeline -------------------------------------------------------------------------

    def _plan_links(self) -> None:
        if self._links is not None and not self._links_planned:
            self._links_planned = True
            self.loop.call_soon(self._on_links)

    def _on_links(self) -> None:
        """Take what has arrived, for one slice of time."""
        self._links_planned = False
        links = self._links
        assert links is not None, "only a gateway with links reads them"
        now = self.now_ms()
        until = time.monotonic() + SLICE_MS_MAX / 1000
        while True:
            for sender, bodies in links.receive():
                source = self._sources.get(sender) or self._sources.setdefault(sender, Source(sender))
                for body in bodies:
                    self._hand(codec.decode(body), source, now)
            if not links.pending or time.monotonic() > until:
                break
        # What is left is taken by the turn, which looks at `pending` again.
        self._plan_turn()

    def _hand(self, message: Message, source: Source, now: Millis) -> None:
        if isinstance(message, local.MetricsReported):
            if self._on_metrics is not None:
                self._on_metrics(message)
            return
        if isinstance(message, local.LeadershipChanged) and self._lifeline is not None:
            # The launcher tells the people in front of it who leads.
            self._lifeline.send(message)
        self._story.append((now, source.actor, message.kind))
        self._perform(self.core.handle(message, source, now))

    def _on_lifeline(self) -> None:
        assert self._lifeline is not None, "only a gateway with a lifeline reads it"
        now = self.now_ms()
        try:
            messages = self._lifeline.receive()
        except LifelineCut:
            self._halt = Halt("the supervisor is gone")
            self.loop.stop()
            return
        for message in messages:
            if isinstance(message, local.StopActor):
                self.stop()
                continue
            if isinstance(message, local.ActorStarted) and self._links is not None:
                self._links.connect(message.actor, message.incarnation)
            self._hand(message, Source("supervisor"), now)
        self._plan_turn()

    def _beat(self) -> None:
        self.loop.call_later(BEAT_INTERVAL_MS / 1000, self._beat)
        if self._lifeline is not None:
            self._lifeline.send(local.Beat())
            self._freed_memory.beat()

    # --- effects ------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                if self._links is not None:
                    self._links.stage(effect.to, codec.encode(effect.message))
            elif isinstance(effect, Log):
                self._story.append(("log", effect.event, effect.fields))
                getattr(self._log, effect.level)(effect.event, **effect.fields)
            elif isinstance(effect, RunInBackground):
                self._run_in_background(effect)
            elif isinstance(effect, Halt):
                self._halt = self._halt or effect
                if not self.stopping:
                    self.loop.stop()
            else:
                assert not isinstance(effect, SendPeer | SpawnHelper), "the gateway has no peers and no helpers"

    def _run_in_background(self, effect: RunInBackground) -> None:
        future = self.loop.run_in_executor(None, effect.job)

        def done(finished: asyncio.Future[Message]) -> None:
            error = finished.exception()
            if error is not None:
                self._fail(error)
                return
            self._hand(finished.result(), Source("gateway"), self.now_ms())
            self._plan_turn()

        future.add_done_callback(done)
