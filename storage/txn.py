"""Txn: compares, the choice of branches, preconditions, and the operations of the chosen path.

Owns etcd's rules 16 to 23. Knows requests and a `KeyWriter`; no raft, no time. Invariants: every compare, nested ones
included, is evaluated against the state before the txn; nothing is written unless the whole path may be.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from protocol.errors import ClientError, ErrorCode, InvariantViolation
from protocol.wire.mvcc_pb2 import KeyValue
from protocol.wire.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest
from storage.layout import TRAILER_BYTES, frame, key_value_bytes, kv_bounds, user_bounds
from storage.mvcc_write import KeyWriter
from storage.overlay import Reader
from storage.range_read import Slices, View, check_revision_in_txn, current_records, range_slices
from storage.wire_bytes import inner_header_bytes, varint

_NOTHING = KeyValue()


class Path(NamedTuple):
    """The chosen branch of a txn; `nested` has an entry per operation, None where it is no txn."""

    succeeded: bool
    operations: Sequence[RequestOp]
    nested: list["Path | None"]


class Snapshot(Protocol):
    """What a txn needs to know of the store besides the writer."""

    revision: int
    compacted: int
    answer_bytes_left: int
    """What the answers of the commands applied together may still take."""


def choose(request: TxnRequest, reader: Reader) -> Path:
    """Evaluate all compares and return the path they lead to (rule 19: nested branches are chosen up front)."""
    succeeded = all(compare_holds(compare, reader) for compare in request.compare)
    operations = request.success if succeeded else request.failure
    nested = [
        choose(operation.request_txn, reader) if operation.WhichOneof("request") == "request_txn" else None
        for operation in operations
    ]
    return Path(succeeded, operations, nested)


def has_put(request: TxnRequest) -> bool:
    """Whether either branch, or a txn in it, would put something."""
    for operation in (*request.success, *request.failure):
        name = operation.WhichOneof("request")
        if name == "request_put" or (name == "request_txn" and has_put(operation.request_txn)):
            return True
    return False


def compare_holds(compare: Compare, reader: Reader) -> bool:
    """Whether `compare` holds for its key, or for every key of its range (rules 16 to 18)."""
    if not compare.key:
        raise ClientError(ErrorCode.EMPTY_KEY)
    found = False
    for record in current_records(reader, *user_bounds(compare.key, compare.range_end)):
        if record is None:
            continue
        found = True
        if not _holds(compare, KeyValue.FromString(key_value_bytes(record))):
            return False
    if found:
        return True
    return compare.target != Compare.VALUE and _holds(compare, _NOTHING)


def _holds(compare: Compare, pair: KeyValue) -> bool:
    order = _order(compare, pair)
    if compare.result == Compare.EQUAL:
        return order == 0
    if compare.result == Compare.NOT_EQUAL:
        return order != 0
    if compare.result == Compare.GREATER:
        return order > 0
    return order < 0 if compare.result == Compare.LESS else True


def _order(compare: Compare, pair: KeyValue) -> int:
    """Compare the pair's side with the operand; an operand that is not set is zero or empty."""
    if compare.target == Compare.VALUE:
        return (pair.value > compare.value) - (pair.value < compare.value)
    if compare.target == Compare.VERSION:
        return pair.version - compare.version
    if compare.target == Compare.CREATE:
        return pair.create_revision - compare.create_revision
    if compare.target == Compare.MOD:
        return pair.mod_revision - compare.mod_revision
    return pair.lease - compare.lease if compare.target == Compare.LEASE else 0


def check_path(path: Path, writer: KeyWriter, snapshot: Snapshot) -> None:
    """Refuse the txn unless everything on its path can be done (rule 23).

    Raises:
        ClientError: the first put that cannot be done, else the first range that cannot: etcd looks at them in turn.
    """
    _check_shape(path)
    _check_puts(path, writer)
    _check_ranges(path, snapshot)


def _check_shape(path: Path) -> None:
    for operation, nested in zip(path.operations, path.nested, strict=True):
        name = operation.WhichOneof("request")
        if name is None:
            raise ClientError(ErrorCode.KEY_NOT_FOUND)
        if nested is not None:
            _check_shape(nested)
        elif name == "request_put":
            check_put_shape(operation.request_put)
        elif name == "request_range":
            check_range_shape(operation.request_range)
        elif not operation.request_delete_range.key:
            raise ClientError(ErrorCode.EMPTY_KEY)


