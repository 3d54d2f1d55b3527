"""The shell in virtual time: one actor with its mailbox, its turns, its deadline and its links.

Owns what `actors.shell` does with real sockets: a turn drains the mailbox, hands over each message, wakes the actor if
its deadline has passed, ends the turn and lets the effects out when the turn's time is over. Knows no fault kinds.
Invariants: every message is encoded when it leaves and decoded when it is handled; a local link keeps its order; what
was queued for a dead actor is lost, what a dead actor had sent is lost from some instant on.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from actors.actor import Actor, Source
from actors.effects import Effect, Halt, KnowPeers, Log, RunInBackground, Send, SendPeer, SpawnHelper
from actors.links import addresses_known
from protocol.codec import decode, encode
from protocol.errors import DiskFailed, PeerFault
from protocol.local import ActorStarted
from protocol.message import Message
from protocol.peer import PEER_KINDS
from protocol.types import NOBODY, Incarnation, MemberId
from sim.trouble import PowerCut, SimulationFailed

if TYPE_CHECKING:
    from sim.clients import Call
    from sim.node import SimNode

HELPERS: Final = ("snapshot_sender", "snapshot_receiver", "snapshot_exporter")
"""Short-lived actors."""
TURN_US: Final = {"gateway": 60, "raft": 50, "wal": 40, "applier": 80}
"""Mean length of a turn, without what the disk takes."""
LOCAL_DELAY_US_MAX: Final = 80
"""Longest way between two actors of a node, beside 20 us that it always takes."""
EFFECTS_PER_TURN_MAX: Final = 20_000
"""An actor that asks for more in one turn is broken."""


IDLE_WAKES_MAX: Final = 300
"""An actor that wakes so often without news and without doing anything asks to be woken for the past."""


class Parcel(NamedTuple):
    """One thing in a mailbox: encoded bytes from somewhere, or a client's call."""

    source: Source
    body: bytes
    call: "Call | None" = None


