"""What etcd's API layer refuses before anything is proposed. Pure: a parsed request in, an `ErrorCode` out.

Source: etcd feature map, section 2, rules 5, 9, 14, 21, 22. Invariant: what passes here can be applied without
looking at its shape again.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from protocol.errors import ErrorCode
from protocol.wire import rpc_pb2 as rpc

Interval = tuple[bytes, bytes]
"""A deleted range: first key and end, in the API's form."""


def check_range(request: rpc.RangeRequest) -> ErrorCode:
    """Return OK, or why a Range is refused."""
    if not request.key:
        return ErrorCode.EMPTY_KEY
    if request.sort_order not in (0, 1, 2) or request.sort_target not in (0, 1, 2, 3, 4):
        return ErrorCode.INVALID_SORT_OPTION
    return ErrorCode.OK


def check_range_stream(request: rpc.RangeRequest) -> ErrorCode:
    """Return OK, or why a RangeStream is refused: it goes through keys in their order and leaves none out."""
    code = check_range(request)
    if code:
        return code
    if request.sort_order and (request.sort_order, request.sort_target) != (rpc.RangeRequest.ASCEND, 0):
        return ErrorCode.RANGE_STREAM_SORTED
    filters = request.min_mod_revision, request.max_mod_revision, request.min_create_revision
    return ErrorCode.RANGE_STREAM_FILTERED if any((*filters, request.max_create_revision)) else ErrorCode.OK


def check_put(request: rpc.PutRequest) -> ErrorCode:
    """Return OK, or why a Put is refused."""
    if not request.key:
        return ErrorCode.EMPTY_KEY
    if request.ignore_value and request.value:
        return ErrorCode.VALUE_PROVIDED
    if request.ignore_lease and request.lease:
        return ErrorCode.LEASE_PROVIDED
    return ErrorCode.OK


def check_delete(request: rpc.DeleteRangeRequest) -> ErrorCode:
    """Return OK, or why a DeleteRange is refused."""
    return ErrorCode.OK if request.key else ErrorCode.EMPTY_KEY


class TxnVerdict(NamedTuple):
    """What a txn's bytes decide: OK or why it is refused, and what it may do in either branch."""

    code: ErrorCode
    read_only: bool = False
    """No branch can write, so that it needs no log entry (rule 20)."""
    has_put: bool = False
    """Some branch puts, so that the quota concerns it."""


def check_txn(request: rpc.TxnRequest, operations_max: int) -> TxnVerdict:
    """Return what becomes of a Txn; both branches count, whichever would be taken."""
    code, kinds = _check_shape(request, operations_max)
    if code:
        return TxnVerdict(code)
    if kinds & _SEVERAL_WRITES:
        for branch in (request.success, request.failure):
            if _writes(branch) is None:
                return TxnVerdict(ErrorCode.DUPLICATE_KEY)
    return TxnVerdict(ErrorCode.OK, not kinds, bool(kinds & _PUT))


_PUT: Final = 1
_WRITE: Final = 2
"""Anything but a range: what is in a nested txn does not matter, it goes through the log."""
_SEVERAL_WRITES: Final = 4
"""Some branch has two writes or a nested txn, so that a key might be written twice."""


def _check_shape(request: rpc.TxnRequest, operations_max: int) -> tuple[ErrorCode, int]:
    compares, success, failure = request.compare, request.success, request.failure
    largest = max(len(compares), len(success), len(failure))
    if largest > operations_max:
        return ErrorCode.TOO_MANY_OPERATIONS, 0
    for compare in compares:
        if not compare.key:
            return ErrorCode.EMPTY_KEY, 0
    kinds = 0
    for branch in (success, failure):
        written = 0
        for operation in branch:
            code, kind = _check_operation(operation, operations_max - largest)
            if code:
                return code, 0
            if kind:
                kinds |= kind
                written |= _SEVERAL_WRITES if written else _WRITE
        kinds |= written
    return ErrorCode.OK, kinds


def _check_operation(operation: rpc.RequestOp, operations_left: int) -> tuple[ErrorCode, int]:
    which = operation.WhichOneof("request")
    if which == "request_range":
        return check_range(operation.request_range), 0
    if which == "request_put":
        return check_put(operation.request_put), _PUT | _WRITE
    if which == "request_delete_range":
        return check_delete(operation.request_delete_range), _WRITE
    if which == "request_txn":
        code, kinds = _check_shape(operation.request_txn, operations_left)
        return code, kinds | _WRITE | _SEVERAL_WRITES
    return ErrorCode.KEY_NOT_FOUND, 0


def _covered(key: bytes, deleted: Iterable[Interval]) -> bool:
    """Whether a deletion names `key`.

    One of everything from a key on (its end is a zero byte) names none: etcd compares the end as it stands, so its
    clients may replace all there is by such a deletion and puts.
    """
    return any(first <= key < end if end else key == first for first, end in deleted)


def _writes(branch: Iterable[rpc.RequestOp]) -> tuple[set[bytes], list[Interval]] | None:
    """Return the keys put and the ranges deleted by a branch, or None if it writes one key twice.

    The two branches of a nested txn exclude each other, so they may both write a key.
    """
    puts: list[bytes] = []
    deleted: list[Interval] = []
    nested_txns: list[rpc.TxnRequest] = []
    for operation in branch:
        which = operation.WhichOneof("request")
        if which == "request_put":
            puts.append(operation.request_put.key)
        elif which == "request_delete_range":
            deleted.append((operation.request_delete_range.key, operation.request_delete_range.range_end))
        elif which == "request_txn":
            nested_txns.append(operation.request_txn)
    put: set[bytes] = set()
    for txn in nested_txns:
        nested_put: set[bytes] = set()
        nested_deleted: list[Interval] = []
        for nested in (txn.success, txn.failure):
            writes = _writes(nested)
            if writes is None or writes[0] & put or any(_covered(key, deleted) for key in writes[0]):
                return None
            nested_put |= writes[0]
            nested_deleted += writes[1]
        put |= nested_put
        deleted += nested_deleted
    for key in puts:
        if key in put or _covered(key, deleted):
            return None
        put.add(key)
    return put, deleted


def is_serializable(request: rpc.TxnRequest) -> bool:
    """Whether every range of a read-only txn is content with this member's own state."""
    ranges = [operation.request_range for operation in (*request.success, *request.failure)]
    return bool(ranges) and all(wanted.serializable for wanted in ranges)
