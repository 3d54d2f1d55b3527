"""Linearizable reads without a log write (thesis, section 6.4).

A read waits for three things: an entry of the leader's own term is committed; a heartbeat round that began after the
read arrived is answered by a majority; everything committed when it arrived has been handed to the applier.

Invariants: a round number is used once in a term, so an old heartbeat answer confirms no new read (etcd#20418);
a follower's question carries a context that no other life of that member uses; all reads of a turn share one round
or one question; every read is released or refused, or forgotten with its gateway.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from protocol.errors import ErrorCode
from protocol.peer import ForwardLessorCallsReply, PeerMessage, ReadIndexReply, RequestReadIndex
from protocol.types import NOBODY, Index, MemberId, Millis
from raft.quorum import VoteResult, vote_result

if TYPE_CHECKING:
    from raft.core import Raft

FAR_FUTURE = Millis(1 << 62)
READS_HELD_MAX = 10_000
"""Batches of reads waiting here; the gateway bounds requests, this bounds what it may have forgotten."""
PATIENCE_TIMEOUTS = 5
"""Election timeouts after which a question without an answer is given up."""


class ReleasedRead(NamedTuple):
    """A read batch of this node's gateway that may be served behind entry `index`."""

    index: Index  # type: ignore[assignment]  # hides tuple.index
    sequence: int
    payload: bytes


class PendingRead(NamedTuple):
    """A read at the leader, waiting for its round; `asker` is NOBODY for this node's own gateway."""

    asker: MemberId
    context: int
    index: Index  # type: ignore[assignment]  # hides tuple.index
    round: int
    sequence: int
    payload: bytes
    lessor: bool = False
    """The leader's own applier serves it, whoever asked: `lessor_calls`."""


@dataclass(slots=True)
class Question:
    """Reads of this node's gateway whose index the leader has been asked for."""

    reads: list[tuple[int, bytes]]
    retry_at: Millis
    give_up_at: Millis


class ReadDesk:
    """This node's own reads: those to ask about, asked about, and waiting for entries to be handed over."""

    def __init__(self, first_context: int) -> None:
        self.context = first_context
        self.unasked: list[tuple[int, bytes]] = []
        self.questions: dict[int, Question] = {}
        self.released: list[ReleasedRead] = []
        self.refused: list[tuple[int, ErrorCode]] = []

    @property
    def due(self) -> Millis:
        """When a question should be repeated."""
        if not self.questions:
            return FAR_FUTURE
        return min(question.retry_at for question in self.questions.values())

    @property
    def held(self) -> int:
        """Batches of reads waiting for an answer or for entries."""
        return len(self.unasked) + sum(len(each.reads) for each in self.questions.values()) + len(self.released)

    def take_released(self, handed: Index) -> list[ReleasedRead]:
        """Return the reads whose entries have been handed over, in the order they came."""
        if not self.released:
            return []
        ready = [waiting for waiting in self.released if waiting.index <= handed]
        if ready:
            self.released = [waiting for waiting in self.released if waiting.index > handed]
        return ready

    def take_refused(self) -> list[tuple[int, ErrorCode]]:
        """Return the refusals since the last call."""
        refused, self.refused = self.refused, []
        return refused

    def refuse(self, reads: list[tuple[int, bytes]], code: ErrorCode) -> None:
        """Refuse these reads."""
        self.refused.extend((sequence, code) for sequence, _ in reads)


# --- this node's gateway asks ----------------------------------------------------------------------


def read(raft: "Raft", sequence: int, payload: bytes) -> None:
    """Take a batch of reads in; refused at once when nobody leads or too many wait."""
    desk = raft.reads
    if raft.leading is not None:
        if len(raft.leading.unconfirmed) + len(desk.released) >= READS_HELD_MAX:
            desk.refused.append((sequence, ErrorCode.TOO_MANY_REQUESTS))
            return
        _register(raft, NOBODY, 0, sequence, payload)
    elif raft.leader == NOBODY:
        desk.refused.append((sequence, ErrorCode.NO_LEADER))
    elif desk.held >= READS_HELD_MAX:
        desk.refused.append((sequence, ErrorCode.TOO_MANY_REQUESTS))
    else:
        desk.unasked.append((sequence, payload))


def ask(raft: "Raft") -> None:
    """Put one question for all reads that came in this turn."""
    desk = raft.reads
    if not desk.unasked:
        return
    reads, desk.unasked = desk.unasked, []
    desk.context += 1
    config = raft.config
    retry_at = Millis(raft.now + 2 * config.heartbeat_interval_ms)
    give_up_at = Millis(raft.now + PATIENCE_TIMEOUTS * config.election_timeout_ms)
    desk.questions[desk.context] = Question(reads, retry_at, give_up_at)
    raft.send(raft.leader, RequestReadIndex(term=raft.term, context=desk.context))


def retry(raft: "Raft") -> None:
    """Repeat questions that were lost or whose answer was; give up those that are too old."""
    desk = raft.reads
    for context, question in list(desk.questions.items()):
        if raft.now >= question.give_up_at:
            del desk.questions[context]
            desk.refuse(question.reads, ErrorCode.TIMEOUT)
        elif raft.now >= question.retry_at:
            question.retry_at = Millis(raft.now + 2 * raft.config.heartbeat_interval_ms)
            raft.send(raft.leader, RequestReadIndex(term=raft.term, context=context))


