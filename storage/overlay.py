"""Changes of one raft entry that are not written yet, laid over the engine so that reads see them.

Owns the pending changes; knows no MVCC. Invariant: `get` and `scan` answer as if the changes had been written.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from typing import Final, Protocol

from storage.engine import Engine


class Reader(Protocol):
    """What reading code needs: the engine itself, or the engine under pending changes."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with `start <= key < end`, in order."""
        ...

    def scan_keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Keys with `start <= key < end`, in order."""
        ...


_ABSENT: Final = object()


class Overlay:
    """Pending changes over an engine. `changes` is filled by hot loops directly: None marks a deletion."""

    __slots__ = ("_order", "_ordered", "changes", "engine")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.changes: dict[bytes, bytes | None] = {}
        self._order: list[bytes] = []
        self._ordered = 0

    def get(self, key: bytes) -> bytes | None:
        """The pending value of `key`, or the stored one."""
        value = self.changes.get(key, _ABSENT)
        return self.engine.get(key) if value is _ABSENT else value  # type: ignore[return-value]

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of the merged view as of this call."""
        pending = self._pending(start, end)
        stored = self.engine.scan(start, end, reverse=reverse)
        if not pending:
            return stored
        if reverse:
            pending.reverse()
        return _merge(stored, pending, reverse)

    def scan_keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Keys of the merged view as of this call."""
        if not self._pending(start, end):
            return self.engine.scan_keys(start, end)
        return map(itemgetter(0), self.scan(start, end))

    def clear(self) -> None:
        """Forget everything pending: it was written."""
        self.changes = {}
        self._order = []
        self._ordered = 0

    def _pending(self, start: bytes, end: bytes) -> list[tuple[bytes, bytes | None]]:
        if not self.changes:
            return []
        if self._ordered != len(self.changes):
            # A dict keeps insertion order and keys never leave it, so only the new tail has to be sorted in.
            self._order.extend(islice(self.changes, self._ordered, None))
            self._order.sort()
            self._ordered = len(self._order)
        order = self._order
        changes = self.changes
        return [(key, changes[key]) for key in order[bisect_left(order, start) : bisect_left(order, end)]]


def _merge(
    stored: Iterator[tuple[bytes, bytes]], pending: list[tuple[bytes, bytes | None]], reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Yield both streams in order; where both know a key the pending one speaks, and None is silence."""
    position = 0
    count = len(pending)
    for key, value in stored:
        while position < count and (pending[position][0] > key if reverse else pending[position][0] < key):
            pending_key, pending_value = pending[position]
            position += 1
            if pending_value is not None:
                yield pending_key, pending_value
        if position < count and pending[position][0] == key:
            pending_value = pending[position][1]
            position += 1
            if pending_value is not None:
                yield key, pending_value
        else:
            yield key, value
    for pending_key, pending_value in pending[position:]:
        if pending_value is not None:
            yield pending_key, pending_value
