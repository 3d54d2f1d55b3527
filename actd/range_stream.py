"""Ranges that come in pieces: iterate over any number of pairs, all of one revision, in bounded memory."""

from collections.abc import AsyncIterator, Iterator

from actd.errors import CallTimedOut
from actd.range_feed import RangeFeed
from actd.readers import AsyncReader, Reader, Runner
from actd.results import KeyValue


def _late() -> CallTimedOut:
    return CallTimedOut("no more of the range came in time", retryable=True)


class RangeStream(Reader[KeyValue]):
    """An iterator over the pairs of a range as of `revision`; it goes on at another door when one fails.

    Iterating raises `CallTimedOut` when nothing has come for the time-out, and the error of a compaction that passes
    the revision. Take pairs from one thread at a time; `close` may be called from any.
    """

    def __init__(self, runner: Runner, feed: RangeFeed, timeout_s: float) -> None:
        super().__init__(runner, feed)
        self.revision = feed.revision
        self._timeout_s = timeout_s

    def __iter__(self) -> Iterator[KeyValue]:
        return self

    def __next__(self) -> KeyValue:
        if not self._wait_for_item(self._timeout_s):
            raise _late()
        pair = self._pop()
        if pair is None:
            raise StopIteration
        return pair


class AsyncRangeStream(AsyncReader[KeyValue]):
    """The same for asyncio: `async for pair in stream`. See `RangeStream`."""

    def __init__(self, runner: Runner, feed: RangeFeed, timeout_s: float) -> None:
        super().__init__(runner, feed)
        self.revision = feed.revision
        self._timeout_s = timeout_s

    def __aiter__(self) -> AsyncIterator[KeyValue]:
        return self

    async def __anext__(self) -> KeyValue:
        if not await self._wait_for_item(self._timeout_s):
            raise _late()
        pair = self._pop()
        if pair is None:
            raise StopAsyncIteration
        return pair
