"""Which of many keys and key ranges contain a key: an index that stays quick with tens of thousands of either.

Owns single keys (a dict), bounded ranges (static interval trees, merged as they grow) and open-ended ranges (a sorted
list). Knows nothing of what the values mean. `end` is as in a request after etcd's rule 6: b"" is the single key, None
is everything from `key` on.

Theory of operation. Bounded ranges live in a few sorted arrays whose sizes roughly double; each array is read as a
balanced tree in which every subtree knows its largest end. Adding a range makes an array of one and merges arrays of
similar size, so n additions cost n log² n in all; a lookup asks each array. Removed ranges stay, marked, until they
are half of all.
Invariants: at most one value per (key, end); a lookup never returns a removed value.
"""

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")
DEAD_MIN: Final = 32
"""Removed ranges below this number are not worth a rebuild."""


class _Range(Generic[Value]):
    """One bounded range."""

    __slots__ = ("alive", "end", "start", "value")

    def __init__(self, start: bytes, end: bytes, value: Value) -> None:
        self.start = start
        self.end = end
        self.value = value
        self.alive = True


class _Tree(Generic[Value]):
    """Ranges in order of their starts; never changed once built."""

    __slots__ = ("ranges", "reach")

    def __init__(self, ranges: list[_Range[Value]]) -> None:
        self.ranges = sorted(ranges, key=lambda one: (one.start, one.end))
        self.reach = [b""] * len(ranges)
        """Largest end in the subtree whose root is at this place."""
        self._reach_of(0, len(ranges))

    def _reach_of(self, low: int, high: int) -> bytes:
        if low >= high:
            return b""
        middle = (low + high) // 2
        reach = max(self.ranges[middle].end, self._reach_of(low, middle), self._reach_of(middle + 1, high))
        self.reach[middle] = reach
        return reach

    def match(self, key: bytes, found: list[Value]) -> None:
        """Add the values of all ranges that contain `key`."""
        pending = [(0, len(self.ranges))]
        while pending:
            low, high = pending.pop()
            middle = (low + high) // 2
            if low >= high or self.reach[middle] <= key:
                continue
            pending.append((low, middle))
            one = self.ranges[middle]
            if one.start <= key:
                if key < one.end and one.alive:
                    found.append(one.value)
                pending.append((middle + 1, high))


class KeyRanges(Generic[Value]):
    """Values by key or key range."""

    def __init__(self) -> None:
        self._keys: dict[bytes, Value] = {}
        self._bounded: dict[tuple[bytes, bytes], _Range[Value]] = {}
        self._trees: list[_Tree[Value]] = []
        """Largest first."""
        self._dead = 0
        self._open: dict[bytes, Value] = {}
        self._open_starts: list[bytes] = []

    def __len__(self) -> int:
        return len(self._keys) + len(self._bounded) + len(self._open)

    def values(self) -> Iterator[Value]:
        """Yield every value."""
        yield from self._keys.values()
        for one in self._bounded.values():
            yield one.value
        yield from self._open.values()

    def get(self, key: bytes, end: bytes | None) -> Value | None:
        """Return the value of exactly this key or range, or None."""
        if end is None:
            return self._open.get(key)
        if not end:
            return self._keys.get(key)
        one = self._bounded.get((key, end))
        return None if one is None else one.value

    def add(self, key: bytes, end: bytes | None, value: Value) -> None:
        """Add a key or range that is not there; a range must not be empty."""
        assert self.get(key, end) is None, "one value for each range"
        if end is None:
            insort(self._open_starts, key)
            self._open[key] = value
        elif not end:
            self._keys[key] = value
        else:
            assert key < end, "an empty range contains nothing"
            one = self._bounded[key, end] = _Range(key, end, value)
            merged = [one]
            while self._trees and len(self._trees[-1].ranges) <= len(merged):
                old = self._trees.pop().ranges
                alive = [one for one in old if one.alive]
                self._dead -= len(old) - len(alive)
                merged += alive
            self._trees.append(_Tree(merged))

    def remove(self, key: bytes, end: bytes | None) -> None:
        """Remove a key or range that is there."""
        if end is None:
            del self._open[key]
            del self._open_starts[bisect_right(self._open_starts, key) - 1]
        elif not end:
            del self._keys[key]
        else:
            self._bounded.pop((key, end)).alive = False
            self._dead += 1
            if self._dead > max(DEAD_MIN, len(self._bounded)):
                self._dead = 0
                self._trees = [_Tree(list(self._bounded.values()))] if self._bounded else []

    def match(self, key: bytes) -> list[Value]:
        """Return the values of all keys and ranges that contain `key`, in no particular but always the same order."""
        found: list[Value] = []
        value = self._keys.get(key)
        if value is not None:
            found.append(value)
        for tree in self._trees:
            tree.match(key, found)
        if self._open_starts:
            starts = self._open_starts[: bisect_right(self._open_starts, key)]
            found += [self._open[start] for start in starts]
        return found
