"""Watches and caches of the blocking client: iterate over what happens, or look at a prefix that is kept up to date."""

import threading
import time
from collections.abc import Callable, Iterator

from actd.caching import CacheState
from actd.calls import Key, raw
from actd.errors import CallTimedOut, ClientClosed
from actd.readers import Reader, Runner
from actd.results import KeyValue, WatchEvent
from actd.watching import WatchFeed


class Watch(Reader[WatchEvent]):
    """An iterator over events that resumes by itself: no gap and no repetition over failures.

    It ends with `WatchCompacted` when what it has not heard is compacted, with `ClientClosed` when the client is
    closed, and quietly once it is closed itself. Take events from one thread at a time; `close` may be called from any.
    """

    _feed: WatchFeed

    def __init__(self, runner: Runner, feed: WatchFeed, start_timeout_s: float) -> None:
        """Return once a door watches, so that what happens from now on is heard.

        Raises:
            CallTimedOut: no door did so in time.
        """
        super().__init__(runner, feed)
        if not self._wait(lambda: feed.started, start_timeout_s):
            self.close()
            raise CallTimedOut("no door began to watch in time", retryable=True)

    def __iter__(self) -> Iterator[WatchEvent]:
        return self

    def __next__(self) -> WatchEvent:
        event = self.next(None)
        if event is None:
            raise StopIteration
        return event

    def next(self, timeout_s: float | None) -> WatchEvent | None:
        """Return the next event, or None when none came in time or the watch was closed."""
        self._wait_for_item(timeout_s)
        return self._pop()

    @property
    def revision(self) -> int:
        """Everything that was asked for up to here has been heard, or is about to be returned."""
        with self._changed:
            return self._feed.revision


class Cache:
    """All pairs of a prefix as of `revision`, kept up to date in the background; reads never wait."""

    def __init__(self, runner: Runner, prefix: Key, start_timeout_s: float) -> None:
        """Return once the prefix is listed.

        Raises:
            CallTimedOut: it was not in time.
        """
        self._runner = runner
        self._changed = threading.Condition()
        self._state = CacheState(prefix, time.monotonic, self._changed, self._changed.notify_all)
        self._closed = False
        runner.run_soon(self._state.start)
        if not self._wait(lambda: self._state.revision > 0, start_timeout_s):
            self.close()
            raise CallTimedOut("the prefix was not listed in time", retryable=True)

    def _wait(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        state = self._state
        with self._changed:
            self._changed.wait_for(lambda: condition() or state.error is not None or self._closed, timeout_s)
            if condition():
                return True
            if state.error is not None:
                raise state.error
            if self._closed:
                raise ClientClosed("the cache is closed")
            return False

    @property
    def revision(self) -> int:
        """The revision whose pairs these are."""
        with self._changed:
            return self._state.revision

    def wait_for(self, revision: int, timeout_s: float | None = None) -> bool:
        """Wait until the cache shows `revision` or a later one; False if it did not in time."""
        return self._wait(lambda: self._state.revision >= revision, timeout_s)

    def get(self, key: Key) -> KeyValue | None:
        """Return the pair of `key`, or None."""
        with self._changed:
            return self._state.pairs.get(raw(key))

    def __getitem__(self, key: Key) -> KeyValue:
        with self._changed:
            return self._state.pairs[raw(key)]

    def __contains__(self, key: Key) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        with self._changed:
            return len(self._state.pairs)

    def snapshot(self) -> dict[bytes, KeyValue]:
        """Return all pairs, as of one revision, in the order of their keys."""
        with self._changed:
            return dict(sorted(self._state.pairs.items()))

    def close(self) -> None:
        """Keep it up to date no longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._runner.run_soon(self._state.close)

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
