"""How many live keys a range has, without walking it: counts per block of neighbouring keys.

Owns block boundaries and counts in memory (a few tens of bytes per several hundred keys). Knows the `k` table's
bounds and no other. Invariants: boundaries ascend, the first is the empty key, and each count equals the number of
`k` keys from its boundary to the next.

Worked example: with boundaries ``"", "m"`` and counts ``3, 2`` the range ``[a, z)`` counts the edge block ``"m"`` by
walking it and adds whatever part of the first block begins at ``a``; blocks wholly inside are added unseen.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgpack

from protocol.errors import Corruption
from storage.layout import KV, KV_END, kv_bounds
from storage.overlay import Reader

BLOCK_KEYS_MAX: Final = 1024
"""A block that grows past this is split."""
BLOCK_KEYS_SPLIT: Final = 256
"""Size of the blocks a split makes; a wide ratio keeps the walk of a split under one step per insert."""


class KeyCount:
    """Counts of live keys per block."""

    def __init__(self) -> None:
        self._boundaries: list[bytes] = [b""]
        self._counts: list[int] = [0]
        self._overgrown: dict[bytes, None] = {}
        self.total = 0

    def add(self, key: bytes) -> None:
        """A key that was absent is now live."""
        index = bisect_right(self._boundaries, key) - 1
        counts = self._counts
        counts[index] += 1
        self.total += 1
        if counts[index] > BLOCK_KEYS_MAX:
            self._overgrown[self._boundaries[index]] = None

    def discard(self, key: bytes) -> None:
        """A key that was live is now absent."""
        index = bisect_right(self._boundaries, key) - 1
        assert self._counts[index] > 0, "a block lost more keys than it had"
        self._counts[index] -= 1
        self.total -= 1

    def count(self, reader: Reader, start: bytes, end: bytes | None) -> int:
        """Return the number of live keys in `[start, end)` (an end of None: no end); walks two blocks at most."""
        if end is not None and end <= start:
            return 0
        first = bisect_right(self._boundaries, start) - 1
        last = len(self._boundaries) if end is None else bisect_left(self._boundaries, end)
        # Blocks strictly between the edges are counted unseen; `last` is the first block that begins at or behind end.
        if self._boundaries[first] == start:
            whole = sum(self._counts[first : last - 1])
            head = 0
        else:
            whole = sum(self._counts[first + 1 : last - 1])
            if first == last - 1:
                return _walk(reader, start, end)
            head = _walk(reader, start, self._boundaries[first + 1])
        if end is None or (last < len(self._boundaries) and self._boundaries[last] == end):
            return head + whole + self._counts[last - 1]
        return head + whole + _walk(reader, self._boundaries[last - 1], end)

    def split_overgrown(self, reader: Reader) -> None:
        """Split every block that grew too large; called between entries, when nothing is pending."""
        for boundary in self._overgrown:
            index = bisect_left(self._boundaries, boundary)
            if self._counts[index] > BLOCK_KEYS_MAX:
                self._split(reader, index)
        self._overgrown.clear()

    def rebuild(self, reader: Reader) -> None:
        """Count everything anew: the one scan of a store without saved counts."""
        boundaries, counts = [b""], [0]
        for key in reader.scan_keys(KV, KV_END):
            if counts[-1] == BLOCK_KEYS_SPLIT:
                boundaries.append(key[1:])
                counts.append(0)
            counts[-1] += 1
        self._boundaries, self._counts, self.total = boundaries, counts, sum(counts)
        self._overgrown.clear()

    def pack(self, revision: int) -> bytes:
        """Return the counts as of `revision`, for the store."""
        packed: bytes = msgpack.packb((revision, self._boundaries, self._counts))
        return packed

    def unpack(self, data: bytes) -> int:
        """Take over saved counts and return their revision."""
        try:
            revision, boundaries, counts = msgpack.unpackb(data)
        except ValueError as error:
            raise Corruption("undecodable key counts") from error
        self._boundaries, self._counts, self.total = boundaries, counts, sum(counts)
        self._overgrown.clear()
        return int(revision)

    def check(self, reader: Reader) -> None:
        """Assert that every block counts what is there; for tests, since it walks everything."""
        assert self._boundaries[0] == b"", "the first block begins at the empty key"
        assert self._boundaries == sorted(set(self._boundaries)), "boundaries ascend"
        for index, count in enumerate(self._counts):
            end = self._boundaries[index + 1] if index + 1 < len(self._boundaries) else None
            walked = _walk(reader, self._boundaries[index], end)
            assert walked == count, f"block {index} counts {count}, holds {walked}"
        assert self.total == sum(self._counts), "the total is the sum"

    def _split(self, reader: Reader, index: int) -> None:
        end = self._boundaries[index + 1] if index + 1 < len(self._boundaries) else None
        keys: Iterator[bytes] = reader.scan_keys(*kv_bounds(self._boundaries[index], end))
        boundaries = [self._boundaries[index]]
        next(keys, None)
        boundaries.extend(key[1:] for key in islice(keys, BLOCK_KEYS_SPLIT - 1, None, BLOCK_KEYS_SPLIT))
        counts = [BLOCK_KEYS_SPLIT] * len(boundaries)
        counts[-1] = self._counts[index] - BLOCK_KEYS_SPLIT * (len(boundaries) - 1)
        assert 0 < counts[-1] <= BLOCK_KEYS_SPLIT, f"a split left {counts[-1]} keys: counts and keys disagree"
        self._boundaries[index : index + 1] = boundaries
        self._counts[index : index + 1] = counts


def _walk(reader: Reader, start: bytes, end: bytes | None) -> int:
    return sum(1 for _ in reader.scan_keys(*kv_bounds(start, end)))
