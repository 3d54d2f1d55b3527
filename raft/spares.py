"""Which followers the leader may feed late, because a quorum is there without them.

A write needs the disks of a majority; the other followers only have to keep up. Feeding them each entry at once costs
every process on the way as much as feeding those that count, so entries gather for them for a moment and share the way.
The choice corrects itself: as soon as an entry is committed by the word of a spare follower, somebody that was fed at
once was slower, and the two change places.

Owns the choice and the waiting. Invariants: followers that are fed at once make a quorum with the leader; in a joint
configuration all voters are; nothing gathers longer than `unattended_delay_ms`, and never for a follower that is
awaited: by its own clients, by a transfer, or because it has not found its place in the log.
"""

from typing import TYPE_CHECKING

from protocol.types import Index, Millis
from raft.progress import Progress, ProgressState

if TYPE_CHECKING:
    from raft.core import Raft


def appoint(raft: "Raft") -> None:
    """Choose anew whom the quorum can spare: those that are furthest behind."""
    leading, configuration = raft.leading, raft.configuration
    assert leading is not None, "only a leader spares anybody"
    spared = raft.config.unattended_delay_ms > 0
    majority = len(configuration.voters) // 2 + 1 - (raft.member in configuration.voters)
    needed = len(leading.progress) if configuration.outgoing else majority
    # Of equals those that were fed at once stay so.
    ranked = sorted(
        leading.progress.values(), key=lambda each: (not _ready(raft, each), -each.matched, each.spare, each.member)
    )
    for progress in ranked:
        voter = configuration.is_voter(progress.member)
        progress.spare = spared and (not voter or needed <= 0)
        needed -= voter


def look_after(raft: "Raft") -> None:
    """Choose anew if a follower that counts does not answer; called with each regular heartbeat."""
    leading = raft.leading
    assert leading is not None, "only a leader spares anybody"
    if any(not progress.spare and not _ready(raft, progress) for progress in leading.progress.values()):
        appoint(raft)


def may_gather(raft: "Raft", progress: Progress) -> bool:
    """Whether the entries that wait for this spare follower may wait for more."""
    leading, config = raft.leading, raft.config
    assert leading is not None, "only a leader spares anybody"
    if leading.spares_due is None:
        leading.spares_due = Millis(raft.now + config.unattended_delay_ms)
    last = raft.log.last.index
    return (
        raft.now < leading.spares_due
        and raft.now >= progress.attended_until
        and progress.commit_awaited <= progress.commit_sent
        and raft.transfer.target != progress.member
        and last - progress.next_index < config.append_entries_max // 2
        and raft.log.bytes_between(Index(progress.next_index - 1), last) < config.append_bytes_max // 2
    )


def _ready(raft: "Raft", progress: Progress) -> bool:
    return progress.state is ProgressState.REPLICATE and progress.heard_since(
        Millis(raft.now - raft.config.election_timeout_ms)
    )
