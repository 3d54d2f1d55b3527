"""Range: which pairs a request means, at the current or an old revision, in slices.

Owns etcd's rules 5 to 12. Pure functions over a `Reader`; long work is a generator that yields after `SLICE_ROWS` rows
or `PIECE_BYTES` so that its caller can let other work through. What it yields is None, or the next piece of a large
response; the rest of the response, mostly all of it, is returned by `StopIteration`.
Invariant: a generator pins what it reads at its first step; writes applied between its slices are not seen, and the
caller keeps compaction away from the revision it reads.
"""

from collections.abc import Generator, Iterator
from operator import itemgetter
from typing import Final, NamedTuple

from protocol.errors import ClientError, Corruption, ErrorCode
from protocol.wire.mvcc_pb2 import KeyValue
from protocol.wire.rpc_pb2 import RangeRequest
from storage.key_count import KeyCount
from storage.layout import (
    LOG_END,
    PUT,
    TOMBSTONE,
    TRAILER_BYTES,
    Trailer,
    create_revision_and_version,
    frame,
    key_value_bytes,
    kv_bounds,
    log_key,
    old_bounds,
    old_range_bounds,
    parse_old_key,
    record_key,
    trailer,
    unescape,
    unpack_old_version,
    user_bounds,
    without_value,
)
from storage.overlay import Reader
from storage.wire_bytes import varint

SLICE_ROWS: Final = 500
"""Rows read before a long read lets other work through; about half a millisecond."""
PIECE_BYTES: Final = 1024 * 1024
"""Larger responses are made and handed on in pieces of about this size: a copy of all of one would stall everybody."""
_LOG_COUNT_REVISIONS_MAX: Final = 2_000
"""Up to this many revisions back, counting walks the revisions since; beyond, the range itself."""
_TOP_ROWS_SLACK: Final = 1_000

Slices = Generator[bytes | None, None, bytes]


class View(NamedTuple):
    """What a read looks at: the reader, the revision it calls current, and the bounds it may ask for."""

    reader: Reader
    keys: KeyCount
    revision: int
    compacted: int
    response_bytes_max: int


def check_revision(wanted: int, current: int, compacted: int) -> None:
    """Refuse a revision that is not there yet or no more (rule 12)."""
    if wanted > current:
        raise ClientError(ErrorCode.FUTURE_REVISION)
    if 0 < wanted < compacted:
        raise ClientError(ErrorCode.COMPACTED)


def check_revision_in_txn(wanted: int, current: int, compacted: int) -> None:
    """Refuse a revision that is not there, as etcd does inside a txn: there a negative one is old, not the current."""
    check_revision(wanted, current, compacted)
    if wanted < min(compacted, 0):
        raise ClientError(ErrorCode.COMPACTED)


def range_slices(request: RangeRequest, view: View, header: bytes) -> Slices:
    """Return the serialized RangeResponse for `request`, in slices.

    Raises:
        ClientError: the request is refused, or its answer would be larger than `view.response_bytes_max`.
    """
    if not request.key:
        raise ClientError(ErrorCode.EMPTY_KEY)
    if not (0 <= request.sort_order <= 2 and 0 <= request.sort_target <= 4):
        raise ClientError(ErrorCode.INVALID_SORT_OPTION)
    check_revision(request.revision, view.revision, view.compacted)
    start, end = user_bounds(request.key, request.range_end)
    at_old = 0 < request.revision < view.revision
    if request.count_only:
        count = yield from _count(view, start, end, request.revision if at_old else 0)
        return header + range_tail(False, count)
    if end is not None and end <= start:
        return header
    plan = _plan(request)
    if at_old:
        records = records_at(view.reader, start, end, request.revision)
    else:
        records = current_records(view.reader, start, end, reverse=plan.reverse)
    collected = _Rows(request, plan, view.response_bytes_max)
    for _ in collected.take(records):
        if plan.fetch and not at_old and collected.count < 0:
            # A page counts before it yields: later the current revision is another one.
            collected.count = view.keys.count(view.reader, start, end)
        yield None
    count = collected.count
    if count < 0:
        count = yield from _count(view, start, end, request.revision if at_old else 0)
    return (yield from _encode(request, plan, collected, count, header))


class _Plan(NamedTuple):
    fetch: int
    """Stop after this many pairs; 0: all."""
    filtered: bool
    sort_target: int
    """What to sort by after the fetch, or -1."""
    descending: bool
    reverse: bool
    """Read backwards: descending keys of the current revision need no sort and stop at the limit."""


