"""How far a streamed range has come: sans-IO, shared by the blocking and the asyncio client.

Owns the pairs nobody has taken yet, and from where a stream goes on at another door. Knows no thread, loop or socket.
Invariants: pairs come in the order of their keys, each once, all as of `revision`; after an error, or once the range is
at its end, nothing more comes.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from actd import wire
from actd.calls import Key, range_body, raw
from actd.errors import ActdError
from actd.results import KeyValue

RANGE_STREAM_METHOD: Final = 150


class RangeFeed:
    """One range on its way."""

    def __init__(self, key: Key, range_end: Key, *, revision: int, limit: int, keys_only: bool) -> None:
        self.revision = revision
        self.pairs: deque[tuple[KeyValue, int, int]] = deque()
        """Pairs nobody has taken, with the bytes that count as taken with each, and of which opening they are."""
        self.error: ActdError | None = None
        self.ended = False
        """Whether everything has come."""
        self.epoch = 0
        self._next = raw(key)
        self._end = raw(range_end)
        self._left = limit
        self._limited = limit > 0
        self._keys_only = keys_only

    def opening(self) -> tuple[bytes, ...]:
        """Return the request that goes on where this range is."""
        self.epoch += 1
        request = range_body(self._next, self._end, revision=self.revision, limit=self._left, keys_only=self._keys_only)
        return (request,)

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """Take in what a door says."""
        for message in messages:
            if self.error is not None or self.ended:
                return
            try:
                found = wire.decode(wire.RANGE_STREAM, message).get("range", {}).get("kvs", ())
            except wire.WireFault as fault:
                self.error = ActdError(f"unreadable range response: {fault}")
                return
            for position, fields in enumerate(found, start=1):
                pair = KeyValue(**fields)
                self.pairs.append((pair, len(message) if position == len(found) else 0, self.epoch))
                self._next = pair.key + b"\0"
                self._left -= 1
            if self._limited and self._left <= 0:
                self.ended = True

    def on_end(self, error: ActdError | None) -> bool:
        """The stream is over; return whether to go on at another door."""
        if error is None:
            self.ended = True
        elif not error.retryable and self.error is None:
            self.error = error
        return self.error is None and not self.ended
