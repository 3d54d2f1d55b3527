"""The file format of bbolt, which etcd's snapshots are: written once from sorted pairs, and read.

Owns pages, buckets and their checks; knows no bucket by name and no etcd. The writer streams: it holds one page of each
level of the tree, so memory grows with the depth and not with the data. The reader works on a mapped file.

A file is pages of `PAGE_BYTES`: two metas, an empty list of free pages, then leaves and branches in the order in which
they fill; a page that is too small for one element has overflow pages behind it. The root is a tree whose values are
the buckets. Numbers are little endian. Invariant: what `BoltWriter` has finished, `BoltFile` and bbolt read alike.
"""

import struct
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from protocol.errors import Corruption

PAGE_BYTES: Final = 4096
MAGIC: Final = 0xED0CDAED
VERSION: Final = 2
FIRST_FREE_PAGE: Final = 3
"""Behind two metas and the list of free pages."""
DEPTH_MAX: Final = 32
"""No tree of any file is deeper; a file that says so leads in circles."""

_BRANCH: Final = 0x01
_LEAF: Final = 0x02
_META: Final = 0x04
_FREE_LIST: Final = 0x10
_BUCKET_FLAG: Final = 0x01
_PAGE: Final = Struct("<QHHI")
"""Id, flags, count, overflow."""
_LEAF_ELEMENT: Final = Struct("<IIII")
"""Flags, where the key is from here on, its size, the value's size."""
_BRANCH_ELEMENT: Final = Struct("<IIQ")
"""Where the key is from here on, its size, the page."""
_BUCKET: Final = Struct("<QQ")
"""Root page (0: the page follows right here), sequence."""
_META_BODY: Final = Struct("<IIIIQQQQQ")
"""Magic, version, page size, flags, root page and sequence, free list, pages in use, transaction."""
_U64: Final = Struct("<Q")


