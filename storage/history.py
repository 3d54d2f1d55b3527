"""Reading the log of revisions forward: what watches that come late or are slow are served from.

Owns the bounded slice of history and the look-up of replaced pairs. Knows the layout and no actor.
Invariants: a slice holds every event of its ranges between its two cursors, in order; a replaced pair is left out only
where the revision before the event is compacted, as a read there would fail (rule 36).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from protocol.errors import Corruption
from storage.engine import Engine
from storage.key_ranges import KeyRanges
from storage.layout import frame, log_key, parse_log_key, record_key, trailer

HISTORY_ROWS_MAX: Final = 1000
"""Revisions one slice walks, whether they match or not: a few milliseconds of work."""
HISTORY_BYTES_MAX: Final = 512 * 1024
"""Bytes of records one slice gathers, unless a single one is larger."""


class HistorySlice(NamedTuple):
    """Matching records, and where to go on."""

    records: list[bytes]
    next_main: int
    next_sub: int
    """0: the slice ends between two revisions."""


def ranges_of(pairs: Sequence[tuple[bytes, bytes]]) -> KeyRanges[bool]:
    """Return an index over (key, range end) pairs as requests have them."""
    ranges: KeyRanges[bool] = KeyRanges()
    for key, range_end in pairs:
        end = None if range_end == b"\x00" else range_end
        if ranges.get(key, end) is None:
            ranges.add(key, end, value=True)
    return ranges


def read_history(engine: Engine, ranges: KeyRanges[bool], main: int, sub: int, revision: int) -> HistorySlice:
    """Return what the log has for `ranges` from (main, sub) up to `revision`, at most a slice of it."""
    records: list[bytes] = []
    size = last_main = 0
    match = ranges.match
    for rows, (row_key, record) in enumerate(engine.scan(log_key(main, sub), log_key(revision + 1, 0))):
        row_main, row_sub = parse_log_key(row_key)
        if rows >= HISTORY_ROWS_MAX or size >= HISTORY_BYTES_MAX:
            return HistorySlice(records, row_main, row_sub if row_main == last_main else 0)
        last_main = row_main
        if match(record_key(record)):
            records.append(record)
            size += len(record)
    return HistorySlice(records, max(revision + 1, main), 0)


def replaced_pairs(engine: Engine, records: Sequence[bytes], compacted: int) -> list[bytes]:
    """Return for each record the framed pair it replaced, or b"" where there was none or it is compacted.

    Raises:
        Corruption: a pair that must still be there is not.
    """
    places = [trailer(record) for record in records]
    wanted = [
        log_key(place.previous_main, place.previous_sub)
        for place in places
        if place.previous_main and place.main - 1 >= compacted
    ]
    if not wanted:
        return [b""] * len(places)
    found = iter(engine.get_many(wanted))
    pairs: list[bytes] = []
    for place in places:
        if not place.previous_main or place.main - 1 < compacted:
            pairs.append(b"")
            continue
        record = next(found)
        if record is None:
            raise Corruption(f"revision {place.previous_main}.{place.previous_sub} is gone, {place.main} names it")
        pairs.append(frame(record))
    return pairs
