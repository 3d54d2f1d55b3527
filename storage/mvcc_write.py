"""One version more: the records a put or a deletion leaves in each table.

Owns the write side of the layout, the bounded cache of newest versions and the logical sizes; knows no request and
no raft. Invariants: the changes of one main revision have sub-revisions 0, 1, 2, ...; a version's record names the
live version before it; a superseded version has exactly one entry in the `v` table.
"""

from typing import Final

from protocol.types import Revision
from protocol.wire.mvcc_pb2 import KeyValue
from storage.engine import Engine
from storage.key_count import KeyCount
from storage.layout import (
    KV,
    LOG,
    PUT,
    TOMBSTONE,
    attachment_key,
    key_value_bytes,
    lease_key,
    log_key_parts,
    old_key,
    pack_old_version,
    pack_trailer,
    trailer,
)
from storage.overlay import Overlay
from storage.wire_bytes import (
    key_value_frame,
    mod_revision_field,
    tombstone_frame,
    value_and_lease_fields,
    varint,
)

CACHED_VERSIONS_MAX: Final = 16_384
"""Newest versions remembered per generation; two generations live at a time."""
LOG_KEY_BYTES: Final = 17

Version = tuple[bytes, int, int, int, int]
"""What a put must know of the live version it replaces: create revision (a varint), version, main and sub revision,
lease. A bare tuple, because one is made for every put."""


class KeyWriter:
    """Writes versions into an overlay. `begin` opens a main revision, `put` and `delete` add changes to it."""

    def __init__(self, engine: Engine) -> None:
        self.overlay = Overlay(engine)
        self.keys = KeyCount()
        self.main = 0
        self.mod = b""
        """`main` as a varint: headers need it as well."""
        self._mod_field = b""
        self.sub = 0
        self.size_in_use = 0
        self._peak = 0
        self._young: dict[bytes, Version] = {}
        self._old: dict[bytes, Version] = {}

    @property
    def size(self) -> int:
        """Logical bytes taken from the disk: the most that were ever in use, as room given back is used again."""
        return max(self._peak, self.size_in_use)

    def restore_sizes(self, size: int, size_in_use: int) -> None:
        """Take over what an earlier life has counted."""
        self._peak, self.size_in_use = size, size_in_use

    def give_back(self, freed_bytes: int) -> None:
        """Count bytes as used no longer; they stay taken until `defragmented`."""
        self._peak = self.size
        self.size_in_use -= freed_bytes

    def defragmented(self) -> None:
        """Count what is not used as not taken either."""
        self._peak = 0

    def begin(self, main: Revision | int) -> None:
        """Open main revision `main`; it exists once something was changed."""
        self.main = main
        self.mod = varint(main)
        self._mod_field = mod_revision_field(self.mod)
        self.sub = 0

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        """Make `value` the newest version of `key`."""
        self.put_fields(key, b"\x0a" + varint(len(key)) + key, value_and_lease_fields(value, lease), lease)

    def put_fields(self, key: bytes, key_field: bytes, value_field: bytes, lease: int) -> None:
        """Make a version of fields that are encoded already the newest of `key`; the hottest code of the store."""
        changes = self.overlay.changes
        main = self.main
        sub = self.sub
        known = self._young.get(key) or self._newest(key)
        if known is None:
            create, version = self.mod, 1
            place = pack_trailer(PUT, main, sub, 0, 0)
            self.keys.add(key)
        else:
            create, version, previous_main, previous_sub, old_lease = known
            version += 1
            place = pack_trailer(PUT, main, sub, previous_main, previous_sub)
            changes[old_key(key, previous_main, previous_sub)] = pack_old_version(PUT, main)
            if old_lease and old_lease != lease:
                changes[attachment_key(old_lease, key)] = None
        record = key_value_frame(key_field, create, self._mod_field, version, value_field) + place
        changes[KV + key] = changes[log_key_parts(LOG, main, sub)] = record
        if lease:
            changes[attachment_key(lease, key)] = b""
        self._young[key] = (create, version, main, sub, lease)
        self.size_in_use += len(record) + LOG_KEY_BYTES
        self.sub = sub + 1

    def delete(self, key: bytes, record: bytes) -> None:
        """Delete `key`, whose live version is `record`."""
        changes = self.overlay.changes
        place = trailer(record)
        lease = KeyValue.FromString(key_value_bytes(record)).lease
        stone = tombstone_frame(key, self.mod) + pack_trailer(TOMBSTONE, self.main, self.sub, place.main, place.sub)
        changes[KV + key] = None
        changes[log_key_parts(LOG, self.main, self.sub)] = stone
        changes[old_key(key, place.main, place.sub)] = pack_old_version(PUT, self.main)
        changes[old_key(key, self.main, self.sub)] = pack_old_version(TOMBSTONE, 0)
        if lease:
            changes[attachment_key(lease, key)] = None
        self._young.pop(key, None)
        self._old.pop(key, None)
        self.keys.discard(key)
        self.size_in_use += len(stone) + LOG_KEY_BYTES
        self.sub += 1

    def record(self, key: bytes) -> bytes | None:
        """Return the record of the live version of `key`, or None."""
        return self.overlay.get(KV + key)

    def lease_exists(self, lease: int) -> bool:
        """Whether a put may name this lease."""
        return self.overlay.get(lease_key(lease)) is not None

    def trim_cache(self) -> None:
        """Keep the cache of versions within its bound; called between entries."""
        if len(self._young) > CACHED_VERSIONS_MAX:
            self._old = self._young
            self._young = {}

    def _newest(self, key: bytes) -> Version | None:
        """Look the live version up where the young cache does not know it."""
        known = self._old.get(key)
        if known is not None:
            return known
        record = self.overlay.get(KV + key)
        if record is None:
            return None
        pair = KeyValue.FromString(key_value_bytes(record))
        place = trailer(record)
        return varint(pair.create_revision), pair.version, place.main, place.sub, pair.lease
