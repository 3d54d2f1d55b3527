"""What every node's log holds, as its messages tell: in raft's memory, and on its disk for certain.

Owns the images that checkers compare with; judges nothing. Knows the local messages only. Invariant: an image follows
every write in the order in which it was handed to the WAL.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from protocol.local import CutLog, LogRecovered, PersistEntries
from protocol.types import NOBODY, Entry, HardState

NO_HARD_STATE: Final = HardState(0, NOBODY, 0)  # type: ignore[arg-type]


@dataclass
class LogImage:
    """What one node's log holds: terms by index above `base`, and the hard state."""

    base: int = 0
    last: int = 0
    terms: dict[int, int] = field(default_factory=dict)
    hard_state: HardState = NO_HARD_STATE

    def persist(self, message: PersistEntries) -> None:
        """Follow one write: entries replace everything from the first one's index on."""
        if message.hard_state is not None:
            self.hard_state = message.hard_state
        for entry in message.entries:
            if entry.index <= self.last:
                for index in range(entry.index, self.last + 1):
                    self.terms.pop(index, None)
            self.terms[entry.index] = entry.term
            self.last = entry.index

    def restart(self, index: int) -> None:
        """The log begins anew behind a snapshot."""
        self.base = self.last = index
        self.terms.clear()

    def follow(self, message: PersistEntries | CutLog) -> None:
        """Follow whatever was handed to the WAL."""
        if isinstance(message, PersistEntries):
            self.persist(message)
        elif message.mark.stage:
            self.restart(message.mark.index)
        else:
            self.base = max(self.base, message.mark.index)

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry is in the log, or below where it begins."""
        return index <= self.base or self.terms.get(index) == term

    def copy(self) -> "LogImage":
        """An independent image."""
        return LogImage(self.base, self.last, dict(self.terms), self.hard_state)


@dataclass
class NodeLogs:
    """One node's log as raft has it in memory, and as its WAL has certainly made it durable."""

    memory: LogImage = field(default_factory=LogImage)
    durable: LogImage = field(default_factory=LogImage)
    pending: list[PersistEntries | CutLog] = field(default_factory=list)
    """Handed to the WAL, not yet reported: after a crash any prefix of these may be on disk."""

    def handed(self, message: PersistEntries) -> None:
        """A write was handed to the WAL."""
        self.memory.persist(message)
        self.pending.append(message)

    def cut(self, message: CutLog) -> None:
        """A cut, or a restart behind a snapshot, was handed to the WAL."""
        if message.mark.stage:
            self.memory.restart(message.mark.index)
        self.pending.append(message)

    def persisted(self, ticket: int) -> None:
        """Everything up to a ticket was reported durable."""
        while self.pending and self.pending[0].ticket <= ticket:
            self.durable.follow(self.pending.pop(0))

    def possible(self) -> Iterator[LogImage]:
        """What a recovery may find: what is durable, and any whole number of pending writes behind it."""
        candidate = self.durable
        yield candidate
        for message in self.pending:
            candidate = candidate.copy()
            candidate.follow(message)
            yield candidate

    def recovered(self, found: LogImage) -> None:
        """The log was read back: this is what both hold now."""
        self.durable, self.memory, self.pending = found, found.copy(), []


def image_of(message: LogRecovered, entries: list[Entry]) -> LogImage:
    """The image of a log that was read back in several messages, of which this was the last."""
    found = LogImage(message.mark.index, message.mark.index, {}, message.hard_state)
    for entry in entries:
        found.terms[entry.index] = entry.term
        found.last = max(found.last, entry.index)
    return found


def same(found: LogImage, expected: LogImage) -> bool:
    """Whether a recovered log is `expected`, but for entries that a cut may or may not have dropped."""
    if found.hard_state != expected.hard_state or found.last != max(expected.last, found.base):
        return False
    if found.base != expected.base:
        return False
    return all(expected.terms.get(index, term) == term for index, term in found.terms.items()) and all(
        index in found.terms for index in expected.terms if index > found.base
    )
