"""The consensus core: the state of one member and the dispatch of what happens to it.

Owns term, vote, role, log, configuration and the messages to be sent. The topics live beside it: `election`,
`replication` (the leader's side), `following` (the follower's), `proposals`, `read_index`, `transfer`, `membership`,
`snapshots`, `lessor_calls`, `member_changes`, with `durability` between messages and writes. Knows no actor, socket,
disk or clock: time is an argument, chance is an injected generator, durability is told by `persisted`.

How an owner drives it: hand in what happens (`step`, `submit`, `read`, `persisted`, `applied_to`, `tick`), and once
per turn call `end_turn`, which returns the writes and messages of the whole turn; then `take_committed`, and behind it
`take_reads` and `take_lessor_calls`, for the applier.

Invariants: the term never falls; one vote a term; commit never falls and never passes what is in the log; see
`invariants.check` for those between the parts.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from protocol.config import RaftConfig
from protocol.errors import ErrorCode, InvariantViolation
from protocol.membership import MemberChange
from protocol.peer import PeerMessage
from protocol.types import (
    NOBODY,
    Entry,
    EntryKind,
    HardState,
    Index,
    LogMark,
    LogPosition,
    MemberId,
    Millis,
    Term,
)
from raft import (
    election,
    following,
    lessor_calls,
    member_changes,
    membership,
    proposals,
    read_index,
    replication,
    transfer,
)
from raft.configuration import Configuration
from raft.durability import NOTHING_DRAINED, Drained, DurabilityGate, Outbound
from raft.leading import LeaderState
from raft.log import Log
from raft.transitions import Cause, Role, role_after

FAR_FUTURE = Millis(1 << 62)
"""A deadline that never comes."""
APPLY_BYTES_MAX = 8 << 20
"""Entries in one hand-over to the applier; what is left goes with the next turn."""


class Recovered(NamedTuple):
    """What the disk held at the start."""

    mark: LogMark
    hard_state: HardState
    entries: tuple[Entry, ...]
    applied: Index


class Raft:
    """One member's part in consensus."""

    def __init__(
        self,
        member: MemberId,
        config: RaftConfig,
        founding: Configuration,
        recovered: Recovered,
        rng: random.Random,
        now: Millis,
        life: int = 0,
    ) -> None:
        """Begin as a follower with what the disk held.

        Args:
            member: who we are.
            config: times and bounds.
            founding: the configuration in force before any logged one.
            recovered: mark, hard state, entries and the store's applied index.
            rng: where jitter comes from.
            now: the clock.
            life: a number that no other life of this member's process had; makes contexts unique.
        """
        self.member = member
        self.config = config
        self.rng = rng
        self.now = now
        self.log = Log(LogPosition(recovered.mark.term, recovered.mark.index), recovered.entries)
        state = recovered.hard_state
        self.term = max(state.term, self.log.last.term)
        self.voted_for = state.voted_for if self.term == state.term else NOBODY
        self.commit = Index(max(state.commit, recovered.applied))
        assert self.commit <= self.log.last.index, f"commit {self.commit} is not in the log, it ends at {self.log.last}"
        self.handed = recovered.applied
        self.applied = recovered.applied
        self.attended_until = now
        """Until then clients of this member would notice if it learnt late what is committed."""
        self.gate = DurabilityGate(HardState(self.term, self.voted_for, self.commit), self.log.last.index)
        self.configurations: list[tuple[Index, Configuration]] = []
        membership.load(self, founding, recovered.mark, recovered.entries)
        # Role and office.
        self.role = Role.FOLLOWER
        self.leader = NOBODY
        self.leading: LeaderState | None = None
        self.heard_leader_at: Millis | None = None
        self.votes: dict[MemberId, bool] = {}
        self.own_vote_ticket: int | None = None
        self.elections_tried = 0
        self.reluctant = False
        """Another actor of this node is stalled: stand for election only if nobody else does."""
        self.passed_over = False
        # What the owner takes.
        self.outbox: list[Outbound] = []
        self.log_event: Callable[[str, dict[str, object]], None] = lambda _event, _fields: None
        self.observe_round_trip: Callable[[MemberId, int], None] = lambda _member, _elapsed_ms: None
        self.heartbeats_late = 0
        self.transfer = transfer.TransferState()
        self.reads = read_index.ReadDesk(life << 32)
        self.lessor_calls = lessor_calls.LessorDesk(life << 32)
        self.proposals = proposals.ProposalDesk(life << 32)
        self.changes = member_changes.ChangeDesk(life << 32)
        self.election_patience = Millis(config.election_timeout_ms)
        self.election_due = FAR_FUTURE
        election.first_timeout(self)

    # --- what the owner reads ---------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The configuration in force: the latest in the log, committed or not (thesis, section 4.1)."""
        return self.configurations[-1][1]

    @property
    def deadline(self) -> Millis:
        """When `tick` has something to do."""
        leading = self.leading
        due = self.election_due if leading is None else leading.due(self.now)
        if self.transfer.due < due:
            due = self.transfer.due
        if self.lessor_calls.asked:
            due = min(due, self.lessor_calls.due)
        if self.changes.asked:
            due = min(due, self.changes.due)
        return min(due, self.reads.due) if self.reads.questions else due

    @property
    def attended(self) -> bool:
        """Whether clients of this member have written, read or watched within the last election timeout."""
        return self.now < self.attended_until

    @property
    def disk_stuck(self) -> bool:
        """Whether a write has waited for the disk longer than an election timeout."""
        since = self.gate.waiting_since()
        return since is not None and self.now - since >= self.config.election_timeout_ms

    # --- what happens -----------------------------------------------------------------------------

    def step(self, sender: MemberId, message: PeerMessage, now: Millis) -> None:
        """Take in one peer message.

        Raises:
            PeerFault: it makes no sense; nothing has changed.
            InvariantViolation: it shows that somebody broke a promise of consensus.
        """
        self._advance(now)
        handler = _HANDLERS.get(message.kind)
        if handler is None:
            raise InvariantViolation(f"{message.kind} is no message for the core")
        handler(self, sender, message)

    def submit(self, sequence: int, payload: bytes, now: Millis) -> None:
        """Propose this node's batch here or at the leader; a refusal shows in `proposals.refused`."""
        self.attend(now)
        proposals.submit(self, sequence, payload)

    def attend(self, now: Millis) -> None:
        """Note that clients use this member."""
        self._advance(now)
        self.attended_until = Millis(now + self.config.election_timeout_ms)

    def read(self, sequence: int, payload: bytes, now: Millis) -> None:
        """Have a batch of reads released by `take_reads` as soon as it may be served."""
        self.attend(now)
        read_index.read(self, sequence, payload)

    def ask_lessor(self, sequence: int, payload: bytes, now: Millis) -> None:
        """Have a batch of lease calls answered by the leader's lessor; see `lessor_calls`."""
        self._advance(now)
        lessor_calls.ask(self, sequence, payload)

    def lessor_served(self, asker: MemberId, context: int, results: lessor_calls.Results, now: Millis) -> None:
        """This node's lessor has answered a batch that `take_lessor_calls` gave."""
        self._advance(now)
        lessor_calls.served(self, asker, context, results)

    def propose_upkeep(self, term: Term, payload: bytes, now: Millis) -> ErrorCode:
        """Append the lessor's word on leases, if this member still leads `term`; return OK or why it was not."""
        self._advance(now)
        return proposals.propose_upkeep(self, term, payload)

    def ask_change(self, sequence: int, change: MemberChange, now: Millis) -> None:
        """Have the membership changed, here or by the leader; the answer shows in `changes.answers`."""
        self._advance(now)
        member_changes.ask(self, sequence, change)

    def tick(self, now: Millis) -> None:
        """Do what is due at `now`: elections, heartbeats, quorum checks, retries."""
        self._advance(now)
        read_index.retry(self)
        lessor_calls.retry(self)
        member_changes.retry(self)
        transfer.expire(self)
        if self.leading is not None:
            replication.leader_tick(self)
        elif now >= self.election_due:
            election.timed_out(self)

    def persisted(self, ticket: int, last: LogPosition, now: Millis) -> None:
        """Everything up to `ticket` is on disk and the log ended at `last` then."""
        self._advance(now)
        self.gate.acknowledge(ticket)
        if self.log.persisted(last) and self.leading is not None:
            replication.advance_commit(self)
        if self.own_vote_ticket is not None and self.gate.acknowledged >= self.own_vote_ticket:
            # The own vote counts when it cannot be forgotten any more, like everybody else's.
            self.own_vote_ticket = None
            election.record_vote(self, self.member, granted=True)

    def applied_to(self, index: Index, now: Millis) -> None:
        """The applier has applied everything up to `index`."""
        self._advance(now)
        assert index <= self.handed, f"applied {index}, handed over {self.handed}"
        self.applied = max(self.applied, index)

    def end_turn(self, now: Millis) -> Drained:
        """Feed the followers and return what the turn has to write and to send."""
        self._advance(now)
        if self.reads.unasked:
            read_index.ask(self)
        if self.leading is not None:
            replication.feed_followers(self)
        gate, log = self.gate, self.log
        if not self.outbox and not gate.behind(self.term, self.voted_for, log):
            return NOTHING_DRAINED
        outbox, self.outbox = self.outbox, []
        ease = 0 if self.leading is not None or self.attended else self.config.unattended_delay_ms
        return gate.drain(HardState(self.term, self.voted_for, self.commit), log, outbox, now, ease)

    def _advance(self, now: Millis) -> None:
        assert now >= self.now, f"time was handed backwards, from {self.now} to {now}"
        self.now = now

    # --- the stream to the applier ----------------------------------------------------------------

    def may_hand_over(self) -> bool:
        """Whether the applier can be given another entry."""
        handed = self.handed
        if self.commit <= handed or self.log.durable <= handed:
            return False
        config = self.config
        return (
            handed - self.applied < config.unapplied_entries_max
            and self.log.bytes_between(self.applied, handed) < config.unapplied_bytes_max
        )

    def take_committed(self) -> tuple[Entry, ...]:
        """Return the next entries for the applier: committed, and durable in this node's own log."""
        if not self.may_hand_over():
            return ()
        ready = min(self.commit, self.log.durable)
        config = self.config
        room = min(config.unapplied_entries_max - (self.handed - self.applied), ready - self.handed)
        bytes_max = min(config.unapplied_bytes_max - self.log.bytes_between(self.applied, self.handed), APPLY_BYTES_MAX)
        entries = self.log.slice(Index(self.handed + 1), room, bytes_max)
        self.handed = entries[-1].index
        return entries

    def take_reads(self) -> list[read_index.ReleasedRead]:
        """Return reads whose entries have been handed over: they go behind them on the same link."""
        return self.reads.take_released(self.handed)

    def take_lessor_calls(self) -> list[lessor_calls.ReleasedLessorCalls]:
        """Return lease calls that this leader's applier may answer, behind the entries handed over."""
        return self.lessor_calls.take_released(self.handed)

    # --- what the topics use ----------------------------------------------------------------------

    def send(self, to: MemberId, message: PeerMessage, *, bulk: bool = False, after_sync: bool = False) -> None:
        """Queue a message."""
        assert to != self.member, "nobody writes to itself"
        self.outbox.append(Outbound(to, message, bulk, after_sync))

    def append(self, kind: EntryKind, data: bytes) -> Entry:
        """Put one entry of the current term behind the log."""
        assert self.leading is not None, "only a leader appends by itself"
        entry = Entry(self.term, Index(self.log.last.index + 1), int(kind), data)
        self.log.append((entry,))
        return entry

    def change_role(self, cause: Cause) -> None:
        """Take the role that the table says."""
        self.role = role_after(self.role, cause)
        assert self.role is not Role.LEADER or cause is Cause.VOTE_WON, "office comes from votes alone"
        if self.role is not Role.CANDIDATE:
            self.own_vote_ticket = None

    def become_follower(self, term: Term, leader: MemberId, cause: Cause) -> None:
        """Follow `leader` (or nobody yet) in `term`."""
        assert term >= self.term, f"term would fall from {self.term} to {term}"
        self.change_role(cause)
        if term > self.term:
            self.term = term
            self.voted_for = NOBODY
        if self.leading is not None:
            read_index.office_lost(self)
            self.log_event("leadership_lost", {"term": self.term, "cause": cause.value})
            self.leading = None
        self.votes = {}
        self.set_leader(leader)
        election.reset_timeout(self)

    def set_leader(self, leader: MemberId) -> None:
        """Note who leads; questions to the one before are void."""
        if leader != self.leader:
            read_index.leader_changed(self)
            lessor_calls.leader_changed(self)
            self.changes.leader_changed()
            self.leader = leader
        transfer.leader_known(self)


_HANDLERS: dict[str, Callable[[Raft, MemberId, PeerMessage], None]] = {
    "RequestVote": election.on_request_vote,
    "RequestVoteReply": election.on_request_vote_reply,
    "ConfirmMembership": election.on_confirm_membership,
    "TimeoutNow": transfer.on_timeout_now,
    "AppendEntries": following.on_append_entries,
    "Heartbeat": following.on_heartbeat,
    "AppendEntriesReply": replication.on_append_entries_reply,
    "HeartbeatReply": replication.on_heartbeat_reply,
    "ForwardProposal": proposals.on_forward_proposal,
    "ForwardProposalReply": proposals.on_forward_proposal_reply,
    "ForwardLessorCalls": lessor_calls.on_forward_lessor_calls,
    "ForwardLessorCallsReply": lessor_calls.on_forward_lessor_calls_reply,
    "ForwardMemberChange": member_changes.on_forward_member_change,
    "ForwardMemberChangeReply": member_changes.on_forward_member_change_reply,
    "RequestReadIndex": read_index.on_request_read_index,
    "ReadIndexReply": read_index.on_read_index_reply,
}
