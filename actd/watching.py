"""What one watcher has heard and where it goes on: sans-IO, shared by the blocking and the asyncio client.

Owns the cursor, the events nobody has taken yet and the reasons to give up. Knows no thread, loop or socket.
Invariants: events come in order of their revisions, each once, whatever door they come from; a stream is opened again
from the first revision that was not heard whole; after an error nothing more comes.
"""

from typing import Any, Final, Literal

from actd import wire
from actd.calls import FROM_KEY, Key, prefix_end, raw
from actd.errors import RequestRefused, WatchCompacted
from actd.feeds import Feed
from actd.results import KeyValue, WatchEvent

WATCH_METHOD: Final = 102
FILTERS: Final = {"put": 0, "delete": 1}
Filter = Literal["put", "delete"]


def prefix_range(prefix: Key) -> tuple[bytes, bytes]:
    """Return key and range end of all keys that begin with `prefix`."""
    first = raw(prefix)
    return first or FROM_KEY, prefix_end(first)


class WatchFeed(Feed[WatchEvent]):
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
        super().__init__()
        self.started = False
        """Whether a door has said from where it watches: what happens from now on will be heard."""
        self.revision = 0
        """Everything that was asked for up to here is in `items` or has been taken."""
        self._next = start_revision
        self._range = wire.blob(1, raw(key)) + wire.blob(2, raw(range_end))
        self._options = wire.integer(4, 1) + wire.integer(6, prev_kv)
        if without is not None:
            self._options += wire.varint(5 << 3) + wire.varint(FILTERS[without])

    def _request(self) -> bytes:
        return wire.message(1, self._range + wire.integer(3, self._next) + self._options)

    def _on_message(self, message: bytes) -> None:
        fields = wire.decode(wire.WATCH, message)
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
            self._add((), len(message))
            return
        self._add(self._events(fields), len(message))
        # A response holds whole revisions, and its header is not ahead of what was sent on this watcher.
        self._next = max(self._next, revision + 1)
        self.revision = self._next - 1

    def _events(self, fields: dict[str, Any]) -> list[WatchEvent]:
        events = []
        for event in fields.get("events", ()):
            pair = KeyValue(**event.get("pair", {}))
            if pair.mod_revision >= self._next:
                previous = KeyValue(**event["previous"]) if "previous" in event else None
                kind: Filter = "delete" if event.get("kind") else "put"
                events.append(WatchEvent(kind=kind, pair=pair, previous=previous))
        return events
