"""WatchResponses as bytes: an event is encoded once, and per watcher only header, watch id and flags differ.

Owns the byte forms of events and responses, and the cutting of many events into responses and fragments. Knows records
of the log, no watcher and no stream.
Invariants: what is written here parses with the generated classes; a chunk ends between two revisions; only fragments
of one response split a revision, and all of them but the last say so.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from storage.layout import PUT, frame, trailer
from storage.wire_bytes import varint

CHUNK_BYTES: Final = 1024 * 1024
"""Events of several revisions share a response up to this size; one revision is never split, however large."""
NOBODY_ID: Final = -1
"""The watch id of answers that belong to no watcher."""

CREATED: Final = b"\x18\x01"
CANCELED: Final = b"\x20\x01"
_FRAGMENT: Final = b"\x38\x01"
_DELETE: Final = b"\x08\x01"

WITH_PREVIOUS: Final = 1
NO_PUT: Final = 2
NO_DELETE: Final = 4
VARIANT: Final = WITH_PREVIOUS | NO_PUT | NO_DELETE
"""The flags of a watcher that decide what its events look like."""


class Event:
    """One change, and its form in a WatchResponse, made when first wanted."""

    __slots__ = ("_full", "_plain", "is_put", "main", "previous", "record")

    def __init__(self, record: bytes, previous: bytes) -> None:
        place = trailer(record)
        self.record = record
        self.previous = previous
        """The framed pair it replaced, or b""."""
        self.main: int = place.main
        self.is_put = place.kind == PUT
        self._plain = b""
        self._full = b""

    def field(self, variant: int) -> bytes:
        """Return the event as an entry of `events`, or b"" if the variant filters it out."""
        if variant and variant & (NO_PUT if self.is_put else NO_DELETE):
            return b""
        if not variant & WITH_PREVIOUS or not self.previous:
            if not self._plain:
                self._plain = _entry(self._body())
            return self._plain
        if not self._full:
            # The replaced pair is framed as field 2 already; here it is field 3.
            self._full = _entry(self._body() + b"\x1a" + self.previous[1:])
        return self._full

    def _body(self) -> bytes:
        pair = frame(self.record)
        return pair if self.is_put else _DELETE + pair


def _entry(body: bytes) -> bytes:
    return b"\x5a" + varint(len(body)) + body


class Chunk(NamedTuple):
    """The events of one response."""

    first: int
    """Revision of the first event."""
    last: int
    """Everything up to this revision is told once the chunk is."""
    fields: tuple[bytes, ...]
    payload: bytes
    """All fields together."""


def cut(events: Sequence[Event], variant: int, through: int) -> list[Chunk]:
    """Return the responses that tell `events`; the last one says that everything up to `through` is told."""
    fields: list[bytes] = []
    chunks: list[Chunk] = []
    size = first = last = 0
    for event in events:
        field = event.field(variant)
        if not field:
            continue
        if size >= CHUNK_BYTES and event.main != last:
            chunks.append(Chunk(first, last, tuple(fields), b"".join(fields)))
            fields, size = [], 0
        if not fields:
            first = event.main
        last = event.main
        fields.append(field)
        size += len(field)
    if fields:
        chunks.append(Chunk(first, through, tuple(fields), b"".join(fields)))
    return chunks


def watch_id_field(watch_id: int) -> bytes:
    """Return field 2; zero is left out."""
    return b"\x10" + varint(watch_id) if watch_id else b""


def canceled_response(
    header: bytes, watch_id: int, *, created: bool = False, compacted: int = 0, reason: str = ""
) -> bytes:
    """Return the response that ends a watcher, or refuses it (`created`)."""
    parts = [header, watch_id_field(watch_id), CREATED if created else b"", CANCELED]
    if compacted:
        parts.append(b"\x28" + varint(compacted))
    if reason:
        raw = reason.encode()
        parts.append(b"\x32" + varint(len(raw)) + raw)
    return b"".join(parts)


def fragments(head: bytes, fields: Sequence[bytes], bytes_max: int) -> Iterator[bytes]:
    """Yield the parts of one response, each at most `bytes_max` bytes unless one event alone is larger."""
    part: list[bytes] = []
    size = len(head)
    for field in fields:
        if part and size + len(field) > bytes_max:
            yield b"".join((head, _FRAGMENT, *part))
            part, size = [], len(head)
        part.append(field)
        size += len(field)
    yield b"".join((head, *part))