def _check_puts(path: Path, writer: KeyWriter) -> None:
    for operation, nested in zip(path.operations, path.nested, strict=True):
        if nested is not None:
            _check_puts(nested, writer)
        elif operation.WhichOneof("request") == "request_put":
            check_put_key(operation.request_put, writer)
            check_put_lease(operation.request_put, writer)


def _check_ranges(path: Path, snapshot: Snapshot) -> None:
    for operation, nested in zip(path.operations, path.nested, strict=True):
        if nested is not None:
            _check_ranges(nested, snapshot)
        elif operation.WhichOneof("request") == "request_range":
            check_revision_in_txn(operation.request_range.revision, snapshot.revision, snapshot.compacted)


def check_put_shape(put: PutRequest) -> None:
    """Refuse a put that contradicts itself (rules 5 and 14)."""
    if not put.key:
        raise ClientError(ErrorCode.EMPTY_KEY)
    if put.ignore_value and put.value:
        raise ClientError(ErrorCode.VALUE_PROVIDED)
    if put.ignore_lease and put.lease:
        raise ClientError(ErrorCode.LEASE_PROVIDED)


def check_range_shape(request: RangeRequest) -> None:
    """Refuse a range without key or with an unknown order (rules 5 and 9)."""
    if not request.key:
        raise ClientError(ErrorCode.EMPTY_KEY)
    if not (0 <= request.sort_order <= 2 and 0 <= request.sort_target <= 4):
        raise ClientError(ErrorCode.INVALID_SORT_OPTION)


def check_put_key(put: PutRequest, writer: KeyWriter) -> None:
    """Refuse a put that keeps something of a pair that is not there (rule 14)."""
    if (put.ignore_value or put.ignore_lease) and writer.record(put.key) is None:
        raise ClientError(ErrorCode.KEY_NOT_FOUND)


def check_put_lease(put: PutRequest, writer: KeyWriter) -> None:
    """Refuse a put that names a lease that is not there (rule 14)."""
    if put.lease and not writer.lease_exists(put.lease):
        raise ClientError(ErrorCode.LEASE_NOT_FOUND)


def do_put(put: PutRequest, writer: KeyWriter) -> bytes:
    """Do a checked put; return the framed previous pair if it was asked for, else nothing."""
    value, lease = put.value, put.lease
    previous = writer.record(put.key) if put.prev_kv or put.ignore_value or put.ignore_lease else None
    if previous is not None and (put.ignore_value or put.ignore_lease):
        pair = KeyValue.FromString(key_value_bytes(previous))
        value = pair.value if put.ignore_value else value
        lease = pair.lease if put.ignore_lease else lease
    writer.put(put.key, value, lease)
    return frame(previous) if put.prev_kv and previous is not None else b""


def do_delete(request: DeleteRangeRequest, writer: KeyWriter) -> bytes:
    """Delete the range; return the response without its header: the count, and old pairs if asked for (rule 15)."""
    start, end = user_bounds(request.key, request.range_end)
    if end == start + b"\x00":
        record = writer.record(start)
        doomed = [] if record is None else [(b"k" + start, record)]
    else:
        doomed = list(writer.overlay.scan(*kv_bounds(start, end))) if end is None or start < end else []
    for row_key, record in doomed:
        writer.delete(row_key[1:], record)
    if not doomed:
        return b""
    deleted = b"\x10" + varint(len(doomed))
    if not request.prev_kv:
        return deleted
    return deleted + b"".join([b"\x1a" + record[1:-TRAILER_BYTES] for _, record in doomed])