def on_read_index_reply(raft: "Raft", _sender: MemberId, message: PeerMessage) -> None:
    """The leader has named the index, or is none.

    Whoever named it has confirmed its leadership after the question was put, so the index is good in any term.
    """
    assert isinstance(message, ReadIndexReply), f"{message.kind} came to on_read_index_reply"
    question = raft.reads.questions.pop(message.context, None)
    if question is None:
        return
    if message.code:
        raft.reads.refuse(question.reads, ErrorCode.LEADER_CHANGED)
        return
    raft.reads.released.extend(ReleasedRead(message.index, sequence, payload) for sequence, payload in question.reads)


def leader_changed(raft: "Raft") -> None:
    """Refuse reads whose question went to a leader that is none any more."""
    desk = raft.reads
    for question in desk.questions.values():
        desk.refuse(question.reads, ErrorCode.LEADER_CHANGED)
    desk.questions = {}
    desk.refuse(desk.unasked, ErrorCode.LEADER_CHANGED)
    desk.unasked = []


def forget_gateway(raft: "Raft") -> None:
    """Drop the reads of a gateway that is gone."""
    desk = raft.reads
    desk.unasked, desk.questions, desk.released, desk.refused = [], {}, [], []
    if raft.leading is not None:
        raft.leading.unconfirmed = [waiting for waiting in raft.leading.unconfirmed if waiting.asker != NOBODY]


# --- the leader confirms ---------------------------------------------------------------------------


def register_lessor_calls(raft: "Raft", asker: MemberId, context: int, payload: bytes) -> None:
    """Have a batch for the lessor wait for its round like a read."""
    _register(raft, asker, context, 0, payload, lessor=True)


def _register(
    raft: "Raft", asker: MemberId, context: int, sequence: int, payload: bytes, *, lessor: bool = False
) -> None:
    leading = raft.leading
    assert leading is not None, "only a leader confirms reads"
    if not leading.round_wanted:
        # One round serves every read of the turn: the heartbeats leave at its end.
        leading.round += 1
        leading.round_wanted = True
    index = raft.commit if raft.commit >= leading.first_own_index else Index(0)
    leading.unconfirmed.append(PendingRead(asker, context, index, leading.round, sequence, payload, lessor))
    if index and _confirmed(raft, leading.round):
        round_acknowledged(raft)


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
        elif waiting.lessor:
            raft.lessor_calls.release(waiting.index, waiting.asker, waiting.context, waiting.payload, raft.now)
        elif waiting.asker == NOBODY:
            raft.reads.released.append(ReleasedRead(waiting.index, waiting.sequence, waiting.payload))
        else:
            leading.await_news(waiting.asker, waiting.index)
            reply = ReadIndexReply(term=raft.term, context=waiting.context, index=waiting.index, code=0)
            raft.send(waiting.asker, reply)
    leading.unconfirmed = kept


def _confirmed(raft: "Raft", number: int) -> bool:
    """Whether a majority has answered round `number` or a later one; a single voter needs nobody."""
    leading = raft.leading
    assert leading is not None, "only a leader counts"
    votes = {member: True for member, progress in leading.progress.items() if progress.round_acked >= number}
    votes[raft.member] = True
    configuration = raft.configuration
    return vote_result(configuration.voters, configuration.outgoing, votes) is VoteResult.WON


def on_request_read_index(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """A follower wants an index; it is answered when a round has confirmed that we still lead."""
    assert isinstance(message, RequestReadIndex), f"{message.kind} came to on_request_read_index"
    leading = raft.leading
    if leading is None:
        code = ErrorCode.NOT_LEADER
        raft.send(sender, ReadIndexReply(term=raft.term, context=message.context, index=Index(0), code=code))
        return
    if len(leading.unconfirmed) >= READS_HELD_MAX:
        return
    if all((waiting.asker, waiting.context) != (sender, message.context) for waiting in leading.unconfirmed):
        _register(raft, sender, message.context, 0, b"")


def office_lost(raft: "Raft") -> None:
    """Refuse what this leader had not confirmed."""
    leading = raft.leading
    assert leading is not None, "there was an office"
    for waiting in leading.unconfirmed:
        if waiting.lessor:
            _refuse_lessor_calls(raft, waiting)
        elif waiting.asker == NOBODY:
            raft.reads.refused.append((waiting.sequence, ErrorCode.LEADER_CHANGED))
        else:
            code = ErrorCode.NOT_LEADER
            raft.send(waiting.asker, ReadIndexReply(term=raft.term, context=waiting.context, index=Index(0), code=code))
    leading.unconfirmed = []


def _refuse_lessor_calls(raft: "Raft", waiting: PendingRead) -> None:
    """Tell another member; this node's own are refused with every other call that went to the leader before."""
    if waiting.asker != NOBODY:
        code = ErrorCode.NOT_LEADER
        reply = ForwardLessorCallsReply(term=raft.term, context=waiting.context, code=code, results=())
        raft.send(waiting.asker, reply)
