"""The engine port in memory, with its flushed image on the simulated disk.

Owns the image format; knows no table. Writes are visible at once and lost at a crash unless flushed; the image is
replaced by rename, so a power cut leaves the old or the new one, never half of one. That is RocksDB without its log.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakSet

import google_crc32c
import msgpack

from protocol.errors import Corruption
from storage.disk import Disk

IMAGE = "image"
_PARTIAL = "image.partial"


class SimEngine:
    """An ordered dict with a durable image at `path`."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._closed = False
        self._scans: WeakSet[_Scan] = WeakSet()
        self._values: dict[bytes, bytes] = {}
        if not disk.exists(path):
            disk.make_dir(path)
            disk.sync_dir(_parent(path))
        if disk.exists(f"{path}/{IMAGE}"):
            self._values = _read_image(disk, f"{path}/{IMAGE}")
        self._keys = sorted(self._values)

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        assert not self._closed, "the engine is closed"
        return self._values.get(key)

    def explained(self, error: Exception) -> Exception:
        """Nothing here goes wrong in a language of its own."""
        return error

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, in their order."""
        return [self.get(key) for key in keys]

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of the range as of this call."""
        assert not self._closed, "the engine is closed"
        keys = self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]
        if reverse:
            keys.reverse()
        scan = _Scan(keys, self._values)
        self._scans.add(scan)
        return scan

    def scan_keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Keys of the range as of this call."""
        assert not self._closed, "the engine is closed"
        return iter(self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)])

    def write(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Apply `changes` atomically."""
        assert not self._closed, "the engine is closed"
        self._pin_scans()
        for key, value in changes:
            if value is None:
                if self._values.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
            else:
                if key not in self._values:
                    insort(self._keys, key)
                self._values[key] = value

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete `[start, end)`."""
        self.write([(key, None) for key in self.scan_keys(start, end)])

    def flush(self) -> None:
        """Replace the durable image."""
        assert not self._closed, "the engine is closed"
        self._write_image(self._path)

    def checkpoint(self, path: str) -> None:
        """Write the image of the store, as it is now, to `path`."""
        assert not self._disk.exists(path), f"{path} exists"
        self._disk.make_dir(path)
        self._write_image(path)
        self._disk.sync_dir(_parent(path))

    def compact_range(self, start: bytes | None, end: bytes | None) -> None:
        """Nothing to give back: a deleted key is gone."""
        assert start is None or end is None or start <= end, "a range has its start first"

    def disk_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(len(key) + len(value) for key, value in self._values.items())

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._pin_scans()
        self._closed = True

    def _pin_scans(self) -> None:
        """Open scans keep what they began with."""
        for scan in list(self._scans):
            scan.pin()
        self._scans.clear()

    def _write_image(self, path: str) -> None:
        body = msgpack.packb([part for key in self._keys for part in (key, self._values[key])])
        data = google_crc32c.value(body).to_bytes(4, "big") + body
        disk = self._disk
        if disk.exists(f"{path}/{_PARTIAL}"):
            disk.remove(f"{path}/{_PARTIAL}")
        file = disk.open(f"{path}/{_PARTIAL}", create=True)
        try:
            file.write_at(0, data)
            file.sync()
        finally:
            file.close()
        disk.rename(f"{path}/{_PARTIAL}", f"{path}/{IMAGE}")
        disk.sync_dir(path)


class _Scan:
    """A range that was asked for; looks values up as it goes until the store changes, then keeps them."""

    __slots__ = ("__weakref__", "_keys", "_position", "_values")

    def __init__(self, keys: list[bytes], values: dict[bytes, bytes]) -> None:
        self._keys = keys
        self._values = values
        self._position = 0

    def __iter__(self) -> "_Scan":
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        if self._position == len(self._keys):
            raise StopIteration
        key = self._keys[self._position]
        self._position += 1
        return key, self._values[key]

    def pin(self) -> None:
        """Keep the values that are still to be given out."""
        self._values = {key: self._values[key] for key in self._keys[self._position :]}

    def close(self) -> None:
        """Let go of everything."""
        self._keys = []
        self._values = {}
        self._position = 0


def _parent(path: str) -> str:
    parent, _, _ = path.rpartition("/")
    return parent or "."


def _read_image(disk: Disk, path: str) -> dict[bytes, bytes]:
    file = disk.open(path)
    try:
        data = file.read_at(0, file.size())
    finally:
        file.close()
    if google_crc32c.value(data[4:]).to_bytes(4, "big") != data[:4]:
        raise Corruption(f"{path}: checksum does not match")
    flat: list[Any] = msgpack.unpackb(data[4:])
    return dict(zip(flat[::2], flat[1::2], strict=True))
