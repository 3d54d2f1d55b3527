"""How leadership is handed over (thesis, section 3.10).

Owns the transfer under way: to whom, until when, and how the last one ended. Invariants: while a transfer is under way
nothing new is proposed; the target is told to stand only when it holds our whole log; a transfer ends within an
election timeout, one way or the other.
"""

from typing import TYPE_CHECKING

from protocol.peer import PeerMessage, TimeoutNow
from protocol.types import NOBODY, MemberId, Millis
from raft import election
from raft.transitions import Cause, Role

if TYPE_CHECKING:
    from raft.core import Raft

FAR_FUTURE = Millis(1 << 62)


class TransferState:
    """A transfer under way at this leader, and the result of the last one."""

    def __init__(self) -> None:
        self.target = NOBODY
        self.due = FAR_FUTURE
        self.ended: bool | None = None
        """Whether the last transfer succeeded; the owner takes it."""

    def take_ended(self) -> bool | None:
        """Return how the last transfer ended, once."""
        ended, self.ended = self.ended, None
        return ended

    def end(self, *, succeeded: bool) -> None:
        """The transfer is over."""
        self.target = NOBODY
        self.due = FAR_FUTURE
        self.ended = succeeded


def start(raft: "Raft", target: MemberId) -> bool:
    """Begin to hand leadership over; False if `target` (NOBODY: whoever is furthest) cannot take it."""
    leading = raft.leading
    if leading is None:
        return False
    if target == NOBODY:
        target = _furthest(raft)
    if target not in leading.progress or not raft.configuration.is_voter(target):
        return False
    raft.transfer.target = target
    raft.transfer.due = Millis(raft.now + raft.config.election_timeout_ms)
    raft.transfer.ended = None
    raft.log_event("transfer_started", {"term": raft.term, "target": f"{target:x}"})
    hand_over_when_ready(raft)
    return True


def _furthest(raft: "Raft") -> MemberId:
    """The voter among our followers that holds most of our log and has answered lately; NOBODY if there is none."""
    leading = raft.leading
    assert leading is not None, "only a leader knows who is how far"
    since = Millis(raft.now - raft.config.election_timeout_ms)
    best = NOBODY
    for member, progress in sorted(leading.progress.items()):
        if not raft.configuration.is_voter(member) or not progress.heard_since(since):
            continue
        if best == NOBODY or progress.matched > leading.progress[best].matched:
            best = member
    return best


def hand_over_when_ready(raft: "Raft") -> None:
    """Tell the target to stand as soon as it holds everything we do."""
    leading, target = raft.leading, raft.transfer.target
    if leading is None or target == NOBODY:
        return
    progress = leading.progress.get(target)
    if progress is not None and progress.matched == raft.log.last.index:
        raft.send(target, TimeoutNow(term=raft.term))


def remind(raft: "Raft") -> None:
    """Say it again with each heartbeat: the word may have been lost."""
    hand_over_when_ready(raft)


def bequeath(raft: "Raft") -> None:
    """Tell the furthest follower to stand, though we cannot wait for it to hold our whole log."""
    heir = _furthest(raft)
    if heir != NOBODY:
        raft.send(heir, TimeoutNow(term=raft.term))


def leader_known(raft: "Raft") -> None:
    """See whether the one we know as leader now ends a transfer of ours."""
    if raft.transfer.target != NOBODY and raft.leader not in (NOBODY, raft.member):
        raft.transfer.end(succeeded=raft.leader == raft.transfer.target)


def expire(raft: "Raft") -> None:
    """Give a transfer up that took too long; an office not yet lost goes on."""
    if raft.now >= raft.transfer.due:
        raft.transfer.end(succeeded=False)


def on_timeout_now(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """The leader hands over: stand at once, without a rehearsal."""
    assert isinstance(message, TimeoutNow), f"{message.kind} came to on_timeout_now"
    of_my_leader = message.term == raft.term and sender == raft.leader and raft.role is Role.FOLLOWER
    if of_my_leader and raft.configuration.is_voter(raft.member) and not raft.disk_stuck:
        election.stand(raft, Cause.LEADERSHIP_OFFERED)
