"""The raft actor: turns local and peer messages into calls of the consensus core, and its wishes into effects.

Owns no consensus logic. Owns the phases of a start (log, then store, then run), what the gateway is told, and the
health of its node as far as it concerns leadership; `SnapshotDesk` owns cuts and snapshots. Per turn it emits one
`PersistEntries` (more only for very large turns), one `ApplyEntries`, and at most one append per follower.

Invariants: nothing leaves before the store is open; the applier is handed entries and reads in the order of the log;
every refusal reaches the gateway before the change of leadership that explains it.
"""

import random
from enum import Enum
from typing import Final

from actors.actor import Source
from actors.effects import Effect, Halt, Log, Send, SendPeer
from actors.metrics import ActorMetrics
from actors.raft_health import NodeHealth
from actors.raft_members import MemberDesk
from actors.raft_snapshots import SnapshotDesk
from protocol import codec, local, peer
from protocol.config import RaftConfig
from protocol.errors import Corruption, ErrorCode, InvariantViolation, PeerFault
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import NO_STORE, NOBODY, Entry, MemberId, Millis, Term
from raft import invariants, lessor_calls, membership, read_index, transfer
from raft.configuration import Configuration, founding_configuration
from raft.core import Raft, Recovered
from raft.durability import NOTHING_DRAINED, Drained

REFUSAL_INTERVAL_MS: Final = 5000
"""A member with the wrong data directory is told so this often at most."""


class Phase(Enum):
    """How far a start has come."""

    READING_LOG = "reading_log"
    OPENING_STORE = "opening_store"
    RUNNING = "running"


