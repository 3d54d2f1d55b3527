"""Compaction that nobody asked for: when, and up to which revision.

Owns etcd's rule 26. Knows no clock and no proposal: time and revision are arguments, what is to be compacted is
returned. Every member follows the revisions, so that a new leader knows what was current when; only a leader compacts.
Invariants: no revision is compacted twice by one of these; one compaction is under way at a time.
"""

from collections import deque
from typing import Final, Protocol

from protocol.config import CompactionConfig
from protocol.types import Millis

HOUR_MS: Final = 3_600_000
SAMPLES_PER_PERIOD: Final = 10
REVISION_INTERVAL_MS: Final = 300_000
"""`revision` looks as often as that."""


class AutoCompaction(Protocol):
    """A rule of compaction."""

    @property
    def deadline(self) -> Millis | None:
        """When `wake` has something to do."""
        ...

    def start(self, now: Millis) -> None:
        """Time begins."""
        ...

    def wake(self, now: Millis, revision: int, *, leads: bool) -> int:
        """Return the revision to compact to now, or 0."""
        ...

    def ended(self, now: Millis, *, done: bool) -> None:
        """The compaction that `wake` asked for is done, or was not."""
        ...


class NoCompaction:
    """All history is kept."""

    deadline: Millis | None = None

    def start(self, now: Millis) -> None:
        """Nothing begins."""

    def wake(self, now: Millis, revision: int, *, leads: bool) -> int:
        """Nothing is ever due."""
        return 0

    def ended(self, now: Millis, *, done: bool) -> None:
        """Nothing was asked for."""


class PeriodicCompaction:
    """Keeps the history of a period: what was current a period ago goes, once an hour or once a shorter period."""

    def __init__(self, period_ms: int) -> None:
        self._interval_ms = min(period_ms, HOUR_MS)
        self._sample_every_ms = max(1, self._interval_ms // SAMPLES_PER_PERIOD)
        self._wait_ms = period_ms
        """Until the first compaction a whole period; from then on the interval."""
        self._revisions: deque[int] = deque(maxlen=period_ms // self._sample_every_ms + 1)
        self._due = Millis(0)
        self._done_at = Millis(0)
        self._done = 0
        self._under_way = 0

    @property
    def deadline(self) -> Millis | None:
        """When the next revision is noted."""
        return self._due

    def start(self, now: Millis) -> None:
        """Time begins."""
        self._done_at = now
        self._due = now

    def wake(self, now: Millis, revision: int, *, leads: bool) -> int:
        """Note the revision, and return what is to be compacted."""
        if now < self._due:
            return 0
        self._due = Millis(now + self._sample_every_ms)
        target = self._revisions[0] if self._revisions else 0
        if revision:
            if not self._revisions:
                self._done_at = now
            self._revisions.append(revision)
        if not leads or self._under_way or target in (0, self._done) or now - self._done_at < self._wait_ms:
            return 0
        self._wait_ms = self._interval_ms
        self._under_way = target
        return target

    def ended(self, now: Millis, *, done: bool) -> None:
        """Remember what is done; what is not is tried again with the next sample."""
        if done:
            self._done, self._done_at = self._under_way, now
        self._under_way = 0


class RevisionCompaction:
    """Keeps so many revisions; looks every five minutes."""

    def __init__(self, revisions: int) -> None:
        self._retention = revisions
        self._due = Millis(0)
        self._done = 0
        self._under_way = 0

    @property
    def deadline(self) -> Millis | None:
        """When it looks next."""
        return self._due

    def start(self, now: Millis) -> None:
        """Time begins."""
        self._due = Millis(now + REVISION_INTERVAL_MS)

    def wake(self, now: Millis, revision: int, *, leads: bool) -> int:
        """Return what is to be compacted."""
        if now < self._due:
            return 0
        self._due = Millis(now + REVISION_INTERVAL_MS)
        target = revision - self._retention
        if not leads or self._under_way or target <= 0 or target == self._done:
            return 0
        self._under_way = target
        return target

    def ended(self, now: Millis, *, done: bool) -> None:
        """Remember what is done."""
        if done:
            self._done = self._under_way
        self._under_way = 0


def auto_compaction(config: CompactionConfig) -> AutoCompaction:
    """Return the rule that is configured."""
    if config.auto_mode == "periodic":
        return PeriodicCompaction(config.auto_retention_ms)
    if config.auto_mode == "revision":
        return RevisionCompaction(config.auto_retention_revisions)
    return NoCompaction()
