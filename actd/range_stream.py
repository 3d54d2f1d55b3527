"""Ranges that come in pieces: iterate over any number of pairs, all of one revision, in bounded memory."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol

from actd.errors import ActdError, CallTimedOut
from actd.range_feed import RANGE_STREAM_METHOD, RangeFeed
from actd.results import KeyValue
from actd.session import Session


class Runner(Protocol):
    """Who owns a client's session: its thread, or its loop."""

    def run_soon(self, task: Callable[[Session], None]) -> None:
        """Have `task` called with the session there."""
        ...


def _late() -> CallTimedOut:
    return CallTimedOut("no more of the range came in time", retryable=True)


class RangeStream:
    """An iterator over the pairs of a range as of `revision`; it goes on at another door when one fails.

    Iterating raises `CallTimedOut` when nothing has come for the time-out, and the error of a compaction that passes
    the revision. Take pairs from one thread at a time; `close` may be called from any.
    """

    method = RANGE_STREAM_METHOD

    def __init__(self, runner: Runner, feed: RangeFeed, timeout_s: float) -> None:
        self.revision = feed.revision
        self._runner = runner
        self._feed = feed
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._closed = False
        runner.run_soon(lambda session: session.streams.add(self))

    def opening(self) -> tuple[bytes, ...]:
        """See `actd.streams.StreamUser`."""
        with self._changed:
            return self._feed.opening()

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """See `actd.streams.StreamUser`."""
        with self._changed:
            self._feed.on_messages(messages)
            self._changed.notify_all()

    def on_end(self, error: ActdError | None) -> bool:
        """See `actd.streams.StreamUser`."""
        with self._changed:
            again = self._feed.on_end(error)
            self._changed.notify_all()
            return again

    def __iter__(self) -> Iterator[KeyValue]:
        return self

    def __next__(self) -> KeyValue:
        feed = self._feed
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._closed or feed.pairs or feed.ended or feed.error is not None, self._timeout_s
            ):
                raise _late()
            if self._closed or (not feed.pairs and feed.error is None):
                raise StopIteration
            if not feed.pairs:
                assert feed.error is not None, "that is what was waited for"
                raise feed.error
            pair, size, epoch = feed.pairs.popleft()
        if size:
            self._runner.run_soon(lambda session: session.streams.took(self, size, epoch))
        return pair

    def close(self) -> None:
        """Take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._runner.run_soon(lambda session: session.streams.remove(self))

    def __enter__(self) -> "RangeStream":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class AsyncRangeStream:
    """The same for asyncio: `async for pair in stream`. See `RangeStream`."""

    method = RANGE_STREAM_METHOD

    def __init__(self, runner: Runner, feed: RangeFeed, timeout_s: float) -> None:
        self.revision = feed.revision
        self._runner = runner
        self._feed = feed
        self._timeout_s = timeout_s
        self._changed = asyncio.Event()
        self._closed = False
        runner.run_soon(lambda session: session.streams.add(self))

    def opening(self) -> tuple[bytes, ...]:
        """See `actd.streams.StreamUser`."""
        return self._feed.opening()

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """See `actd.streams.StreamUser`."""
        self._feed.on_messages(messages)
        self._changed.set()

    def on_end(self, error: ActdError | None) -> bool:
        """See `actd.streams.StreamUser`."""
        self._changed.set()
        return self._feed.on_end(error)

    def __aiter__(self) -> AsyncIterator[KeyValue]:
        return self

    async def __anext__(self) -> KeyValue:
        feed = self._feed
        while not (feed.pairs or feed.ended or self._closed or feed.error is not None):
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), self._timeout_s)
            except TimeoutError:
                raise _late() from None
        if self._closed or (not feed.pairs and feed.error is None):
            raise StopAsyncIteration
        if not feed.pairs:
            assert feed.error is not None, "that is what was waited for"
            raise feed.error
        pair, size, epoch = feed.pairs.popleft()
        if size:
            self._runner.run_soon(lambda session: session.streams.took(self, size, epoch))
        return pair

    async def aclose(self) -> None:
        """Take nothing more."""
        self._closed = True
        self._changed.set()
        self._runner.run_soon(lambda session: session.streams.remove(self))

    async def __aenter__(self) -> "AsyncRangeStream":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()
