"""The gateway's bookkeeping: which calls are open and until when, and which batches are on their way.

Owns counts and deadlines; knows nothing of what is asked. Costs per call: one dict entry and one list slot.
Invariants: a call is open until it is answered, cancelled or expired; bytes and calls stay within their limits.
"""

from collections import deque
from typing import Final

from protocol.errors import ErrorCode
from protocol.types import MemberId, Millis, Term

BUCKET_MS: Final = 100
"""Deadlines are kept in buckets of this width: a call may be answered that much late."""
LANE_PATIENCE_MS: Final = 50
"""A full lane sends all the same when nothing has come back for this long: what is out may be lost."""


class OpenCalls:
    """Every call that waits for an answer."""

    def __init__(self, calls_max: int, bytes_max: int) -> None:
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._buckets: dict[int, list[tuple[int, ErrorCode]]] = {}
        self._first_bucket: int | None = None

    def open(self, call_id: int, size: int, now: Millis, deadline: Millis | None, timeout_ms: int) -> bool:
        """Remember a call; False if that would be one too many."""
        if len(self._sizes) >= self._calls_max or self._bytes + size > self._bytes_max:
            return False
        code = ErrorCode.TIMEOUT
        until = now + timeout_ms
        if deadline is not None and deadline < until:
            until = deadline
            code = ErrorCode.DEADLINE_EXCEEDED
        self._sizes[call_id] = size
        self._bytes += size
        bucket = -(-until // BUCKET_MS)
        waiting = self._buckets.get(bucket)
        if waiting is None:
            self._buckets[bucket] = [(call_id, code)]
            if self._first_bucket is None or bucket < self._first_bucket:
                self._first_bucket = bucket
        else:
            waiting.append((call_id, code))
        return True

    def is_open(self, call_id: int) -> bool:
        """Whether somebody still waits."""
        return call_id in self._sizes

    def close(self, call_id: int) -> bool:
        """Forget a call; False if it was not open."""
        size = self._sizes.pop(call_id, -1)
        if size < 0:
            return False
        self._bytes -= size
        return True

    def all(self) -> list[int]:
        """Return every open call, oldest first."""
        return list(self._sizes)

    @property
    def deadline(self) -> Millis | None:
        """When `expire` may have something to say."""
        return None if self._first_bucket is None else Millis(self._first_bucket * BUCKET_MS)

    def expire(self, now: Millis) -> list[tuple[int, ErrorCode]]:
        """Return the calls whose time is over, with what to tell them; `close` them by answering."""
        expired: list[tuple[int, ErrorCode]] = []
        while self._first_bucket is not None and self._first_bucket * BUCKET_MS <= now:
            for call_id, code in self._buckets.pop(self._first_bucket):
                if self.close(call_id):
                    expired.append((call_id, code))
            self._first_bucket = min(self._buckets, default=None)
        return expired

    def check(self) -> None:
        """Assert the invariants."""
        assert self._bytes == sum(self._sizes.values()), "bytes of open calls miscounted"
        assert self._first_bucket == min(self._buckets, default=None), "a bucket was forgotten"


class Batch:
    """Calls that travel together."""

    __slots__ = ("flat", "ids", "leader", "left", "term")

    def __init__(self, ids: list[int], flat: list[int | bytes], term: Term, leader: MemberId) -> None:
        self.ids = ids
        self.flat = flat
        self.term = term
        self.leader = leader
        self.left = len(ids)


class Lane:
    """One way for batches: what waits to be sent, and what is out.

    Only so many batches are out at once: while the lane is full, requests gather, and the next batch is larger.
    """

    def __init__(self, name: str, inflight_max: int) -> None:
        self.name = name
        self.queue: deque[tuple[int, int, bytes]] = deque()
        self.inflight: dict[int, Batch] = {}
        self.answered_later: dict[int, dict[int, int]] = {}
        self._inflight_max = inflight_max
        self._progress_at = Millis(0)

    def may_send(self, now: Millis) -> bool:
        """Whether another batch may leave."""
        return len(self.inflight) < self._inflight_max or now - self._progress_at >= LANE_PATIENCE_MS

    def patience_ends(self, now: Millis) -> Millis:
        """When a full lane will send all the same."""
        return Millis(max(self._progress_at + LANE_PATIENCE_MS, now + 1))

    def sent(self, sequence: int, batch: Batch, now: Millis) -> None:
        """Note a batch that leaves."""
        self.inflight[sequence] = batch
        self._progress_at = now

    def progressed(self, now: Millis) -> None:
        """Note that something came back."""
        self._progress_at = now

    def done(self, sequence: int) -> Batch | None:
        """Forget a batch; None if it is not out."""
        return self.inflight.pop(sequence, None)
