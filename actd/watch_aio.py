"""Watches and caches of the asyncio client."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Self

from actd.caching import CacheState
from actd.calls import Key, raw
from actd.readers import AsyncReader, Runner
from actd.results import KeyValue, WatchEvent
from actd.watching import WatchFeed


class AsyncWatch(AsyncReader[WatchEvent]):
    """An asynchronous iterator over events that resumes by itself; see `Watch`.

    `await started()` returns once a door watches; iterating does so by itself.
    """

    _feed: WatchFeed

    def __init__(self, runner: Runner, feed: WatchFeed) -> None:
        super().__init__(runner, feed)

    async def started(self) -> None:
        """Return once a door watches, so that what happens from now on is heard.

        Raises:
            ActdError: the watch has failed.
        """
        await self._wait(lambda: self._feed.started)
        if self._feed.error is not None:
            raise self._feed.error

    @property
    def revision(self) -> int:
        """Everything that was asked for up to here has been heard, or is about to be returned."""
        return self._feed.revision

    def __aiter__(self) -> AsyncIterator[WatchEvent]:
        return self

    async def __anext__(self) -> WatchEvent:
        await self._wait_for_item()
        event = self._pop()
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        await self.started()
        return self


class AsyncCache:
    """All pairs of a prefix as of `revision`, kept up to date; `async with` lists it first. See `Cache`."""

    def __init__(self, runner: Runner, prefix: Key) -> None:
        self._runner = runner
        self._changed = asyncio.Event()
        self._state = CacheState(prefix, time.monotonic, contextlib.nullcontext(), self._changed.set)
        runner.run_soon(self._state.start)

    async def wait_for(self, revision: int = 1) -> None:
        """Wait until the cache shows `revision` or a later one; by default, until it is listed.

        Raises:
            ActdError: it is not kept up to date any more.
        """
        state = self._state
        while state.revision < revision:
            if state.error is not None:
                raise state.error
            self._changed.clear()
            await self._changed.wait()

    @property
    def revision(self) -> int:
        """The revision whose pairs these are."""
        return self._state.revision

    def get(self, key: Key) -> KeyValue | None:
        """Return the pair of `key`, or None."""
        return self._state.pairs.get(raw(key))

    def __getitem__(self, key: Key) -> KeyValue:
        return self._state.pairs[raw(key)]

    def __contains__(self, key: Key) -> bool:
        return raw(key) in self._state.pairs

    def __len__(self) -> int:
        return len(self._state.pairs)

    def snapshot(self) -> dict[bytes, KeyValue]:
        """Return all pairs, as of one revision, in the order of their keys."""
        return dict(sorted(self._state.pairs.items()))

    async def aclose(self) -> None:
        """Keep it up to date no longer."""
        self._runner.run_soon(self._state.close)

    async def __aenter__(self) -> "AsyncCache":
        await self.wait_for()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()
