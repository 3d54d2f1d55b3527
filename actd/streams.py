"""A client's streaming calls, without a socket: opened at whatever door is in use, and again at the next.

Owns which streams are open where, and how much of each was taken. Knows no method's meaning: a `StreamUser` says what
to open a stream with, and so resumes from where it is.
Invariants: a stream is open at one door at a time; what comes for one that is not open is dropped; a user hears of an
end that cannot be mended once, and of nothing after it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from actd.errors import ActdError, Unavailable
from protocol.client import (
    STREAM_TAKEN_STEP_BYTES,
    CancelCalls,
    ClientMessage,
    OpenStream,
    StreamTaken,
)


class StreamUser(Protocol):
    """Who wants a stream."""

    method: int
    """The streaming RPC's number."""

    def opening(self) -> tuple[bytes, ...]:
        """Return what is to be said on a stream that is about to be opened, the first time or again."""
        ...

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """The other side says something."""
        ...

    def on_end(self, error: ActdError | None) -> bool:
        """The stream is over, or its door is lost; return whether it is to be opened again."""
        ...


class _Stream:
    """One user's stream."""

    __slots__ = ("at", "call_id", "epoch", "refusals", "taken", "told", "user")

    def __init__(self, user: StreamUser) -> None:
        self.user = user
        self.at = 0.0
        """When it may be opened."""
        self.call_id = 0
        """0: it is not open."""
        self.epoch = 0
        """How often it was opened."""
        self.refusals = 0
        """How often it was refused for want of a token since something came."""
        self.taken = 0
        self.told = 0


class ClientStreams:
    """Every stream of a session."""

    def __init__(self, say: Callable[[ClientMessage], None]) -> None:
        """`say` sends a message to the door in use."""
        self._say = say
        self._streams: dict[int, _Stream] = {}
        """By the identity of their users."""
        self._open: dict[int, _Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, user: StreamUser) -> None:
        """Open a stream for `user` as soon as there is a door."""
        self._streams[id(user)] = _Stream(user)

    def remove(self, user: StreamUser) -> None:
        """The user wants nothing more, and is told nothing more."""
        stream = self._streams.pop(id(user), None)
        if stream is not None and stream.call_id:
            del self._open[stream.call_id]
            self._say(CancelCalls(call_ids=(stream.call_id,)))

    def epoch(self, user: StreamUser) -> int:
        """Return how often the user's stream was opened, for `took`."""
        stream = self._streams.get(id(user))
        return stream.epoch if stream is not None else 0

    def took(self, user: StreamUser, size: int, epoch: int) -> None:
        """The user has taken `size` bytes of messages that came while its stream was open for the `epoch`th time."""
        stream = self._streams.get(id(user))
        if stream is None or not stream.call_id or stream.epoch != epoch:
            return
        stream.taken += size
        if stream.taken - stream.told >= STREAM_TAKEN_STEP_BYTES // 2:
            stream.told = stream.taken
            self._say(StreamTaken(call_id=stream.call_id, bytes_taken=stream.taken))

    def open_at(self, door_is_taking: bool, now: float, next_id: Callable[[], int]) -> None:
        """Open what waits, if a door takes calls."""
        if not door_is_taking:
            return
        for stream in self._streams.values():
            if stream.call_id or stream.at > now:
                continue
            stream.call_id = next_id()
            stream.epoch += 1
            stream.taken = stream.told = 0
            self._open[stream.call_id] = stream
            user = stream.user
            self._say(
                OpenStream(call_id=stream.call_id, method=user.method, require_leader=True, messages=user.opening())
            )

    def due(self) -> float:
        """Return when a stream that waits wants to be opened, or infinity."""
        return min((stream.at for stream in self._streams.values() if not stream.call_id), default=float("inf"))

    def on_messages(self, call_id: int, messages: Sequence[bytes]) -> None:
        """Messages have come."""
        stream = self._open.get(call_id)
        if stream is not None:
            stream.refusals = 0
            stream.user.on_messages(messages)

    def count_refusal(self, call_id: int) -> int:
        """A stream was refused for want of a token; return how often that was so since something came on it."""
        stream = self._open.get(call_id)
        if stream is None:
            return 0
        stream.refusals += 1
        return stream.refusals

    def on_end(self, call_id: int, error: ActdError | None, again_at: float) -> None:
        """A stream is over; it is opened again at `again_at` if its user wants it."""
        stream = self._open.pop(call_id, None)
        if stream is None:
            return
        stream.call_id = 0
        stream.at = again_at
        if not stream.user.on_end(error):
            self._streams.pop(id(stream.user), None)

    def method_of(self, call_id: int) -> int:
        """Return the method of an open stream, or 0."""
        stream = self._open.get(call_id)
        return stream.user.method if stream is not None else 0

    def put_off(self, call_id: int, again_at: float) -> None:
        """Close a stream without its user's knowing, and open it again at `again_at`."""
        stream = self._open.pop(call_id, None)
        if stream is not None:
            stream.call_id = 0
            stream.at = again_at
            self._say(CancelCalls(call_ids=(call_id,)))

    def lost(self, call_ids: Iterable[int] | None = None) -> None:
        """These streams, or all, are open nowhere any more: open them at the next door, if their users want it."""
        for call_id in list(self._open if call_ids is None else call_ids):
            self.on_end(call_id, Unavailable("the door was lost", retryable=True), 0.0)

    def end_all(self, make_error: Callable[[], ActdError]) -> None:
        """Nothing can be opened any more."""
        streams, self._streams, self._open = self._streams, {}, {}
        for stream in streams.values():
            stream.user.on_end(make_error())
