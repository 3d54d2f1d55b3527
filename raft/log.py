"""The part of the log that is in memory: everything behind the mark of the last cut.

Owns entries, their sizes, the durable cursor and the mark. Knows no peer and no term of its own.
Invariants: entries are contiguous behind `mark.index`; terms never fall; `mark.index <= durable <= last.index`.
"""

from bisect import bisect_right
from collections.abc import Sequence

from protocol.types import LOG_START, Entry, Index, LogPosition, Term


class Log:
    """Contiguous entries behind a mark; `durable` is the last index this node's own disk has confirmed."""

    def __init__(self, mark: LogPosition = LOG_START, entries: Sequence[Entry] = ()) -> None:
        self.mark = mark
        self.last = mark
        """The last position, durable or not."""
        self._entries: list[Entry] = []
        self._ends: list[int] = []
        """Where each entry ends if all data since the start were one string: sizes of ranges by subtraction."""
        self._begin = 0
        self.durable = mark.index
        self.append(entries)
        self.durable = self.last.index

    @property
    def first_index(self) -> Index:
        """The first index still held."""
        return Index(self.mark.index + 1)

    @property
    def bytes_held(self) -> int:
        """Bytes of entry data in memory."""
        return self._ends[-1] - self._begin if self._ends else 0

    def bytes_between(self, after: Index, last: Index) -> int:
        """Bytes of the entries `after < index <= last`, as far as they are still held."""
        return max(self._end(last) - self._end(after), 0) if last > after else 0

    def _end(self, index: Index) -> int:
        offset = index - self.mark.index
        if offset <= 0:
            return self._begin
        ends = self._ends
        if offset > len(ends):
            return ends[-1] if ends else self._begin
        return ends[offset - 1]

    def term_at(self, index: Index) -> Term | None:
        """Return the term at `index`, or None where the log holds nothing (cut away, or not yet written)."""
        offset = index - self.mark.index
        if offset == 0:
            return self.mark.term
        if offset < 0 or offset > len(self._entries):
            return None
        return self._entries[offset - 1].term

    def holds(self, position: LogPosition) -> bool:
        """Whether the log holds an entry of that term at that index, or has its mark there."""
        return self.term_at(position.index) == position.term

    def slice(self, first: Index, entries_max: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `first` on, within both bounds, but at least one if there is one."""
        assert first > self.mark.index, f"entry {first} was cut away at {self.mark.index}"
        start = first - self.mark.index - 1
        if start == len(self._entries) - 1:
            return tuple(self._entries[start:])
        begin = self._ends[start - 1] if start else self._begin
        fitting = bisect_right(self._ends, begin + bytes_max, start) - start
        return tuple(self._entries[start : start + min(max(fitting, 1), entries_max)])

    def between(self, first: Index, last: Index) -> tuple[Entry, ...]:
        """Return the entries `first..last`, both included."""
        assert first >= self.first_index, f"entry {first} was cut away at {self.mark.index}"
        return tuple(self._entries[first - self.first_index : last - self.mark.index])

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries right behind the last one."""
        term, index = self.last
        end = self._ends[-1] if self._ends else self._begin
        for entry in entries:
            assert entry.index == index + 1, f"entry {entry.index} does not follow {index}"
            assert entry.term >= term, f"term {entry.term} after {term}"
            term, index = entry.term, entry.index
            end += len(entry.data)
            self._entries.append(entry)
            self._ends.append(end)
        self.last = LogPosition(term, index)

    def truncate(self, first_dropped: Index) -> None:
        """Forget `first_dropped` and everything behind it; what was durable there is so no longer."""
        assert first_dropped > self.mark.index, "what is behind the mark is committed and stays"
        keep = first_dropped - self.first_index
        del self._entries[keep:]
        del self._ends[keep:]
        self.last = self._entries[-1].position if self._entries else self.mark
        self.durable = min(self.durable, self.last.index)

    def persisted(self, last: LogPosition) -> bool:
        """Note that the disk holds the log up to `last`; False if that is no news, or has been overtaken.

        The term is compared because an index can be rewritten while its first write is in flight: then the disk
        confirms an entry that is not the one held here.
        """
        if last.index <= self.durable or not self.holds(last):
            return False
        self.durable = last.index
        return True

    def cut(self, mark: LogPosition) -> None:
        """Forget entries up to and including `mark`."""
        assert mark.index <= self.durable, "only what is durable may be cut"
        assert self.holds(mark), "the mark must be in the log"
        dropped = mark.index - self.mark.index
        if dropped > 0:
            self._begin = self._ends[dropped - 1]
            del self._entries[:dropped]
            del self._ends[:dropped]
        self.mark = mark

    def restart(self, mark: LogPosition) -> None:
        """Begin anew behind a snapshot."""
        assert mark.index > self.mark.index, "a snapshot only moves a log forward"
        self.mark = self.last = mark
        self._entries.clear()
        self._ends.clear()
        self._begin = 0
        self.durable = mark.index

    def kept_within(self, last: Index, entries_max: int, bytes_max: int) -> Index:
        """Return the lowest index so that what lies between it and `last` is within both bounds."""
        end = self._end(last)
        count = bisect_right(self._ends, end - bytes_max - 1) + 1 if end - self._begin > bytes_max else 0
        return Index(max(self.mark.index + count, last - entries_max, self.mark.index))

    def last_not_above(self, position: LogPosition) -> LogPosition:
        """Return the furthest position at or before `position.index` whose term is not above `position.term`.

        Where two logs meet cannot be further than that: the heart of the fast back-off (thesis, section 3.5).
        """
        offset = min(position.index, self.last.index) - self.mark.index
        while offset > 0:
            entry = self._entries[offset - 1]
            if entry.term <= position.term:
                return entry.position
            offset -= 1
        return self.mark

    def check(self) -> None:
        """Assert the invariants that hold between the parts."""
        assert self.mark.index <= self.durable, f"durable {self.durable} before the mark {self.mark.index}"
        assert self.durable <= self.last.index, f"durable {self.durable} behind the end {self.last.index}"
        assert self.last.index == self.mark.index + len(self._entries), "the end is not where the entries end"
        assert len(self._ends) == len(self._entries), "a size for every entry"
        expected = self._entries[-1].position if self._entries else self.mark
        assert self.last == expected, f"last {self.last}, entries end at {expected}"
