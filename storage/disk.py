"""The disk port: everything this project asks of a file system, and no more.

Each call's durability promise stands beside it. `PosixDisk` and `sim.disk.SimDisk` pass one contract test.
Paths are relative to the node's data directory and use "/".
"""

from typing import Protocol


class DiskFile(Protocol):
    """One open file."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data`; nothing is durable until `sync`. Raises `DiskFailed`."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes; fewer only at the end of the file."""
        ...

    def size(self) -> int:
        """Length of the file in bytes."""
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros; durable after `sync`."""
        ...

    def allocate(self, size: int) -> None:
        """Reserve disk blocks up to `size` so that later writes need no metadata and cannot find the disk full."""
        ...

    def sync(self) -> None:
        """Everything written to this file survives a power cut once this returns (fdatasync).

        Raises `DiskFailed`; never call it again on the same file then: the page cache may lie.
        """
        ...

    def close(self) -> None:
        """Let go of the file; promises no durability."""
        ...


class Disk(Protocol):
    """A directory tree that can lose what was not synced."""

    def open(self, path: str, *, create: bool = False) -> DiskFile:
        """Open for reading and writing. A created file's name is durable only after `sync_dir` of its parent."""
        ...

    def list(self, path: str) -> list[str]:
        """Sorted names in a directory; empty if it does not exist."""
        ...

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        ...

    def make_dir(self, path: str) -> None:
        """Create a directory and its parents; the name is durable after `sync_dir` of the parent."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Atomic; durable after `sync_dir` of both parents."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; durable after `sync_dir`."""
        ...

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all in it, if it exists."""
        ...

    def sync_dir(self, path: str) -> None:
        """Names created, renamed and removed in `path` survive a power cut once this returns."""
        ...