def _plan(request: RangeRequest) -> _Plan:
    """Decide what is fetched and how it is put in order, exactly as etcd does (rules 8 and 9)."""
    filtered = bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )
    order, target, limit = request.sort_order, request.sort_target, max(request.limit, 0)
    if target == RangeRequest.KEY:
        descending = order == RangeRequest.DESCEND
        reverse = descending and request.revision <= 0
        fetch = limit + 1 if limit and (reverse or not descending) else 0
        return _Plan(fetch, filtered, -1 if reverse or not descending else RangeRequest.KEY, descending, reverse)
    # Without an explicit order etcd sorts only the page it fetched in key order; with one it fetches everything.
    fetch = limit + 1 if limit and not filtered and order == RangeRequest.NONE else 0
    return _Plan(fetch, filtered, target, order == RangeRequest.DESCEND, False)


class _Rows:
    """The records fetched for a page, their bytes, and how many pairs the range has once that is known (else -1)."""

    def __init__(self, request: RangeRequest, plan: _Plan, bytes_max: int) -> None:
        self.rows: list[bytes] = []
        self.bytes = 0
        self.count = -1
        self._request = request
        self._plan = plan
        self._bytes_max = bytes_max

    def take(self, records: Iterator[bytes | None]) -> Iterator[None]:
        """Read until the page is full or the range at its end; yield after each slice.

        Raises:
            ClientError: the rows are larger than an answer may be.
        """
        request, plan, rows = self._request, self._plan, self.rows
        seen = size = steps = 0
        slice_end = PIECE_BYTES
        keep = request.limit + 1 if request.limit > 0 and plan.sort_target >= 0 else 0
        strip = request.keys_only and plan.sort_target != RangeRequest.VALUE
        for record in records:
            steps += 1
            if steps % SLICE_ROWS == 0 or size > slice_end:
                slice_end = size + PIECE_BYTES
                yield
            if record is None:
                continue
            seen += 1
            if plan.filtered and not _passes(request, record):
                continue
            if strip:
                rows.append(without_value(record) + record[-TRAILER_BYTES:])
            else:
                rows.append(record)
            size += len(rows[-1]) - TRAILER_BYTES
            if len(rows) == plan.fetch:
                self.bytes = size
                return
            if keep and len(rows) >= 2 * keep + _TOP_ROWS_SLACK:
                rows[:] = _sorted(rows, plan)[:keep]
                size = sum(map(len, rows)) - len(rows) * TRAILER_BYTES
            if size > self._bytes_max:
                raise ClientError(ErrorCode.RESPONSE_TOO_LARGE)
        self.bytes, self.count = size, seen


def _encode(request: RangeRequest, plan: _Plan, collected: _Rows, count: int, header: bytes) -> Slices:
    rows = collected.rows
    if plan.sort_target >= 0:
        rows = _sorted(rows, plan)
    more = 0 < request.limit < len(rows)
    if more:
        del rows[request.limit :]
    if request.keys_only and plan.sort_target == RangeRequest.VALUE:
        frames = [without_value(row) for row in rows]
    elif collected.bytes > PIECE_BYTES:
        return (yield from _in_pieces(rows, header, range_tail(more, count)))
    else:
        frames = [row[:-TRAILER_BYTES] for row in rows]
    return b"%b%b%b" % (header, b"".join(frames), range_tail(more, count))


def _in_pieces(rows: list[bytes], header: bytes, tail: bytes) -> Slices:
    """Yield a response piece by piece, but for the last, which is returned."""
    piece = [header]
    size = 0
    for row in rows:
        piece.append(row[:-TRAILER_BYTES])
        size += len(row)
        if size > PIECE_BYTES:
            yield b"".join(piece)
            piece.clear()
            size = 0
    piece.append(tail)
    return b"".join(piece)


def range_tail(more: bool, count: int) -> bytes:
    """Return the end of a RangeResponse: whether there is more, and the count if there is one."""
    return (b"\x18\x01" if more else b"") + (b"\x20" + varint(count) if count else b"")


def _passes(request: RangeRequest, record: bytes) -> bool:
    mod, create = trailer(record).main, create_revision_and_version(record)[0]
    return (
        (not request.min_mod_revision or mod >= request.min_mod_revision)
        and (not request.max_mod_revision or mod <= request.max_mod_revision)
        and (not request.min_create_revision or create >= request.min_create_revision)
        and (not request.max_create_revision or create <= request.max_create_revision)
    )


def _sorted(rows: list[bytes], plan: _Plan) -> list[bytes]:
    target = plan.sort_target

    def sort_key(record: bytes) -> int | bytes:
        if target == RangeRequest.MOD:
            return trailer(record).main
        if target == RangeRequest.KEY:
            return record_key(record)
        if target == RangeRequest.VALUE:
            return KeyValue.FromString(key_value_bytes(record)).value
        create, version = create_revision_and_version(record)
        return version if target == RangeRequest.VERSION else create

    return sorted(rows, key=sort_key, reverse=plan.descending)


def current_records(
    reader: Reader, start: bytes, end: bytes | None, *, reverse: bool = False
) -> Iterator[bytes | None]:
    """Return the records of the live keys in `[start, end)`, in key order."""
    if end == start + b"\x00":
        record = reader.get(b"k" + start)
        return iter(() if record is None else (record,))
    return map(itemgetter(1), reader.scan(*kv_bounds(start, end), reverse=reverse))