class Process:
    """One actor process of a simulated node."""

    def __init__(self, node: "SimNode", actor: Actor, incarnation: Incarnation, links: dict[str, Incarnation]) -> None:
        self.node = node
        self.addresses: dict[MemberId, str] = {}
        """The peer URLs at which it dials members."""
        self.links = links
        """Which incarnation of each sibling this process is connected to; `ActorStarted` connects to another."""
        self.world = node.world
        self.actor = actor
        self.name = actor.name
        self.incarnation = incarnation
        self.heard: dict[str, int] = {}
        """The newest incarnation heard of each sibling; older ones have no say any more."""
        self.alive = True
        self.died_us = 0
        self.keep_until_us = 0
        self.paused_until_us = 0
        self.turns = 0
        self.peer_heads: dict[tuple[MemberId, str], bytes] = {}
        """Packed heads of the frames it sends, by receiver and actor."""
        self._halting = False
        self._rng = node.rng
        self._source = Source(self.name)
        self._mailbox: deque[Parcel] = deque()
        self._busy_until_us = 0
        self._mail_planned = False
        self._due_us: int | None = None
        """When the actor wants to be woken."""
        self._wake_planned_us: int | None = None
        """When the next event looks whether it is due; it may be early, then it is planned anew."""
        self._idle_wakes = 0
        """Turns in a row in which the actor woke, was told nothing and did nothing."""
        self._link_at_us: dict[str, int] = {}
        self._turn_us_max = 2 * TURN_US.get(actor.name, 60)

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run the actor's `start` as its first turn."""
        effects = self._guarded(lambda: self.actor.start(self.node.now_ms()))
        self._finish(effects)

    def die(self, *, clean: bool = False) -> None:
        """End at once, as by SIGKILL: the mailbox is gone, and so is part of what was under way, unless `clean`."""
        if not self.alive:
            return
        self.alive = False
        self.died_us = self.world.now_us
        last = max([self.died_us, *self._link_at_us.values()])
        self.keep_until_us = last if clean else self._rng.randint(self.died_us, last)
        self._mailbox.clear()

    def pause(self, duration_us: int) -> None:
        """Handle nothing for a while, as after SIGSTOP or in a long collection."""
        self.paused_until_us = max(self.paused_until_us, self.world.now_us + duration_us)

    def excused_lately(self, span_us: int) -> bool:
        """Whether it was paused, or its clock was not to be relied on, within the last `span_us`."""
        return max(self.paused_until_us, self.node.clock_odd_until_us) > self.world.now_us - span_us

    # --- mailbox and turns -----------------------------------------------------------------------

    def deliver(self, parcel: Parcel) -> None:
        """Put something into the mailbox; it is handled in the next turn."""
        if not self.alive:
            return
        self._mailbox.append(parcel)
        if not self._mail_planned:
            self._mail_planned = True
            world = self.world
            now_us = world.now_us
            # Mostly it is free: then the turn is planned without another look.
            free_us = now_us if now_us >= self._busy_until_us and now_us >= self.paused_until_us else self._free_us()
            world.at(free_us, self._mail_turn)

    def plan_wake(self) -> None:
        """See to it that the actor is woken at its deadline; also called when the machine's clock was set."""
        deadline = self.actor.deadline
        if deadline is None:
            self._due_us = None
            return
        due_us = self.node.world_time_us(deadline)
        self._due_us = due_us
        if self._wake_planned_us is None or due_us < self._wake_planned_us:
            self._plan_look(due_us)

    def _plan_look(self, at_us: int) -> None:
        at_us = max(at_us, self._free_us())
        self._wake_planned_us = at_us
        self.world.at(at_us, self._wake_turn, at_us)

    def _free_us(self) -> int:
        """The first instant at which a turn can begin."""
        return max(self._busy_until_us, self.paused_until_us, self.world.now_us)

    def _mail_turn(self) -> None:
        if not self.alive or self._halting:
            return
        now_us = self.world.now_us
        if now_us < self._busy_until_us or now_us < self.paused_until_us:
            self.world.at(self._free_us(), self._mail_turn)
            return
        self._mail_planned = False
        if self._mailbox:
            self._idle_wakes = 0
            self._turn()

    def _wake_turn(self, planned_us: int) -> None:
        if planned_us != self._wake_planned_us or not self.alive or self._halting:
            return
        self._wake_planned_us = None
        if self._due_us is None:
            return
        due_us = max(self._due_us, self._free_us())
        if due_us > self.world.now_us:
            self._plan_look(due_us)
            return
        self._idle_wakes += 1
        if self._idle_wakes > IDLE_WAKES_MAX:
            raise SimulationFailed("no actor spins", f"{self!r} woke {self._idle_wakes} times and did nothing")
        self._turn()

    def _turn(self) -> None:
        self.turns += 1
        effects = self._guarded(self._handle_all)
        if effects:
            self._idle_wakes = 0
        if self.alive:
            self._finish(effects)

    def _handle_all(self) -> list[Effect]:
        world, node, actor, mailbox = self.world, self.node, self.actor, self._mailbox
        now = node.now_ms()
        effects: list[Effect] = []
        for _ in range(len(mailbox)):
            parcel = mailbox.popleft()
            if parcel.call is not None:
                node.submit(parcel.call, now)
                continue
            source = parcel.source
            message = self._decode(parcel)
            if message is None:
                if source.member == NOBODY:
                    return [Halt("a peer's frame that was relayed is no message", failed=True)]
                continue
            if isinstance(message, ActorStarted):
                self._connect(message, effects)
            world.trace.note(world.now_us, node.name, actor.name, message.kind, parcel.body)
            world.observe_handled(self, source, message)
            effects += actor.handle(message, source, now)
            if _halts(effects):
                return effects
        deadline = actor.deadline
        if deadline is not None and deadline <= now:
            effects += actor.wake(now)
        return effects if _halts(effects) else effects + actor.end_turn(now)

    def _decode(self, parcel: Parcel) -> Message | None:
        """Decode what is said, as the shell does: nonsense from a peer is dropped, and ends a helper it was relayed to.

        Siblings speak no nonsense: if one does, that is a bug, and raised.
        """
        foreign = parcel.source.member != NOBODY
        try:
            return decode(parcel.body, PEER_KINDS) if foreign else decode(parcel.body)
        except PeerFault:
            if not foreign and self.name not in HELPERS:
                raise
            self.world.counts["frame_faults"] += 1
            return None

    def _connect(self, message: ActorStarted, effects: list[Effect]) -> None:
        """Talk to the new incarnation from now on; what this turn has for the old one is dropped."""
        self.links[message.actor] = message.incarnation
        effects[:] = [effect for effect in effects if not (isinstance(effect, Send) and effect.to == message.actor)]

    def _guarded(self, run: Callable[[], list[Effect]]) -> list[Effect]:
        """Run a piece of the actor; a power cut in it takes the node down, anything else it raises is a bug."""
        try:
            effects = run()
            if self._rng.random() < self.world.validate_chance:
                self.actor.check_invariants()
        except PowerCut:
            self.node.lose_power("mid_write")
            return []
        except SimulationFailed:
            raise
        except Exception as error:
            raise SimulationFailed("no actor raises", f"{self!r}: {type(error).__name__}: {error}") from error
        return effects

    def _finish(self, effects: list[Effect]) -> None:
        """Let the effects out when the turn is over, and plan the next turn."""
        if len(effects) > EFFECTS_PER_TURN_MAX:
            raise SimulationFailed("effects are bounded", f"{self!r} asked for {len(effects)} effects in one turn")
        world, node = self.world, self.node
        cost_us = 5 + int(self._rng.random() * self._turn_us_max) + node.disk_port.take_waited_us()
        self._busy_until_us = world.now_us + cost_us
        if self.name == "applier":
            world.observe_store(self)
        if effects:
            self._perform(effects, self._busy_until_us)
            if not self.alive:
                return
        if self.name == "gateway":
            node.drain_answers(self, self._busy_until_us)
        self.plan_wake()

    def relay(self, to: str, body: bytes) -> None:
        """Pass a peer's frame on to a helper, undecoded, as the shell that owns the peer port does."""
        if self.alive:
            self._send_local(to, [Parcel(self._source, body)], max(self.world.now_us, self.paused_until_us))

    # --- effects ---------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect], leave_us: int) -> None:
        parcels: dict[str, list[Parcel]] = {}
        halt = next((effect for effect in effects if isinstance(effect, Halt)), None)
        if halt is not None:
            self._halting = True
            self.world.at(leave_us, self._halt, halt)
        if halt is not None and halt.failed:
            # A failed actor says nothing more: what the turn had staged is dropped.
            effects = [effect for effect in effects if isinstance(effect, Log)]
        for effect in effects:
            if isinstance(effect, Send):
                self.world.observe_send(self, effect.to, effect.message)
                parcels.setdefault(effect.to, []).append(Parcel(self._source, encode(effect.message)))
            elif isinstance(effect, SendPeer):
                self.world.logs.on_send_peer(self.node.name, self.actor)
                self.world.peers.send(self, effect, leave_us)
            elif isinstance(effect, RunInBackground):
                self._run_in_background(effect, leave_us)
            elif isinstance(effect, SpawnHelper):
                self.world.at(leave_us + self._rng.randrange(100, 5000), self.node.spawn_helper, self, effect)
            elif isinstance(effect, KnowPeers):
                self.addresses = addresses_known(self.addresses, effect.peers)
            elif isinstance(effect, Log):
                self.world.observe_log(self, effect)
        for to, batch in parcels.items():
            self._send_local(to, batch, leave_us)

    def _send_local(self, to: str, batch: list[Parcel], leave_us: int) -> None:
        receiver = self.node.processes.get(to)
        if receiver is None or receiver.incarnation != self.links.get(to):
            self.world.counts["local_lost"] += len(batch)
            return
        at_us = leave_us + 20 + int(self._rng.random() * LOCAL_DELAY_US_MAX)
        at_us = max(at_us, self._link_at_us.get(to, 0))
        self._link_at_us[to] = at_us
        self.world.at(at_us, self._arrive, receiver, batch, leave_us)

    def _arrive(self, receiver: "Process", batch: list[Parcel], left_us: int) -> None:
        if not self.alive and (self.died_us < left_us or self.world.now_us > self.keep_until_us):
            self.world.counts["local_lost"] += len(batch)
            return
        if self.incarnation < receiver.heard.get(self.name, 0):
            self.world.counts["local_lost"] += len(batch)
            return
        receiver.heard[self.name] = self.incarnation
        for parcel in batch:
            receiver.deliver(parcel)

    def _run_in_background(self, effect: RunInBackground, leave_us: int) -> None:
        """The job runs, whole, at one instant between its start and the instant its message is delivered."""
        run_us = leave_us + self._rng.randrange(1, self.world.background_us_max)
        self.world.at(run_us, self._run_job, effect)

    def _run_job(self, effect: RunInBackground) -> None:
        if not self.alive:
            return
        world = self.world
        world.trace.note(world.now_us, self.node.name, self.name, f"job:{effect.label}")
        try:
            message = effect.job()
        except PowerCut:
            self.node.lose_power("mid_job")
            return
        except DiskFailed as error:
            self._halt(Halt(f"job {effect.label}: {error}", failed=True))
            return
        waited_us = self.node.disk_port.take_waited_us()
        at_us = world.now_us + waited_us + self._rng.randrange(1, world.background_us_max)
        world.at(at_us, self.deliver, Parcel(self._source, encode(message)))

    def _halt(self, halt: Halt) -> None:
        if self.alive:
            self.world.trace.note(self.world.now_us, self.node.name, self.name, f"halt:{halt.reason}")
            self.node.on_halt(self, halt)

    def __repr__(self) -> str:
        return f"{self.node.name}/{self.name}.{self.incarnation}"


def _halts(effects: list[Effect]) -> bool:
    """Whether the actor has just asked to end: it is handed nothing more."""
    return bool(effects) and isinstance(effects[-1], Halt)
