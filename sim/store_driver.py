"""Drives one `MvccStore` directly with protobuf requests: what tests of the store stand on.

Owns the log of what it applied, so that a crashed store can be replayed. Knows no actor and no raft.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from protocol.auth import Identity, encode_as
from protocol.command import CommandKind, Origin, ReadKind, encode_batch
from protocol.errors import ErrorCode
from protocol.lease import LeaseName, LeaseUpkeep, Remaining, encode_upkeep
from protocol.types import ClusterId, Entry, EntryKind, Incarnation, Index, MemberId, Term
from protocol.wire import rpc_pb2 as rpc
from protocol.wire.mvcc_pb2 import KeyValue
from protocol.wire.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    CompactionRequest,
    CompactionResponse,
    DeleteRangeRequest,
    DeleteRangeResponse,
    HashKVRequest,
    HashKVResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    StatusResponse,
    TxnRequest,
    TxnResponse,
)
from storage.engine import Engine
from storage.layout import ATTACHMENT, ATTACHMENT_END, KV, KV_END, attachment_key, key_value_bytes, lease_key
from storage.mvcc import MvccStore, Result
from storage.reads import ReadJob, StatusFields, advance_read, begin_guarded_read, begin_read

CLUSTER: Final = ClusterId(0x5EED)
MEMBER: Final = MemberId(0xA1)

AuthRequest = (
    rpc.AuthEnableRequest
    | rpc.AuthDisableRequest
    | rpc.AuthUserAddRequest
    | rpc.AuthUserDeleteRequest
    | rpc.AuthUserChangePasswordRequest
    | rpc.AuthUserGrantRoleRequest
    | rpc.AuthUserRevokeRoleRequest
    | rpc.AuthRoleAddRequest
    | rpc.AuthRoleDeleteRequest
    | rpc.AuthRoleGrantPermissionRequest
    | rpc.AuthRoleRevokePermissionRequest
)
Request = (
    AuthRequest
    | PutRequest
    | DeleteRangeRequest
    | TxnRequest
    | CompactionRequest
    | LeaseGrantRequest
    | LeaseRevokeRequest
    | AlarmRequest
    | rpc.DowngradeRequest
)
_COMMANDS: Final[dict[type, tuple[CommandKind, type]]] = {
    PutRequest: (CommandKind.PUT, PutResponse),
    DeleteRangeRequest: (CommandKind.DELETE_RANGE, DeleteRangeResponse),
    TxnRequest: (CommandKind.TXN, TxnResponse),
    CompactionRequest: (CommandKind.COMPACT, CompactionResponse),
    LeaseGrantRequest: (CommandKind.LEASE_GRANT, LeaseGrantResponse),
    LeaseRevokeRequest: (CommandKind.LEASE_REVOKE, LeaseRevokeResponse),
    rpc.AuthEnableRequest: (CommandKind.AUTH_ENABLE, rpc.AuthEnableResponse),
    rpc.AuthDisableRequest: (CommandKind.AUTH_DISABLE, rpc.AuthDisableResponse),
    rpc.AuthUserAddRequest: (CommandKind.USER_ADD, rpc.AuthUserAddResponse),
    rpc.AuthUserDeleteRequest: (CommandKind.USER_DELETE, rpc.AuthUserDeleteResponse),
    rpc.AuthUserChangePasswordRequest: (CommandKind.USER_CHANGE_PASSWORD, rpc.AuthUserChangePasswordResponse),
    rpc.AuthUserGrantRoleRequest: (CommandKind.USER_GRANT_ROLE, rpc.AuthUserGrantRoleResponse),
    rpc.AuthUserRevokeRoleRequest: (CommandKind.USER_REVOKE_ROLE, rpc.AuthUserRevokeRoleResponse),
    rpc.AuthRoleAddRequest: (CommandKind.ROLE_ADD, rpc.AuthRoleAddResponse),
    rpc.AuthRoleDeleteRequest: (CommandKind.ROLE_DELETE, rpc.AuthRoleDeleteResponse),
    rpc.AuthRoleGrantPermissionRequest: (CommandKind.ROLE_GRANT_PERMISSION, rpc.AuthRoleGrantPermissionResponse),
    rpc.AuthRoleRevokePermissionRequest: (CommandKind.ROLE_REVOKE_PERMISSION, rpc.AuthRoleRevokePermissionResponse),
    AlarmRequest: (CommandKind.ALARM, AlarmResponse),
    rpc.DowngradeRequest: (CommandKind.DOWNGRADE, rpc.DowngradeResponse),
}


def check_leases(engine: Engine) -> None:
    """Assert that pairs and leases know each other: every attachment has its pair and its lease, and the other way."""
    attached = {key[1:] for key in engine.scan_keys(ATTACHMENT, ATTACHMENT_END)}
    named = set()
    for _, record in engine.scan(KV, KV_END):
        pair = KeyValue.FromString(key_value_bytes(record))
        if pair.lease:
            assert engine.get(lease_key(pair.lease)) is not None, f"{pair.key!r} is attached to no lease"
            named.add(attachment_key(pair.lease, pair.key)[1:])
    assert attached == named, f"attachments without pairs or pairs without attachments: {attached ^ named}"


class Answer(NamedTuple):
    """A code, and with OK the parsed response."""

    code: ErrorCode
    response: Any


def finish_read(job: ReadJob) -> Result:
    """Run a read to its end at once; return its result with the whole body."""
    pieces = [job.piece or b""]
    while True:
        step = advance_read(job)
        if isinstance(step, tuple):
            code, last = step
            return code, b"".join(pieces) + last
        pieces.append(step or b"")


class StoreDriver:
    """A store that is handed entries one after the other; every write is followed by the store's own checks."""

    def __init__(self, open_engine: Callable[[], Engine], *, response_bytes_max: int = 64 << 20) -> None:
        self._open_engine = open_engine
        self._response_bytes_max = response_bytes_max
        self.entries: list[Entry] = []
        self.sequence = 0
        self.term = Term(1)
        self.identity: Identity | None = None
        """Whose requests are from now on; None: bare ones, as all are while rights do not matter."""
        self.store = self._open()

    def do(self, *requests: Request) -> list[Answer]:
        """Apply `requests` as one batch of this member; return their answers."""
        return self.do_as(self.identity, *requests)

    def do_as(self, identity: Identity | None, *requests: Request) -> list[Answer]:
        """Apply `requests` as one batch, each under an identity, or bare."""
        self.sequence += 1
        flat: list[int | bytes] = []
        for request in requests:
            kind, body = int(_COMMANDS[type(request)][0]), request.SerializeToString()
            if identity is None:
                flat += [kind, body]
            else:
                flat += [int(CommandKind.AS_USER), encode_as(identity, kind, body)]
        return self._answers(requests, flat)

    def _answers(self, requests: Sequence[Request], flat: list[int | bytes]) -> list[Answer]:
        origin = Origin(MEMBER, Incarnation(1), self.sequence)
        applied = self.apply(EntryKind.COMMANDS, encode_batch(origin, flat))
        assert applied is not None, "a new batch of this member is always answered"
        return [
            self._parse(_COMMANDS[type(request)][1], *result)
            for request, result in zip(requests, applied.results, strict=True)
        ]

    def one(self, request: Request) -> Answer:
        """Apply one request as a batch of its own."""
        return self.do(request)[0]

    def put(self, key: bytes, value: bytes = b"v", **fields: Any) -> Answer:
        """Put one pair."""
        return self.one(PutRequest(key=key, value=value, **fields))

    def delete(self, key: bytes, range_end: bytes = b"", **fields: Any) -> Answer:
        """Delete a key or range."""
        return self.one(DeleteRangeRequest(key=key, range_end=range_end, **fields))

    def compact(self, revision: int, *, physical: bool = False) -> Answer:
        """Compact; the space is given back by `finish_compaction`."""
        return self.one(CompactionRequest(revision=revision, physical=physical))

    def grant(self, lease: int, ttl_s: int = 60) -> Answer:
        """Grant a lease whose id and time are final."""
        return self.one(LeaseGrantRequest(ID=lease, TTL=ttl_s))

    def revoke(self, lease: int) -> Answer:
        """Revoke a lease."""
        return self.one(LeaseRevokeRequest(ID=lease))

    def alarm(self, action: AlarmRequest.AlarmAction.ValueType, kind: AlarmType.ValueType, member: int) -> Answer:
        """Raise an alarm, take it back, or list alarms by way of the log."""
        return self.one(AlarmRequest(action=action, alarm=kind, memberID=member))

    def upkeep(
        self, expired: Sequence[LeaseName] = (), recorded: Sequence[Remaining] = (), *, term: Term | None = None
    ) -> None:
        """Apply a leader's word on leases; `term` is that leader's if it is not the entry's own."""
        upkeep = LeaseUpkeep(self.term if term is None else term, tuple(expired), tuple(recorded))
        self.apply(EntryKind.LEASE_UPKEEP, encode_upkeep(upkeep))

    def finish_compaction(self, rows: int = 2) -> int:
        """Run compaction slices to the end; return how many there were."""
        slices = 0
        while self.store.compacting:
            self.store.compact_step(rows)
            self.store.check_invariants()
            slices += 1
        return slices

    def apply(self, kind: int, data: bytes) -> Any:
        """Apply one raw entry behind the last and check the store."""
        entry = Entry(self.term, Index(self.store.applied + 1), kind, data)
        self.entries.append(entry)
        applied = self.store.apply(entry)
        self.check()
        return applied

    def range(self, key: bytes, range_end: bytes = b"", **fields: Any) -> Answer:
        """Read a key or range."""
        return self.read(ReadKind.RANGE, RangeRequest(key=key, range_end=range_end, **fields), RangeResponse)

    def txn_read(self, request: TxnRequest) -> Answer:
        """Serve a txn of ranges as a read."""
        return self.read(ReadKind.TXN, request, TxnResponse)

    def hash_kv(self, revision: int = 0) -> Answer:
        """Hash the store at a revision."""
        return self.read(ReadKind.HASH_KV, HashKVRequest(revision=revision), HashKVResponse)

    def status(self, commit: int = 0, quota_bytes: int = 0) -> StatusResponse:
        """The Status answer of this store."""
        answer = self._begin(ReadKind.STATUS, b"", StatusFields(commit, quota_bytes))
        assert not isinstance(answer, ReadJob), "Status needs no slices"
        return StatusResponse.FromString(answer[1])

    def read(self, kind: ReadKind, request: Any, response: type) -> Answer:
        """Serve any read to its end."""
        result = self._begin(kind, request.SerializeToString(), StatusFields(0, 0))
        return self._parse(response, *(finish_read(result) if isinstance(result, ReadJob) else result))

    def begin(self, kind: ReadKind, request: Any) -> Any:
        """Run only the first slice of a read."""
        return self._begin(kind, request.SerializeToString(), StatusFields(0, 0))

    def check(self) -> None:
        """Check every invariant of the store, walking all of it."""
        self.store.check_invariants()
        self.store.keys.check(self.store.engine)
        check_leases(self.store.engine)

    def restart(self, *, crash: bool = False) -> None:
        """Open the store anew, cleanly or without what was not flushed, and replay what it lost."""
        if not crash:
            self.store.save_counts()
            self.store.engine.close()
        self.store = self._open()
        for entry in self.entries[self.store.applied :]:
            self.store.apply(entry)
        self.check()

    def _open(self) -> MvccStore:
        return MvccStore(self._open_engine(), CLUSTER, MEMBER, response_bytes_max=self._response_bytes_max)

    def _begin(self, kind: ReadKind, body: bytes, status: StatusFields) -> Any:
        store = self.store
        asked: int = kind
        if self.identity is not None:
            asked, body = ReadKind.AS_USER, encode_as(self.identity, kind, body)
        begin = begin_guarded_read if store.auth.enabled else begin_read
        return begin(store, asked, body, store.header(store.revision), status)

    @staticmethod
    def _parse(response: Any, code: int, body: bytes) -> Answer:
        return Answer(ErrorCode(code), response.FromString(body) if code == ErrorCode.OK else None)