class RaftActor:
    """Consensus of one node."""

    name = "raft"

    def __init__(self, identity: NodeIdentity, config: RaftConfig, rng: random.Random) -> None:
        self.identity = identity
        self.config = config
        self.metrics = ActorMetrics()
        self.phase = Phase.READING_LOG
        self.core: Raft | None = None
        self.snapshots = SnapshotDesk(self)
        self.health = NodeHealth(self)
        self.members = MemberDesk(self)
        self._rng = rng
        self._effects: list[Effect] = []
        self._recovered: list[Entry] = []
        self._recovered_end: local.LogRecovered | None = None
        self._office: Term | None = None
        """The term whose office the applier was told of."""
        self._told: tuple[int, MemberId, Configuration] | None = None
        self._leader_before = NOBODY
        self._transfer_sequence: int | None = None
        self._stopping_until: Millis | None = None
        self._refused_at: dict[MemberId, Millis] = {}
        self._halted = False

    # --- the actor's door --------------------------------------------------------------------------

    @property
    def deadline(self) -> Millis | None:
        """When `wake` has something to do."""
        core = self.core
        if core is None or self._halted:
            return None
        snapshots = self.snapshots
        due = core.now if core.may_hand_over() and not snapshots.installing else core.deadline
        if snapshots.waiting:
            due = min(due, snapshots.deadline)
        if self.members.deadline is not None:
            due = min(due, self.members.deadline)
        if self._stopping_until is not None:
            due = min(due, self._stopping_until)
        return due

    def start(self, now: Millis) -> list[Effect]:
        """Ask for the log."""
        return [Send("wal", local.RecoverLog())]

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """React to one message."""
        try:
            if self._halted:
                return []
            if source.member != NOBODY:
                self._on_peer(message, source, now)
            elif self.core is not None:
                self._on_local(self.core, message, now)
            else:
                self._on_local_while_starting(message, now)
        except Corruption as error:
            self.halt(Halt(str(error), failed=True, fatal=True))
        return self._take_effects()

    def wake(self, now: Millis) -> list[Effect]:
        """Let time pass."""
        core = self.core
        if core is None or self._halted:
            return []
        core.tick(now)
        self.health.wake(core, now)
        self.members.wake(core, now)
        self.snapshots.wake(now)
        if self._stopping_until is not None and now >= self._stopping_until:
            self.halt(Halt("stopped"))
        return self._take_effects()

    def end_turn(self, now: Millis) -> list[Effect]:
        """Send what the turn has made: one write, one append per follower, one hand-over to the applier."""
        core = self.core
        if core is None or self._halted:
            return self._take_effects()
        bindable = core.leading is not None and self.identity.store != NO_STORE
        if bindable and membership.store_wanted(core, core.member):
            membership.bind_store(core, core.member, self.identity.store)
        drained = core.end_turn(now)
        self._tell_gateway(core)
        self.members.end_turn(core)
        if drained is not NOTHING_DRAINED:
            self._emit_drained(drained)
        if not self.snapshots.installing:
            self._emit_to_applier(core)
        self.snapshots.end_turn(core, now)
        if self._stopping_until is not None and core.leading is None:
            self.halt(Halt("stopped"))
        return self._take_effects()

    def measure(self) -> None:
        """Refresh the gauges."""
        core = self.core
        if core is None:
            return
        gauges = self.metrics.gauges
        gauges["etcd_server_has_leader"] = 1 if core.leader != NOBODY else 0
        gauges["etcd_server_is_leader"] = 1 if core.leading is not None else 0
        gauges["etcd_server_is_learner"] = 0 if core.configuration.is_voter(core.member) else 1
        gauges["etcd_server_proposals_committed_total"] = core.commit
        gauges["etcd_server_proposals_pending"] = core.log.last.index - core.commit if core.leading is not None else 0
        self.metrics.counters["etcd_server_heartbeat_send_failures_total"] = core.heartbeats_late

    def check_invariants(self) -> None:
        """Assert that the state makes sense."""
        if self.core is None:
            assert self.phase is not Phase.RUNNING, "nothing runs without a core"
            return
        invariants.check(self.core)
        self.snapshots.check()

    def emit(self, effect: Effect) -> None:
        """Queue an effect; for the parts of this actor."""
        self._effects.append(effect)

    def log(self, event: str, fields: dict[str, object]) -> None:
        """Queue a log line."""
        self._effects.append(Log("info", event, fields))

    def _take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def halt(self, halt: Halt) -> None:
        """End this actor, once."""
        if not self._halted:
            self._halted = True
            self.emit(halt)

    # --- starting ----------------------------------------------------------------------------------

    def _on_local_while_starting(self, message: Message, now: Millis) -> None:
        if isinstance(message, local.LogRecovered):
            self._recovered.extend(message.entries)
            if message.final:
                self._recovered_end = message
                self.phase = Phase.OPENING_STORE
                self.emit(Send("applier", local.OpenStore(mark=message.mark)))
            else:
                self.emit(Send("wal", local.RecoverLog()))
        elif isinstance(message, local.StoreOpened):
            self._open(message, now)
        elif isinstance(message, local.ProposeBatch):
            self.emit(Send("gateway", local.ProposalRefused(sequence=message.sequence, code=ErrorCode.NO_LEADER)))
        elif isinstance(message, local.RequestReads):
            self.emit(Send("gateway", local.ReadsRefused(sequence=message.sequence, code=ErrorCode.NO_LEADER)))
        elif isinstance(message, local.AskLessor):
            self.emit(Send("gateway", local.LessorRefused(sequence=message.sequence, code=ErrorCode.NO_LEADER)))
        elif isinstance(message, local.TransferLeadership):
            self.emit(
                Send("gateway", local.LeadershipTransferEnded(sequence=message.sequence, code=ErrorCode.NOT_LEADER))
            )
        elif isinstance(message, local.ActorStalled):
            self.health.on_stalled(None, message, now)
        elif isinstance(message, local.StopActor):
            self.halt(Halt("stopped"))
        else:
            self.members.refuse(message)

    def _open(self, opened: local.StoreOpened, now: Millis) -> None:
        end = self._recovered_end
        if end is None:
            raise InvariantViolation("the store was opened before the log was read")
        entries, self._recovered = tuple(self._recovered), []
        last = entries[-1].index if entries else end.mark.index
        if not end.mark.index <= opened.applied <= last:
            reason = (
                f"store and log do not belong together: the log holds {end.mark.index + 1}..{last}, the store has "
                f"applied {opened.applied}; restore the node's whole data directory, or remove it and re-join"
            )
            self.halt(Halt(reason, failed=True, fatal=True))
            return
        recovered = Recovered(end.mark, end.hard_state, entries, opened.applied)
        founding = founding_configuration(self.identity.founders)
        life = self.identity.incarnation
        core = Raft(self.identity.member, self.config, founding, recovered, self._rng, now, life)
        core.log_event = self.log
        core.observe_round_trip = self._observe_round_trip
        core.reluctant = self.health.reluctant
        self.core = core
        self.phase = Phase.RUNNING
        self.log("raft_started", {"term": core.term, "commit": core.commit, "applied": opened.applied})

    def _observe_round_trip(self, member: MemberId, elapsed_ms: int) -> None:
        self.metrics.observe(f'etcd_network_peer_round_trip_time_seconds{{To="{member:x}"}}', elapsed_ms / 1000)

    # --- peers -------------------------------------------------------------------------------------

    def _on_peer(self, message: Message, source: Source, now: Millis) -> None:
        core = self.core
        if core is None or self.members.refuse_removed(core, source.member, message):
            return
        if not self._store_trusted(core, source, now):
            return
        try:
            if isinstance(message, peer.PeerMessage):
                core.step(source.member, message, now)
            elif isinstance(message, peer.OfferSnapshot):
                self.snapshots.on_offer(core, source.member, message)
            elif isinstance(message, peer.ClusterDescribed):
                self.members.on_described(core, source.member, message)
            elif isinstance(message, peer.PeerRefused):
                self.emit(Log("error", "refused_by_peer", {"peer": f"{source.member:x}", "reason": message.reason}))
                if message.removed:
                    self.members.removed(core, now)
        except PeerFault as error:
            self.metrics.count("actd_peer_faults_total")
            self.emit(Log("warning", "peer_fault", {"peer": f"{source.member:x}", "reason": str(error)}))

    def _store_trusted(self, core: Raft, source: Source, now: Millis) -> bool:
        """Believe a member only from the data directory it first spoke from to a leader."""
        if source.store == NO_STORE:
            return True
        record = core.configuration.members.get(source.member)
        if record is None or record.store == source.store:
            return True
        if not record.store:
            if membership.store_wanted(core, source.member):
                membership.bind_store(core, source.member, source.store)
            return True
        self.metrics.count("actd_peer_refused_total")
        if now - self._refused_at.get(source.member, Millis(-REFUSAL_INTERVAL_MS)) >= REFUSAL_INTERVAL_MS:
            self._refused_at[source.member] = now
            reason = (
                f"member {source.member:x} is bound to data directory {record.store:x}, this is {source.store:x}: it "
                "was wiped or replaced. Remove the member and add it anew so that it joins under a fresh id"
            )
            self.emit(Log("warning", "peer_refused", {"peer": f"{source.member:x}", "reason": reason}))
            self.emit(SendPeer(source.member, codec.encode(peer.PeerRefused(reason=reason))))
        return False

    # --- this node ---------------------------------------------------------------------------------

    def _on_local(self, core: Raft, message: Message, now: Millis) -> None:
        if isinstance(message, local.EntriesPersisted):
            core.persisted(message.ticket, message.last, now)
        elif isinstance(message, local.EntriesApplied):
            core.applied_to(message.applied, now)
            self.health.on_applied(core, now)
        elif isinstance(message, local.ProposeBatch):
            core.submit(message.sequence, message.payload, now)
        elif isinstance(message, local.RequestReads):
            core.read(message.sequence, message.payload, now)
        elif isinstance(message, local.AskLessor):
            core.ask_lessor(message.sequence, message.payload, now)
        elif isinstance(message, local.LessorCallsServed):
            core.lessor_served(message.asker, message.context, message.results, now)
        elif isinstance(message, local.ProposeUpkeep):
            self._on_propose_upkeep(core, message, now)
        elif isinstance(message, local.ClientsAttended):
            core.attend(now)
        elif isinstance(message, local.TransferLeadership):
            self._on_transfer(core, message)
        elif isinstance(message, local.ActorStarted):
            if message.actor == "gateway":
                self._on_gateway_started(core)
        elif isinstance(message, local.ActorStalled):
            self.health.on_stalled(core, message, now)
        elif isinstance(message, local.StopActor):
            self._on_stop(core, now)
        elif not self.members.on_local(core, message, now):
            self.snapshots.on_local(core, message, now)

    def _on_gateway_started(self, core: Raft) -> None:
        """What its predecessor asked for is nobody's; it has not been told who leads."""
        read_index.forget_gateway(core)
        lessor_calls.forget_gateway(core)
        core.proposals.forget_gateway()
        self.members.gateway_started(core)
        self._transfer_sequence = None
        self._told = None

    def _on_propose_upkeep(self, core: Raft, message: local.ProposeUpkeep, now: Millis) -> None:
        if core.propose_upkeep(message.term, message.payload, now) is not ErrorCode.OK:
            self.emit(Send("applier", local.UpkeepRefused(term=message.term)))

    def _on_transfer(self, core: Raft, message: local.TransferLeadership) -> None:
        self._end_transfer(ErrorCode.TIMEOUT)
        self._transfer_sequence = message.sequence
        if message.target == core.member and core.leading is not None:
            self._end_transfer(ErrorCode.OK)
        elif not transfer.start(core, message.target):
            code = ErrorCode.NOT_LEADER if core.leading is None else ErrorCode.BAD_LEADER_TRANSFEREE
            self._end_transfer(code)

    def _on_stop(self, core: Raft, now: Millis) -> None:
        if core.leading is not None and transfer.start(core, NOBODY):
            self._stopping_until = Millis(now + self.config.election_timeout_ms)
        else:
            self.halt(Halt("stopped"))

    # --- the end of a turn -------------------------------------------------------------------------

    def _emit_drained(self, drained: Drained) -> None:
        said: peer.PeerMessage | None = None
        body = b""
        for to, message, bulk, _ in drained.messages:
            # What is said to several followers in turn is encoded once.
            if message is not said:
                said, body = message, codec.encode(message)
            self._effects.append(SendPeer(to, body, bulk))
        for ticket, hard_state, entries, last, held, answer_within_ms in drained.writes:
            outbound = tuple(local.PeerOutbound(to, bulk, codec.encode(message)) for to, message, bulk, _ in held)
            persist = local.PersistEntries.make(
                ticket=ticket,
                hard_state=hard_state,
                entries=entries,
                last=last,
                outbound=outbound,
                answer_within_ms=answer_within_ms,
            )
            self._effects.append(Send("wal", persist))

    def _emit_to_applier(self, core: Raft) -> None:
        office = core.term if core.leading is not None else None
        if office != self._office:
            self._tell_office(core, office)
        entries = core.take_committed()
        if entries:
            self.health.on_handed(core)
            apply = local.ApplyEntries.make(entries=entries, commit=core.commit)
            self._effects.append(Send("applier", apply))
        for released in core.take_reads() if core.reads.released else ():
            reads = local.ServeReads.make(sequence=released.sequence, payload=released.payload)
            self._effects.append(Send("applier", reads))
        for call in core.take_lessor_calls() if core.lessor_calls.released else ():
            _, asker, context, payload, confirmed_at = call
            self._effects.append(
                Send(
                    "applier",
                    local.ServeLessorCalls(asker=asker, context=context, payload=payload, confirmed_at=confirmed_at),
                )
            )

    def _tell_office(self, core: Raft, office: Term | None) -> None:
        """The lessor's time runs while this member leads, and it must not take one office for another."""
        self._office = office
        self.emit(Send("applier", local.OfficeChanged(term=core.term, leads=office is not None)))

    def _tell_gateway(self, core: Raft) -> None:
        if core.proposals.refused:
            for sequence, code in core.proposals.take_refused():
                self.metrics.count("etcd_server_proposals_failed_total")
                self.emit(Send("gateway", local.ProposalRefused(sequence=sequence, code=code)))
        if core.reads.refused:
            for sequence, code in core.reads.take_refused():
                self.metrics.count("etcd_server_read_indexes_failed_total")
                self.emit(Send("gateway", local.ReadsRefused(sequence=sequence, code=code)))
        if core.lessor_calls.answered or core.lessor_calls.refused:
            self._tell_lessor_answers(core)
        if core.changes.answers:
            self.members.tell_answers(core, core.now)
        if core.transfer.ended is not None:
            self._end_transfer(ErrorCode.OK if core.transfer.take_ended() else ErrorCode.TIMEOUT)
        told = self._told
        # What is in force may still be rolled back; what clients are shown is not.
        configuration = membership.committed_configuration(core)
        if told is None or told[0] != core.term or told[1] != core.leader or told[2] is not configuration:
            self._tell_leadership(core, configuration)

    def _tell_lessor_answers(self, core: Raft) -> None:
        for sequence, code in core.lessor_calls.take_refused():
            self.emit(Send("gateway", local.LessorRefused(sequence=sequence, code=code)))
        for sequence, results in core.lessor_calls.take_answered():
            self.emit(Send("gateway", local.LessorAnswered(sequence=sequence, results=results)))

    def _tell_leadership(self, core: Raft, configuration: Configuration) -> None:
        self._told = (core.term, core.leader, configuration)
        if core.leader not in (NOBODY, self._leader_before):
            self._leader_before = core.leader
            self.metrics.count("etcd_server_leader_changes_seen_total")
        members = configuration.views()
        self.emit(Send("gateway", local.LeadershipChanged(term=core.term, leader=core.leader, members=members)))
        self.members.publish(core, core.now)
        if core.member in configuration.removed:
            self.members.removed(core, core.now)

    def _end_transfer(self, code: ErrorCode) -> None:
        if self._transfer_sequence is not None:
            ended = local.LeadershipTransferEnded(sequence=self._transfer_sequence, code=code)
            self.emit(Send("gateway", ended))
            self._transfer_sequence = None
