"""A disk in memory that loses what was not synced, as real ones may.

Owns the difference between what processes see and what a power cut leaves. Chance comes from the injected
generator only. The model: file content is durable after `sync` of that file; before that each write may survive, be
lost, or be torn at sectors. Names are journaled: a crash keeps a prefix of the unsynced name changes, and
`sync_dir` makes everything up to the last change in that directory durable.
Invariant: what the port promises is durable survives every crash.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import DiskFailed

SECTOR_BYTES: Final = 512


class DiskFull(DiskFailed):
    """A write that did not fit."""


@dataclass(slots=True)
class Inode:
    """One file's content: as seen, as durable, and the changes between the two."""

    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes as (offset, data), cuts and extensions as (size, None)."""


DIRECTORY: Final = Inode()
"""Stands for every directory; only its name matters."""

Names = dict[str, Inode]


@dataclass(slots=True)
class NameChange:
    """One change of names, and the directories that must be synced before it is promised to last."""

    apply: Callable[[Names], None]
    waits_for: set[str]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    if len(content) > size:
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


class SimFile:
    """One open file; see `storage.disk.DiskFile`."""

    def __init__(self, disk: "SimDisk", path: str, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""
        self._disk.charge(self._path, offset + len(data) - len(self._inode.seen))
        self._inode.unsynced.append((offset, bytes(data)))
        _write(self._inode.seen, offset, data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes."""
        return bytes(self._inode.seen[offset : offset + size])

    def size(self) -> int:
        """Length in bytes."""
        return len(self._inode.seen)

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""
        self._inode.unsynced.append((size, None))
        _resize(self._inode.seen, size)

    def allocate(self, size: int) -> None:
        """Reserve space: the file is at least that long."""
        if size > len(self._inode.seen):
            self._disk.charge(self._path, size - len(self._inode.seen))
            self.truncate(size)

    def sync(self) -> None:
        """Make the content durable."""
        inode = self._inode
        for offset, data in inode.unsynced:
            if data is None:
                _resize(inode.durable, offset)
            else:
                _write(inode.durable, offset, data)
        inode.unsynced.clear()

    def close(self) -> None:
        """Nothing to let go of."""


