"""How far a streamed range has come: sans-IO, shared by the blocking and the asyncio client.

Owns the pairs nobody has taken yet, and from where a stream goes on at another door. Knows no thread, loop or socket.
Invariants: pairs come in the order of their keys, each once, all as of `revision`; after an error, or once the range is
at its end, nothing more comes.
"""

from typing import Final

from actd import wire
from actd.calls import Key, range_body, raw
from actd.errors import ActdError
from actd.feeds import Feed
from actd.results import KeyValue

RANGE_STREAM_METHOD: Final = 150


class RangeFeed(Feed[KeyValue]):
    """One range on its way."""

    method = RANGE_STREAM_METHOD

    def __init__(self, key: Key, range_end: Key, *, revision: int, limit: int, keys_only: bool) -> None:
        super().__init__()
        self.revision = revision
        self._next = raw(key)
        self._end = raw(range_end)
        self._left = limit
        self._limited = limit > 0
        self._keys_only = keys_only

    def _request(self) -> bytes:
        return range_body(self._next, self._end, revision=self.revision, limit=self._left, keys_only=self._keys_only)

    def _on_message(self, message: bytes) -> None:
        found = wire.decode(wire.RANGE_STREAM, message).get("range", {}).get("kvs", ())
        pairs = [KeyValue(**fields) for fields in found]
        self._add(pairs, len(message))
        if pairs:
            self._next = pairs[-1].key + b"\0"
        self._left -= len(pairs)
        if self._limited and self._left <= 0:
            self.ended = True

    def on_end(self, error: ActdError | None) -> bool:
        """The stream is over; without an error the range is at its end."""
        if error is None:
            self.ended = True
        return super().on_end(error)
