"""What a user may touch: the union of many key ranges, and whether it covers another one.

Owns etcd's rule 59. Knows neither users nor requests. `end` is None for everything from the start on, as
`storage.layout.user_bounds` gives it; a single key is the range up to its immediate successor.
"""

from bisect import bisect_right
from collections.abc import Iterable

Span = tuple[bytes, bytes | None]


class Spans:
    """A set of keys made of ranges, merged so that no two touch."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, spans: Iterable[Span]) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes | None] = []
        for start, end in sorted(spans, key=lambda span: span[0]):
            if end is not None and end <= start:
                continue
            if self._ends:
                last = self._ends[-1]
                if last is None:
                    break
                if start <= last:
                    self._ends[-1] = None if end is None else max(last, end)
                    continue
            self._starts.append(start)
            self._ends.append(end)

    def __len__(self) -> int:
        return len(self._starts)

    def cover(self, start: bytes, end: bytes | None) -> bool:
        """Return whether every key of the range is in the set; of an empty range, whether its start is."""
        place = bisect_right(self._starts, start) - 1
        if place < 0:
            return False
        last = self._ends[place]
        if last is None:
            return True
        return start < last and end is not None and end <= last
