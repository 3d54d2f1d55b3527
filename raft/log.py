"""The part of the log that is in memory: everything behind the mark of the last cut.

Owns entries, the durable cursor and the mark. Knows no peer and no term of its own.
Invariants: entries are contiguous behind `mark_index`; terms never fall; `mark_index <= durable <= last.index`.
"""

from protocol.types import LOG_START, Entry, Index, LogPosition, Term


class Log:
    """Contiguous entries behind a mark; `durable` is the last index this node's own disk has confirmed."""

    def __init__(self, mark: LogPosition = LOG_START, entries: tuple[Entry, ...] = ()) -> None:
        self.mark = mark
        self._entries: list[Entry] = []
        self.bytes_held = 0
        self.durable = mark.index
        self.append(entries)
        self.durable = self.last.index

    @property
    def last(self) -> LogPosition:
        """The last position, durable or not."""
        return self._entries[-1].position if self._entries else self.mark

    @property
    def first_index(self) -> Index:
        """The first index still held."""
        return Index(self.mark.index + 1)

    def term_at(self, index: Index) -> Term | None:
        """Return the term at `index`, or None where the log holds nothing (cut away, or not yet written)."""
        offset = index - self.mark.index
        if offset == 0:
            return self.mark.term
        if offset < 0 or offset > len(self._entries):
            return None
        return self._entries[offset - 1].term

    def slice(self, first: Index, entries_max: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `first` on, within both bounds, but at least one if there is one."""
        assert first >= self.first_index, f"entry {first} was cut away at {self.mark.index}"
        start = first - self.first_index
        chosen = self._entries[start : start + entries_max]
        total = 0
        for count, entry in enumerate(chosen):
            total += len(entry.data)
            if total > bytes_max and count:
                return tuple(chosen[:count])
        return tuple(chosen)

    def between(self, first: Index, last: Index) -> tuple[Entry, ...]:
        """Return the entries `first..last`, both included."""
        assert first >= self.first_index, f"entry {first} was cut away at {self.mark.index}"
        return tuple(self._entries[first - self.first_index : last - self.mark.index])

    def append(self, entries: tuple[Entry, ...] | list[Entry]) -> None:
        """Add entries right behind the last one."""
        for entry in entries:
            last = self.last
            assert entry.index == last.index + 1, f"entry {entry.index} does not follow {last.index}"
            assert entry.term >= last.term, f"term {entry.term} after {last.term}"
            self._entries.append(entry)
            self.bytes_held += len(entry.data)

    def truncate(self, first_dropped: Index) -> None:
        """Forget `first_dropped` and everything behind it; what was durable there is so no longer."""
        assert first_dropped > self.mark.index, "what is behind the mark is committed and stays"
        keep = first_dropped - self.first_index
        self.bytes_held -= sum(len(entry.data) for entry in self._entries[keep:])
        del self._entries[keep:]
        self.durable = min(self.durable, Index(first_dropped - 1))

    def persisted(self, last: LogPosition) -> bool:
        """Note that the disk holds the log up to `last`; False if that write has been overtaken by another.

        The term is compared because an index can be rewritten while its first write is in flight.
        """
        if self.term_at(last.index) != last.term or last.index <= self.durable:
            return False
        self.durable = last.index
        return True

    def cut(self, mark: LogPosition) -> None:
        """Forget entries up to and including `mark`."""
        if mark.index <= self.mark.index:
            return
        assert mark.index <= self.durable, "only what is durable may be cut"
        assert self.term_at(mark.index) == mark.term, "the mark must be in the log"
        dropped = mark.index - self.mark.index
        self.bytes_held -= sum(len(entry.data) for entry in self._entries[:dropped])
        del self._entries[:dropped]
        self.mark = mark

    def restart(self, mark: LogPosition) -> None:
        """Begin anew behind a snapshot."""
        self.mark = mark
        self._entries.clear()
        self.bytes_held = 0
        self.durable = mark.index

    def conflict_hint(self, previous: LogPosition) -> LogPosition:
        """Return the furthest position at or before `previous` whose term is not above `previous.term`."""
        index = min(previous.index, self.last.index)
        while index > self.mark.index:
            term = self.term_at(Index(index))
            assert term is not None, f"hole at {index}"
            if term <= previous.term:
                return LogPosition(term, Index(index))
            index = Index(index - 1)
        return self.mark

    def check(self) -> None:
        """Assert the invariants that hold between the parts."""
        assert self.mark.index <= self.durable, f"durable {self.durable} before the mark {self.mark.index}"
        assert self.durable <= self.last.index, f"durable {self.durable} behind the end {self.last.index}"
        assert self.bytes_held == sum(len(entry.data) for entry in self._entries), "bytes held miscounted"
