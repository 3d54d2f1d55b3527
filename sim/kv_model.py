"""etcd's KV semantics over plain dicts, as plainly as they can be written: the oracle the real store is held against.

Owns a snapshot of all live pairs per revision; knows protobuf requests and answers, nothing of the store. Slow and
obviously right is the point. Invariant: `past[r]` is the state of the world right after revision r.
"""

import operator
from dataclasses import dataclass, field

from protocol.errors import ClientError, ErrorCode
from protocol.lease import LEASE_TTL_S_MAX
from protocol.wire.mvcc_pb2 import KeyValue
from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)

Live = dict[bytes, KeyValue]


@dataclass
class KvModel:
    """The model; each method takes a request and returns the answer with nothing but `header.revision` set."""

    revision: int = 1
    compacted: int = -1
    live: Live = field(default_factory=dict)
    past: dict[int, Live] = field(default_factory=lambda: {1: {}})
    leases: dict[int, int] = field(default_factory=dict)
    """Lease id to the index of the entry that granted it."""

    def put(self, request: PutRequest) -> PutResponse:
        """Put at the top level."""
        self._check_put_shape(request)
        self._check_lease(request)
        self._check_kept(request)
        previous = self._put(request, self.revision + 1)
        self._advance()
        response = PutResponse(prev_kv=previous)
        response.header.revision = self.revision
        return response

    def delete_range(self, request: DeleteRangeRequest) -> DeleteRangeResponse:
        """DeleteRange at the top level."""
        if not request.key:
            raise ClientError(ErrorCode.EMPTY_KEY)
        response = self._delete(request)
        if response.deleted:
            self._advance()
        response.header.revision = self.revision
        return response

    def txn(self, request: TxnRequest) -> TxnResponse:
        """Txn at the top level; nothing changes if it is refused."""
        branches = self._choose(request)
        self._check_txn(request, list(branches))
        run = _Run(self, self.revision)
        response = run.txn(request, list(branches))
        if run.changes:
            self._advance()
        response.header.revision = self.revision
        return response

    def compact(self, request: CompactionRequest) -> CompactionResponse:
        """Refuse reads below the revision from now on."""
        if request.revision <= self.compacted:
            raise ClientError(ErrorCode.COMPACTED)
        if request.revision > self.revision:
            raise ClientError(ErrorCode.FUTURE_REVISION)
        self.compacted = request.revision
        response = CompactionResponse()
        response.header.revision = self.revision
        return response

    def lease_grant(self, request: LeaseGrantRequest, granted: int) -> LeaseGrantResponse:
        """LeaseGrant with a final id and time to live, by the entry of index `granted`."""
        if not request.ID:
            raise ClientError(ErrorCode.LEASE_NOT_FOUND)
        if request.TTL > LEASE_TTL_S_MAX:
            raise ClientError(ErrorCode.LEASE_TTL_TOO_LARGE)
        if request.ID in self.leases:
            raise ClientError(ErrorCode.LEASE_EXISTS)
        self.leases[request.ID] = granted
        response = LeaseGrantResponse(ID=request.ID, TTL=request.TTL)
        response.header.revision = self.revision
        return response

    def lease_revoke(self, request: LeaseRevokeRequest) -> LeaseRevokeResponse:
        """LeaseRevoke: everything attached goes in one revision."""
        if request.ID not in self.leases:
            raise ClientError(ErrorCode.LEASE_NOT_FOUND)
        self._end_lease(request.ID)
        response = LeaseRevokeResponse()
        response.header.revision = self.revision
        return response

    def expire(self, lease: int, granted: int) -> bool:
        """A leader's word that a lease has run out; False if it is not that lease any more."""
        if self.leases.get(lease) != granted:
            return False
        self._end_lease(lease)
        return True

    def _end_lease(self, lease: int) -> None:
        del self.leases[lease]
        kept = {key: pair for key, pair in self.live.items() if pair.lease != lease}
        if len(kept) < len(self.live):
            self.live = kept
            self._advance()

    def range(self, request: RangeRequest, *, current: int = 0) -> RangeResponse:
        """Range at the current revision or an old one; `current` is what a running txn calls current."""
        current = current or self.revision
        if not request.key:
            raise ClientError(ErrorCode.EMPTY_KEY)
        if request.sort_order > 2 or request.sort_target > 4:
            raise ClientError(ErrorCode.INVALID_SORT_OPTION)
        if request.revision > current:
            raise ClientError(ErrorCode.FUTURE_REVISION)
        if 0 < request.revision < self.compacted:
            raise ClientError(ErrorCode.COMPACTED)
        at_old = 0 < request.revision < current
        found = self.within(self.past[request.revision] if at_old else self.live, request.key, request.range_end)
        response = RangeResponse(count=len(found))
        response.header.revision = current
        if not request.count_only:
            self._page(request, found, response)
        return response

    def within(self, live: Live, key: bytes, range_end: bytes) -> list[KeyValue]:
        """The pairs of a key or range, in key order."""
        if not range_end:
            return [live[key]] if key in live else []
        return [live[name] for name in sorted(live) if name >= key and (range_end == b"\x00" or name < range_end)]

    def _page(self, request: RangeRequest, found: list[KeyValue], response: RangeResponse) -> None:
        filters = (
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
        limit = request.limit
        if limit > 0 and request.sort_order == RangeRequest.NONE and not any(filters):
            found = found[: limit + 1]  # etcd fetches no more than this, and sorts only that
        low_mod, high_mod, low_create, high_create = filters
        found = [
            pair
            for pair in found
            if (not low_mod or pair.mod_revision >= low_mod)
            and (not high_mod or pair.mod_revision <= high_mod)
            and (not low_create or pair.create_revision >= low_create)
            and (not high_create or pair.create_revision <= high_create)
        ]
        name = ("key", "version", "create_revision", "mod_revision", "value")[request.sort_target]
        found.sort(key=lambda pair: getattr(pair, name), reverse=request.sort_order == RangeRequest.DESCEND)
        response.more = 0 < limit < len(found)
        for pair in found[:limit] if limit > 0 else found:
            shown = KeyValue()
            shown.CopyFrom(pair)
            if request.keys_only:
                shown.ClearField("value")
            response.kvs.append(shown)

    # --- writes ----------------------------------------------------------------------------------

    def _check_put_shape(self, request: PutRequest) -> None:
        if not request.key:
            raise ClientError(ErrorCode.EMPTY_KEY)
        if request.ignore_value and request.value:
            raise ClientError(ErrorCode.VALUE_PROVIDED)
        if request.ignore_lease and request.lease:
            raise ClientError(ErrorCode.LEASE_PROVIDED)

    def _check_kept(self, request: PutRequest) -> None:
        if (request.ignore_value or request.ignore_lease) and request.key not in self.live:
            raise ClientError(ErrorCode.KEY_NOT_FOUND)

    def _check_lease(self, request: PutRequest) -> None:
        if request.lease and request.lease not in self.leases:
            raise ClientError(ErrorCode.LEASE_NOT_FOUND)

    def _put(self, request: PutRequest, revision: int) -> KeyValue | None:
        old = self.live.get(request.key)
        self.live = dict(self.live)
        self.live[request.key] = KeyValue(
            key=request.key,
            value=old.value if old and request.ignore_value else request.value,
            create_revision=old.create_revision if old else revision,
            mod_revision=revision,
            version=old.version + 1 if old else 1,
            lease=old.lease if old and request.ignore_lease else request.lease,
        )
        return old if request.prev_kv else None

    def _delete(self, request: DeleteRangeRequest) -> DeleteRangeResponse:
        doomed = self.within(self.live, request.key, request.range_end)
        self.live = {key: pair for key, pair in self.live.items() if pair not in doomed}
        return DeleteRangeResponse(deleted=len(doomed), prev_kvs=doomed if request.prev_kv else [])

    def _advance(self) -> None:
        self.revision += 1
        self.past[self.revision] = self.live

    # --- txn -------------------------------------------------------------------------------------

    def _choose(self, request: TxnRequest) -> list[bool]:
        """The outcome of each txn's compares on the chosen path, outermost first, in the order they are met."""
        succeeded = all(self._compare(compare) for compare in request.compare)
        outcome = [succeeded]
        for operation in request.success if succeeded else request.failure:
            if operation.WhichOneof("request") == "request_txn":
                outcome += self._choose(operation.request_txn)
        return outcome

    def _compare(self, compare: Compare) -> bool:
        if not compare.key:
            raise ClientError(ErrorCode.EMPTY_KEY)
        found = self.within(self.live, compare.key, compare.range_end)
        if not found and compare.target == Compare.VALUE:
            return False
        names = {
            Compare.VERSION: "version",
            Compare.CREATE: "create_revision",
            Compare.MOD: "mod_revision",
            Compare.VALUE: "value",
            Compare.LEASE: "lease",
        }
        name = names[compare.target]
        operand = getattr(compare, name)
        holds = {
            Compare.EQUAL: operator.eq,
            Compare.NOT_EQUAL: operator.ne,
            Compare.GREATER: operator.gt,
            Compare.LESS: operator.lt,
        }[compare.result]
        return all(holds(getattr(pair, name), operand) for pair in found or [KeyValue()])

    def _check_txn(self, request: TxnRequest, branches: list[bool]) -> None:
        path = self._path(request, branches)
        for operation in path:
            name = operation.WhichOneof("request")
            if name is None:
                raise ClientError(ErrorCode.KEY_NOT_FOUND)
            if not getattr(operation, name).key:
                raise ClientError(ErrorCode.EMPTY_KEY)
            if name == "request_put":
                self._check_put_shape(operation.request_put)
        for operation in path:
            if operation.WhichOneof("request") == "request_put":
                self._check_kept(operation.request_put)
                self._check_lease(operation.request_put)
        for operation in path:
            if operation.WhichOneof("request") == "request_range":
                if operation.request_range.revision < min(self.compacted, 0):
                    raise ClientError(ErrorCode.COMPACTED)
                self.range(operation.request_range)

    def _path(self, request: TxnRequest, branches: list[bool]) -> list[RequestOp]:
        path: list[RequestOp] = []
        for operation in request.success if branches.pop(0) else request.failure:
            if operation.WhichOneof("request") == "request_txn":
                path += self._path(operation.request_txn, branches)
            else:
                path.append(operation)
        return path


class _Run:
    """One txn in progress."""

    def __init__(self, model: KvModel, base: int) -> None:
        self._model = model
        self._base = base
        self.changes = 0

    def txn(self, request: TxnRequest, branches: list[bool]) -> TxnResponse:
        """Run the chosen branch; a nested answer's header stays empty, but there."""
        succeeded = branches.pop(0)
        response = TxnResponse(succeeded=succeeded)
        response.header.SetInParent()
        for operation in request.success if succeeded else request.failure:
            answer = response.responses.add()
            name = operation.WhichOneof("request")
            if name == "request_txn":
                answer.response_txn.CopyFrom(self.txn(operation.request_txn, branches))
            elif name == "request_put":
                self._put(operation.request_put, answer.response_put)
            elif name == "request_delete_range":
                self._delete(operation.request_delete_range, answer.response_delete_range)
            else:
                current = self._base + (self.changes > 0)
                answer.response_range.CopyFrom(self._model.range(operation.request_range, current=current))
        return response

    def _put(self, request: PutRequest, response: PutResponse) -> None:
        previous = self._model._put(request, self._base + 1)
        self.changes += 1
        response.header.revision = self._base + 1
        if previous is not None:
            response.prev_kv.CopyFrom(previous)

    def _delete(self, request: DeleteRangeRequest, response: DeleteRangeResponse) -> None:
        response.CopyFrom(self._model._delete(request))
        self.changes += response.deleted
        response.header.revision = self._base + (self.changes > 0)
