"""What etcd's API layer refuses before anything is proposed. Pure: a parsed request in, an `ErrorCode` out.

Source: etcd feature map, section 2, rules 5, 9, 14, 21, 22. Invariant: what passes here can be applied without
looking at its shape again.
"""

from collections.abc import Iterable

from protocol.errors import ErrorCode
from protocol.wire import rpc_pb2 as rpc

FROM_KEY = b"\0"
"""As a range end: everything from the key on."""

Interval = tuple[bytes, bytes]
"""A deleted range: first key and end, in the API's form."""


def check_range(request: rpc.RangeRequest) -> ErrorCode:
    """Return OK, or why a Range is refused."""
    if not request.key:
        return ErrorCode.EMPTY_KEY
    if request.sort_order not in (0, 1, 2) or request.sort_target not in (0, 1, 2, 3, 4):
        return ErrorCode.INVALID_SORT_OPTION
    return ErrorCode.OK


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


def check_txn(request: rpc.TxnRequest, operations_max: int) -> ErrorCode:
    """Return OK, or why a Txn is refused; both branches count, whichever would be taken."""
    code = _check_shape(request, operations_max)
    if code:
        return code
    for branch in (request.success, request.failure):
        if _writes(branch) is None:
            return ErrorCode.DUPLICATE_KEY
    return ErrorCode.OK


def _check_shape(request: rpc.TxnRequest, operations_max: int) -> ErrorCode:
    largest = max(len(request.compare), len(request.success), len(request.failure))
    if largest > operations_max:
        return ErrorCode.TOO_MANY_OPERATIONS
    if any(not compare.key for compare in request.compare):
        return ErrorCode.EMPTY_KEY
    for branch in (request.success, request.failure):
        for operation in branch:
            code = _check_operation(operation, operations_max - largest)
            if code:
                return code
    return ErrorCode.OK


def _check_operation(operation: rpc.RequestOp, operations_left: int) -> ErrorCode:
    which = operation.WhichOneof("request")
    if which == "request_range":
        return check_range(operation.request_range)
    if which == "request_put":
        return check_put(operation.request_put)
    if which == "request_delete_range":
        return check_delete(operation.request_delete_range)
    if which == "request_txn":
        return _check_shape(operation.request_txn, operations_left)
    return ErrorCode.KEY_NOT_FOUND


def _covered(key: bytes, deleted: Iterable[Interval]) -> bool:
    for first, end in deleted:
        if not end:
            if key == first:
                return True
        elif key >= first and (end == FROM_KEY or key < end):
            return True
    return False


def _writes(branch: Iterable[rpc.RequestOp]) -> tuple[set[bytes], list[Interval]] | None:
    """Return the keys put and the ranges deleted by a branch, or None if it writes one key twice.

    The two branches of a nested txn exclude each other, so they may both write a key.
    """
    operations = list(branch)
    deleted = [
        (operation.request_delete_range.key, operation.request_delete_range.range_end)
        for operation in operations
        if operation.WhichOneof("request") == "request_delete_range"
    ]
    put: set[bytes] = set()
    for operation in operations:
        if operation.WhichOneof("request") != "request_txn":
            continue
        nested_put: set[bytes] = set()
        nested_deleted: list[Interval] = []
        for nested in (operation.request_txn.success, operation.request_txn.failure):
            writes = _writes(nested)
            if writes is None or writes[0] & put or any(_covered(key, deleted) for key in writes[0]):
                return None
            nested_put |= writes[0]
            nested_deleted += writes[1]
        put |= nested_put
        deleted += nested_deleted
    for operation in operations:
        if operation.WhichOneof("request") == "request_put":
            key = operation.request_put.key
            if key in put or _covered(key, deleted):
                return None
            put.add(key)
    return put, deleted


def is_read_only(request: rpc.TxnRequest) -> bool:
    """Whether no branch can write, so that the txn needs no log entry (rule 20)."""
    return all(operation.WhichOneof("request") == "request_range" for operation in (*request.success, *request.failure))


def is_serializable(request: rpc.TxnRequest) -> bool:
    """Whether every range of a read-only txn is content with this member's own state."""
    ranges = [operation.request_range for operation in (*request.success, *request.failure)]
    return bool(ranges) and all(wanted.serializable for wanted in ranges)


def has_put(request: rpc.TxnRequest) -> bool:
    """Whether some branch puts, so that the quota concerns it."""
    return any(
        operation.WhichOneof("request") == "request_put"
        or (operation.WhichOneof("request") == "request_txn" and has_put(operation.request_txn))
        for operation in (*request.success, *request.failure)
    )
