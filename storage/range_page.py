"""One page of a large range: as many pairs as fit some bytes, without counting what the range has in all.

What `RangeStream` is made of: it asks page after page at one revision, so a page must cost what it holds, wherever in
the range it lies. Pure, over a `Reader`, in slices like `storage.range_read`.
Invariant: a page is never empty while the range has pairs left, and `more` says whether it has.
"""

from typing import Final

from protocol.errors import ClientError, ErrorCode
from protocol.wire.rpc_pb2 import RangeRequest
from storage.layout import TRAILER_BYTES, user_bounds, without_value
from storage.range_read import (
    SLICE_ROWS,
    Slices,
    View,
    check_revision,
    current_records,
    range_tail,
    records_at,
)

PAGE_BYTES: Final = 512 * 1024
"""A page ends with the pair that makes it as large as this."""


def page_slices(request: RangeRequest, view: View, header: bytes) -> Slices:
    """Return a serialized RangeResponse with the first pairs of a range in the order of their keys, and no count.

    Sorting and filters of the request are not looked at.

    Raises:
        ClientError: the request is refused.
    """
    if not request.key:
        raise ClientError(ErrorCode.EMPTY_KEY)
    check_revision(request.revision, view.revision, view.compacted)
    start, end = user_bounds(request.key, request.range_end)
    if end is not None and end <= start:
        return header
    if 0 < request.revision < view.revision:
        records = records_at(view.reader, start, end, request.revision)
    else:
        records = current_records(view.reader, start, end)
    frames: list[bytes] = []
    size = 0
    more = False
    for steps, record in enumerate(records, start=1):
        if steps % SLICE_ROWS == 0:
            yield None
        if record is None:
            continue
        if size >= PAGE_BYTES or 0 < request.limit <= len(frames):
            more = True
            break
        frames.append(without_value(record) if request.keys_only else record[:-TRAILER_BYTES])
        size += len(frames[-1])
    return b"%b%b%b" % (header, b"".join(frames), range_tail(more, 0))
