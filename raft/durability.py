"""Which writes are on their way to the disk, and which messages wait for them.

Owns tickets, what of hard state and log was handed to the WAL, and the order between writes and messages. Knows no
role and no peer. Invariants: tickets grow by one and are acknowledged in order; a message that promises durability
leaves with or behind the write that makes it true; an acknowledgement counts only for what the log still holds, which
`Log.persisted` checks by (term, index), because an index can be rewritten while its first write is in flight.
"""

from collections import deque
from typing import Final, NamedTuple

from protocol.peer import AppendEntriesReply, PeerMessage
from protocol.types import Entry, HardState, Index, LogPosition, MemberId, Millis, Term
from raft.log import Log

WRITE_BYTES_MAX: Final = 16 << 20
"""Entries in one write; a turn that has more makes several, so that no local message grows without a bound."""


class Outbound(NamedTuple):
    """A message the core wants sent; with `after_sync` not before everything written so far is on disk."""

    to: MemberId
    message: PeerMessage
    bulk: bool
    after_sync: bool


class PersistBatch(NamedTuple):
    """One write for the WAL: what it holds, the log's last position once it is durable, and what may leave then."""

    ticket: int
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    last: LogPosition
    held: tuple[Outbound, ...]
    answer_within_ms: int
    """How long word of its durability may take; what is held does not wait for that."""


class Drained(NamedTuple):
    """What a turn leaves behind: writes in order, and messages that may leave at once."""

    writes: tuple[PersistBatch, ...]
    messages: tuple[Outbound, ...]


NOTHING_DRAINED: Final = Drained((), ())


class DurabilityGate:
    """Gives out write tickets and holds messages behind them."""

    def __init__(self, saved: HardState, written_to: Index) -> None:
        self.saved = saved
        """The hard state in the last write; its commit index may lag, which costs a restart nothing but time."""
        self.written_to = written_to
        """Entries up to here were handed to the WAL; less than that after a truncation."""
        self.ticket = 0
        self.acknowledged = 0
        self.mark_in_flight = False
        """The mark of a snapshot is on its way to the disk: what it makes true is not yet durable."""
        self._given: deque[tuple[int, Millis]] = deque()

    @property
    def idle(self) -> bool:
        """Whether everything handed to the WAL is on disk."""
        return not self._given and not self.mark_in_flight

    def waiting_since(self) -> Millis | None:
        """When the oldest write that is not on disk yet was handed over; None if there is none."""
        return self._given[0][1] if self._given else None

    def behind(self, term: Term, voted_for: MemberId, log: Log) -> bool:
        """Whether term, vote or log hold what was not handed to the WAL yet."""
        saved = self.saved
        return self.written_to < log.last.index or term != saved.term or voted_for != saved.voted_for

    def truncated(self, first_dropped: Index) -> None:
        """Entries from `first_dropped` on are gone: what takes their place must be written."""
        self.written_to = min(self.written_to, Index(first_dropped - 1))

    def restarted(self, index: Index) -> None:
        """The log begins anew behind `index`."""
        self.written_to = index

    def acknowledge(self, ticket: int) -> None:
        """Everything up to `ticket` is on disk."""
        assert ticket <= self.ticket, f"ticket {ticket} was never given out, the last is {self.ticket}"
        self.acknowledged = max(self.acknowledged, ticket)
        while self._given and self._given[0][0] <= ticket:
            self._given.popleft()

    def drain(
        self, state: HardState, log: Log, outbox: list[Outbound], now: Millis, answer_within_ms: int = 0
    ) -> Drained:
        """Return the writes that are due and the messages of `outbox`, each bound to the write it must follow.

        Word of a durable vote never waits: an election hangs on it.
        """
        assert state.term >= self.saved.term, f"term falls from {self.saved.term} to {state.term}"
        writes: list[PersistBatch] = []
        vote_changed = state[:2] != self.saved[:2]
        while vote_changed or self.written_to < log.last.index:
            # The commit index alone is not worth a sync: it is written along with the next entries.
            entries: tuple[Entry, ...] = ()
            if self.written_to < log.last.index:
                missing = log.last.index - self.written_to
                entries = log.slice(Index(self.written_to + 1), missing, WRITE_BYTES_MAX)
                self.written_to = entries[-1].index
            last = entries[-1].position if entries else log.last
            durable = HardState(state.term, state.voted_for, min(state.commit, last.index))
            writes.append(self._write(durable, entries, last, now, 0 if vote_changed else answer_within_ms))
            vote_changed = False
            self.saved = state
        held = [outbound for outbound in outbox if outbound.after_sync] if outbox else outbox
        if not held:
            return Drained(tuple(writes), tuple(outbox))
        if not writes and self.idle:
            return Drained((), tuple(_newest_acknowledgements(outbox)))
        if not writes:
            # A write of nothing keeps the held messages in order behind the writes in flight.
            writes.append(self._write(None, (), log.last, now, answer_within_ms))
        writes[-1] = writes[-1]._replace(held=tuple(_newest_acknowledgements(held)))
        return Drained(tuple(writes), tuple(outbound for outbound in outbox if not outbound.after_sync))

    def _write(
        self,
        state: HardState | None,
        entries: tuple[Entry, ...],
        last: LogPosition,
        now: Millis,
        answer_within_ms: int,
    ) -> PersistBatch:
        self.ticket += 1
        self._given.append((self.ticket, now))
        return PersistBatch(self.ticket, state, entries, last, (), answer_within_ms)


def _newest_acknowledgements(outbox: list[Outbound]) -> list[Outbound]:
    """Drop append acknowledgements that a later one of the same turn covers."""
    if len(outbox) == 1:
        return outbox
    newest: dict[MemberId, int] = {}
    for position, outbound in enumerate(outbox):
        if isinstance(outbound.message, AppendEntriesReply) and not outbound.message.rejected:
            newest[outbound.to] = position
    return [
        outbound
        for position, outbound in enumerate(outbox)
        if not isinstance(outbound.message, AppendEntriesReply)
        or outbound.message.rejected
        or newest[outbound.to] == position
    ]
