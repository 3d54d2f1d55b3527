"""The raft actor: turns local and peer messages into calls of the consensus core, and its wishes into effects.

Owns no consensus logic. Owns the phases of a start (log, then store, then run), the one snapshot transfer each
way, the cut of the log, and what the gateway is told. Per turn it emits at most one `PersistEntries`, one
`ApplyEntries`, and one append per follower and inflight slot: the mailbox is the batch.
"""

import random
from enum import Enum
from typing import Final, TypeVar

from actors.actor import Source
from actors.effects import Effect, Halt, Log, Send, SendPeer
from actors.metrics import ActorMetrics
from actors.raft_snapshots import SnapshotDesk
from protocol import codec, local, peer
from protocol.config import RaftConfig
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import NOBODY, Entry, EntryKind, Index, MemberId, Millis, Term
from raft import membership, reads, replication
from raft.configuration import founding_configuration
from raft.core import Outbound, Raft, Recovered

Key = TypeVar("Key")
Value = TypeVar("Value")

FORWARDS_REMEMBERED_MAX: Final = 10_000
"""Forwarded proposals whose answers are awaited here, and those that were decided here within a term."""


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
        self.rng = rng
        self.metrics = ActorMetrics()
        self.phase = Phase.READING_LOG
        self.core: Raft | None = None
        self.snapshots = SnapshotDesk(self)
        self.effects: list[Effect] = []
        self._recovered: list[Entry] = []
        self._recovered_end: local.LogRecovered | None = None
        self._told: tuple[object, ...] | None = None
        self._unapplied: list[tuple[Index, int]] = []
        self._unapplied_bytes = 0
        self._applied_progress_at: Millis | None = None
        self._transfer_sequence: int | None = None
        self._forward_context = identity.incarnation << 32
        self._forwarded: dict[int, int] = {}
        """Forwarded proposals by a context no other incarnation uses: the gateway's sequence of each."""
        self._decided: dict[tuple[MemberId, int], None] = {}
        self._decided_term = Term(0)
        self._stopping_until: Millis | None = None
        self._halted = False

    # --- the actor's door --------------------------------------------------------------------------

    @property
    def deadline(self) -> Millis | None:
        """When `wake` has something to do."""
        core = self.core
        if core is None or self.phase is not Phase.RUNNING:
            return None
        due = [core.deadline, self.snapshots.deadline, self._stopping_until]
        return min((at for at in due if at is not None), default=None)

    def start(self, now: Millis) -> list[Effect]:
        """Ask for the log."""
        return [Send("wal", local.RecoverLog())]

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """React to one message."""
        if source.member != NOBODY:
            self._on_peer(message, source, now)
        elif self.phase is Phase.RUNNING:
            self._on_local(message, now)
        else:
            self._on_local_while_starting(message, now)
        return self._take_effects()

    def wake(self, now: Millis) -> list[Effect]:
        """Let time pass."""
        core = self.core
        if core is not None and self.phase is Phase.RUNNING:
            core.tick(now)
            self._watch_applier(core, now)
            self.snapshots.wake(now)
            if self._stopping_until is not None and (core.leading is None or now >= self._stopping_until):
                self._halt(Halt("stopped"))
        return self._take_effects()

    def end_turn(self, now: Millis) -> list[Effect]:
        """Send what the turn has made: one write, one append per follower, one hand-over to the applier."""
        core = self.core
        if core is None or self.phase is not Phase.RUNNING:
            return self._take_effects()
        self._tell_gateway(core)
        replication.feed_followers(core)
        self._emit_writes(core)
        self._emit_committed(core)
        self._emit_reads(core)
        self.snapshots.end_turn(core, now)
        self._measure(core)
        return self._take_effects()

    def check_invariants(self) -> None:
        """Assert that the state makes sense."""
        if self.core is not None:
            self.core.check()
            assert self._unapplied_bytes == sum(size for _, size in self._unapplied), "unapplied bytes miscounted"

    def emit(self, effect: Effect) -> None:
        """Queue an effect; for the parts of this actor."""
        self.effects.append(effect)

    def _take_effects(self) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects

    def _halt(self, halt: Halt) -> None:
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
        elif isinstance(message, local.StoreOpened):
            self._open(message, now)
        elif isinstance(message, local.ProposeBatch):
            self.emit(Send("gateway", local.ProposalRefused(sequence=message.sequence, code=ErrorCode.NO_LEADER)))
        elif isinstance(message, local.RequestReads):
            self.emit(Send("gateway", local.ReadsRefused(sequence=message.sequence, code=ErrorCode.NO_LEADER)))
        elif isinstance(message, local.StopActor):
            self._halt(Halt("stopped"))

    def _open(self, opened: local.StoreOpened, now: Millis) -> None:
        end = self._recovered_end
        assert end is not None, "the store opens behind the log"
        entries, self._recovered = tuple(self._recovered), []
        last = entries[-1].index if entries else end.mark.index
        if not end.mark.index <= opened.applied <= last:
            reason = (
                f"store and log do not belong together: the log holds {end.mark.index + 1}..{last}, the store has "
                f"applied {opened.applied}; restore the node's whole data directory, or remove it and re-join"
            )
            self._halt(Halt(reason, failed=True, fatal=True))
            return
        recovered = Recovered(end.mark, end.hard_state, entries, opened.applied)
        founding = founding_configuration(self.identity.founders)
        self.core = Raft(self.identity.member, self.config, founding, recovered, self.rng, now)
        # A context must not be mistaken for one of an earlier incarnation of this actor.
        self.core.read_context = self.identity.incarnation << 32
        self.core.log_event = self._log
        self.phase = Phase.RUNNING
        self._log("raft_started", {"term": self.core.term, "commit": self.core.commit, "applied": opened.applied})

    def _log(self, event: str, fields: dict[str, object]) -> None:
        self.emit(Log("info", event, fields))

    # --- peers -------------------------------------------------------------------------------------

    def _on_peer(self, message: Message, source: Source, now: Millis) -> None:
        core = self.core
        if core is None or self.phase is not Phase.RUNNING:
            return
        if not self._store_trusted(core, source):
            return
        sender = source.member
        if isinstance(message, peer.ForwardProposal):
            self._on_forward(core, sender, message)
        elif isinstance(message, peer.ForwardProposalReply):
            sequence = self._forwarded.pop(message.sequence, None)
            if sequence is not None:
                self.emit(Send("gateway", local.ProposalRefused(sequence=sequence, code=message.code)))
        elif isinstance(message, peer.OfferSnapshot):
            self.snapshots.on_offer(core, sender, message)
        elif isinstance(message, peer.PeerRefused):
            self.emit(Log("error", "refused_by_peer", {"peer": f"{sender:x}", "reason": message.reason}))
        elif isinstance(message, peer.PeerMessage):
            core.step(sender, message, now)

    def _on_forward(self, core: Raft, sender: MemberId, message: peer.ForwardProposal) -> None:
        """Propose for a follower, or say that it was certainly not proposed.

        A frame may come twice: what was decided once is not decided again, and only in the term it was sent in, so
        a proposal that was refused as one too many cannot enter the log later.
        """
        if core.term != self._decided_term:
            self._decided_term = core.term
            self._decided.clear()
        key = (sender, message.sequence)
        if key in self._decided:
            return
        _remember(self._decided, key, None)
        code = self._propose(core, message.payload) if message.term == core.term else ErrorCode.NO_LEADER
        if code:
            self._to_peer(sender, peer.ForwardProposalReply(term=core.term, sequence=message.sequence, code=code))

    def _store_trusted(self, core: Raft, source: Source) -> bool:
        """Believe a member only from the data directory it first answered from."""
        record = core.configuration.members.get(source.member)
        if not source.store:
            return True
        if record is None or not record.store:
            if core.leading is not None and record is not None:
                membership.bind_store(core, source.member, source.store)
            return True
        if record.store == source.store:
            return True
        self.metrics.count("actd_peer_refused_total")
        reason = (
            f"member {source.member:x} is bound to data directory {record.store:x}, this is {source.store:x}: it was "
            "wiped or replaced. Remove the member and add it anew so that it joins under a fresh id"
        )
        self._to_peer(source.member, peer.PeerRefused(reason=reason))
        return False

    def _to_peer(self, to: MemberId, message: Message, *, bulk: bool = False) -> None:
        self.emit(SendPeer(to, codec.encode(message), bulk))

    # --- this node ---------------------------------------------------------------------------------

    def _on_local(self, message: Message, now: Millis) -> None:
        core = self.core
        assert core is not None, "running means recovered"
        if isinstance(message, local.EntriesPersisted):
            core.persisted(message.ticket, message.last, now)
        elif isinstance(message, local.EntriesApplied):
            self._on_applied(core, message, now)
        elif isinstance(message, local.ProposeBatch):
            self._on_propose(core, message)
        elif isinstance(message, local.RequestReads):
            reads.read(core, message.sequence, message.payload, now)
        elif isinstance(message, local.TransferLeadership):
            self._transfer_sequence = message.sequence
            if not replication.start_transfer(core, message.target):
                code = ErrorCode.NOT_LEADER if core.leading is None else ErrorCode.BAD_LEADER_TRANSFEREE
                self._end_transfer(code)
        elif isinstance(message, local.ActorStarted):
            if message.actor == "gateway":
                reads.forget_gateway(core)
                self._forwarded.clear()
                self._told = None
        elif isinstance(message, local.ActorStalled):
            if message.stalled and core.leading is not None:
                self._log("leader_hands_over", {"stalled": message.actor})
                replication.start_transfer(core, NOBODY)
        elif isinstance(message, local.StopActor):
            self._on_stop(core, now)
        else:
            self.snapshots.on_local(core, message, now)

    def _on_stop(self, core: Raft, now: Millis) -> None:
        if core.leading is not None and core.leading.progress and replication.start_transfer(core, NOBODY):
            self._stopping_until = Millis(now + self.config.election_timeout_ms)
        else:
            self._halt(Halt("stopped"))

    def _on_propose(self, core: Raft, message: local.ProposeBatch) -> None:
        if core.leading is not None:
            code = self._propose(core, message.payload)
        elif core.leader != NOBODY:
            self._forward_context += 1
            _remember(self._forwarded, self._forward_context, message.sequence)
            forward = peer.ForwardProposal(term=core.term, sequence=self._forward_context, payload=message.payload)
            self._to_peer(core.leader, forward, bulk=True)
            return
        else:
            code = ErrorCode.NO_LEADER
        if code:
            self.metrics.count("etcd_server_proposals_failed_total")
            self.emit(Send("gateway", local.ProposalRefused(sequence=message.sequence, code=code)))

    def _propose(self, core: Raft, payload: bytes) -> ErrorCode:
        leading = core.leading
        if leading is None or leading.transfer_to != NOBODY:
            return ErrorCode.NO_LEADER
        config = self.config
        if (
            leading.uncommitted_bytes + len(payload) > config.uncommitted_bytes_max
            or core.commit - core.applied > config.unapplied_entries_max
        ):
            return ErrorCode.TOO_MANY_REQUESTS
        leading.uncommitted_bytes += len(payload)
        core.append(EntryKind.COMMANDS, payload)
        return ErrorCode.OK

    def _on_applied(self, core: Raft, message: local.EntriesApplied, now: Millis) -> None:
        if message.applied <= core.applied:
            return
        assert message.applied <= core.handed, f"applied {message.applied}, handed over {core.handed}"
        core.applied = message.applied
        done = 0
        for index, size in self._unapplied:
            if index > message.applied:
                break
            self._unapplied_bytes -= size
            done += 1
        del self._unapplied[:done]
        self._applied_progress_at = now if self._unapplied else None

    def forget_unapplied(self) -> None:
        """A snapshot replaces what was handed to the applier and not applied yet."""
        self._unapplied = []
        self._unapplied_bytes = 0
        self._applied_progress_at = None

    def _watch_applier(self, core: Raft, now: Millis) -> None:
        """Hand over when this leader's own applier makes no progress: its node is no good leader."""
        since = self._applied_progress_at
        if since is None or core.leading is None or core.leading.transfer_to != NOBODY:
            return
        if now - since >= self.config.election_timeout_ms and replication.start_transfer(core, NOBODY):
            self._log("leader_hands_over", {"stalled": "applier"})

    # --- the end of a turn -------------------------------------------------------------------------

    def _emit_writes(self, core: Raft) -> None:
        batch = core.take_persist()
        outbox, core.outbox = core.outbox, []
        held = [outbound for outbound in outbox if outbound.after_sync]
        if held and batch is None and core.ticket_acked < core.ticket:
            batch = core.empty_persist()
        if batch is not None:
            message = local.PersistEntries(
                ticket=batch.ticket,
                hard_state=batch.hard_state,
                entries=batch.entries,
                last=batch.last,
                outbound=tuple(self._sealed(outbound) for outbound in _newest_acknowledgements(held)),
            )
            self.emit(Send("wal", message))
        for outbound in outbox:
            if batch is None or not outbound.after_sync:
                self.emit(SendPeer(outbound.to, codec.encode(outbound.message), outbound.bulk))

    def _sealed(self, outbound: Outbound) -> local.PeerOutbound:
        return local.PeerOutbound(to=outbound.to, bulk=outbound.bulk, body=codec.encode(outbound.message))

    def _emit_committed(self, core: Raft) -> None:
        if self.snapshots.installing:
            return
        config = self.config
        room = config.unapplied_entries_max - len(self._unapplied)
        room_bytes = config.unapplied_bytes_max - self._unapplied_bytes
        if room <= 0 or room_bytes <= 0:
            return
        entries = core.take_committed(room, room_bytes)
        if not entries:
            return
        if not self._unapplied:
            self._applied_progress_at = core.now
        for entry in entries:
            self._unapplied.append((entry.index, len(entry.data)))
            self._unapplied_bytes += len(entry.data)
        self.emit(Send("applier", local.ApplyEntries(entries=entries, commit=core.commit)))

    def _emit_reads(self, core: Raft) -> None:
        # While a snapshot is being installed the applier still holds the old store: what counts as handed over is not.
        if not self.snapshots.installing:
            for released in reads.take_released(core):
                self.emit(Send("applier", local.ServeReads(sequence=released.sequence, payload=released.payload)))
        if core.refused_reads:
            refused, core.refused_reads = core.refused_reads, []
            for sequence, code in refused:
                self.metrics.count("etcd_server_read_indexes_failed_total")
                self.emit(Send("gateway", local.ReadsRefused(sequence=sequence, code=code)))

    def _tell_gateway(self, core: Raft) -> None:
        configuration = core.configuration
        state = (core.term, core.leader, configuration)
        if self._told is not None and self._told[:2] == state[:2] and self._told[2] is configuration:
            return
        if self._told is None or self._told[1] != core.leader:
            self.metrics.count("etcd_server_leader_changes_seen_total", 1 if core.leader != NOBODY else 0)
        self._told = state
        members = tuple(
            local.MemberView(
                member=member,
                name=record.name,
                peer_urls=record.peer_urls,
                client_urls=record.client_urls,
                is_learner=not configuration.is_voter(member),
            )
            for member, record in sorted(configuration.members.items())
        )
        self.emit(Send("gateway", local.LeadershipChanged(term=core.term, leader=core.leader, members=members)))
        if core.leading is not None:
            membership.bind_store(core, core.member, self.identity.store)
        if core.transfer_ended is not None:
            ended, core.transfer_ended = core.transfer_ended, None
            self._end_transfer(ErrorCode.OK if ended else ErrorCode.TIMEOUT)

    def _end_transfer(self, code: ErrorCode) -> None:
        if self._transfer_sequence is not None:
            ended = local.LeadershipTransferEnded(sequence=self._transfer_sequence, code=code)
            self.emit(Send("gateway", ended))
            self._transfer_sequence = None

    def _measure(self, core: Raft) -> None:
        gauges = self.metrics.gauges
        gauges["etcd_server_has_leader"] = 1 if core.leader != NOBODY else 0
        gauges["etcd_server_is_leader"] = 1 if core.leading is not None else 0
        gauges["etcd_server_is_learner"] = 0 if core.configuration.is_voter(core.member) else 1
        gauges["etcd_server_proposals_committed_total"] = core.commit


def _remember(table: dict[Key, Value], key: Key, value: Value) -> None:
    """Add to a table of bounded size; the oldest makes room."""
    table[key] = value
    if len(table) > FORWARDS_REMEMBERED_MAX:
        del table[next(iter(table))]


def _newest_acknowledgements(held: list[Outbound]) -> list[Outbound]:
    """Drop append answers that a later one in the same turn covers: both leave behind the same sync."""
    newest: dict[MemberId, int] = {}
    for position, outbound in enumerate(held):
        if isinstance(outbound.message, peer.AppendEntriesReply):
            newest[outbound.to] = position
    return [
        outbound
        for position, outbound in enumerate(held)
        if not isinstance(outbound.message, peer.AppendEntriesReply) or newest[outbound.to] == position
    ]
