"""The engine port: an ordered byte store with atomic batches that loses what was not flushed.

`storage.rocks.RocksEngine` and `sim.engine.SimEngine` pass one contract test.
Invariant: after a crash the store is exactly the state of some prefix of the writes, no older than the last `flush`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol


class Engine(Protocol):
    """Keys and values are bytes; keys are ordered bytewise."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None. What goes wrong is raised as it comes: `explained` says what it means."""
        ...

    def explained(self, error: Exception) -> Exception:
        """Return what an error of a read means: `Corruption` or `DiskFailed`; the error itself if it is not ours."""
        ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, in their order."""
        ...

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with `start <= key < end` as of this call; later writes are not seen.

        Raises `Corruption` if the store could not be read to the end: a short answer never looks complete.
        Close the iterator (or exhaust it): an open one pins memory.
        """
        ...

    def scan_keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Keys with `start <= key < end` as of this call, in order; for counting, where values would be waste.

        Raises `Corruption` as `scan` does.
        """
        ...

    def write(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Apply all changes atomically (None deletes); visible at once, durable after `flush`."""
        ...

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete every key in `[start, end)`; visible at once, durable after `flush`."""
        ...

    def flush(self) -> None:
        """Everything written before this call is durable once it returns. May be called from another thread."""
        ...

    def checkpoint(self, path: str) -> None:
        """Make `path` (which must not exist) a complete copy of the flushed store; sharing files is allowed."""
        ...

    def compact_range(self, start: bytes | None, end: bytes | None) -> None:
        """Give back the space of deleted and overwritten keys. May be called from another thread."""
        ...

    def disk_bytes(self) -> int:
        """Space the store takes on disk, approximately."""
        ...

    def close(self) -> None:
        """Flush and close. The engine may not be used afterwards."""
        ...
