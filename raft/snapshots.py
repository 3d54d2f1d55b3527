"""When the log is cut, and what happens to raft's state when a snapshot takes its place.

Invariants: a cut never passes what the store has made durable; an installed snapshot only moves a member forward,
and never takes away entries that this member has acknowledged and that the snapshot does not hold.
"""

from typing import TYPE_CHECKING

from protocol.types import NOBODY, Index, LogMark, LogPosition, MemberId, Millis, Term
from raft import following, membership
from raft.configuration import Configuration
from raft.progress import ProgressState
from raft.transitions import Cause

if TYPE_CHECKING:
    from raft.core import Raft

SLOW_CUTS_MAX = 4
"""How many cuts a living follower may be behind before it is left to a snapshot."""
SLOW_ENTRIES_MIN = 128
"""It may always be so many entries behind: with very small cuts it would else need the next snapshot before it has
followed the last one, and never catch up."""


def cut_wanted(raft: "Raft", *, hold: bool) -> bool:
    """Whether a cut would drop enough entries to be worth it, or the log takes too much memory.

    With `hold` the log waits for a follower that is getting a snapshot, up to twice the memory.
    """
    config = raft.config
    bytes_max = 2 * config.log_bytes_max if hold else config.log_bytes_max
    if raft.log.bytes_held > bytes_max:
        # Only if that makes room: most of it may be behind what is applied.
        return 2 * raft.log.bytes_between(raft.log.mark.index, raft.applied) >= bytes_max
    # The first look is for the hot path: a cut can never pass what is applied.
    if hold or raft.applied - raft.log.mark.index < config.snapshot_count + config.catchup_entries:
        return False
    return _cut_index(raft, raft.applied) - raft.log.mark.index >= config.snapshot_count


def _cut_index(raft: "Raft", last: Index) -> Index:
    """Return where to cut if the store has everything up to `last`.

    Entries are kept behind the cut for followers that lag, as far as memory allows: a fixed number for those that are
    away for a moment, and what a living one is being fed right now, or it would need a snapshot for being slow.
    """
    config = raft.config
    index = raft.log.kept_within(last, config.catchup_entries, config.log_bytes_max // 4)
    if raft.leading is None or raft.log.bytes_held > config.log_bytes_max:
        return index
    since = Millis(raft.now - config.election_timeout_ms)
    furthest = last - max(SLOW_ENTRIES_MIN, SLOW_CUTS_MAX * (config.snapshot_count + config.catchup_entries))
    for progress in raft.leading.progress.values():
        fed = progress.state is not ProgressState.SNAPSHOT and progress.heard_since(since)
        if fed and furthest <= progress.matched < index and progress.matched >= raft.log.mark.index:
            index = progress.matched
    return index


def cut(raft: "Raft", durable: Index) -> LogMark | None:
    """Cut the log where the store's durable index allows; None if there is nothing to cut."""
    index = _cut_index(raft, Index(min(durable, raft.applied, raft.log.durable)))
    term = raft.log.term_at(index)
    if index <= raft.log.mark.index or term is None:
        return None
    configuration = membership.configuration_at(raft, index)
    membership.cut(raft, index)
    raft.log.cut(LogPosition(term, index))
    return LogMark(index, term, configuration.encode(), "")


def install(raft: "Raft", stage: str, position: LogPosition, configuration: bytes) -> LogMark | None:
    """Restart the log behind a staged snapshot; None if the log does not need it.

    A log that holds the snapshot's last entry keeps what it has behind it (thesis, section 5): this member may have
    acknowledged it. It then needs nothing but the news that everything up to there is committed.
    """
    if position.index <= raft.commit:
        return None
    if raft.log.holds(position):
        following.learn_commit(raft, position.index)
        return None
    decoded = Configuration.decode(configuration)
    if position.term > raft.term:
        raft.become_follower(position.term, NOBODY, Cause.HIGHER_TERM_SEEN)
    raft.log.restart(position)
    raft.gate.restarted(position.index)
    raft.gate.mark_in_flight = True
    raft.configurations = [(position.index, decoded)]
    raft.commit = position.index
    raft.handed = position.index
    raft.applied = position.index
    raft.log_event("log_restarted", {"index": position.index, "term": position.term})
    return LogMark(position.index, position.term, configuration, stage)


def mark_durable(raft: "Raft") -> None:
    """The mark of the snapshot being installed is on disk: what was held behind it may be true now."""
    raft.gate.mark_in_flight = False


def configuration_for(raft: "Raft", index: Index, term: Term) -> bytes | None:
    """Return the configuration that belongs to a snapshot at `index`; None if the log cannot follow it any more."""
    if not raft.log.holds(LogPosition(term, index)):
        return None
    return membership.configuration_at(raft, index).encode()


def followers_in_need(raft: "Raft") -> list[MemberId]:
    """Return the followers that wait for a snapshot and live, in a fixed order."""
    if raft.leading is None:
        return []
    waiting = [progress for progress in raft.leading.progress.values() if progress.state is ProgressState.SNAPSHOT]
    since = Millis(raft.now - raft.config.election_timeout_ms)
    return sorted(progress.member for progress in waiting if progress.heard_since(since))


def awaits_snapshot(raft: "Raft", member: MemberId) -> bool:
    """Whether `member` still needs entries that were cut away."""
    progress = raft.leading.progress.get(member) if raft.leading is not None else None
    return progress is not None and progress.state is ProgressState.SNAPSHOT


def tell_position(raft: "Raft") -> None:
    """Tell the leader where we stand, so that it goes on behind a snapshot; behind the fsync as always."""
    if raft.leading is None and raft.leader:
        following.acknowledge(raft, raft.leader, raft.commit)
