"""When the log is cut, and what happens to raft's state when a snapshot takes its place.

Invariants: a cut never passes what the store has made durable; an installed snapshot only moves a member forward.
"""

from typing import TYPE_CHECKING

from protocol.types import Index, LogMark, LogPosition, MemberId, Term
from raft import membership
from raft.configuration import Configuration
from raft.progress import ProgressState

if TYPE_CHECKING:
    from raft.core import Raft


def cut_wanted(raft: "Raft") -> bool:
    """Whether enough was applied since the mark to be worth a cut, or the log takes too much memory."""
    config = raft.config
    behind = raft.applied - raft.log.mark.index
    if behind >= config.snapshot_count + config.catchup_entries:
        return True
    return raft.log.bytes_held > config.log_bytes_max and behind > 0


def cut(raft: "Raft", durable: Index) -> LogMark | None:
    """Cut the log where the store's durable index allows; None if there is nothing to cut.

    Entries are kept behind the mark for followers that lag a little, unless memory forbids it.
    """
    durable = Index(min(durable, raft.applied, raft.log.durable))
    kept = raft.config.catchup_entries if raft.log.bytes_held <= raft.config.log_bytes_max else 0
    index = Index(durable - kept)
    term = raft.log.term_at(index)
    if index <= raft.log.mark.index or term is None:
        return None
    configuration = membership.configuration_at(raft, index)
    raft.log.cut(LogPosition(term, index))
    membership.cut(raft, index)
    return LogMark(index, term, configuration.encode(), "")


def install(raft: "Raft", stage: str, index: Index, term: Term, configuration: bytes) -> LogMark | None:
    """Restart the log behind a staged snapshot; None if the log is already past it."""
    if index <= raft.commit:
        return None
    position = LogPosition(term, index)
    raft.log.restart(position)
    raft.configurations = [(index, Configuration.decode(configuration))]
    raft.commit = index
    raft.written_to = index
    raft.handed = index
    raft.applied = index
    return LogMark(index, term, configuration, stage)


def followers_in_need(raft: "Raft") -> list[MemberId]:
    """Return the followers that wait for a snapshot, in a fixed order."""
    if raft.leading is None:
        return []
    return [
        member
        for member, progress in raft.leading.progress.items()
        if progress.state is ProgressState.SNAPSHOT and progress.heard_ever
    ]