class TxnRun:
    """The execution of one chosen path in a writer's open main revision."""

    def __init__(self, writer: KeyWriter, snapshot: Snapshot, *, encode: bool) -> None:
        self._writer = writer
        self._snapshot = snapshot
        self._encode = encode
        self.too_large = False
        """An answer went over the byte budget. The writes stand: they must not depend on who answers."""
        self._budget = snapshot.answer_bytes_left

    def run(self, path: Path) -> bytes:
        """Do the operations in order; return `succeeded` and the responses, without the header."""
        responses = [b"\x10\x01"] if path.succeeded else []
        for operation, nested in zip(path.operations, path.nested, strict=True):
            name = operation.WhichOneof("request")
            if nested is not None:
                # etcd leaves the header of a nested txn response empty, but there.
                field, body = b"\x22", b"\x0a\x00" + self.run(nested)
            elif name == "request_put":
                field, body = b"\x12", self._put(operation.request_put)
            elif name == "request_delete_range":
                field, body = b"\x1a", self._delete(operation.request_delete_range)
            else:
                field, body = b"\x0a", self._range(operation.request_range)
            if self._encode:
                framed = field + varint(len(body)) + body
                responses.append(b"\x1a" + varint(len(framed)) + framed)
        return b"".join(responses)

    def _put(self, put: PutRequest) -> bytes:
        previous = do_put(put, self._writer)
        return self._spend(inner_header_bytes(self._revision()) + previous)

    def _delete(self, request: DeleteRangeRequest) -> bytes:
        body = do_delete(request, self._writer)
        return self._spend(inner_header_bytes(self._revision()) + body)

    def _range(self, request: RangeRequest) -> bytes:
        if not self._encode or self.too_large:
            return b""
        writer, snapshot = self._writer, self._snapshot
        revision = self._revision()
        view = View(writer.overlay, writer.keys, revision, snapshot.compacted, self._budget)
        try:
            return self._spend(drain(range_slices(request, view, inner_header_bytes(revision))))
        except ClientError as error:
            if error.code != ErrorCode.RESPONSE_TOO_LARGE:
                raise InvariantViolation(f"the path was checked before it was run, yet: {error}") from error
            self.too_large = True
            return b""

    def _revision(self) -> int:
        return self._snapshot.revision + (self._writer.sub > 0)

    def _spend(self, body: bytes) -> bytes:
        """Take an answer from the byte budget; over it nothing more is kept."""
        self._budget -= len(body)
        if self._budget < 0:
            self.too_large = True
        return b"" if self.too_large or not self._encode else body


def drain(slices: Slices) -> bytes:
    """Run a sliced read to its end at once."""
    gathering = _gather(slices, [])
    while True:
        try:
            next(gathering)
        except StopIteration as stop:
            body: bytes = stop.value
            return body


def _gather(slices: Slices, pieces: list[bytes]) -> Slices:
    """Go on with a read, and return its whole response, which begins with `pieces`."""
    while True:
        try:
            piece = next(slices)
        except StopIteration as stop:
            pieces.append(stop.value)
            return b"".join(pieces)
        if piece is not None:
            pieces.append(piece)
        yield None


def read_only_slices(request: TxnRequest, view: View, header: bytes) -> Slices:
    """Serve a txn of ranges only, in slices (rule 20); all its reads see the state of the first slice.

    Raises:
        ClientError: a range is refused, or the answer is over the byte budget.
    """
    path = choose(request, view.reader)
    started: list[tuple[Slices, list[bytes], bool]] = []
    operations = _flat_ranges(path)
    for operation in operations:
        check_range_shape(operation)
    for operation in operations:
        check_revision_in_txn(operation.revision, view.revision, view.compacted)
    for operation in operations:
        slices = range_slices(operation, view, inner_header_bytes(view.revision))
        pieces: list[bytes] = []
        started.append((slices, pieces, _first_slice(slices, pieces)))
    bodies = []
    size = 0
    for slices, pieces, ended in started:
        whole = b"".join(pieces) if ended else (yield from _gather(slices, pieces))
        size += len(whole)
        if size > view.response_bytes_max:
            raise ClientError(ErrorCode.RESPONSE_TOO_LARGE)
        bodies.append(whole)
    bodies.reverse()
    return header + _assemble(path, bodies)


def _first_slice(slices: Slices, pieces: list[bytes]) -> bool:
    """Run the first slice, which pins what is read, and put what it gives into `pieces`; True if that was all."""
    try:
        piece = next(slices)
    except StopIteration as stop:
        pieces.append(stop.value)
        return True
    if piece is not None:
        pieces.append(piece)
    return False


def _flat_ranges(path: Path) -> list[RangeRequest]:
    ranges = []
    for operation, nested in zip(path.operations, path.nested, strict=True):
        if nested is not None:
            ranges.extend(_flat_ranges(nested))
        elif operation.WhichOneof("request") == "request_range":
            ranges.append(operation.request_range)
        else:
            raise ClientError(ErrorCode.MALFORMED)
    return ranges


def _assemble(path: Path, bodies: list[bytes]) -> bytes:
    responses = [b"\x10\x01"] if path.succeeded else []
    for nested in path.nested:
        body = bodies.pop() if nested is None else b"\x0a\x00" + _assemble(nested, bodies)
        framed = (b"\x0a" if nested is None else b"\x22") + varint(len(body)) + body
        responses.append(b"\x1a" + varint(len(framed)) + framed)
    return b"".join(responses)
