"""Identifiers and small values with one meaning each.

Invariant: a value of one of these types is never used where another is meant; mypy holds us to it.
"""

from enum import IntEnum
from typing import Final, NamedTuple, NewType

ClusterId = NewType("ClusterId", int)
"""64-bit identity of a cluster, derived from its member ids as etcd derives it."""
MemberId = NewType("MemberId", int)
"""64-bit identity of a member, derived from its peer URLs and the cluster token as etcd derives it."""
StoreId = NewType("StoreId", int)
"""Random 63-bit identity of one data directory; a wiped directory gets another."""
Incarnation = NewType("Incarnation", int)
"""Grows with each start of the actor group (raft, wal, applier) or of the gateway; never reused by a store."""
Term = NewType("Term", int)
Index = NewType("Index", int)
"""Position in the raft log; the first entry has index 1."""
Revision = NewType("Revision", int)
"""MVCC revision; a fresh store is at 1 and the first write makes 2."""
LeaseId = NewType("LeaseId", int)
Millis = NewType("Millis", int)
"""Milliseconds on a monotonic clock whose origin means nothing."""

NOBODY: Final = MemberId(0)
"""No member: no leader known, no vote cast."""


NO_STORE: Final = StoreId(0)
"""A data directory that has not been seen."""


class LogPosition(NamedTuple):
    """A place in the log; ordered as the Raft paper compares logs (section 5.4.1): term first, then index."""

    term: Term
    index: Index  # type: ignore[assignment]  # hides tuple.index, which nobody wants here


LOG_START: Final = LogPosition(Term(0), Index(0))
"""The position before the first entry."""


class EntryKind(IntEnum):
    """What an entry's data is. An unknown kind halts the node: skipping it would make members differ."""

    NOOP = 0
    COMMANDS = 1
    CONFIGURATION = 2
    LEASE_UPKEEP = 3
    """The leader's word on leases that have run out and on what is left of others: `protocol.lease`."""


class Entry(NamedTuple):
    """One slot of the replicated log."""

    term: Term
    index: Index  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    kind: int
    data: bytes

    @property
    def position(self) -> LogPosition:
        """Where the entry stands."""
        return LogPosition(self.term, self.index)


class HardState(NamedTuple):
    """What a member must remember before it answers anybody (Raft thesis, section 3.8)."""

    term: Term
    voted_for: MemberId
    commit: Index


class LogMark(NamedTuple):
    """Where a cut log begins: the last entry that is no longer in it, and the configuration there.

    `configuration` is opaque outside `raft/`. `stage` names the staged snapshot whose installation the mark
    announces, or is empty for an ordinary cut.
    """

    index: Index  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    term: Term
    configuration: bytes
    stage: str
