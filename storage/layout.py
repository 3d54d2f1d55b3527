"""How the store's tables lie in one ordered key space: one prefix byte per table, one record per version.

Owns every byte of keys and records in the engine; knows no engine and no semantics.

Tables (prefix, key -> value):

* ``k`` user key -> record of the newest, live version. A current read is one lookup.
* ``r`` main revision (8 bytes, big endian), sub-revision (8) -> record of what happened there: the very same bytes
  for a put, or a tombstone. Walked forward it is the history, which is what watches and compaction need.
* ``v`` escaped user key, inverted (main, sub) -> small `OldVersion`, only for versions that are *not* current any
  more: tombstones, and puts once they are superseded. So a fresh key costs two writes, not three, and a read at an
  old revision finds the newest version first.
* ``a`` lease id (8), user key -> empty: what is attached to a lease.
* ``l`` lease id (8) -> `LeaseRecord`: what was granted, and what the leader has recorded of its remaining time.
* ``u`` user name -> ``authpb.User``; ``p`` role name -> ``authpb.Role``, which holds its permissions.
* ``m`` name -> bookkeeping: `StoreState`, dedupe windows, key counts, whether rights matter and the auth revision.

A record is an ``mvccpb.KeyValue`` framed as protobuf field 2, then a trailer of `TRAILER_BYTES`:
kind, own main and sub revision, main and sub revision of the previous live version (0, 0: there was none).
Field 2 because Range answers, PutResponse.prev_kv and watch events all carry a KeyValue there: an answer is a slice.

Worked example: the first put of key ``a`` = ``x`` in a fresh store (revision 2) writes
``k a`` and ``r 00..02 00..00`` with the same record
``12 0c | 0a 01 61 10 02 18 02 20 01 2a 01 78 | 00 | 00..02 00000000 | 00..00 00000000``.
A second put writes both again and ``v a 00 01 ff..fd ff..ff`` -> superseded by revision 3.
"""

from struct import Struct
from typing import Final, NamedTuple

from protocol.errors import Corruption
from protocol.types import Index, LeaseId, Revision, Term
from storage.wire_bytes import read_varint, varint

FORMAT_VERSION: Final = 1

KV: Final = b"k"
LOG: Final = b"r"
OLD: Final = b"v"
ATTACHMENT: Final = b"a"
LEASE: Final = b"l"
META: Final = b"m"
ROLE: Final = b"p"
USER: Final = b"u"

KV_END: Final = b"l"
LOG_END: Final = b"s"
LEASE_END: Final = b"m"
OLD_END: Final = b"w"
ATTACHMENT_END: Final = b"b"
ROLE_END: Final = b"q"
USER_END: Final = b"v"

STATE_KEY: Final = META + b"state"
COUNTS_KEY: Final = META + b"counts"
AUTH_KEY: Final = META + b"auth"
WINDOW_PREFIX: Final = META + b"window/"
WINDOW_END: Final = META + b"window0"

TABLES: Final = (
    (ATTACHMENT, ATTACHMENT_END),
    (KV, KV_END),
    (LEASE, LEASE_END),
    (META, b"n"),
    (LOG, LOG_END),
    (OLD, OLD_END),
)
"""First key and end of the tables that grow."""

VALUE_TAG: Final = 0x2A
"""The key of field 5 of a KeyValue; no kind of a trailer, which stands there in a record without value and lease."""
PUT: Final = 0
TOMBSTONE: Final = 1

_LEASE_FORMAT: Final = 1
_U64: Final = 0xFFFFFFFFFFFFFFFF
_LOG_KEY: Final = Struct(">cQQ")
_TWO_U64: Final = Struct(">QQ")
_TRAILER: Final = Struct(">BQIQI")
_OLD_VERSION: Final = Struct(">BQ")
_STATE: Final = Struct(">HQQQqqqQQ")
_LEASE: Final = Struct(">BqQq")

_pack_two: Final = _TWO_U64.pack

TRAILER_BYTES: Final = _TRAILER.size

log_key_parts: Final = _LOG_KEY.pack
"""`log_key_parts(LOG, main, sub)`: the key of a revision, for loops that cannot afford a Python call."""
pack_trailer: Final = _TRAILER.pack
"""`pack_trailer(kind, main, sub, previous_main, previous_sub)`."""