class SimDisk:
    """A directory tree in memory; see `storage.disk.Disk`. `capacity_bytes` makes it a small one."""

    def __init__(self, rng: random.Random, capacity_bytes: int | None = None) -> None:
        self._rng = rng
        self._names: Names = {"": DIRECTORY}
        self._durable: Names = {"": DIRECTORY}
        self._changes: list[NameChange] = []
        self.capacity_bytes = capacity_bytes

    def charge(self, path: str, more_bytes: int) -> None:
        """Refuse what would not fit beside all that has a name."""
        if self.capacity_bytes is None or more_bytes <= 0:
            return
        if self.used_bytes() + more_bytes > self.capacity_bytes:
            raise DiskFull(f"write {path}: No space left on device")

    def used_bytes(self) -> int:
        """Bytes of all files that have a name."""
        return sum(len(inode.seen) for inode in self._names.values())

    def open(self, path: str, *, create: bool = False) -> SimFile:
        """Open, or create, a file."""
        inode = self._names.get(path)
        if inode is None:
            if not create:
                raise DiskFailed(f"open {path}: No such file or directory")
            self._need_directory(_parent(path))
            inode = Inode()
            self._change({_parent(path)}, _adding(path, inode))
        if inode is DIRECTORY:
            raise DiskFailed(f"open {path}: Is a directory")
        return SimFile(self, path, inode)

    def list(self, path: str) -> list[str]:
        """Sorted names in a directory."""
        return sorted(name.rpartition("/")[2] for name in self._names if name and _parent(name) == path)

    def exists(self, path: str) -> bool:
        """Whether something is there."""
        return path in self._names

    def make_dir(self, path: str) -> None:
        """Create a directory and its parents."""
        if path in self._names:
            return
        if _parent(path):
            self.make_dir(_parent(path))
        self._change({_parent(path)}, _adding(path, DIRECTORY))

    def rename(self, old: str, new: str) -> None:
        """Rename atomically, a directory with all in it."""
        if old not in self._names:
            raise DiskFailed(f"rename {old}: No such file or directory")
        if self._names[old] is DIRECTORY and self.list(new):
            raise DiskFailed(f"rename {old}: Directory not empty")
        self._need_directory(_parent(new))
        self._change({_parent(old), _parent(new)}, _moving(old, new))

    def remove(self, path: str) -> None:
        """Remove a file."""
        inode = self._names.get(path)
        if inode is None or inode is DIRECTORY:
            raise DiskFailed(f"remove {path}: No such file or directory")
        self._change({_parent(path)}, _removing(path))

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all in it, leaves first, as a real one is removed."""
        inside = sorted((name for name in self._names if name.startswith(f"{path}/")), reverse=True)
        for name in [*inside, path]:
            if name in self._names:
                self._change({_parent(name)}, _removing(name))

    def sync_dir(self, path: str) -> None:
        """Make names in a directory durable, and with them everything the journal holds before."""
        path = "" if path == "." else path
        self._need_directory(path)
        settled = 0
        for position, change in enumerate(self._changes):
            change.waits_for.discard(path)
            if not change.waits_for:
                settled = position + 1
        for change in self._changes[:settled]:
            change.apply(self._durable)
        del self._changes[:settled]

    def crash(self) -> None:
        """Cut the power: what was not durable survives in part, in a way real disks may do it."""
        for change in self._changes[: self._rng.randint(0, len(self._changes))]:
            change.apply(self._durable)
        self._changes.clear()
        for path in sorted(self._durable):
            inode = self._durable[path]
            if inode is not DIRECTORY and inode.unsynced:
                self._lose(inode)
        self._names = dict(self._durable)

    def flip_bit(self, path: str, offset: int) -> None:
        """Let one bit of what is on disk rot."""
        self.rot(path, offset, 1 << self._rng.randrange(8))

    def rot(self, path: str, offset: int, mask: int) -> Callable[[], None]:
        """Flip the bits of `mask` in one byte; return what flips them back, as long as the file is not written."""
        inode = self._names[path]

        def flip() -> None:
            inode.seen[offset] ^= mask
            inode.durable[offset : offset + 1] = inode.seen[offset : offset + 1]

        flip()
        return flip

    def _lose(self, inode: Inode) -> None:
        for offset, data in inode.unsynced:
            fate = self._rng.randrange(3)
            if data is None:
                if fate:
                    _resize(inode.durable, offset)
            elif fate == 0:
                _write(inode.durable, offset, data)
            elif fate == 1:
                self._tear(inode.durable, offset, data)
        inode.unsynced.clear()
        inode.seen = bytearray(inode.durable)

    def _tear(self, content: bytearray, offset: int, data: bytes) -> None:
        """Write only some of the sectors that `data` touches."""
        start = 0
        while start < len(data):
            end = min(len(data), start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES)
            if self._rng.randrange(2):
                _write(content, offset + start, data[start:end])
            start = end

    def _need_directory(self, path: str) -> None:
        if self._names.get(path) is not DIRECTORY:
            raise DiskFailed(f"{path}: No such file or directory")

    def _change(self, parents: set[str], apply: Callable[[Names], None]) -> None:
        apply(self._names)
        self._changes.append(NameChange(apply, set(parents)))


def _adding(path: str, inode: Inode) -> Callable[[Names], None]:
    def apply(names: Names) -> None:
        names[path] = inode

    return apply


def _removing(path: str) -> Callable[[Names], None]:
    def apply(names: Names) -> None:
        names.pop(path, None)

    return apply


def _moving(old: str, new: str) -> Callable[[Names], None]:
    def apply(names: Names) -> None:
        for name in [name for name in names if name == old or name.startswith(f"{old}/")]:
            names[new + name.removeprefix(old)] = names.pop(name)

    return apply
