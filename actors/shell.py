"""The process around an actor: poll, drain, handle, end the turn, send. The only clock an actor ever sees.

Owns the loop, the sockets, background threads, beats, metrics and the story. Knows nothing of what is said.
Invariants: an actor is handed messages of one link in order; one packet per destination and turn; a failed actor says
nothing more.
"""

import gc
import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from actors.actor import Actor, Source
from actors.effects import Effect, Halt, KnowPeers, Log, RunInBackground, Send, SendPeer, SpawnHelper
from actors.lifeline import Lifeline, LifelineCut
from actors.links import HEADERS_REMEMBERED_MAX, LocalLinks, PeerDoor, PeerLinks
from actors.memory import FreedMemory
from protocol import codec, local, peer
from protocol.errors import Corruption, DiskFailed, PeerFault
from protocol.message import Message
from protocol.types import NOBODY, MemberId, Millis

BEAT_INTERVAL_MS: Final = 1000
STORY_EVENTS_MAX: Final = 50
STORY_LINE_CHARS_MAX: Final = 300
REASON_CHARS_MAX: Final = 4000
"""A halt's last words fit one packet of the lifeline, whatever an error has to say."""
REFUSAL_INTERVAL_MS: Final = 5000
REFUSALS_REMEMBERED_MAX: Final = 1000
PEER_HELPERS: Final = ("snapshot_sender", "snapshot_receiver")
"""Short-lived actors that peers may speak to through raft's door: nobody else is."""
HELPERS: Final = (*PEER_HELPERS, "snapshot_exporter")
"""All short-lived actors."""
HELPER_ASKERS: Final = {"snapshot_exporter": "applier"}
"""Who asks for a helper and hears of its end, where that is not raft."""