def fnv_1a(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash, which guards a meta page."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


class _Level:
    """The page of one level of a tree that is being filled."""

    __slots__ = ("items", "size")

    def __init__(self) -> None:
        self.items: list[tuple[int, bytes, bytes | int]] = []
        """Flags, key, and the value or the page below."""
        self.size = _PAGE.size


class BoltWriter:
    """Writes one file. Buckets in the order of their names, pairs of each in the order of their keys."""

    def __init__(self, write_at: Callable[[int, bytes], None]) -> None:
        self._write_at = write_at
        self._next_page = FIRST_FREE_PAGE
        self._root = _Tree(self)
        self._bucket: _Tree | None = None
        self._name = b""

    def begin(self, name: bytes) -> None:
        """Open the next bucket."""
        assert self._bucket is None, f"bucket {self._name!r} is open"
        self._bucket, self._name = _Tree(self), name

    def put(self, key: bytes, value: bytes) -> None:
        """Add a pair to the open bucket."""
        assert self._bucket is not None, "no bucket is open"
        self._bucket.add(0, key, value)

    def end(self) -> None:
        """Close the open bucket."""
        assert self._bucket is not None, "no bucket is open"
        root = self._bucket.finish()
        self._bucket = None
        self._root.add(_BUCKET_FLAG, self._name, _BUCKET.pack(root, 0))

    def finish(self) -> int:
        """Complete the file; return its size in bytes."""
        assert self._bucket is None, f"bucket {self._name!r} is open"
        root = self._root.finish()
        for page in (0, 1):
            # bbolt believes the meta of the higher transaction; an even one lives in page 0.
            body = _META_BODY.pack(MAGIC, VERSION, PAGE_BYTES, 0, root, 0, 2, self._next_page, 2 - page)
            meta = _PAGE.pack(page, _META, 0, 0) + body + _U64.pack(fnv_1a(body))
            self._write_at(page * PAGE_BYTES, meta.ljust(PAGE_BYTES, b"\0"))
        self._write_at(2 * PAGE_BYTES, _PAGE.pack(2, _FREE_LIST, 0, 0).ljust(PAGE_BYTES, b"\0"))
        return self._next_page * PAGE_BYTES

    def write_page(self, flags: int, count: int, body: bytes) -> int:
        """Write a page and what overflows it; return its id."""
        page = self._next_page
        pages = -(-(_PAGE.size + len(body)) // PAGE_BYTES)
        self._next_page += pages
        data = _PAGE.pack(page, flags, count, pages - 1) + body
        self._write_at(page * PAGE_BYTES, data.ljust(pages * PAGE_BYTES, b"\0"))
        return page


class _Tree:
    """One tree that grows to the right."""

    def __init__(self, writer: BoltWriter) -> None:
        self._writer = writer
        self._levels = [_Level()]
        self._last = b""

    def add(self, flags: int, key: bytes, value: bytes) -> None:
        """Add an element behind all others."""
        level = self._levels[0]
        assert key > self._last or not (level.items or len(self._levels) > 1), f"{key!r} follows {self._last!r}"
        self._last = key
        size = _LEAF_ELEMENT.size + len(key) + len(value)
        if level.items and level.size + size > PAGE_BYTES:
            self._flush(0)
        level.items.append((flags, key, value))
        level.size += size

    def finish(self) -> int:
        """Write what is not written yet; return the root page."""
        depth = 0
        while depth + 1 < len(self._levels):
            self._flush(depth)
            depth += 1
        return self._only_child(depth) if depth else self._write(0)

    def _only_child(self, depth: int) -> int:
        level = self._levels[depth]
        if len(level.items) > 1:
            return self._write(depth)
        child = level.items[0][2]
        assert isinstance(child, int), "a branch holds pages"
        return child

    def _flush(self, depth: int) -> None:
        """Write the page of a level and tell the level above."""
        first = self._levels[depth].items[0][1]
        page = self._write(depth)
        if depth + 1 == len(self._levels):
            self._levels.append(_Level())
        above = self._levels[depth + 1]
        size = _BRANCH_ELEMENT.size + len(first)
        if len(above.items) > 1 and above.size + size > PAGE_BYTES:
            self._flush(depth + 1)
        above.items.append((0, first, page))
        above.size += size

    def _write(self, depth: int) -> int:
        level = self._levels[depth]
        items = level.items
        element = _BRANCH_ELEMENT.size if depth else _LEAF_ELEMENT.size
        at = element * len(items)
        heads: list[bytes] = []
        bodies: list[bytes] = []
        for number, (flags, key, value) in enumerate(items):
            where = at - number * element
            if isinstance(value, int):
                heads.append(_BRANCH_ELEMENT.pack(where, len(key), value))
                bodies.append(key)
                at += len(key)
            else:
                heads.append(_LEAF_ELEMENT.pack(flags, where, len(key), len(value)))
                bodies.append(key + value)
                at += len(key) + len(value)
        level.items = []
        level.size = _PAGE.size
        return self._writer.write_page(_BRANCH if depth else _LEAF, len(items), b"".join(heads) + b"".join(bodies))


class _Page(NamedTuple):
    """Where a page's elements begin, and what they are."""

    at: int
    flags: int
    elements: int


class BoltFile:
    """Reads one file of any page size.

    Every access raises `Corruption` where the bytes make no sense, naming what is wrong.
    """

    def __init__(self, data: memoryview) -> None:
        """`data` is the whole file."""
        self._data = data
        self._page_bytes, root = self._meta()
        self.buckets: dict[bytes, tuple[int, int]] = {}
        """Root page of each bucket, or 0 and where its only page lies."""
        for flags, name, at, size in self._elements(self._page(root), 0):
            if not flags & _BUCKET_FLAG or size < _BUCKET.size:
                raise Corruption(f"{bytes(name)!r} in the root is no bucket")
            (page, _) = _BUCKET.unpack_from(self._data, at)
            self.buckets[bytes(name)] = (page, at + _BUCKET.size)

    def pairs(self, bucket: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of each pair of a bucket in order; nothing if there is no such bucket."""
        known = self.buckets.get(bucket)
        if known is None:
            return
        root, inline_at = known
        page = self._page(root) if root else self._page_at(inline_at, 0)
        last = None
        for _, key, at, size in self._elements(page, 0):
            if last is not None and key <= last:
                raise Corruption(f"bucket {bucket.decode()}: {key!r} stands behind {last!r}")
            last = key
            yield key, bytes(self._data[at : at + size])

    def value(self, bucket: bytes, key: bytes) -> bytes | None:
        """Return one value of a small bucket."""
        return next((value for found, value in self.pairs(bucket) if found == key), None)

    def _meta(self) -> tuple[int, int]:
        """Return page size and root page by the newest meta that is whole."""
        best: tuple[int, int, int] | None = None
        # The second meta is at the second page, whose size the first one says; a first one that is damaged does not.
        for at in (0, PAGE_BYTES, 8192, 16384, 65536):
            try:
                body = bytes(self._data[at + _PAGE.size : at + _PAGE.size + _META_BODY.size])
                magic, version, page_bytes, _, root, _, _, _, transaction = _META_BODY.unpack(body)
                (checksum,) = _U64.unpack_from(self._data, at + _PAGE.size + _META_BODY.size)
            except struct.error:
                continue
            if magic == MAGIC and version == VERSION and checksum == fnv_1a(body) and at in (0, page_bytes):
                best = max(best or (0, 0, 0), (transaction, page_bytes, root))
        if best is None:
            raise Corruption("this is no bbolt file: neither of its metas is whole")
        return best[1], best[2]

    def _page(self, number: int) -> _Page:
        return self._page_at(number * self._page_bytes, number)

    def _page_at(self, at: int, number: int) -> _Page:
        try:
            known, flags, count, _ = _PAGE.unpack_from(self._data, at)
        except struct.error:
            raise Corruption(f"page {number} is behind the end of the file") from None
        if known != number or not flags & (_BRANCH | _LEAF):
            raise Corruption(f"page {number} says that it is page {known} of kind {flags}")
        return _Page(at + _PAGE.size, flags, count)

    def _elements(self, page: _Page, depth: int) -> Iterator[tuple[int, bytes, int, int]]:
        """Yield flags, key, and where the value lies, of each leaf element below a page."""
        if depth > DEPTH_MAX:
            raise Corruption("pages lead in a circle")
        end = len(self._data)
        try:
            for number in range(page.elements):
                if page.flags & _BRANCH:
                    _, _, child = _BRANCH_ELEMENT.unpack_from(self._data, page.at + number * _BRANCH_ELEMENT.size)
                    yield from self._elements(self._page(child), depth + 1)
                    continue
                here = page.at + number * _LEAF_ELEMENT.size
                flags, position, key_size, value_size = _LEAF_ELEMENT.unpack_from(self._data, here)
                value_at = here + position + key_size
                if value_at + value_size > end:
                    raise Corruption("a pair goes beyond the end of the file")
                yield flags, bytes(self._data[here + position : value_at]), value_at, value_size
        except struct.error:
            raise Corruption("a page goes beyond the end of the file") from None
