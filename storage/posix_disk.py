"""The disk port on a real file system.

Owns the translation of paths below a root and of `OSError` into `DiskFailed` with the path in it.
Invariant: a file whose sync failed takes no further write and no further sync; the page cache may lie about it.
"""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Final

from protocol.errors import DiskFailed

DISK_HINTS: Final = {
    errno.ENOSPC: "the disk is full: make room, then start this node again",
    errno.EDQUOT: "the quota of this user is used up: make room, then start this node again",
    errno.EROFS: "the file system is mounted read-only",
}
"""What to do about an error of the disk, by its number."""


def _failed(action: str, path: Path, error: OSError) -> DiskFailed:
    text = f"{action} {path}: {error.strerror or error}"
    hint = DISK_HINTS.get(error.errno or 0)
    return DiskFailed(f"{text} ({hint})" if hint else text)


class PosixFile:
    """One open file; see `storage.disk.DiskFile`."""

    def __init__(self, path: Path, descriptor: int, observe_sync: Callable[[float], None] | None) -> None:
        self._path = path
        self._descriptor = descriptor
        self._observe_sync = observe_sync
        self._sync_failed = False

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`."""
        self._refuse_after_failed_sync()
        try:
            written = os.pwrite(self._descriptor, data, offset)
            while written < len(data):
                written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise _failed("write", self._path, error) from error

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        try:
            data = os.pread(self._descriptor, size, offset)
            # One call reads at most 2 GiB, and a signal may cut it short: only nothing means the end.
            while len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
                data += more
        except OSError as error:
            raise _failed("read", self._path, error) from error
        return data

    def size(self) -> int:
        """Length in bytes."""
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise _failed("look at", self._path, error) from error

    def truncate(self, size: int) -> None:
        """Cut or extend."""
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise _failed("truncate", self._path, error) from error

    def allocate(self, size: int) -> None:
        """Reserve blocks up to `size`."""
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            raise _failed("allocate", self._path, error) from error

    def sync(self) -> None:
        """Make the content durable."""
        self._refuse_after_failed_sync()
        began = perf_counter()
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._sync_failed = True
            raise _failed("sync", self._path, error) from error
        if self._observe_sync is not None:
            self._observe_sync(perf_counter() - began)

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self._descriptor)

    def _refuse_after_failed_sync(self) -> None:
        if self._sync_failed:
            raise DiskFailed(f"sync {self._path}: failed before; it is not tried again, what is written may be lost")


class PosixDisk:
    """A directory tree below `root`; see `storage.disk.Disk`.

    `observe_sync` is told the seconds each file sync took.
    """

    def __init__(self, root: Path, observe_sync: Callable[[float], None] | None = None) -> None:
        self.root = root
        self._observe_sync = observe_sync

    def open(self, path: str, *, create: bool = False) -> PosixFile:
        """Open, or create, a file."""
        full = self.root / path
        try:
            descriptor = os.open(full, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        except OSError as error:
            raise _failed("open", full, error) from error
        return PosixFile(full, descriptor, self._observe_sync)

    def list(self, path: str) -> list[str]:
        """Sorted names in a directory."""
        try:
            return sorted(entry.name for entry in (self.root / path).iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed("list", self.root / path, error) from error

    def exists(self, path: str) -> bool:
        """Whether something is there."""
        return (self.root / path).exists()

    def make_dir(self, path: str) -> None:
        """Create a directory and its parents."""
        try:
            (self.root / path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _failed("make directory", self.root / path, error) from error

    def rename(self, old: str, new: str) -> None:
        """Rename atomically."""
        try:
            (self.root / old).rename(self.root / new)
        except OSError as error:
            raise _failed("rename", self.root / old, error) from error

    def remove(self, path: str) -> None:
        """Remove a file."""
        try:
            (self.root / path).unlink()
        except OSError as error:
            raise _failed("remove", self.root / path, error) from error

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all in it."""
        try:
            shutil.rmtree(self.root / path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed("remove", self.root / path, error) from error

    def sync_dir(self, path: str) -> None:
        """Make names in a directory durable."""
        full = self.root / path
        try:
            descriptor = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _failed("sync", full, error) from error
