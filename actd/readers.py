"""How a user takes what comes on a stream: from a thread of the blocking client, or from a task of the asyncio one.

Owns the waiting, and telling the door what was taken. Knows no method's meaning: a `Feed` does.
Invariant: a reader that was closed gives nothing more, and its stream is closed with it.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from actd.errors import ActdError
from actd.feeds import Feed
from actd.session import Session

T = TypeVar("T")


class Runner(Protocol):
    """Who owns a client's session: its thread, or its loop."""

    def run_soon(self, task: Callable[[Session], None]) -> None:
        """Have `task` called with the session there."""
        ...


class Reader(Generic[T]):
    """Takes from one thread at a time; `close` may be called from any."""

    def __init__(self, runner: Runner, feed: Feed[T]) -> None:
        self.method = feed.method
        self._runner = runner
        self._feed = feed
        self._changed = threading.Condition()
        self._closed = False
        runner.run_soon(lambda session: session.streams.add(self))

    # --- on the session's thread -------------------------------------------------------------------

    def opening(self) -> tuple[bytes, ...]:
        """See `actd.streams.StreamUser`."""
        with self._changed:
            return self._feed.opening()

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """See `actd.streams.StreamUser`."""
        with self._changed:
            self._feed.on_messages(messages)
            empty, epoch = self._feed.take_empty(), self._feed.epoch
            self._changed.notify_all()
        self._took(empty, epoch)

    def on_end(self, error: ActdError | None) -> bool:
        """See `actd.streams.StreamUser`."""
        with self._changed:
            again = self._feed.on_end(error)
            self._changed.notify_all()
            return again

    # --- on the user's -----------------------------------------------------------------------------

    def _took(self, size: int, epoch: int) -> None:
        if size:
            self._runner.run_soon(lambda session: session.streams.took(self, size, epoch))

    def _wait(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until something is so, or never will be; False if neither came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: condition() or self._closed or self._feed.over, timeout_s)

    def _wait_for_item(self, timeout_s: float | None) -> bool:
        return self._wait(lambda: bool(self._feed.items), timeout_s)

    def _pop(self) -> T | None:
        """Return what is next, or None if it is not there; raise why nothing more comes."""
        with self._changed:
            if self._closed:
                return None
            if not self._feed.items:
                if self._feed.error is not None:
                    raise self._feed.error
                return None
            item, size, epoch = self._feed.items.popleft()
        self._took(size, epoch)
        return item

    def close(self) -> None:
        """Take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._runner.run_soon(lambda session: session.streams.remove(self))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()


class AsyncReader(Generic[T]):
    """The same for asyncio."""

    def __init__(self, runner: Runner, feed: Feed[T]) -> None:
        self.method = feed.method
        self._runner = runner
        self._feed = feed
        self._changed = asyncio.Event()
        self._closed = False
        runner.run_soon(lambda session: session.streams.add(self))

    def opening(self) -> tuple[bytes, ...]:
        """See `actd.streams.StreamUser`."""
        return self._feed.opening()

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """See `actd.streams.StreamUser`."""
        self._feed.on_messages(messages)
        self._took(self._feed.take_empty(), self._feed.epoch)
        self._changed.set()

    def on_end(self, error: ActdError | None) -> bool:
        """See `actd.streams.StreamUser`."""
        self._changed.set()
        return self._feed.on_end(error)

    def _took(self, size: int, epoch: int) -> None:
        if size:
            self._runner.run_soon(lambda session: session.streams.took(self, size, epoch))

    async def _wait(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until something is so, or never will be; False if neither came in time."""
        while not (condition() or self._closed or self._feed.over):
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            except TimeoutError:
                return False
        return True

    async def _wait_for_item(self, timeout_s: float | None = None) -> bool:
        return await self._wait(lambda: bool(self._feed.items), timeout_s)

    def _pop(self) -> T | None:
        """Return what is next, or None if it is not there; raise why nothing more comes."""
        if self._closed:
            return None
        if not self._feed.items:
            if self._feed.error is not None:
                raise self._feed.error
            return None
        item, size, epoch = self._feed.items.popleft()
        self._took(size, epoch)
        return item

    async def aclose(self) -> None:
        """Take nothing more."""
        self._closed = True
        self._changed.set()
        self._runner.run_soon(lambda session: session.streams.remove(self))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        await self.aclose()
