"""Serving reads: which body a `ReadKind` means, at once if it is short, in slices if it is not.

Owns the read side's dispatch and the Status answer; knows a `MvccStore`, no actor. A read that does not end within
its first slice becomes a `ReadJob` that the caller drives between other work.
Invariant: what a job reads is pinned by its first slice, and `compaction_max` tells which compactions would hurt it.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import google_crc32c
from google.protobuf.message import DecodeError

from protocol.auth import NOBODY_KNOWN, Identity, decode_as
from protocol.command import ReadKind
from protocol.errors import ClientError, ErrorCode
from protocol.types import LeaseId
from protocol.wire.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    DowngradeRequest,
    HashKVRequest,
    HashRequest,
    HashResponse,
    LeaseLeasesResponse,
    LeaseStatus,
    RangeRequest,
    StatusResponse,
    TxnRequest,
)
from storage.alarms import ALARM_END, ALARM_PREFIX
from storage.auth_commands import SHOWS, credentials
from storage.hash_kv import hash_slices
from storage.layout import ATTACHMENT, ATTACHMENT_END, KV, LEASE, LEASE_END, ROLE, ROLE_END, USER, USER_END
from storage.lease import leases_from
from storage.mvcc import MvccStore, Result
from storage.range_page import page_slices
from storage.range_read import SLICE_ROWS, Slices, View, check_revision, range_slices, single_response
from storage.txn import read_only_slices
from storage.wire_bytes import varint

ETCD_VERSION: Final = "3.7.1"
"""The version of etcd whose behaviour is promised; clients parse it to decide what they may ask for."""
_STORAGE_VERSION: Final = "3.7.0"
_ANY_COMPACTION: Final = 1 << 62
_NO_COMPACTION: Final = -1
_COMMON_TABLES: Final = (
    (ATTACHMENT, ATTACHMENT_END),
    (LEASE, LEASE_END),
    (ROLE, ROLE_END),
    (USER, USER_END),
    (ALARM_PREFIX, ALARM_END),
)
_SERIALIZABLE: Final = b"\x38\x01"


class ReadJob(NamedTuple):
    """A read in progress. No compaction to a revision above `compaction_max` may write while it runs."""

    slices: Slices
    compaction_max: int
    piece: bytes | None
    """How a large response begins, if the first slice said so already."""
    deferred: bool = False
    """It is no read: the store's owner does it and answers it."""


def begin_read(
    store: MvccStore,
    kind: int,
    body: bytes,
    header: bytes,
    status: "StatusFields",
    identity: Identity = NOBODY_KNOWN,
) -> Result | ReadJob:
    """Serve a read, or return the job that goes on serving it. Rights are asked about in `begin_guarded_read`."""
    if kind == ReadKind.RANGE:
        key = plain_key(body)
        if key:
            return 0, single_response(store.engine.get(KV + key), header)
    try:
        if kind == ReadKind.BARRIER:
            return 0, b""
        if kind == ReadKind.STATUS:
            return 0, status_body(store, header, status)
        if kind == ReadKind.ALARMS:
            alarms = store.alarms.listed(AlarmRequest.FromString(body).alarm)
            return 0, header + AlarmResponse(alarms=alarms).SerializeToString()
        if kind == ReadKind.DOWNGRADE_VALIDATE:
            return 0, header + store.downgrade.validate(DowngradeRequest.FromString(body).version)
        if kind == ReadKind.DEFRAGMENT:
            return ReadJob(_nothing(), _ANY_COMPACTION, None, deferred=True)
        show = SHOWS.get(kind)
        if show is not None:
            return 0, header + show(store.auth, body)
        if kind == ReadKind.CREDENTIALS:
            return 0, credentials(store.auth, body)
        if kind in (ReadKind.PERMIT_ROOT, ReadKind.PERMIT_RANGE):
            return 0, b""
        if kind == ReadKind.AS_USER:
            return begin_read(store, *decode_as(body)[1:], header, status)
        slices, compaction_max = _slices(store, kind, body, header, identity)
        try:
            piece = next(slices)
        except StopIteration as stop:
            return 0, stop.value
        return ReadJob(slices, compaction_max, piece)
    except ClientError as error:
        return int(error.code), b""
    except DecodeError:
        return int(ErrorCode.MALFORMED), b""


def begin_guarded_read(
    store: MvccStore, kind: int, body: bytes, header: bytes, status: "StatusFields"
) -> Result | ReadJob:
    """Serve a read while rights matter: as `begin_read`, if who asks may have it as of now."""
    identity = NOBODY_KNOWN
    if kind == ReadKind.AS_USER:
        identity, kind, body = decode_as(body)
    try:
        store.guard.check_read(identity, kind, body, store.engine)
    except ClientError as error:
        return int(error.code), b""
    except DecodeError:
        return int(ErrorCode.MALFORMED), b""
    return begin_read(store, kind, body, header, status, identity)


def begin_quarantined_read(
    store: MvccStore, kind: int, body: bytes, header: bytes, status: "StatusFields"
) -> Result | ReadJob:
    """Serve a read of a store that is known to differ from the others': nothing of its pairs is shown."""
    asked = decode_as(body).kind if kind == ReadKind.AS_USER else kind
    if asked in (ReadKind.RANGE, ReadKind.TXN, ReadKind.RANGE_PAGE):
        return int(ErrorCode.CORRUPT), b""
    return reader_of(store, quarantined=False)(store, kind, body, header, status)


