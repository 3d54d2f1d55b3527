"""The consensus core: state of one member and the dispatch of what happens to it.

Owns term, vote, role, log, configuration and the messages to be sent. Topics live beside it: `election`,
`replication`, `reads`, `membership`. Knows no actor, socket, disk or clock: time is an argument, chance is an
injected generator, durability is told by `persisted`.

Invariants: term never falls; one vote a term; commit never falls and never passes what is in the log; messages
that promise durability carry `after_sync` and are released by the owner only behind the write they depend on.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from protocol.config import RaftConfig
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
from raft import election, membership, reads, replication
from raft.configuration import Configuration
from raft.log import Log
from raft.progress import Progress

NEVER = Millis(0)


class Role(Enum):
    """What a member is to the others in its term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Outbound(NamedTuple):
    """A message the core wants sent; with `after_sync` not before everything written so far is on disk."""

    to: MemberId
    message: PeerMessage
    bulk: bool
    after_sync: bool


class PersistBatch(NamedTuple):
    """One write for the WAL: what it holds and the log's last position once it is durable."""

    ticket: int
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    last: LogPosition


class Recovered(NamedTuple):
    """What the disk held at the start."""

    mark: LogMark
    hard_state: HardState
    entries: tuple[Entry, ...]
    applied: Index


class ReleasedRead(NamedTuple):
    """A read batch of this node's gateway that may be served behind entry `index`."""

    index: Index  # type: ignore[assignment]  # hides tuple.index
    sequence: int
    payload: bytes


@dataclass(slots=True)
class LeaderState:
    """What only a leader has; made at the election, gone with the office."""

    progress: dict[MemberId, Progress]
    first_own_index: Index
    quorum_checked_at: Millis
    heartbeat_due: Millis
    round: int = 0
    uncommitted_bytes: int = 0
    unconfirmed: list["reads.PendingRead"] = field(default_factory=list)
    transfer_to: MemberId = NOBODY
    transfer_deadline: Millis = NEVER
    rounds_wanted: bool = False