pack_old_version: Final = _OLD_VERSION.pack
"""`pack_old_version(kind, superseded_by)`: the stored form of an `OldVersion`."""


class Trailer(NamedTuple):
    """What a record knows of its place in history."""

    kind: int
    main: Revision
    sub: int
    previous_main: Revision
    previous_sub: int


class OldVersion(NamedTuple):
    """A version that is not current: what it was, and the main revision that superseded it (0 for a tombstone)."""

    kind: int
    superseded_by: Revision


class LeaseRecord(NamedTuple):
    """A lease as every member knows it. When it expires only its leader's clock knows."""

    ttl_s: int
    """What was granted."""
    granted: Index
    """The entry that granted it: tells a lease from an earlier one of the same id."""
    remaining_ms: int = -1
    """What was left when the leader last recorded it; -1: nothing is recorded, all of it may be left."""


class StoreState(NamedTuple):
    """The bookkeeping that every entry changes, one small record written with it."""

    applied: Index = Index(0)
    term: Term = Term(0)
    revision: Revision = Revision(1)
    compacted: Revision = Revision(-1)
    """Reads below this revision are refused; -1 before the first compaction."""
    finished: Revision = Revision(-1)
    """The last compaction whose space was given back completely."""
    cursor: Revision = Revision(0)
    """The revision at which the running compaction goes on."""
    size: int = 0
    """Logical bytes ever written and not given back by a defragmentation."""
    size_in_use: int = 0
    """Logical bytes of the versions still stored."""


def log_key(main: int, sub: int) -> bytes:
    """Return the key under which revision (main, sub) is logged."""
    return _LOG_KEY.pack(LOG, main, sub)


def parse_log_key(key: bytes) -> tuple[int, int]:
    """Return (main, sub) of a log key."""
    return _TWO_U64.unpack_from(key, 1)


def escape(key: bytes) -> bytes:
    r"""Return `key` in a form that keeps the order of keys when something is written behind it.

    >>> escape(b"a\x00b")
    b'a\x00\xffb\x00\x01'
    """
    return key.replace(b"\x00", b"\x00\xff") + b"\x00\x01"


def unescape(escaped: bytes) -> bytes:
    """Return the key whose escaped form (terminator included) is `escaped`."""
    return escaped[:-2].replace(b"\x00\xff", b"\x00")


def old_key(key: bytes, main: int, sub: int) -> bytes:
    """Return the key of an old version: newest first among the versions of one user key."""
    # `escape` written out: this runs for every overwrite.
    return b"v%b\x00\x01%b" % (key.replace(b"\x00", b"\x00\xff"), _pack_two(_U64 - main, _U64 - sub))


def old_bounds(key: bytes, revision: int) -> tuple[bytes, bytes]:
    """Return the bounds between which the versions of `key` no newer than `revision` lie."""
    escaped = OLD + escape(key)
    return escaped + _TWO_U64.pack(_U64 - revision, 0), escaped + b"\xff" * 17


def parse_old_key(key: bytes) -> tuple[int, int]:
    """Return (main, sub) of the old version at `key`."""
    main, sub = _TWO_U64.unpack_from(key, len(key) - 16)
    return _U64 - main, _U64 - sub


def user_bounds(key: bytes, range_end: bytes) -> tuple[bytes, bytes | None]:
    """Return the half-open range of user keys a request means; an end of None is the end of all keys.

    etcd's rule 6: no range_end is one key, a single zero byte is everything from `key` on.
    """
    if not range_end:
        return key, key + b"\x00"
    return key, None if range_end == b"\x00" else range_end


def kv_bounds(start: bytes, end: bytes | None) -> tuple[bytes, bytes]:
    """Return engine bounds in the `k` table for a range of user keys."""
    return KV + start, KV_END if end is None else KV + end


def old_range_bounds(start: bytes, end: bytes | None) -> tuple[bytes, bytes]:
    """Return engine bounds in the `v` table for a range of user keys.

    A key's terminator is cut off: `a 00 01` would sort behind the escaped `a 00`, the prefix alone never does.
    """
    first = OLD + escape(start)[:-2]
    return first, OLD_END if end is None else OLD + escape(end)[:-2]


def trailer(record: bytes) -> Trailer:
    """Return the trailer of a record."""
    return Trailer._make(_TRAILER.unpack_from(record, len(record) - TRAILER_BYTES))


