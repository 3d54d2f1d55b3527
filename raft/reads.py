"""Linearizable reads without a log write (thesis, section 6.4).

A read waits for: an entry of the leader's own term being committed, then a heartbeat round that began after the
read arrived and that a majority answered, then everything committed at that time being handed to the applier.
Invariants: a round number is used once in a term, so an old heartbeat answer confirms no new read (etcd#20418);
a follower's read is known by a context that no other incarnation uses.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from protocol.errors import ErrorCode
from protocol.peer import PeerMessage, ReadIndexReply, RequestReadIndex
from protocol.types import NOBODY, Index, MemberId, Millis
from raft.quorum import VoteResult, vote_result

if TYPE_CHECKING:
    from raft.core import Raft, ReleasedRead


class PendingRead(NamedTuple):
    """A read at the leader, waiting for its round; `asker` is NOBODY for this node's own gateway."""

    asker: MemberId
    context: int
    index: Index  # type: ignore[assignment]  # hides tuple.index
    round: int
    sequence: int
    payload: bytes


@dataclass(slots=True)
class FollowerRead:
    """A read of this node's gateway whose index the leader has been asked for."""

    sequence: int
    payload: bytes
    retry_at: Millis


def read(raft: "Raft", sequence: int, payload: bytes, now: Millis) -> None:
    """Have `payload` released as soon as it may be served; refused at once when nobody leads."""
    raft._advance(now)
    if raft.leading is not None:
        _register(raft, NOBODY, 0, sequence, payload)
    elif raft.leader != NOBODY:
        raft.read_context += 1
        retry_at = Millis(now + 2 * raft.config.heartbeat_interval_ms)
        raft.follower_reads[raft.read_context] = FollowerRead(sequence, payload, retry_at)
        raft.send(raft.leader, RequestReadIndex(term=raft.term, context=raft.read_context))
    else:
        raft.refused_reads.append((sequence, ErrorCode.NO_LEADER))


def retry(raft: "Raft") -> None:
    """Ask again for indexes whose question or answer was lost."""
    for context, waiting in raft.follower_reads.items():
        if raft.now >= waiting.retry_at and raft.leader != NOBODY:
            waiting.retry_at = Millis(raft.now + 2 * raft.config.heartbeat_interval_ms)
            raft.send(raft.leader, RequestReadIndex(term=raft.term, context=context))


def _register(raft: "Raft", asker: MemberId, context: int, sequence: int, payload: bytes) -> None:
    leading = raft.leading
    assert leading is not None, "only a leader confirms reads"
    if not leading.rounds_wanted:
        # One round serves every read of the turn: the heartbeats leave at its end.
        leading.round += 1
        leading.rounds_wanted = True
    read_index = raft.commit if raft.commit >= leading.first_own_index else Index(0)
    leading.unconfirmed.append(PendingRead(asker, context, read_index, leading.round, sequence, payload))
    if read_index and _alone(raft):
        round_acknowledged(raft)


def _alone(raft: "Raft") -> bool:
    return raft.configuration.voters == (raft.member,) and not raft.configuration.joint


def own_term_committed(raft: "Raft") -> None:
    """Give reads that came before the first commit of this term their index."""
    leading = raft.leading
    if leading is None or raft.commit < leading.first_own_index or not leading.unconfirmed:
        return
    if any(waiting.index == 0 for waiting in leading.unconfirmed):
        leading.unconfirmed = [
            waiting if waiting.index else waiting._replace(index=raft.commit) for waiting in leading.unconfirmed
        ]
        round_acknowledged(raft)


def round_acknowledged(raft: "Raft") -> None:
    """Release every read whose round a majority has answered."""
    leading = raft.leading
    if leading is None or not leading.unconfirmed:
        return
    kept: list[PendingRead] = []
    confirmed: dict[int, bool] = {}
    for waiting in leading.unconfirmed:
        if waiting.round not in confirmed:
            confirmed[waiting.round] = _confirmed(raft, waiting.round)
        if not waiting.index or not confirmed[waiting.round]:
            kept.append(waiting)
        elif waiting.asker == NOBODY:
            _release(raft, waiting.index, waiting.sequence, waiting.payload)
        else:
            raft.send(
                waiting.asker,
                ReadIndexReply(term=raft.term, context=waiting.context, index=waiting.index, code=0),
            )
    leading.unconfirmed = kept


def _confirmed(raft: "Raft", number: int) -> bool:
    leading = raft.leading
    assert leading is not None, "only a leader counts"
    votes = {member: True for member, progress in leading.progress.items() if progress.round_acked >= number}
    votes[raft.member] = True
    configuration = raft.configuration
    return vote_result(configuration.voters, configuration.outgoing, votes) is VoteResult.WON


def _release(raft: "Raft", index: Index, sequence: int, payload: bytes) -> None:
    from raft.core import ReleasedRead

    raft.waiting_reads.append(ReleasedRead(index, sequence, payload))


def take_released(raft: "Raft") -> list["ReleasedRead"]:
    """Return reads whose entries have been handed to the applier: they go behind them on the same link."""
    if not raft.waiting_reads:
        return []
    ready = [waiting for waiting in raft.waiting_reads if waiting.index <= raft.handed]
    if ready:
        raft.waiting_reads = [waiting for waiting in raft.waiting_reads if waiting.index > raft.handed]
    return ready


def on_request_read_index(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """A follower wants an index; it is answered when a round has confirmed that we still lead."""
    assert isinstance(message, RequestReadIndex)
    if raft.leading is None or message.term > raft.term:
        raft.send(
            sender, ReadIndexReply(term=raft.term, context=message.context, index=Index(0), code=ErrorCode.NOT_LEADER)
        )
        return
    _register(raft, sender, message.context, 0, b"")


def on_read_index_reply(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """The leader has named the index, or is none."""
    assert isinstance(message, ReadIndexReply)
    if sender != raft.leader and not message.code:
        return
    waiting = raft.follower_reads.pop(message.context, None)
    if waiting is None:
        return
    if message.code:
        raft.refused_reads.append((waiting.sequence, ErrorCode.LEADER_CHANGED))
    else:
        _release(raft, message.index, waiting.sequence, waiting.payload)


def office_lost(raft: "Raft") -> None:
    """Refuse what this leader had not confirmed."""
    leading = raft.leading
    assert leading is not None, "there was an office"
    for waiting in leading.unconfirmed:
        if waiting.asker == NOBODY:
            raft.refused_reads.append((waiting.sequence, ErrorCode.LEADER_CHANGED))
    leading.unconfirmed = []


def leader_changed(raft: "Raft") -> None:
    """Refuse reads whose question went to a leader that is none any more."""
    for waiting in raft.follower_reads.values():
        raft.refused_reads.append((waiting.sequence, ErrorCode.LEADER_CHANGED))
    raft.follower_reads = {}


def forget_gateway(raft: "Raft") -> None:
    """Drop the reads of a gateway that is gone."""
    raft.follower_reads = {}
    raft.waiting_reads = []
    if raft.leading is not None:
        raft.leading.unconfirmed = [waiting for waiting in raft.leading.unconfirmed if waiting.asker != NOBODY]
