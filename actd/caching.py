"""A prefix that is kept up to date: list it at one revision, follow it from the next, list again if history is gone.

Owns the pairs and the order of listing and following; sans-IO, shared by the blocking and the asyncio client.
Invariants: `pairs` is the prefix as it was at `revision`, never a mixture of two; `revision` never goes back.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from actd import calls
from actd.calls import Key
from actd.errors import ActdError, WatchCompacted
from actd.results import KeyValue, RangeResult
from actd.session import Session
from actd.watching import WATCH_METHOD, WatchFeed, prefix_range
from protocol.errors import ErrorCode

PAGE_KEYS: Final = 1000
PAGE_TIMEOUT_S: Final = 30.0


class CacheState:
    """The pairs of a prefix. Everything but the attributes is called on the thread that owns the session."""

    method = WATCH_METHOD

    def __init__(
        self, prefix: Key, clock: Callable[[], float], lock: AbstractContextManager[object], changed: Callable[[], None]
    ) -> None:
        """`lock` is held while the attributes change; `changed` is called with it held."""
        self.pairs: dict[bytes, KeyValue] = {}
        self.revision = 0
        """0: it has not been listed yet."""
        self.error: ActdError | None = None
        """Why it is not kept up to date any more."""
        self._key, self._end = prefix_range(prefix)
        self._clock = clock
        self._lock = lock
        self._changed = changed
        self._session: Session | None = None
        self._listed: dict[bytes, KeyValue] = {}
        self._listed_revision = 0
        self._feed: WatchFeed | None = None
        self._closed = False

    def start(self, session: Session) -> None:
        """List, then follow."""
        self._session = session
        self._list()

    def close(self, session: Session) -> None:
        """Follow no more."""
        self._closed = True
        session.streams.remove(self)

    def _list(self) -> None:
        self._listed = {}
        self._listed_revision = 0
        self._page(self._key)

    def _page(self, key: bytes) -> None:
        if self._closed or self._session is None:
            return
        call = calls.range_(key, self._end, limit=PAGE_KEYS, revision=self._listed_revision)
        self._session.add(call, self._clock() + PAGE_TIMEOUT_S, self._on_page)

    def _on_page(self, result: RangeResult | None, error: ActdError | None) -> None:
        if self._closed:
            return
        if error is not None:
            if error.retryable or error.code == ErrorCode.COMPACTED:
                self._list()
            else:
                self._fail(error)
            return
        assert result is not None, "an answer or an error"
        self._listed_revision = self._listed_revision or result.revision
        self._listed.update((pair.key, pair) for pair in result.pairs)
        if result.more:
            self._page(result.pairs[-1].key + b"\0")
            return
        with self._lock:
            self.pairs = self._listed
            self.revision = max(self.revision, self._listed_revision)
            self._changed()
        self._feed = WatchFeed(self._key, self._end, start_revision=self._listed_revision + 1)
        assert self._session is not None, "it was listed through the session"
        self._session.streams.add(self)

    def _fail(self, error: ActdError) -> None:
        with self._lock:
            self.error = error
            self._changed()

    # --- the stream's side -------------------------------------------------------------------------

    def opening(self) -> tuple[bytes, ...]:
        """See `actd.streams.StreamUser`."""
        assert self._feed is not None, "it is followed once it was listed"
        return self._feed.opening()

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """Bring the pairs up to date."""
        feed, session = self._feed, self._session
        assert feed is not None, "it is followed once it was listed"
        assert session is not None, "it is followed once it was listed"
        feed.on_messages(messages)
        with self._lock:
            for event, _, _ in feed.items:
                if event.kind == "put":
                    self.pairs[event.key] = event.pair
                else:
                    self.pairs.pop(event.key, None)
            self.revision = max(self.revision, feed.revision)
            self._changed()
        feed.items.clear()
        session.streams.took(self, sum(map(len, messages)), feed.epoch)
        if feed.error is not None:
            session.streams.remove(self)
            if isinstance(feed.error, WatchCompacted):
                self._list()
            else:
                self._fail(feed.error)

    def on_end(self, error: ActdError | None) -> bool:
        """Go on elsewhere unless that is of no use."""
        assert self._feed is not None, "it is followed once it was listed"
        again = self._feed.on_end(error)
        if not again and error is not None:
            self._fail(error)
        return again
