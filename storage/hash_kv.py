"""HashKV: one number for everything a read at a revision can see, the same on every member.

Owns etcd's rule 27: CRC-32C over the bucket's name, then each revision's key and KeyValue bytes as etcd stores them.
Invariant: it depends on the revision and the compacted revision only. A version at or below the compacted revision
counts exactly if it is its key's newest at the hashed revision and no tombstone; whether it was physically dropped yet
is not asked. The numbers equal etcd's, but for one quirk left out on purpose: where no key at all is live at the
revision, etcd counts whatever its compaction has not reached yet.
"""

from collections.abc import Generator
from struct import Struct

import google_crc32c

from storage.engine import Engine
from storage.layout import (
    LOG,
    TOMBSTONE,
    key_value_bytes,
    log_key,
    old_key,
    parse_log_key,
    record_key,
    trailer,
    unpack_old_version,
)
from storage.wire_bytes import varint

_BUCKET = b"key"
_REVISION_KEY = Struct(">QcQ")


def hash_slices(engine: Engine, revision: int, compacted: int, rows: int) -> Generator[None, None, int]:
    """Return the hash at `revision`, in slices of `rows`; no compaction may write while it runs."""
    crc = google_crc32c.value(_BUCKET)
    parts: list[bytes] = []
    for walked, (row_key, record) in enumerate(engine.scan(LOG, log_key(revision + 1, 0)), start=1):
        main, sub = parse_log_key(row_key)
        tombstone = trailer(record).kind == TOMBSTONE
        if main > compacted or (not tombstone and _kept(engine, record, main, sub, revision)):
            parts.append(_REVISION_KEY.pack(main, b"_", sub) + (b"t" if tombstone else b""))
            parts.append(_tombstone_bytes(record) if tombstone else key_value_bytes(record))
        if walked % rows == 0:
            crc = google_crc32c.extend(crc, b"".join(parts))
            parts.clear()
            yield
    return int(google_crc32c.extend(crc, b"".join(parts)))


def _kept(engine: Engine, record: bytes, main: int, sub: int, revision: int) -> bool:
    """Whether a version at or below the compacted revision is what a read at `revision` finds."""
    superseded = engine.get(old_key(record_key(record), main, sub))
    return superseded is None or unpack_old_version(superseded).superseded_by > revision


def _tombstone_bytes(record: bytes) -> bytes:
    """A tombstone as etcd stores it: the key alone."""
    key = record_key(record)
    return b"\x0a" + varint(len(key)) + key
