"""A member's store saved as a file: what has come of it, and the file it is written to.

Owns the file until it is whole. Invariants: a snapshot comes from one door, from its beginning to its end: one that
breaks off is never gone on with elsewhere, because another member's file is another file; `path` is what it was before
or a whole snapshot on disk, never anything between.

Format: the bbolt database as the member wrote it, then 32 bytes, the SHA-256 of it; as `etcdctl snapshot save` has it.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from actd import wire
from actd.errors import ActdError, CallTimedOut, Unavailable
from actd.feeds import Feed
from actd.readers import AsyncReader, Reader
from actd.results import SavedSnapshot

SNAPSHOT_METHOD: Final = 160
SNAPSHOT_SILENCE_S: Final = 300.0
"""How long nothing may come by default: first a member writes all of its store into one file."""
BEGINNINGS_MAX: Final = 5
"""Doors, or attempts at one, that may say no before anything has come; each has a member write a file."""
DIGEST_BYTES: Final = 32


class SnapshotFeed(Feed[bytes]):
    """One snapshot on its way."""

    method = SNAPSHOT_METHOD

    def __init__(self) -> None:
        super().__init__()
        self.size_bytes = 0
        """How much has come."""
        self.storage_version = ""

    def _request(self) -> bytes:
        return b""

    def _on_message(self, message: bytes) -> None:
        fields = wire.decode(wire.SNAPSHOT, message)
        self.storage_version = fields.get("version", "")
        blob: bytes = fields.get("blob", b"")
        self.size_bytes += len(blob)
        self._add((blob,) if blob else (), len(message))

    def on_end(self, error: ActdError | None) -> bool:
        """The stream is over; it begins again elsewhere only if nothing has come yet."""
        if error is None:
            self.ended = True
        elif not self.over and (self.size_bytes or self.epoch >= BEGINNINGS_MAX):
            text = f"the snapshot broke off after {self.size_bytes} bytes: {error}"
            self.error = Unavailable(text, code=error.code, retryable=True)
        return super().on_end(error)


def _late() -> CallTimedOut:
    return CallTimedOut("no more of the snapshot came in time", retryable=True)


class SnapshotReader(Reader[bytes]):
    """Takes a snapshot for the blocking client."""

    _feed: SnapshotFeed

    def take(self, timeout_s: float) -> list[bytes]:
        """Return what has come, at least something; nothing once everything has.

        Raises:
            CallTimedOut: nothing came in time.
        """
        if not self._wait_for_item(timeout_s):
            raise _late()
        return list(iter(self._pop, None))

    @property
    def storage_version(self) -> str:
        """What the member says of its file."""
        return self._feed.storage_version


class AsyncSnapshotReader(AsyncReader[bytes]):
    """The same for asyncio."""

    _feed: SnapshotFeed

    async def take(self, timeout_s: float) -> list[bytes]:
        """Return what has come, as `SnapshotReader.take` does."""
        if not await self._wait_for_item(timeout_s):
            raise _late()
        return list(iter(self._pop, None))

    @property
    def storage_version(self) -> str:
        """What the member says of its file."""
        return self._feed.storage_version


class SnapshotFile:
    """What is to be the file `path`; leaving the context before `finish` leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        self._part = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        self._digest = hashlib.sha256()
        self._tail = b""
        """The last bytes that have come, which may be the digest of all before them."""
        self._size_bytes = 0

    def write(self, blobs: Sequence[bytes]) -> None:
        """Write what comes next."""
        data = b"".join(blobs)
        self._size_bytes += len(data)
        self._file.write(data)
        known = self._tail + data
        self._digest.update(memoryview(known)[:-DIGEST_BYTES])
        self._tail = known[-DIGEST_BYTES:]

    def finish(self, storage_version: str) -> SavedSnapshot:
        """Put the file in its place, on disk.

        Raises:
            ActdError: it is not what its digest says.
        """
        if self._size_bytes <= DIGEST_BYTES or self._digest.digest() != self._tail:
            raise ActdError(f"a snapshot of {self._size_bytes} bytes that is not what its digest says", retryable=True)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return SavedSnapshot(
            path=self._path, size_bytes=self._size_bytes, sha256=self._tail, storage_version=storage_version
        )

    def __enter__(self) -> "SnapshotFile":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)
