"""One follower as the leader sees it.

Invariants: `matched < next_index`; in REPLICATE everything in `matched+1 .. next_index-1` is in flight.
"""

from collections import deque
from enum import Enum

from protocol.types import Index, MemberId, Millis


class ProgressState(Enum):
    """How the leader feeds a follower."""

    PROBE = "probe"
    """One append at a time, until the logs are known to meet."""
    REPLICATE = "replicate"
    """Appends follow one another without waiting, within the inflight limits."""
    SNAPSHOT = "snapshot"
    """It needs entries that were cut away: nothing is sent until a snapshot is in."""


class Progress:
    """What the leader knows of one follower's log, and what is on its way to it."""

    def __init__(self, member: MemberId, next_index: Index, now: Millis) -> None:
        self.member = member
        self.state = ProgressState.PROBE
        self.matched = Index(0)
        self.next_index = next_index
        self.inflight: deque[tuple[Index, int]] = deque()
        self.inflight_bytes = 0
        self.heard_at = Millis(0)
        self.heard_ever = False
        self.sent_at = now
        self.probe_sent = False
        self.commit_sent = Index(0)
        self.round_acked = 0
        self.round_sent_at: dict[int, Millis] = {}
        self.snapshot_wanted_since: Millis | None = None

    def sent(self, last: Index, size_bytes: int, now: Millis) -> None:
        """Note an append up to `last` (which may carry nothing)."""
        self.sent_at = now
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
            return
        if last >= self.next_index:
            self.inflight.append((last, size_bytes))
            self.inflight_bytes += size_bytes
            self.next_index = Index(last + 1)

    def acknowledged(self, matched: Index) -> bool:
        """Note that the follower holds everything up to `matched`; True if that is news."""
        while self.inflight and self.inflight[0][0] <= matched:
            self.inflight_bytes -= self.inflight.popleft()[1]
        news = matched > self.matched
        if news:
            self.matched = matched
        self.next_index = max(self.next_index, Index(self.matched + 1))
        if self.state is ProgressState.PROBE:
            self.probe_sent = False
            self._enter(ProgressState.REPLICATE, Index(self.matched + 1))
        return news

    def rejected(self, at: Index, hint: Index) -> bool:
        """Step back to `hint`; False if the rejection is an old one."""
        if self.state is ProgressState.REPLICATE:
            if at <= self.matched:
                return False
            self._enter(ProgressState.PROBE, Index(self.matched + 1))
            return True
        if self.next_index != at + 1:
            return False
        self.next_index = Index(max(min(at, hint + 1), self.matched + 1))
        self.probe_sent = False
        return True

    def probe_again(self) -> None:
        """What was in flight is taken for lost: start over behind what is known to be there."""
        self._enter(ProgressState.PROBE, Index(self.matched + 1))

    def await_snapshot(self, now: Millis) -> None:
        """Send nothing more until a snapshot has been installed."""
        self._enter(ProgressState.SNAPSHOT, self.next_index)
        self.snapshot_wanted_since = now

    def snapshot_done(self, matched: Index) -> None:
        """The follower stands at `matched` after a snapshot."""
        self.matched = max(self.matched, matched)
        self.snapshot_wanted_since = None
        self._enter(ProgressState.PROBE, Index(self.matched + 1))

    def _enter(self, state: ProgressState, next_index: Index) -> None:
        self.state = state
        self.next_index = next_index
        self.inflight.clear()
        self.inflight_bytes = 0
        self.probe_sent = False

    def check(self) -> None:
        """Assert the invariants."""
        assert self.matched < self.next_index, f"{self.matched} not before {self.next_index}"
        assert self.inflight_bytes == sum(size for _, size in self.inflight), "inflight bytes miscounted"
        if self.state is not ProgressState.REPLICATE:
            assert not self.inflight, f"appends in flight in {self.state}"
