"""Whether a store is what the log has made of it: a hash over a part of its history that every member can repeat.

Owns which part is next and what counts in it. Knows no member and no message. The part is named by an entry, as of the
revision and the compaction at that entry, so members hash the same whatever they have applied or given back since:
what is above the compacted revision counts, and below it what a read at the revision finds, as in HashKV. Where the
newest version of a key is hashed, the row that current reads use is looked at as well.
Invariant: parts follow each other over all of the history, and begin anew at its end.
"""

from collections.abc import Generator
from struct import Struct
from typing import Final, NamedTuple

import google_crc32c

from protocol.integrity import UNSOUND
from protocol.types import Index
from storage.engine import Engine
from storage.layout import KV, META, TOMBSTONE, Trailer, log_key, old_key, record_key, trailer, unpack_old_version

CHECKED_KEY: Final = META + b"checked"
ROWS_PER_SLICE: Final = 128
_U64: Final = Struct(">Q")


class Check(NamedTuple):
    """Hash revisions `first` to `last`, as of `revision` and `compacted`; `number` is the entry that asked."""

    number: Index
    first: int
    last: int
    revision: int
    compacted: int


def next_check(engine: Engine, number: Index, span: int, revision: int, compacted: int) -> tuple[Check, bytes]:
    """Return the check that follows the last one, and what is to be stored under `CHECKED_KEY`."""
    stored = engine.get(CHECKED_KEY)
    checked = 0 if stored is None else int(_U64.unpack(stored)[0])
    first = checked + 1 if checked < revision else 1
    last = min(first + max(1, span) - 1, revision)
    return Check(number, first, last, revision, compacted), _U64.pack(last)


def check_slices(engine: Engine, check: Check) -> Generator[None, None, int]:
    """Return the hash, or `UNSOUND`; no compaction may write while it runs."""
    crc = 0
    parts: list[bytes] = []
    for walked, (_, record) in enumerate(engine.scan(log_key(check.first, 0), log_key(check.last + 1, 0)), start=1):
        place = trailer(record)
        superseded = 0
        counts = place.main > check.compacted
        if place.kind != TOMBSTONE:
            superseded = _superseded_by(engine, record, place)
            counts = counts or not 0 < superseded <= check.revision
        if counts:
            parts.append(record)
            if place.kind != TOMBSTONE and not superseded and engine.get(KV + record_key(record)) != record:
                return UNSOUND
        if walked % ROWS_PER_SLICE == 0:
            crc = int(google_crc32c.extend(crc, b"".join(parts)))
            parts.clear()
            yield
    return int(google_crc32c.extend(crc, b"".join(parts)))


def _superseded_by(engine: Engine, record: bytes, place: Trailer) -> int:
    """Return the main revision that superseded a version by now, or 0."""
    old = engine.get(old_key(record_key(record), place.main, place.sub))
    return 0 if old is None else unpack_old_version(old).superseded_by