class Raft:
    """One member's part in consensus. The owner calls `step`, `propose`, `read`, `persisted`, `tick`, then drains."""

    def __init__(
        self,
        member: MemberId,
        config: RaftConfig,
        configuration: Configuration,
        recovered: Recovered,
        rng: random.Random,
        now: Millis,
    ) -> None:
        self.member = member
        self.config = config
        self.rng = rng
        self.now = now
        mark = LogPosition(recovered.mark.term, recovered.mark.index)
        self.log = Log(mark, recovered.entries)
        self.term = max(recovered.hard_state.term, self.log.last.term)
        self.voted_for = recovered.hard_state.voted_for if self.term == recovered.hard_state.term else NOBODY
        self.commit = Index(max(recovered.hard_state.commit, recovered.applied))
        assert self.commit <= self.log.last.index, f"commit {self.commit} is not in the log"
        self.handed = recovered.applied
        self.applied = recovered.applied
        self.leader = NOBODY
        self.role = Role.FOLLOWER
        self.leading: LeaderState | None = None
        self.votes: dict[MemberId, bool] = {}
        self.ticket = 0
        self.ticket_acked = 0
        self.own_vote: tuple[Term, int] | None = None
        self.saved = HardState(self.term, self.voted_for, self.commit)
        self.written_to = self.log.last.index
        self.configurations: list[tuple[Index, Configuration]] = []
        membership.load(self, configuration, recovered)
        self.outbox: list[Outbound] = []
        self.released: list[ReleasedRead] = []
        self.refused_reads: list[tuple[int, int]] = []
        self.follower_reads: dict[int, reads.FollowerRead] = {}
        self.waiting_reads: list[ReleasedRead] = []
        self.read_context = 0
        self.heard_leader_at: Millis | None = None
        self.transfer_ended: bool | None = None
        self.disk_waits_since: Millis | None = None
        self.log_event: Callable[[str, dict[str, object]], None] = lambda _event, _fields: None
        self.election_due = Millis(0)
        self.election_patience = Millis(config.election_timeout_ms)
        election.first_timeout(self, fresh=self.log.last.index == 0 and self.term == 0)

    # --- what the owner reads ---------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The configuration in force: the latest in the log, committed or not (thesis, section 4.1)."""
        return self.configurations[-1][1]

    @property
    def deadline(self) -> Millis | None:
        """When `tick` has something to do."""
        if self.leading is not None:
            return min(self.leading.heartbeat_due, self._reads_due())
        if not self.configuration.is_voter(self.member):
            return self._reads_due() if self.follower_reads else None
        return min(self.election_due, self._reads_due())

    def _reads_due(self) -> Millis:
        retries = [read.retry_at for read in self.follower_reads.values()]
        return min(retries, default=Millis(1 << 62))

    @property
    def disk_stuck(self) -> bool:
        """Whether the disk has not answered for an election timeout."""
        since = self.disk_waits_since
        return since is not None and self.now - since >= self.config.election_timeout_ms

    # --- what happens -----------------------------------------------------------------------------

    def step(self, sender: MemberId, message: PeerMessage, now: Millis) -> None:
        """Take in one peer message."""
        self._advance(now)
        handler = _HANDLERS.get(type(message).__name__)
        assert handler is not None, f"{type(message).__name__} is no message for the core"
        handler(self, sender, message)

    def tick(self, now: Millis) -> None:
        """Do what is due at `now`: elections, heartbeats, quorum checks, retries."""
        self._advance(now)
        reads.retry(self)
        if self.leading is not None:
            replication.leader_tick(self)
        elif now >= self.election_due:
            election.timed_out(self)

    def persisted(self, ticket: int, last: LogPosition, now: Millis) -> None:
        """Everything up to `ticket` is on disk and the log ended at `last` then."""
        self._advance(now)
        assert ticket <= self.ticket, f"ticket {ticket} was never given out"
        self.ticket_acked = max(self.ticket_acked, ticket)
        self.disk_waits_since = None if self.ticket_acked == self.ticket else now
        if self.own_vote is not None and self.own_vote[1] <= self.ticket_acked:
            term, _ = self.own_vote
            self.own_vote = None
            if term == self.term:
                election.record_vote(self, self.member, granted=True)
        if self.log.persisted(last) and self.leading is not None:
            replication.advance_commit(self)

    def _advance(self, now: Millis) -> None:
        assert now >= self.now, "time was handed backwards"
        self.now = now

    # --- what the topics use ----------------------------------------------------------------------

    def send(self, to: MemberId, message: PeerMessage, *, bulk: bool = False, after_sync: bool = False) -> None:
        """Queue a message."""
        assert to != self.member, "nobody writes to itself"
        self.outbox.append(Outbound(to, message, bulk, after_sync))

    def append(self, kind: EntryKind, data: bytes) -> Entry:
        """Put one entry of the current term behind the log."""
        entry = Entry(self.term, Index(self.log.last.index + 1), int(kind), data)
        self.log.append((entry,))
        return entry

    def become_follower(self, term: Term, leader: MemberId) -> None:
        """Follow `leader` (or nobody yet) in `term`."""
        assert term >= self.term, f"term would fall from {self.term} to {term}"
        if term > self.term:
            self.term = term
            self.voted_for = NOBODY
        if self.leading is not None:
            reads.office_lost(self)
            if self.leading.transfer_to != NOBODY:
                self.transfer_ended = True
            self.log_event("leadership_lost", {"term": self.term})
        self.leading = None
        self.role = Role.FOLLOWER
        self.votes = {}
        if leader != self.leader:
            reads.leader_changed(self)
        self.leader = leader
        election.reset_timeout(self)

    def take_persist(self) -> PersistBatch | None:
        """Return what must be written now, if anything; the ticket comes back through `persisted`."""
        state = HardState(self.term, self.voted_for, self.commit)
        last = self.log.last
        vote_changed = state[:2] != self.saved[:2]
        # The commit index alone is not worth a sync: it is written along with the next entries.
        if not vote_changed and self.written_to >= last.index:
            return None
        entries = self.log.between(Index(self.written_to + 1), last.index) if last.index > self.written_to else ()
        self.saved = state
        self.written_to = last.index
        return self._ticketed(state, entries)

    def empty_persist(self) -> PersistBatch:
        """Return a write of nothing: it keeps held messages in order behind the writes in flight."""
        return self._ticketed(None, ())

    def _ticketed(self, state: HardState | None, entries: tuple[Entry, ...]) -> PersistBatch:
        self.ticket += 1
        if self.disk_waits_since is None:
            self.disk_waits_since = self.now
        if self.own_vote is not None and self.own_vote[1] == 0:
            self.own_vote = (self.own_vote[0], self.ticket)
        return PersistBatch(self.ticket, state, entries, self.log.last)

    def take_committed(self, entries_max: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return the next entries for the applier: committed, and durable in this node's own log."""
        ready = min(self.commit, self.log.durable)
        if ready <= self.handed:
            return ()
        first = Index(self.handed + 1)
        entries = self.log.slice(first, min(entries_max, ready - self.handed), bytes_max)
        self.handed = entries[-1].index
        return entries

    def check(self) -> None:
        """Assert the invariants that hold between the parts."""
        self.log.check()
        assert self.commit <= self.log.last.index, f"commit {self.commit} behind the log's end"
        assert self.applied <= self.handed, f"applied {self.applied} before it was handed over"
        assert self.handed <= self.commit, f"handed over {self.handed}, committed {self.commit}"
        assert (self.leading is not None) == (self.role is Role.LEADER), "leader state without the office"
        assert self.role is not Role.LEADER or self.leader == self.member, "a leader knows itself"
        self.configuration.check()
        if self.leading is not None:
            assert self.member not in self.leading.progress, "a leader does not follow itself"
            for progress in self.leading.progress.values():
                progress.check()
                assert progress.matched <= self.log.last.index, "a follower holds more than its leader"


_HANDLERS: dict[str, Callable[[Raft, MemberId, PeerMessage], None]] = {
    "RequestVote": election.on_request_vote,
    "RequestVoteReply": election.on_request_vote_reply,
    "TimeoutNow": election.on_timeout_now,
    "AppendEntries": replication.on_append_entries,
    "AppendEntriesReply": replication.on_append_entries_reply,
    "Heartbeat": replication.on_heartbeat,
    "HeartbeatReply": replication.on_heartbeat_reply,
    "FollowerLags": replication.on_follower_lags,
    "RequestReadIndex": reads.on_request_read_index,
    "ReadIndexReply": reads.on_read_index_reply,
}
