"""What one watcher has heard and where it goes on: sans-IO, shared by the blocking and the asyncio client.

Owns the cursor, the events nobody has taken yet and the reasons to give up. Knows no thread, loop or socket.
Invariants: events come in order of their revisions, each once, whatever door they come from; a stream is opened again
from the first revision that was not heard whole; after an error nothing more comes.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal

from actd import wire
from actd.calls import FROM_KEY, Key, prefix_end, raw
from actd.errors import ActdError, RequestRefused, WatchCompacted
from actd.results import KeyValue, WatchEvent

WATCH_METHOD: Final = 102
FILTERS: Final = {"put": 0, "delete": 1}
Filter = Literal["put", "delete"]


def prefix_range(prefix: Key) -> tuple[bytes, bytes]:
    """Return key and range end of all keys that begin with `prefix`."""
    first = raw(prefix)
    return first or FROM_KEY, prefix_end(first)


class WatchFeed:
    """One watcher."""

    method = WATCH_METHOD

    def __init__(
        self,
        key: Key,
        range_end: Key = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        without: Filter | None = None,
    ) -> None:
        self.events: deque[tuple[WatchEvent, int, int]] = deque()
        """Events nobody has taken, with the bytes that count as taken with each, and of which opening they are."""
        self.error: ActdError | None = None
        self.started = False
        """Whether a door has said from where it watches: what happens from now on will be heard."""
        self.revision = 0
        """Everything that was asked for up to here is in `events` or has been taken."""
        self.empty_bytes = 0
        """Bytes of messages without events since they were last asked for."""
        self.epoch = 0
        self._next = start_revision
        self._request = wire.blob(1, raw(key)) + wire.blob(2, raw(range_end))
        self._options = wire.integer(4, 1) + wire.integer(6, prev_kv)
        if without is not None:
            self._options += wire.varint(5 << 3) + wire.varint(FILTERS[without])

    def opening(self) -> tuple[bytes, ...]:
        """Return the request that goes on where this watcher is."""
        self.epoch += 1
        create = self._request + wire.integer(3, self._next) + self._options
        return (wire.message(1, create),)

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """Take in what a door says."""
        for message in messages:
            if self.error is not None:
                return
            try:
                self._on_response(wire.decode(wire.WATCH, message), len(message))
            except wire.WireFault as fault:
                self.error = ActdError(f"unreadable watch response: {fault}")

    def _on_response(self, fields: dict[str, Any], size: int) -> None:
        revision = fields.get("header", {}).get("revision", 0)
        if fields.get("canceled"):
            compacted = fields.get("compact_revision", 0)
            reason = fields.get("cancel_reason") or "the watch was canceled"
            self.error = WatchCompacted(compacted) if compacted else RequestRefused(reason)
            return
        if fields.get("created"):
            self.started = True
            if not self._next:
                self._next = revision + 1
                self.revision = revision
            self.empty_bytes += size
            return
        before = len(self.events)
        for event in fields.get("events", ()):
            pair = KeyValue(**event.get("pair", {}))
            if pair.mod_revision >= self._next:
                previous = KeyValue(**event["previous"]) if "previous" in event else None
                kind: Filter = "delete" if event.get("kind") else "put"
                self.events.append((WatchEvent(kind=kind, pair=pair, previous=previous), 0, self.epoch))
        if len(self.events) > before:
            last, _, epoch = self.events.pop()
            self.events.append((last, size, epoch))
        else:
            self.empty_bytes += size
        # A response holds whole revisions, and its header is not ahead of what was sent on this watcher.
        self._next = max(self._next, revision + 1)
        self.revision = self._next - 1

    def on_end(self, error: ActdError | None) -> bool:
        """The stream is over; go on elsewhere unless that is of no use."""
        if self.error is None and error is not None and not error.retryable:
            self.error = error
        return self.error is None

    def take_empty(self) -> int:
        """Return the bytes that were taken without any event."""
        size, self.empty_bytes = self.empty_bytes, 0
        return size
