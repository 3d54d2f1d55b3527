"""The gateway's bookkeeping: which calls are open and until when, and which batches are on their way.

Owns counts and deadlines; knows nothing of what is asked. Costs per call: one entry in each of two dicts.
Invariants: a call is open until it is answered, cancelled or expired; bytes and calls stay within their limits;
nothing is kept of a call that is not open.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from protocol.command import ReadKind
from protocol.errors import ErrorCode
from protocol.types import MemberId, Millis, Term

BUCKET_MS: Final = 100
"""Deadlines are kept in buckets of this width: a call may be answered that much late."""
LANE_PATIENCE_MS: Final = 50
"""A full lane sends all the same when nothing has come back for this long: what is out may be lost."""

Body = bytes | tuple[bytes, ...]
"""An answer; in pieces where one copy of all of it would hold everybody up."""


def whole(body: Body) -> bytes:
    """Return a body in one piece."""
    return body if isinstance(body, bytes) else b"".join(body)


_SIZE_BITS: Final = 32
_SIZE_MASK: Final = (1 << _SIZE_BITS) - 1


class OpenCalls:
    """Every call that waits for an answer."""

    def __init__(self, calls_max: int, bytes_max: int) -> None:
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._calls: dict[int, int] = {}
        """Bucket and size of each call, packed into one number because there are very many."""
        self._bytes = 0
        self._buckets: dict[int, dict[int, ErrorCode]] = {}
        self._first_bucket: int | None = None

    def open(self, call_id: int, size: int, now: Millis, deadline: Millis | None, timeout_ms: int) -> bool:
        """Remember a call; False if that would be one too many."""
        if len(self._calls) >= self._calls_max or self._bytes + size > self._bytes_max:
            return False
        code = ErrorCode.TIMEOUT
        until = now + timeout_ms
        if deadline is not None and deadline < until:
            # Long past is as good as just past, and keeps bucket numbers sane whatever a client asks for.
            until = deadline if deadline > now else now
            code = ErrorCode.DEADLINE_EXCEEDED
        bucket = -(-until // BUCKET_MS)
        self._calls[call_id] = bucket << _SIZE_BITS | size
        self._bytes += size
        waiting = self._buckets.get(bucket)
        if waiting is None:
            self._buckets[bucket] = {call_id: code}
            if self._first_bucket is None or bucket < self._first_bucket:
                self._first_bucket = bucket
        else:
            waiting[call_id] = code
        return True

    def __len__(self) -> int:
        return len(self._calls)

    def is_open(self, call_id: int) -> bool:
        """Whether somebody still waits."""
        return call_id in self._calls

    def close(self, call_id: int) -> bool:
        """Forget a call; False if it was not open."""
        packed = self._calls.pop(call_id, -1)
        if packed < 0:
            return False
        self._bytes -= packed & _SIZE_MASK
        del self._buckets[packed >> _SIZE_BITS][call_id]
        return True

    def all(self) -> list[int]:
        """Return every open call, oldest first."""
        return list(self._calls)

    @property
    def deadline(self) -> Millis | None:
        """When `expire` may have something to say."""
        return None if self._first_bucket is None else Millis(self._first_bucket * BUCKET_MS)

    def expire(self, now: Millis) -> list[tuple[int, ErrorCode]]:
        """Return the calls whose time is over, with what to tell them; they are open no more."""
        expired: list[tuple[int, ErrorCode]] = []
        while self._first_bucket is not None and self._first_bucket * BUCKET_MS <= now:
            late = self._buckets.pop(self._first_bucket)
            for call_id in late:
                self._bytes -= self._calls.pop(call_id) & _SIZE_MASK
            expired += late.items()
            self._first_bucket = min(self._buckets, default=None)
        return expired

    def check(self) -> None:
        """Assert the invariants."""
        assert self._bytes == sum(packed & _SIZE_MASK for packed in self._calls.values()), "bytes miscounted"
        assert self._first_bucket == min(self._buckets, default=None), "a bucket was forgotten"
        in_buckets = sum(len(bucket) for bucket in self._buckets.values())
        assert in_buckets == len(self._calls), f"{in_buckets} deadlines for {len(self._calls)} open calls"


class Batch:
    """Calls that travel together. `left` have no answer yet; `served` once the first answer has come."""

    __slots__ = ("flat", "ids", "leader", "left", "pieces", "sent_at", "served", "term")

    def __init__(self, ids: list[int], flat: list[int | bytes], term: Term, leader: MemberId, now: Millis) -> None:
        self.ids = ids
        self.flat = flat
        self.term = term
        self.leader = leader
        self.left = len(ids)
        self.pieces: dict[int, list[bytes]] = {}
        """By position: what has come of answers that are too large to come whole."""
        self.served = False
        self.sent_at = now

    def complete(self, position: int, last: bytes) -> Body:
        """Return an answer whose last piece has come; mostly that is all of it."""
        ahead = self.pieces.pop(position, None)
        return last if ahead is None else (*ahead, last)


class Lane:
    """One way for batches: what waits to be sent, and what is out.

    Only so many batches are out at once: while the lane is full, requests gather, and the next batch is larger. A lane
    that `gathers` sends nothing while fewer calls wait than are out: a batch costs every process of every node a
    turn, so a few large ones do more than many small ones, and who is alone never waits. A batch of which some answers
    came and some take long is not what the next one should wait for, so it counts only against the larger of two
    limits.
    """

    def __init__(
        self,
        name: str,
        unserved_max: int,
        inflight_max: int,
        *,
        gathers: bool = False,
        as_user: int = ReadKind.AS_USER,
    ) -> None:
        self.name = name
        self.as_user = int(as_user)
        """The kind of what travels here under an identity; 0: nothing does."""
        self.queue: deque[tuple[int, int, bytes]] = deque()
        self.inflight: dict[int, Batch] = {}
        self.answered_later: dict[int, dict[int, int]] = {}
        self.paused_until: Millis | None = None
        """Nothing leaves before: what came back was refused or too old."""
        self.due: Millis | None = None
        """When the lane wants to send although it is full."""
        self._unserved_max = unserved_max
        self._inflight_max = inflight_max
        self._gathers = gathers
        self._unserved = 0
        self._unserved_calls = 0
        self._progress_at = Millis(0)

    @property
    def full(self) -> bool:
        """Whether as much is out as should be."""
        return self._unserved >= self._unserved_max or len(self.inflight) >= self._inflight_max

    @property
    def gathering(self) -> bool:
        """Whether what waits should wait for more; asked once a turn, so that what overflows a batch follows it."""
        return self._gathers and len(self.queue) < self._unserved_calls

    def may_send(self, now: Millis) -> bool:
        """Whether another batch may leave."""
        return not self.full or self.out_of_patience(now)

    def out_of_patience(self, now: Millis) -> bool:
        """Whether nothing has come back for so long that what is out may be lost."""
        return now - self._progress_at >= LANE_PATIENCE_MS

    def patience_ends(self, now: Millis) -> Millis:
        """When a full lane will send all the same."""
        return Millis(max(self._progress_at + LANE_PATIENCE_MS, now + 1))

    def pause(self, until: Millis) -> None:
        """Send nothing before `until`."""
        self.paused_until = until

    def resume(self, now: Millis) -> bool:
        """Return whether the lane may send, and end a pause that is over."""
        if self.paused_until is None:
            return True
        if now < self.paused_until:
            return False
        self.paused_until = None
        return True

    def wake(self, now: Millis) -> None:
        """Forget instants that have passed, so that the lane never asks to be woken for the past."""
        self.resume(now)
        if self.due is not None and self.due <= now:
            self.due = None

    def sent(self, sequence: int, batch: Batch) -> None:
        """Note a batch that leaves."""
        self.inflight[sequence] = batch
        self._unserved += 1
        self._unserved_calls += len(batch.ids)
        self._progress_at = batch.sent_at

    def progressed(self, batch: Batch, now: Millis) -> None:
        """Note that answers of a batch came back."""
        self._progress_at = now
        if not batch.served:
            batch.served = True
            self._unserved -= 1
            self._unserved_calls -= len(batch.ids)

    def done(self, sequence: int) -> Batch | None:
        """Forget a batch; None if it is not out."""
        batch = self.inflight.pop(sequence, None)
        if batch is not None and not batch.served:
            self._unserved -= 1
            self._unserved_calls -= len(batch.ids)
        return batch

    def requeue(self, sequence: int, positions: list[int] | None, is_open: Callable[[int], bool]) -> None:
        """Put calls of a batch that are open, some or all of them, back at the head of the queue."""
        batch = self.inflight.get(sequence)
        if batch is None:
            return
        wanted = range(len(batch.ids)) if positions is None else positions
        for position in reversed(wanted):
            call_id = batch.ids[position]
            if is_open(call_id):
                kind, body = batch.flat[2 * position], batch.flat[2 * position + 1]
                assert isinstance(kind, int), "kinds and bodies alternate"
                assert isinstance(body, bytes), "kinds and bodies alternate"
                self.queue.appendleft((call_id, kind, body))
        batch.left -= len(wanted)
        if batch.left <= 0:
            self.done(sequence)

    def drop_dead(self, is_open: Callable[[int], bool]) -> None:
        """Forget batches that nobody waits for any more: they may be lost, and must not fill the lane for ever."""
        for sequence in list(self.inflight):
            if not any(map(is_open, self.inflight[sequence].ids)):
                self.done(sequence)

    def check(self) -> None:
        """Assert that the count of batches is right."""
        unserved = sum(not batch.served for batch in self.inflight.values())
        assert unserved == self._unserved, f"{self.name}: {self._unserved} unserved batches counted, {unserved} are"
        calls = sum(len(batch.ids) for batch in self.inflight.values() if not batch.served)
        assert calls == self._unserved_calls, f"{self.name}: {self._unserved_calls} calls counted, {calls} are out"


def check_placed(open_calls: list[int], lanes: Iterable[Lane], held: Iterable[int]) -> None:
    """Assert that the lanes are right, and that every open call is in one of them or held."""
    placed = dict.fromkeys(held)
    for lane in lanes:
        lane.check()
        placed.update((call_id, None) for call_id, _, _ in lane.queue)
        for batch in lane.inflight.values():
            placed.update((call_id, None) for call_id in batch.ids)
        for waiting in lane.answered_later.values():
            placed.update((call_id, None) for call_id in waiting.values())
    lost = [call_id for call_id in open_calls if call_id not in placed]
    assert not lost, f"open calls that nothing will answer: {lost[:10]}"
