"""What a follower does with its leader's messages (thesis, sections 3.4 to 3.6).

Invariants: an append is taken over only where the logs meet; committed entries are never overwritten; an
acknowledgement leaves behind the fsync of what it acknowledges.
"""

from typing import TYPE_CHECKING

from protocol.errors import InvariantViolation, PeerFault
from protocol.peer import AppendEntries, AppendEntriesReply, Heartbeat, HeartbeatReply, PeerMessage
from protocol.types import LOG_START, Index, LogPosition, MemberId, Millis
from raft import membership
from raft.transitions import Cause, Role

if TYPE_CHECKING:
    from raft.core import Raft


def _hear_leader(raft: "Raft", sender: MemberId, message: PeerMessage) -> bool:
    """Follow the sender of this term; False if its term is over, and then it is told so."""
    if message.term < raft.term:
        # It steps down when it sees our term, and a majority that is ahead of it is found (thesis, section 3.3).
        deposed = AppendEntriesReply(term=raft.term, matched=Index(0), rejected=True, conflict=LOG_START)
        raft.send(sender, deposed)
        return False
    # Heard before it is followed: the patience drawn with a new leader is the usual one, not that of a start.
    raft.heard_leader_at = raft.now
    if message.term > raft.term:
        raft.become_follower(message.term, sender, Cause.HIGHER_TERM_SEEN)
    elif raft.role is not Role.FOLLOWER or raft.leader != sender:
        if raft.role is Role.LEADER:
            raise InvariantViolation(f"{sender:x} and {raft.member:x} both lead term {raft.term}")
        raft.become_follower(message.term, sender, Cause.LEADER_HEARD)
    # The jitter is drawn once per following, not per message: it only has to differ between members.
    raft.election_due = Millis(raft.now + raft.election_patience)
    return True


def _check_shape(message: AppendEntries) -> None:
    term, index = message.previous
    for entry in message.entries:
        if entry.index != index + 1 or not term <= entry.term <= message.term:
            raise PeerFault(f"entry {entry.index} of term {entry.term} behind {index} of term {term}")
        term, index = entry.term, entry.index


def on_append_entries(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Take over the leader's entries where the logs meet; the answer follows the fsync."""
    assert isinstance(message, AppendEntries), f"{message.kind} came to on_append_entries"
    _check_shape(message)
    if not _hear_leader(raft, sender, message):
        return
    previous = message.previous
    if previous.index < raft.log.mark.index:
        # What lies before the mark is committed, so it matches; an old append is answered with what we hold.
        acknowledge(raft, sender, raft.commit)
        return
    if not raft.log.holds(previous):
        hint = raft.log.last_not_above(previous)
        reply = AppendEntriesReply(term=raft.term, matched=previous.index, rejected=True, conflict=hint)
        raft.send(sender, reply)
        return
    _take_over(raft, message)
    matched = Index(previous.index + len(message.entries))
    learn_commit(raft, Index(min(message.commit, matched)))
    if not message.quiet:
        acknowledge(raft, sender, matched)


def _take_over(raft: "Raft", message: AppendEntries) -> None:
    """Append what is new; where an entry differs in term, what we have from there on goes (thesis, section 3.5)."""
    for position, entry in enumerate(message.entries):
        held = raft.log.term_at(entry.index)
        if held == entry.term:
            continue
        if held is not None:
            if entry.index <= raft.commit:
                raise InvariantViolation(f"committed entry {entry.index} of term {held} would become {entry.term}")
            raft.log.truncate(entry.index)
            raft.gate.truncated(entry.index)
            membership.truncated(raft, entry.index)
            raft.log_event("log_truncated", {"index": entry.index, "term": held})
        fresh = message.entries[position:]
        raft.log.append(fresh)
        membership.appended(raft, fresh)
        return


def acknowledge(raft: "Raft", leader: MemberId, matched: Index) -> None:
    """Tell the leader that we hold everything up to `matched`, behind the fsync that makes it true."""
    reply = AppendEntriesReply.make(
        term=raft.term, matched=matched, rejected=False, conflict=LogPosition(raft.term, matched)
    )
    raft.send(leader, reply, after_sync=True)


def learn_commit(raft: "Raft", commit: Index) -> None:
    """Take over the leader's commit index, as far as our log is known to be its own."""
    if commit > raft.commit:
        assert commit <= raft.log.last.index, f"commit {commit} behind the log's end {raft.log.last.index}"
        raft.commit = commit


def on_heartbeat(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Answer the leader's sign of life; a member whose disk is stuck is silent, so that it does not count."""
    assert isinstance(message, Heartbeat), f"{message.kind} came to on_heartbeat"
    if not _hear_leader(raft, sender, message):
        return
    learn_commit(raft, Index(min(message.commit, raft.log.last.index)))
    if not raft.disk_stuck:
        raft.send(sender, HeartbeatReply(term=raft.term, round=message.round, attended=raft.attended))
