"""Calls that only the leader's lessor can answer: keep-alives, and what is left of a lease (feature map, rules 46, 47).

They cost no log entry. Like a read a call waits until a heartbeat round that began after it came has confirmed the
leader, and until the entries committed by then are handed over; unlike a read it is then served by the *leader's*
applier, whoever asked, and the answer finds its way back.

Invariants: a call goes to the applier only under an office that was confirmed after the call came; every call of this
node's gateway is answered or refused, or forgotten with its gateway. A call may be served twice, its question may be
repeated: keeping a lease alive twice is keeping it alive.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from protocol.errors import ErrorCode
from protocol.peer import ForwardLessorCalls, ForwardLessorCallsReply, PeerMessage
from protocol.types import NOBODY, Index, MemberId, Millis
from raft import read_index

if TYPE_CHECKING:
    from raft.core import Raft

LESSOR_CALLS_HELD_MAX = 10_000
"""Batches waiting here; the gateway bounds its calls, this bounds what it may have forgotten."""

Results = tuple[tuple[int, bytes], ...]
"""Per call of a batch an `ErrorCode` and a body."""


class ReleasedLessorCalls(NamedTuple):
    """A batch that this leader's lessor may answer behind entry `index`."""

    index: Index  # type: ignore[assignment]  # hides tuple.index
    asker: MemberId
    context: int
    payload: bytes
    confirmed_at: Millis


@dataclass(slots=True)
class Asked:
    """A batch of this node's gateway without an answer."""

    sequence: int
    payload: bytes
    retry_at: Millis
    give_up_at: Millis


class LessorDesk:
    """This node's calls under way, and at the leader those that its applier may answer."""

    def __init__(self, first_context: int) -> None:
        self._context = first_context
        self.asked: dict[int, Asked] = {}
        self.released: list[ReleasedLessorCalls] = []
        self.answered: list[tuple[int, Results]] = []
        self.refused: list[tuple[int, ErrorCode]] = []

    @property
    def due(self) -> Millis:
        """When a question should be repeated or given up."""
        return min((asked.retry_at for asked in self.asked.values()), default=read_index.FAR_FUTURE)

    def note(self, asked: Asked) -> int:
        """Remember a batch; return its context."""
        self._context += 1
        self.asked[self._context] = asked
        return self._context

    def answer(self, context: int, code: int, results: Results) -> None:
        """The lessor has spoken, or the leader is none; nobody's business if the gateway that asked is gone."""
        asked = self.asked.pop(context, None)
        if asked is None:
            return
        if code:
            self.refused.append((asked.sequence, ErrorCode(code)))
        else:
            self.answered.append((asked.sequence, results))

    def refuse_all(self, code: ErrorCode) -> None:
        """Refuse everything under way."""
        self.refused.extend((asked.sequence, code) for asked in self.asked.values())
        self.asked = {}

    def release(self, index: Index, asker: MemberId, context: int, payload: bytes, confirmed_at: Millis) -> None:
        """The office was confirmed: the lessor may answer behind entry `index`."""
        self.released.append(ReleasedLessorCalls(index, asker, context, payload, confirmed_at))

    def take_released(self, handed: Index) -> list[ReleasedLessorCalls]:
        """Return what may be served now, in the order it came."""
        ready = [waiting for waiting in self.released if waiting.index <= handed]
        if ready:
            self.released = [waiting for waiting in self.released if waiting.index > handed]
        return ready

    def take_answered(self) -> list[tuple[int, Results]]:
        """Return the answers since the last call."""
        answered, self.answered = self.answered, []
        return answered

    def take_refused(self) -> list[tuple[int, ErrorCode]]:
        """Return the refusals since the last call."""
        refused, self.refused = self.refused, []
        return refused


# --- this node's gateway asks ----------------------------------------------------------------------


def ask(raft: "Raft", sequence: int, payload: bytes) -> None:
    """Take a batch in; refused at once when nobody leads or too many wait."""
    desk = raft.lessor_calls
    if raft.leader == NOBODY:
        desk.refused.append((sequence, ErrorCode.NO_LEADER))
        return
    if len(desk.asked) >= LESSOR_CALLS_HELD_MAX:
        desk.refused.append((sequence, ErrorCode.TOO_MANY_REQUESTS))
        return
    give_up_at = Millis(raft.now + read_index.PATIENCE_TIMEOUTS * raft.config.election_timeout_ms)
    context = desk.note(Asked(sequence, payload, _retry_at(raft), give_up_at))
    _put(raft, context, payload)


def _put(raft: "Raft", context: int, payload: bytes) -> None:
    if raft.leading is not None:
        read_index.register_lessor_calls(raft, NOBODY, context, payload)
    else:
        raft.send(raft.leader, ForwardLessorCalls(term=raft.term, context=context, payload=payload))


def _retry_at(raft: "Raft") -> Millis:
    return Millis(raft.now + 2 * raft.config.heartbeat_interval_ms)


def retry(raft: "Raft") -> None:
    """Repeat questions that were lost or whose answer was; give up those that are too old."""
    desk = raft.lessor_calls
    for context, asked in list(desk.asked.items()):
        if raft.now >= asked.give_up_at:
            desk.answer(context, ErrorCode.TIMEOUT, ())
        elif raft.now >= asked.retry_at:
            asked.retry_at = _retry_at(raft)
            if raft.leading is None:
                _put(raft, context, asked.payload)


def on_forward_lessor_calls_reply(raft: "Raft", _sender: MemberId, message: PeerMessage) -> None:
    """The leader's lessor has answered, or there is none at the sender's."""
    assert isinstance(message, ForwardLessorCallsReply), f"{message.kind} came to on_forward_lessor_calls_reply"
    raft.lessor_calls.answer(message.context, message.code, message.results)


def leader_changed(raft: "Raft") -> None:
    """Refuse what went to a leader that is none any more: what it might still say is void."""
    raft.lessor_calls.refuse_all(ErrorCode.LEADER_CHANGED)
    raft.lessor_calls.released = []


def forget_gateway(raft: "Raft") -> None:
    """Drop the calls of a gateway that is gone."""
    desk = raft.lessor_calls
    desk.asked, desk.answered, desk.refused = {}, [], []


# --- the leader serves -----------------------------------------------------------------------------


def on_forward_lessor_calls(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """A follower's gateway asks; served when a round has confirmed that we still lead."""
    assert isinstance(message, ForwardLessorCalls), f"{message.kind} came to on_forward_lessor_calls"
    leading = raft.leading
    if leading is None:
        _reply(raft, sender, message.context, ErrorCode.NOT_LEADER, ())
        return
    waits = any((waiting.asker, waiting.context) == (sender, message.context) for waiting in leading.unconfirmed)
    if not waits and len(leading.unconfirmed) < read_index.READS_HELD_MAX:
        read_index.register_lessor_calls(raft, sender, message.context, message.payload)


def served(raft: "Raft", asker: MemberId, context: int, results: Results) -> None:
    """The own lessor has answered a batch."""
    if asker == NOBODY:
        raft.lessor_calls.answer(context, ErrorCode.OK, results)
    else:
        _reply(raft, asker, context, ErrorCode.OK, results)


def _reply(raft: "Raft", to: MemberId, context: int, code: ErrorCode, results: Results) -> None:
    reply = ForwardLessorCallsReply(term=raft.term, context=context, code=code, results=results)
    raft.send(to, reply, bulk=True)