def reader_of(store: MvccStore, *, quarantined: bool) -> Callable[..., Result | ReadJob]:
    """Return what begins a read as things stand."""
    if quarantined:
        return begin_quarantined_read
    return begin_guarded_read if store.auth.enabled else begin_read


def _nothing() -> Slices:
    yield from ()
    return b""


def plain_key(body: bytes) -> bytes:
    """Return the key if `body` is a RangeRequest for one short key and nothing else (serializable or not), else b"".

    By far the most frequent request: it is recognised by its bytes, because parsing would cost as much as the read.
    """
    size = len(body)
    if size < 3 or body[0] != 0x0A:
        return b""
    length = body[1]
    if length > 127:
        return b""
    if size == length + 2:
        return body[2:]
    return body[2:-2] if size == length + 4 and body[-2:] == _SERIALIZABLE else b""


def advance_read(job: ReadJob) -> Result | bytes | None:
    """Run one more slice; return the result when that was the last, or the next piece of a large response.

    The body of the result is what follows the pieces. A read that has given a piece does not fail any more.
    """
    try:
        return next(job.slices)
    except StopIteration as stop:
        return 0, stop.value
    except ClientError as error:
        return int(error.code), b""


class StatusFields(NamedTuple):
    """What the store does not know of itself."""

    commit: int
    quota_bytes: int


def status_body(store: MvccStore, header: bytes, fields: StatusFields) -> bytes:
    """Return a StatusResponse but for what the gateway knows: leader, current term, learner.

    It appends those fields. Appending is how protobuf merges messages, so an appended `raftTerm` also overrides the
    applied term given here.
    """
    status = StatusResponse(
        version=ETCD_VERSION,
        dbSize=store.size,
        raftIndex=max(fields.commit, store.applied),
        raftTerm=store.term,
        raftAppliedIndex=store.applied,
        dbSizeInUse=store.size_in_use,
        storageVersion=_STORAGE_VERSION,
        dbSizeQuota=fields.quota_bytes,
        errors=store.alarms.texts(),
        downgradeInfo=store.downgrade.info(),
    )
    return header + status.SerializeToString()


def _slices(store: MvccStore, kind: int, body: bytes, header: bytes, identity: Identity) -> tuple[Slices, int]:
    """Return the sliced form of a read and the highest compaction it bears."""
    if kind == ReadKind.HASH:
        return _hash(store, HashRequest.FromString(body), header), _NO_COMPACTION
    if kind == ReadKind.HASH_KV:
        return _hash_kv(store, HashKVRequest.FromString(body), header), _NO_COMPACTION
    if kind == ReadKind.LEASES:
        return _leases(store, header, identity), _ANY_COMPACTION
    view = View(store.engine, store.keys, store.revision, store.compacted, store.response_bytes_max)
    if kind == ReadKind.RANGE:
        request = RangeRequest.FromString(body)
        at_old = 0 < request.revision < store.revision
        return range_slices(request, view, header), request.revision if at_old else _ANY_COMPACTION
    if kind == ReadKind.RANGE_PAGE:
        request = RangeRequest.FromString(body)
        at_old = 0 < request.revision < store.revision
        return page_slices(request, view, header), request.revision if at_old else _ANY_COMPACTION
    if kind == ReadKind.TXN:
        txn = TxnRequest.FromString(body)
        return read_only_slices(txn, view, header), store.compacted
    raise ClientError(ErrorCode.UNIMPLEMENTED)


def _leases(store: MvccStore, header: bytes, identity: Identity) -> Slices:
    """List all leases: in the order in which they run out where the leader's clock is, else in the order of ids.

    While rights matter, every key that is attached to any of them must be readable.
    """
    found: list[LeaseId] = []
    after = b""
    while True:
        slice_, after = leases_from(store.engine, after, SLICE_ROWS)
        found += [lease for lease, _ in slice_]
        if store.auth.enabled:
            for lease, _ in slice_:
                store.guard.may_read_attached(identity, store.engine, lease)
        if not after:
            break
        yield None
    found.sort(key=store.leases.order)
    body = LeaseLeasesResponse(leases=[LeaseStatus(ID=lease) for lease in found]).SerializeToString()
    if len(body) > store.response_bytes_max:
        raise ClientError(ErrorCode.RESPONSE_TOO_LARGE)
    return header + body


def _hash(store: MvccStore, _request: HashRequest, header: bytes) -> Slices:
    """Hash all that members have in common: history, pairs, leases, users and roles, alarms."""
    crc = yield from hash_slices(store.engine, store.revision, store.compacted, SLICE_ROWS)
    for start, end in _COMMON_TABLES:
        for walked, row in enumerate(store.engine.scan(start, end), start=1):
            crc = int(google_crc32c.extend(crc, b"".join(row)))
            if walked % SLICE_ROWS == 0:
                yield None
    return header + HashResponse(hash=crc).SerializeToString()


def _hash_kv(store: MvccStore, request: HashKVRequest, header: bytes) -> Slices:
    check_revision(request.revision, store.revision, store.compacted)
    revision = request.revision if request.revision > 0 else store.revision
    compacted = store.compacted
    crc = yield from hash_slices(store.engine, revision, compacted, SLICE_ROWS)
    parts = [header]
    for tag, value in ((b"\x10", crc), (b"\x18", compacted), (b"\x20", revision)):
        if value:
            parts.append(tag + varint(value))
    return b"".join(parts)
