"""A disk that is slow, that loses its current in the middle of a turn, that is full, and whose sync can fail.

Owns the fuse, the latency account, the planted sync failure and the excuse that a full disk is; the bytes and what a
crash leaves of them belong to the disk underneath. Invariant: with no fuse lit and no failure planted it behaves
exactly as the disk underneath.
"""

from collections.abc import Callable

from protocol.errors import DiskFailed
from sim.disk import DiskFull
from sim.trouble import PowerCut
from storage.disk import Disk, DiskFile


class FaultyDisk:
    """Wraps the node's disk for one life of the machine; after a power cut the node gets a new wrapper."""

    def __init__(self, disk: Disk, sync_latency_us: Callable[[], int]) -> None:
        self.disk = disk
        self.syncs = 0
        self.failed = False
        """A planted failure or a full disk was met: what runs on this disk has a reason to halt."""
        self._sync_latency_us = sync_latency_us
        self._waited_us = 0
        self._fuse: int | None = None
        self._fail_sync = False

    def light_fuse(self, operations: int) -> None:
        """Cut the power just before the disk operation that comes after `operations` more."""
        self._fuse = operations

    def fail_next_sync(self) -> None:
        """Make the next sync of a file raise `DiskFailed`; what it should have made durable may be lost."""
        self._fail_sync = True

    def mend(self) -> None:
        """Put out the fuse and forget a planted failure."""
        self._fuse = None
        self._fail_sync = False

    def take_waited_us(self) -> int:
        """The time syncs took since this was last asked."""
        waited, self._waited_us = self._waited_us, 0
        return waited

    def burn(self) -> None:
        """One more operation that changes the disk."""
        if self._fuse is not None:
            if self._fuse == 0:
                raise PowerCut
            self._fuse -= 1

    def synced(self) -> None:
        """Account for one sync; raise if a failure was planted."""
        self.burn()
        self.syncs += 1
        self._waited_us += self._sync_latency_us()
        if self._fail_sync:
            self._fail_sync = False
            self.failed = True
            raise DiskFailed("planted: sync failed")

    # --- the port --------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> DiskFile:
        """Open a file through the wrapper."""
        if create:
            self.burn()
        return _FaultyFile(self, self.disk.open(path, create=create))

    def list(self, path: str) -> list[str]:
        """Sorted names in a directory."""
        return self.disk.list(path)

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        return self.disk.exists(path)

    def make_dir(self, path: str) -> None:
        """Create a directory and its parents."""
        self.burn()
        self.disk.make_dir(path)

    def rename(self, old: str, new: str) -> None:
        """Rename."""
        self.burn()
        self.disk.rename(old, new)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.burn()
        self.disk.remove(path)

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all in it."""
        self.burn()
        self.disk.remove_tree(path)

    def sync_dir(self, path: str) -> None:
        """Make names durable."""
        self.burn()
        self._waited_us += self._sync_latency_us()
        self.disk.sync_dir(path)


class _FaultyFile:
    """One open file of a `FaultyDisk`."""

    def __init__(self, disk: FaultyDisk, file: DiskFile) -> None:
        self._disk = disk
        self._file = file

    def write_at(self, offset: int, data: bytes) -> None:
        """Write."""
        self._disk.burn()
        try:
            self._file.write_at(offset, data)
        except DiskFull:
            self._disk.failed = True
            raise

    def read_at(self, offset: int, size: int) -> bytes:
        """Read."""
        return self._file.read_at(offset, size)

    def size(self) -> int:
        """Length in bytes."""
        return self._file.size()

    def truncate(self, size: int) -> None:
        """Cut or extend."""
        self._disk.burn()
        self._file.truncate(size)

    def allocate(self, size: int) -> None:
        """Reserve."""
        self._disk.burn()
        try:
            self._file.allocate(size)
        except DiskFull:
            self._disk.failed = True
            raise

    def sync(self) -> None:
        """Sync, unless a failure was planted."""
        self._disk.synced()
        self._file.sync()

    def close(self) -> None:
        """Close."""
        self._file.close()