def record_at(reader: Reader, key: bytes, revision: int) -> bytes | None:
    """Return the record of `key` as it was at `revision`, or None if it was not live."""
    record = reader.get(b"k" + key)
    if record is not None and trailer(record).main <= revision:
        return record
    versions = reader.scan(*old_bounds(key, revision))
    newest = next(versions, None)
    if newest is None or unpack_old_version(newest[1]).kind == TOMBSTONE:
        return None
    return _logged(reader, *parse_old_key(newest[0]))


def records_at(
    reader: Reader, start: bytes, end: bytes | None, revision: int, *, read: bool = True
) -> Iterator[bytes | None]:
    """Yield the records live at `revision` in key order, and None for each row that was looked at in vain.

    Unless `read`, a record that is not current any more is not fetched: it only counts, as `UNREAD`.
    """
    if end == start + b"\x00":
        yield record_at(reader, start, revision)
        return
    current = reader.scan(*kv_bounds(start, end))
    old = _old_groups(reader, start, end, revision)
    yield from _merge_at(reader if read else None, current, old, revision)


def _merge_at(
    reader: Reader | None,
    current: Iterator[tuple[bytes, bytes]],
    old: Iterator[tuple[bytes, bytes, bytes] | None],
    revision: int,
) -> Iterator[bytes | None]:
    """Merge live pairs with the newest old version of each key; a live pair no newer than `revision` wins."""
    group = _next_group(old)
    while group is None:
        yield None
        group = _next_group(old)
    for row_key, record in current:
        key = row_key[1:]
        while group is None or (group and group[0] < key):
            yield None if group is None else _old_record(reader, group)
            group = _next_group(old)
        if trailer(record).main <= revision:
            yield record
        elif group and group[0] == key:
            yield _old_record(reader, group)
        else:
            yield None
        if group and group[0] == key:
            group = _next_group(old)
    while group is None or group:
        yield None if group is None else _old_record(reader, group)
        group = _next_group(old)


_END: Final = ()
UNREAD: Final = b""
"""A record that nobody wanted to see."""


def _next_group(
    old: Iterator[tuple[bytes, bytes, bytes] | None],
) -> tuple[bytes, bytes, bytes] | tuple[()] | None:
    """Return the next group, None for a row looked at in vain, or the empty tuple at the end."""
    return next(old, _END)


def _old_groups(
    reader: Reader, start: bytes, end: bytes | None, revision: int
) -> Iterator[tuple[bytes, bytes, bytes] | None]:
    """Yield (user key, index key, index value) of each key's newest old version no newer than `revision`."""
    taken = b""
    for index_key, value in reader.scan(*old_range_bounds(start, end)):
        escaped = index_key[1:-16]
        if escaped == taken or parse_old_key(index_key)[0] > revision:
            yield None
            continue
        taken = escaped
        yield unescape(escaped), index_key, value


def _old_record(reader: Reader | None, group: tuple[bytes, bytes, bytes] | tuple[()]) -> bytes | None:
    assert group, "the end of the groups is no group"
    _, index_key, value = group
    if unpack_old_version(value).kind == TOMBSTONE:
        return None
    return UNREAD if reader is None else _logged(reader, *parse_old_key(index_key))


def _logged(reader: Reader, main: int, sub: int) -> bytes:
    record = reader.get(log_key(main, sub))
    if record is None:
        raise Corruption(f"revision {main}/{sub} is in the index but not in the log")
    return record


def _count(view: View, start: bytes, end: bytes | None, revision: int) -> Generator[None, None, int]:
    """Return how many keys of the range are live now, or were at `revision` (0: now)."""
    if not revision:
        return view.keys.count(view.reader, start, end)
    if view.revision - revision <= _LOG_COUNT_REVISIONS_MAX:
        return (yield from _count_by_log(view, start, end, revision))
    count = 0
    for steps, record in enumerate(records_at(view.reader, start, end, revision, read=False), start=1):
        if steps % SLICE_ROWS == 0:
            yield
        count += record is not None
    return count


def _count_by_log(view: View, start: bytes, end: bytes | None, revision: int) -> Generator[None, None, int]:
    """Undo, in the count of now, the creations and deletions since `revision`."""
    count = view.keys.count(view.reader, start, end)
    steps = 0
    for _, record in view.reader.scan(log_key(revision + 1, 0), LOG_END):
        steps += 1
        if steps % SLICE_ROWS == 0:
            yield
        place: Trailer = trailer(record)
        if place.kind == PUT and place.previous_main:
            continue
        key = record_key(record)
        if start <= key and (end is None or key < end):
            count += -1 if place.kind == PUT else 1
    return count


def single_response(record: bytes | None, header: bytes) -> bytes:
    """Return the RangeResponse for one key without options: the most frequent read of all."""
    return header if record is None else header + frame(record) + b"\x20\x01"
