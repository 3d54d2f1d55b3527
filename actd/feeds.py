"""What has come on a stream and nobody has taken yet: the part that watches, streamed ranges and snapshots share.

Owns what waits to be taken, and why nothing more comes. Knows no thread, loop or socket, and no method's meaning.
Invariants: after an error, or once it has ended, nothing more comes; what counts as taken adds up to the bytes of all
messages that came.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from actd import wire
from actd.errors import ActdError

T = TypeVar("T")


class Feed(ABC, Generic[T]):
    """One stream's side of a `StreamUser`; a kind of its own for each method."""

    method: ClassVar[int]
    """The streaming RPC's number."""

    def __init__(self) -> None:
        self.items: deque[tuple[T, int, int]] = deque()
        """What nobody has taken, with the bytes that count as taken with each, and of which opening they are."""
        self.error: ActdError | None = None
        """Why nothing more comes."""
        self.ended = False
        """Whether everything has come."""
        self.epoch = 0
        """How often it was opened."""
        self.empty_bytes = 0
        """Bytes of messages without anything to take, since they were last asked for."""

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.ended or self.error is not None

    def opening(self) -> tuple[bytes, ...]:
        """Return the request that begins, or goes on where this is."""
        self.epoch += 1
        return (self._request(),)

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """Take in what a door says."""
        for message in messages:
            if self.over:
                return
            try:
                self._on_message(message)
            except wire.WireFault as fault:
                self.error = ActdError(f"unreadable message on stream {self.method}: {fault}")

    def on_end(self, error: ActdError | None) -> bool:
        """The stream is over; return whether to go on at another door."""
        if error is not None and not error.retryable and self.error is None:
            self.error = error
        return not self.over

    def take_empty(self) -> int:
        """Return the bytes that came without anything to take."""
        size, self.empty_bytes = self.empty_bytes, 0
        return size

    @abstractmethod
    def _request(self) -> bytes:
        """Return what is to be said on a stream that is about to be opened."""

    @abstractmethod
    def _on_message(self, message: bytes) -> None:
        """Take in one message; `wire.WireFault` ends the feed."""

    def _add(self, items: Sequence[T], size: int) -> None:
        """Keep what a message of `size` bytes brought; the last of it stands for all its bytes."""
        if not items:
            self.empty_bytes += size
            return
        self.items.extend((item, 0, self.epoch) for item in items[:-1])
        self.items.append((items[-1], size, self.epoch))