def frame(record: bytes) -> bytes:
    """Return the KeyValue of a record, framed as field 2."""
    return record[:-TRAILER_BYTES]


def key_value_bytes(record: bytes) -> bytes:
    """Return the serialized `mvccpb.KeyValue` in a record."""
    size, offset = read_varint(record, 1)
    return record[offset : offset + size]


def without_value(record: bytes) -> bytes:
    """Return the KeyValue of a record framed as field 2, but for its value, of which no byte is copied.

    It walks the fields in the order in which `wire_bytes.key_value_frame` writes them; calls are written out, because
    this runs for every pair of a range without values.
    """
    at = 1
    while record[at] > 127:
        at += 1
    begin = at = at + 1
    size = record[at + 1]
    if size < 128:
        at += size + 3
    else:
        size, at = read_varint(record, at + 1)
        at += size + 1
    while record[at] > 127:  # create revision
        at += 1
    at += 2
    while record[at] > 127:  # mod revision
        at += 1
    at += 2
    while record[at] > 127:  # version
        at += 1
    at += 1
    if record[at] != VALUE_TAG:
        return record[:-TRAILER_BYTES]
    size, behind = read_varint(record, at + 1)
    lease = record[behind + size : -TRAILER_BYTES]
    return b"\x12%b%b%b" % (varint(at - begin + len(lease)), record[begin:at], lease)


def create_revision_and_version(record: bytes) -> tuple[int, int]:
    """Return two numbers of a record without a look at its value; the mod revision is in its trailer."""
    _, begin = read_varint(record, 1)
    size, at = read_varint(record, begin + 1)
    create, at = read_varint(record, at + size + 1)
    _, at = read_varint(record, at + 1)
    return create, read_varint(record, at + 1)[0]


def record_key(record: bytes) -> bytes:
    """Return the user key in a record."""
    _, offset = read_varint(record, 1)
    size, offset = read_varint(record, offset + 1)
    return record[offset : offset + size]


def unpack_old_version(data: bytes) -> OldVersion:
    """Return the `OldVersion` stored as `data`."""
    return OldVersion._make(_OLD_VERSION.unpack(data))


def attachment_key(lease: LeaseId | int, key: bytes) -> bytes:
    """Return the key that says that `key` is attached to `lease`."""
    return ATTACHMENT + (lease & _U64).to_bytes(8, "big") + key


def lease_key(lease: LeaseId | int) -> bytes:
    """Return the key under which a lease is stored."""
    return LEASE + (lease & _U64).to_bytes(8, "big")


def attachment_bounds(lease: LeaseId | int) -> tuple[bytes, bytes]:
    """Return the engine bounds between which the keys attached to `lease` lie, in their order."""
    first = attachment_key(lease, b"")
    following = (lease & _U64) + 1
    return first, ATTACHMENT_END if following > _U64 else attachment_key(following, b"")


def parse_lease_key(key: bytes) -> LeaseId:
    """Return the lease id of a key in the `l` table: signed, as the API has it."""
    return LeaseId(int.from_bytes(key[1:], "big", signed=True))


def pack_lease(record: LeaseRecord) -> bytes:
    """Return the stored form of a lease."""
    return _LEASE.pack(_LEASE_FORMAT, *record)


def unpack_lease(data: bytes) -> LeaseRecord:
    """Return the lease stored as `data`.

    Raises:
        Corruption: the record is of a format this build does not know.
    """
    if len(data) != _LEASE.size or data[0] != _LEASE_FORMAT:
        raise Corruption(f"lease record of {len(data)} bytes and format {data[:1].hex()}")
    return LeaseRecord._make(_LEASE.unpack(data)[1:])


def pack_state(state: StoreState) -> bytes:
    """Return the stored form of `state`."""
    return _STATE.pack(FORMAT_VERSION, *state)


def unpack_state(data: bytes | None) -> StoreState:
    """Return the stored state, or that of a fresh store.

    Raises:
        Corruption: the record is of a format this build does not know.
    """
    if data is None:
        return StoreState()
    if len(data) != _STATE.size:
        raise Corruption(f"store state of {len(data)} bytes, this build writes {_STATE.size}")
    version, *fields = _STATE.unpack(data)
    if version != FORMAT_VERSION:
        raise Corruption(f"store of format {version}, this build knows {FORMAT_VERSION}")
    return StoreState._make(fields)
