"""What only a leader has; made when it takes office and gone with it. Plain state, no rule."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protocol.types import Index, MemberId, Millis
from raft.progress import Progress

if TYPE_CHECKING:
    from raft.read_index import PendingRead


@dataclass(slots=True)
class LeaderState:
    """The office: followers, rounds and reads of this term."""

    progress: dict[MemberId, Progress]
    first_own_index: Index
    """The no-op of this term: until it is committed nothing is known to be (thesis, section 6.4)."""
    quorum_checked_at: Millis
    tick_due: Millis
    """The next regular heartbeat; read rounds in between do not put it off."""
    round: int = 0
    round_wanted: bool = False
    """A read has come since the last heartbeats: send a new round at the end of the turn."""
    unconfirmed: list["PendingRead"] = field(default_factory=list)
    more_to_send: bool = False
    """A follower could take another append: the next turn should come at once."""
    news_due: Millis | None = None
    """When the next follower is told of a commit that no append has carried to it; None: all have been told."""
    news_since: Millis | None = None
    """When there was first something to tell."""

    spares_due: Millis | None = None
    """When spare followers are fed what has gathered for them; None: nothing has."""

    def forget_news_due(self) -> None:
        """Nobody waits for news of a commit until this is said anew.

        A call and no assignment where it is needed: `tools/compile.py` says what compiled code would make of that.
        """
        self.news_due = None

    def await_news(self, member: MemberId, index: Index) -> None:
        """Note that somebody at `member` waits until it learns that `index` is committed: it is told without delay."""
        progress = self.progress.get(member)
        if progress is not None and index > progress.commit_awaited:
            progress.commit_awaited = index

    def due(self, now: Millis) -> Millis:
        """When the leader wants to be woken."""
        if self.more_to_send:
            return now
        due = self.tick_due
        if self.news_due is not None and self.news_due < due:
            due = self.news_due
        if self.spares_due is not None and self.spares_due < due:
            due = self.spares_due
        return due