def now_ms() -> Millis:
    """Return the monotonic clock in milliseconds."""
    return Millis(time.monotonic_ns() // 1_000_000)


def tune_garbage_collection() -> None:
    """Leave what was loaded before the loop out of every later collection, and collect seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


class Shell:
    """Runs one actor until it halts."""

    def __init__(
        self,
        actor: Actor,
        lifeline: Lifeline,
        links: LocalLinks,
        peers: PeerLinks | None,
        door: PeerDoor | None,
        clock: Callable[[], Millis] = now_ms,
    ) -> None:
        self._actor = actor
        self._now = clock
        self._lifeline = lifeline
        self._links = links
        self._peers = peers
        self._door = door
        self._log = structlog.get_logger().bind(actor=actor.name)
        self._story: deque[tuple[object, ...]] = deque(maxlen=STORY_EVENTS_MAX)
        self._halt: Halt | None = None
        self._background: queue.SimpleQueue[Message | BaseException] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._beat_due = self._now()
        self._freed_memory = FreedMemory()
        self._reported: tuple[dict[str, float], dict[str, float]] = ({}, {})
        self._spoken_at: dict[tuple[str, MemberId], Millis] = {}
        self._sources: dict[str, Source] = {}
        self._peer_sources: dict[peer.PeerHeader, Source] = {}
        # Plain poll on the descriptors of the sockets: ZeroMQ's own poll asks every socket twice around each wait.
        self._links_fileno = links.fileno()
        self._door_fileno = -1 if door is None else door.fileno()
        self._lifeline_fileno = lifeline.fileno()
        self._poller = select.poll()
        for descriptor in (self._links_fileno, self._lifeline_fileno, self._wake_read):
            self._poller.register(descriptor, select.POLLIN)
        if door is not None:
            self._poller.register(self._door_fileno, select.POLLIN)

    def run(self) -> Halt:
        """Turn until the actor halts or the supervisor is gone; return why."""
        tune_garbage_collection()
        try:
            self._perform(self._actor.start(self._now()))
            self._flush()
            while self._halt is None:
                self._turn()
        except LifelineCut:
            self._halt = Halt("the supervisor is gone")
        except Exception as error:  # noqa: BLE001 - whatever an actor raises, the story must be told
            self._log.exception("actor_failed", story=self._told_story())
            # A disk that failed behind the actor's back, in the background, is no better after a restart.
            fatal = isinstance(error, Corruption | DiskFailed)
            self._halt = Halt(f"{type(error).__name__}: {error}", failed=True, fatal=fatal)
        halt = self._halt
        assert halt is not None, "the loop ends with a halt"
        self._say_goodbye(halt)
        return halt

    # --- one turn ----------------------------------------------------------------------------------

    def _turn(self) -> None:
        actor, links, door = self._actor, self._links, self._door
        deadline = actor.deadline
        due = self._beat_due if deadline is None or deadline > self._beat_due else deadline
        wait_ms = 0 if links.pending or (door is not None and door.pending) else max(0, due - self._now())
        ready = [descriptor for descriptor, _ in self._poller.poll(wait_ms)]
        now = self._now()
        # The supervisor's news first: a new actor is known before its first message is handled. A wish to stop last.
        stop = self._receive_supervisor(now) if self._lifeline_fileno in ready else None
        if self._links_fileno in ready or links.pending:
            for sender, bodies in links.receive():
                source = self._sources.get(sender) or self._sources.setdefault(sender, Source(sender))
                for body in bodies:
                    self._hand(codec.decode(body), source, now)
        if door is not None and (self._door_fileno in ready or door.pending):
            self._receive_peers(door, now)
        if self._wake_read in ready:
            self._receive_background(now)
        if now >= self._beat_due:
            self._beat(now)
        if stop is not None:
            self._hand(stop, Source("supervisor"), now)
        if deadline is not None and now >= deadline:
            # What has become due in this turn only is seen to in the next, which then does not wait.
            self._perform(actor.wake(now))
        if self._halt is None:
            self._perform(actor.end_turn(now))
        if self._halt is None or not self._halt.failed:
            # An actor that ends well has its last words delivered; a failed one says nothing more.
            self._flush()

    def _hand(self, message: Message, source: Source, now: Millis) -> None:
        if self._halt is None:
            self._story.append((now, source.actor, message.kind))
            self._perform(self._actor.handle(message, source, now))

    def _receive_peers(self, door: PeerDoor, now: Millis) -> None:
        for header, bodies in door.receive():
            if header.actor != self._actor.name:
                self._relay(header, bodies, now)
                continue
            source = self._peer_sources.get(header) or self._meet(header)
            for body in bodies:
                try:
                    message = codec.decode(body, peer.PEER_KINDS if header.cluster else peer.STRANGER_KINDS)
                except PeerFault as error:
                    self._fault(header.sender, str(error), now)
                    continue
                self._hand(message, source, now)
        refused, door.refused = door.refused, []
        for member, reason in refused:
            if self._may_speak("refused", member, now):
                self._log.warning("peer_refused", peer=f"{member:x}", reason=reason)
                if self._peers is not None:
                    refusal = codec.encode(peer.PeerRefused(reason=reason))
                    self._peers.stage(member, refusal, bulk=False, actor="raft")

    def _meet(self, header: peer.PeerHeader) -> Source:
        if len(self._peer_sources) >= HEADERS_REMEMBERED_MAX:
            self._peer_sources.clear()
        source = self._peer_sources[header] = Source(header.actor, header.sender, header.store)
        return source

    def _relay(self, header: peer.PeerHeader, bodies: list[memoryview], now: Millis) -> None:
        if header.actor in PEER_HELPERS:
            self._links.relay(header.actor, bodies)
        else:
            self._fault(header.sender, f"frames for {header.actor!r}, which peers do not speak to", now)

    def _fault(self, member: MemberId, reason: str, now: Millis) -> None:
        self._actor.metrics.count("actd_peer_faults_total")
        if self._may_speak("fault", member, now):
            self._log.warning("peer_fault", peer=f"{member:x}", reason=reason)

    def _may_speak(self, topic: str, member: MemberId, now: Millis) -> bool:
        """Whether it is time for another word on `topic`: a flood of frames makes no flood of answers and lines."""
        spoken = self._spoken_at.get((topic, member))
        if spoken is not None and now - spoken < REFUSAL_INTERVAL_MS:
            return False
        if len(self._spoken_at) >= REFUSALS_REMEMBERED_MAX:
            self._spoken_at.clear()
        self._spoken_at[(topic, member)] = now
        return True

    def _receive_background(self, now: Millis) -> None:
        while True:
            try:
                os.read(self._wake_read, 4096)
            except BlockingIOError:
                break
        while not self._background.empty():
            result = self._background.get()
            if isinstance(result, BaseException):
                raise result
            self._hand(result, Source(self._actor.name, NOBODY), now)

    def _receive_supervisor(self, now: Millis) -> local.StopActor | None:
        """Hand over what the supervisor has to say; return its wish to stop, if that was part of it."""
        stop = None
        for message in self._lifeline.receive():
            if isinstance(message, local.StopActor):
                stop = message
                continue
            if isinstance(message, local.ActorStarted):
                self._links.connect(message.actor, message.incarnation)
            elif isinstance(message, local.HelperEnded):
                self._links.disconnect(message.helper)
            self._hand(message, Source("supervisor"), now)
        return stop

    # --- effects -----------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._links.stage(effect.to, codec.encode(effect.message))
            elif isinstance(effect, SendPeer):
                assert self._peers is not None, f"{self._actor.name} has no link to peers"
                self._peers.stage(effect.to, effect.body, bulk=effect.bulk, actor=effect.actor)
            elif isinstance(effect, Log):
                self._story.append(("log", effect.event, effect.fields))
                getattr(self._log, effect.level)(effect.event, **effect.fields)
            elif isinstance(effect, RunInBackground):
                threading.Thread(target=self._work, args=(effect,), name=effect.label, daemon=True).start()
            elif isinstance(effect, SpawnHelper):
                self._spawn(effect)
            elif isinstance(effect, KnowPeers):
                assert self._peers is not None, f"{self._actor.name} has no link to peers"
                self._peers.know(effect.peers)
            elif self._halt is None:
                self._halt = effect

    def _spawn(self, effect: SpawnHelper) -> None:
        request = local.SpawnRequested(helper=effect.helper, arguments=effect.arguments)
        if not self._lifeline.send(request):
            # Whoever waits for the helper's end must hear of one.
            self._background.put(local.HelperEnded(helper=effect.helper, failure="the request did not leave"))
            os.write(self._wake_write, b"x")

    def _work(self, effect: RunInBackground) -> None:
        try:
            self._background.put(effect.job())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends the actor, on its own thread
            self._background.put(error)
        os.write(self._wake_write, b"x")

    def _flush(self) -> None:
        # Peers first: a quorum waits for what goes to them, and the way there is the longer one.
        if self._peers is not None:
            self._peers.flush()
        self._links.flush()

    def _beat(self, now: Millis) -> None:
        self._beat_due = Millis(now + BEAT_INTERVAL_MS)
        self._lifeline.send(local.Beat())
        self._actor.measure()
        self._freed_memory.beat()
        metrics = self._actor.metrics
        state = (dict(metrics.counters), dict(metrics.gauges))
        if state == self._reported:
            return
        self._reported = state
        report = local.MetricsReported(
            actor=self._actor.name,
            incarnation=self._links.incarnation,
            counters=state[0],
            gauges=state[1],
            histograms={key: (metrics.sums[key], tuple(counts)) for key, counts in metrics.buckets.items()},
        )
        self._links.stage("gateway", codec.encode(report))

    def _told_story(self) -> list[str]:
        return [" ".join(str(part) for part in line)[:STORY_LINE_CHARS_MAX] for line in self._story]

    def _say_goodbye(self, halt: Halt) -> None:
        story = tuple(self._told_story()) if halt.failed else ()
        level = "error" if halt.failed else "info"
        getattr(self._log, level)("actor_halted", reason=halt.reason, fatal=halt.fatal, story=list(story))
        self._lifeline.send(
            local.ActorHalted(
                actor=self._actor.name,
                reason=halt.reason[:REASON_CHARS_MAX],
                failed=halt.failed,
                fatal=halt.fatal,
                story=story,
            )
        )
        self._links.close(drain=not halt.failed)
        if self._peers is not None:
            self._peers.close()
        if self._door is not None:
            self._door.close()
