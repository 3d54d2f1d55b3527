"""One follower as the leader sees it.

Invariants: `matched < next_index`; in REPLICATE everything in `matched+1 .. next_index-1` is in flight; outside of it
nothing is.
"""

from collections import deque
from enum import Enum

from protocol.types import Index, LogPosition, MemberId, Millis
from raft.log import Log


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
        self.heard_at: Millis | None = None
        """When this member last answered this leader; None: never."""
        self.sent_at = now
        """When the last append left, or when the last news of one came."""
        self.probe_sent = False
        self.commit_sent = Index(0)
        self.commit_awaited = Index(0)
        """Somebody at the follower waits until it learns that this is committed; 0: nobody is known to."""
        self.spare = False
        """The quorum does without its acknowledgements as long as others are quick: entries may gather for it."""
        self.attended_until = now
        """Until then its own clients would notice if entries gathered."""
        self.round_acked = 0
        self.timed_round: tuple[int, Millis] | None = None
        """The heartbeat whose round trip is being measured; one at a time."""

    def heard_since(self, instant: Millis) -> bool:
        """Whether it has answered at or after `instant`."""
        return self.heard_at is not None and self.heard_at >= instant

    def sent(self, last: Index, size_bytes: int, now: Millis) -> None:
        """Note an append with entries up to `last`, or a probe."""
        self.sent_at = now
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
            return
        assert self.state is ProgressState.REPLICATE, "nothing is sent to who waits for a snapshot"
        if last >= self.next_index:
            self.inflight.append((last, size_bytes))
            self.inflight_bytes += size_bytes
            self.next_index = Index(last + 1)

    def acknowledged(self, matched: Index, log_first: Index, now: Millis) -> bool:
        """Note that the follower has everything up to `matched` on its disk; True if that is news."""
        while self.inflight and self.inflight[0][0] <= matched:
            self.inflight_bytes -= self.inflight.popleft()[1]
        news = matched > self.matched
        if news:
            self.matched = matched
            self.sent_at = now
        if self.state is ProgressState.PROBE or (self.state is ProgressState.SNAPSHOT and matched >= log_first - 1):
            self._enter(ProgressState.REPLICATE, Index(self.matched + 1))
        else:
            self.next_index = max(self.next_index, Index(self.matched + 1))
        return news

    def rejected(self, at: Index, hint: LogPosition, log: Log, now: Millis) -> None:
        """The logs do not meet at `at`: step back, or wait for a snapshot where the log does not reach back enough.

        An old rejection, of an append whose place was settled since, changes nothing.
        """
        if self.state is ProgressState.REPLICATE:
            if at > self.matched:
                self._enter(ProgressState.PROBE, Index(self.matched + 1))
            return
        if self.state is not ProgressState.PROBE or self.next_index != at + 1 or at <= self.matched:
            return
        # The follower named the furthest place that could match by its terms; ours may rule out more.
        meeting = log.last_not_above(hint)
        if hint.index < log.mark.index or (meeting.index == at and at == log.mark.index):
            self._enter(ProgressState.SNAPSHOT, self.next_index)
            self.sent_at = now
            return
        self.next_index = Index(max(min(at, meeting.index + 1), self.matched + 1))
        self.probe_sent = False

    def probe_again(self) -> None:
        """What was in flight is taken for lost: start over behind what is known to be there."""
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
