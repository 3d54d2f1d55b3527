"""Giving back the space of revisions nobody may read any more, a slice at a time.

Owns the walk; knows the layout and no actor. The walk goes over the log from the last finished compaction to the new
one, once: each version names the one it superseded, so that one is dropped, and a tombstone below the compacted
revision drops itself. What survives below is each key's newest version (rule 24); a tombstone exactly at the
compacted revision stays until the next compaction, so that a watch from there still sees it.
Invariants: every slice is one atomic write that includes the cursor, so a crash resumes or repeats, and repeats do
nothing; what reads and HashKV answer never depends on how far the walk got.
"""

from typing import NamedTuple

from storage.engine import Engine
from storage.layout import TOMBSTONE, log_key, old_key, parse_log_key, record_key, trailer
from storage.mvcc_write import LOG_KEY_BYTES


class CompactionSlice(NamedTuple):
    """What one slice found: deletions to write, where to go on, and what is given back."""

    changes: dict[bytes, bytes | None]
    cursor: int
    """Main revision of the first row not walked yet; over the target when the walk is done."""
    freed_bytes: int
    freed_revisions: int


def compaction_slice(engine: Engine, cursor: int, target: int, rows: int) -> CompactionSlice:
    """Walk at most about `rows` revisions from main revision `cursor` up to `target`.

    A main revision is never split between slices, because the cursor is a main revision; a large txn makes a
    large slice.
    """
    changes: dict[bytes, bytes | None] = {}
    freed_bytes = freed_revisions = 0
    walked = last_main = 0
    next_cursor = target + 1
    for row_key, record in engine.scan(log_key(max(cursor, 0), 0), log_key(target + 1, 0)):
        main, sub = parse_log_key(row_key)
        if walked >= rows and main != last_main:
            next_cursor = main
            break
        walked += 1
        last_main = main
        place = trailer(record)
        stone = place.kind == TOMBSTONE and main < target
        if not stone and not place.previous_main:
            continue
        key = record_key(record)
        if place.previous_main:
            freed = _drop(engine, changes, key, place.previous_main, place.previous_sub)
            freed_bytes += freed
            freed_revisions += freed > 0
        if stone:
            changes[row_key] = None
            changes[old_key(key, main, sub)] = None
            freed_bytes += len(record) + LOG_KEY_BYTES
            freed_revisions += 1
    return CompactionSlice(changes, next_cursor, freed_bytes, freed_revisions)


def _drop(engine: Engine, changes: dict[bytes, bytes | None], key: bytes, main: int, sub: int) -> int:
    """Delete an old version and return its logical bytes, or 0 if it is gone already."""
    row_key = log_key(main, sub)
    if row_key in changes:
        return 0
    record = engine.get(row_key)
    if record is None:
        return 0
    changes[row_key] = None
    changes[old_key(key, main, sub)] = None
    return len(record) + LOG_KEY_BYTES
