"""A store as etcd's snapshots hold it: our rows to etcd's buckets, and a store built of such buckets.

Owns which bucket says what. Knows the layout of our tables and etcd's keys; the file itself is `storage.bolt`'s. Both
ways keep all history from the compacted revision on, leases with what is left of them, users and roles. Members and
alarms are those of the cluster that was saved: they are not carried into another one.
Invariant: a store that is written and built again has the same revision, the same HashKV at every revision, the same
leases and the same users.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from protocol.errors import Corruption
from protocol.types import Index, LeaseId, Revision, Term
from protocol.wire.auth_pb2 import Role, User
from protocol.wire.lease_pb2 import Lease
from protocol.wire.mvcc_pb2 import KeyValue
from storage.bolt import BoltFile
from storage.engine import Engine
from storage.layout import (
    ATTACHMENT,
    ATTACHMENT_END,
    AUTH_KEY,
    KV,
    LEASE,
    LEASE_END,
    LOG,
    LOG_END,
    PUT,
    ROLE,
    ROLE_END,
    STATE_KEY,
    TOMBSTONE,
    USER,
    USER_END,
    LeaseRecord,
    StoreState,
    attachment_key,
    key_value_bytes,
    lease_key,
    log_key,
    old_key,
    pack_lease,
    pack_old_version,
    pack_state,
    pack_trailer,
    parse_lease_key,
    parse_log_key,
    record_key,
    trailer,
    unpack_lease,
    unpack_old_version,
    unpack_state,
)
from storage.lease import LEASE_COST_BYTES
from storage.mvcc_write import LOG_KEY_BYTES
from storage.overlay import Overlay
from storage.wire_bytes import tombstone_frame, varint

ROWS_PER_WRITE: Final = 10_000
"""Changes gathered before they are written, while a store is built."""

_REVISION: Final = Struct(">QcQ")
_U64: Final = Struct(">Q")
_AUTH_STATE: Final = Struct(">BBQ")
_AUTH_FORMAT: Final = 1
_NO_AUTH: Final = _AUTH_STATE.pack(_AUTH_FORMAT, False, 1)
_STORAGE_VERSION: Final = b"3.7.0"

Bucket = tuple[bytes, Iterator[tuple[bytes, bytes]]]


# --- from our rows ---------------------------------------------------------------------------------


def etcd_buckets(engine: Engine) -> Iterator[Bucket]:
    """Yield name and pairs of each bucket, in the order in which they are written."""
    state = unpack_state(engine.get(STATE_KEY))
    yield b"alarm", iter(())
    _, enabled, revision = _AUTH_STATE.unpack(engine.get(AUTH_KEY) or _NO_AUTH)
    yield b"auth", iter(((b"authEnabled", bytes((enabled,))), (b"authRevision", _U64.pack(revision))))
    yield b"authRoles", ((key[1:], data) for key, data in engine.scan(ROLE, ROLE_END))
    yield b"authUsers", ((key[1:], data) for key, data in engine.scan(USER, USER_END))
    yield b"cluster", iter(((b"clusterVersion", _STORAGE_VERSION),))
    yield b"key", _revisions(engine, state)
    yield b"lease", _leases(engine)
    yield b"members", iter(())
    yield b"members_removed", iter(())
    yield b"meta", iter(sorted(_meta(state).items()))


def _revisions(engine: Engine, state: StoreState) -> Iterator[tuple[bytes, bytes]]:
    """Yield the history that may be read, whatever compaction has not given back yet."""
    compacted = state.compacted
    last = max(1, compacted)
    for row_key, record in engine.scan(LOG, LOG_END):
        main, sub = parse_log_key(row_key)
        last = max(last, main)
        stone = trailer(record).kind == TOMBSTONE
        if main <= compacted and not (main == compacted if stone else _newest(engine, record, main, sub, compacted)):
            continue
        if stone:
            key = record_key(record)
            yield _REVISION.pack(main, b"_", sub) + b"t", b"\x0a" + varint(len(key)) + key
        else:
            yield _REVISION.pack(main, b"_", sub), key_value_bytes(record)
    if last < state.revision:
        # Nothing stands there: what a restore with a bumped revision has left. etcd marks it like this as well.
        yield _REVISION.pack(state.revision, b"_", 0), b""


def _newest(engine: Engine, record: bytes, main: int, sub: int, compacted: int) -> bool:
    """Whether a version is what a read at the compacted revision finds."""
    superseded = engine.get(old_key(record_key(record), main, sub))
    return superseded is None or unpack_old_version(superseded).superseded_by > compacted


def _leases(engine: Engine) -> Iterator[tuple[bytes, bytes]]:
    for key, data in engine.scan(LEASE, LEASE_END):
        record = unpack_lease(data)
        left_s = 0 if record.remaining_ms < 0 else max(1, record.remaining_ms // 1000)
        lease = Lease(ID=parse_lease_key(key), TTL=record.ttl_s, RemainingTTL=left_s)
        yield key[1:], lease.SerializeToString()


def _meta(state: StoreState) -> dict[bytes, bytes]:
    meta = {
        b"consistent_index": _U64.pack(state.applied),
        b"storageVersion": _STORAGE_VERSION,
        b"term": _U64.pack(state.term),
    }
    if state.compacted > 0:
        revision = _REVISION.pack(state.compacted, b"_", 0)
        meta |= {b"finishedCompactRev": revision, b"scheduledCompactRev": revision}
    return meta


# --- to our rows -----------------------------------------------------------------------------------


class Built(NamedTuple):
    """What a store was built of."""

    revision: int
    compacted: int
    keys: int
    leases: int
    users: int


class StoreBuilder:
    """Fills an empty engine with what a snapshot says, at log position (`term`, `index`)."""

    def __init__(self, engine: Engine, term: Term, index: Index) -> None:
        self._overlay = Overlay(engine)
        self._term = term
        self._index = index
        self._revision = 1
        self._keys = 0
        self._bytes = 0

    def build(self, file: BoltFile, *, bump: int = 0, mark_compacted: bool = False) -> Built:
        """Fill the engine.

        Args:
            file: the snapshot.
            bump: so much is added to the current revision, so that no client has seen a later one.
            mark_compacted: nothing before the new current revision may be read: every watcher is told to begin anew.

        Raises:
            Corruption: it is no snapshot of etcd's or of ours, or a damaged one.
        """
        if b"key" not in file.buckets:
            raise Corruption("this bbolt file has no bucket `key`: it is no snapshot")
        try:
            for key, value in file.pairs(b"key"):
                self._add_revision(key, value)
            leases = sum(1 for _, value in file.pairs(b"lease") if self._add_lease(Lease.FromString(value)))
            users = self._add_auth(file)
        except DecodeError as error:
            raise Corruption(f"a record of the snapshot cannot be read: {error}") from error
        self._check_attachments()
        compacted = self._compacted_of(file)
        self._revision = max(self._revision, compacted) + bump
        if mark_compacted:
            compacted = self._revision
        self._finish(compacted)
        return Built(self._revision, compacted, self._keys, leases, users)

    def _add_revision(self, revision: bytes, value: bytes) -> None:
        if len(revision) not in (_REVISION.size, _REVISION.size + 1) or revision[8:9] != b"_":
            raise Corruption(f"{revision.hex()} is no revision of etcd's")
        main, _, sub = _REVISION.unpack_from(revision)
        self._revision = main
        if not value and len(revision) == _REVISION.size:
            return  # what a restore with a bumped revision leaves: it only says that the revision was there
        pair = KeyValue.FromString(value)
        changes = self._overlay.changes
        before = self._overlay.get(KV + pair.key)
        previous_main = previous_sub = old_lease = 0
        if before is not None:
            place = trailer(before)
            previous_main, previous_sub = place.main, place.sub
            old_lease = KeyValue.FromString(key_value_bytes(before)).lease
            changes[old_key(pair.key, previous_main, previous_sub)] = pack_old_version(PUT, main)
            if old_lease:
                changes[attachment_key(old_lease, pair.key)] = None
        if len(revision) > _REVISION.size:
            frame = tombstone_frame(pair.key, varint(main))
            record = frame + pack_trailer(TOMBSTONE, main, sub, previous_main, previous_sub)
            changes[KV + pair.key] = None
            changes[old_key(pair.key, main, sub)] = pack_old_version(TOMBSTONE, 0)
            self._keys -= before is not None
        else:
            record = b"\x12" + varint(len(value)) + value + pack_trailer(PUT, main, sub, previous_main, previous_sub)
            changes[KV + pair.key] = record
            self._keys += before is None
            if pair.lease:
                changes[attachment_key(pair.lease, pair.key)] = b""
        changes[log_key(main, sub)] = record
        self._bytes += len(record) + LOG_KEY_BYTES
        self._write_some()

    def _add_lease(self, lease: Lease) -> bool:
        left_ms = lease.RemainingTTL * 1000 if lease.RemainingTTL > 0 else -1
        record = LeaseRecord(lease.TTL, self._index, left_ms)
        self._overlay.changes[lease_key(LeaseId(lease.ID))] = pack_lease(record)
        self._bytes += LEASE_COST_BYTES
        self._write_some()
        return True

    def _add_auth(self, file: BoltFile) -> int:
        changes = self._overlay.changes
        for key, value in file.pairs(b"authRoles"):
            Role.FromString(value)
            changes[ROLE + key] = value
        users = 0
        for key, value in file.pairs(b"authUsers"):
            User.FromString(value)
            changes[USER + key] = value
            users += 1
        enabled = file.value(b"auth", b"authEnabled") == b"\x01"
        revision = file.value(b"auth", b"authRevision")
        number = _U64.unpack(revision)[0] if revision is not None and len(revision) == _U64.size else 1
        changes[AUTH_KEY] = _AUTH_STATE.pack(_AUTH_FORMAT, enabled, max(1, number))
        return users

    def _check_attachments(self) -> None:
        """Refuse a pair that names a lease which is not there: nothing would ever end it."""
        self._write()
        for row_key in self._overlay.scan_keys(ATTACHMENT, ATTACHMENT_END):
            if self._overlay.get(LEASE + row_key[1:9]) is None:
                raise Corruption(f"key {row_key[9:]!r} is attached to lease {row_key[1:9].hex()}, which is not there")

    @staticmethod
    def _compacted_of(file: BoltFile) -> int:
        known = [file.value(b"meta", name) for name in (b"finishedCompactRev", b"scheduledCompactRev")]
        return max((_REVISION.unpack_from(value)[0] for value in known if value and len(value) >= 17), default=-1)

    def _finish(self, compacted: int) -> None:
        state = StoreState(
            applied=self._index,
            term=self._term,
            revision=Revision(self._revision),
            compacted=Revision(compacted),
            cursor=Revision(0),
            size=self._bytes,
            size_in_use=self._bytes,
        )
        self._overlay.changes[STATE_KEY] = pack_state(state)
        self._write()

    def _write_some(self) -> None:
        if len(self._overlay.changes) >= ROWS_PER_WRITE:
            self._write()

    def _write(self) -> None:
        self._overlay.engine.write(self._overlay.changes.items())
        self._overlay.clear()
