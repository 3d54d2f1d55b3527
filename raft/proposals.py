"""How a batch of commands gets into the log: here, or by way of the leader; at most once.

Invariants: a batch that was refused is in no log and never will be, unless its owner submits it again; nothing is
proposed a second time by itself. A forwarded batch may arrive twice: the leader of its term decides once per context,
no other leader ever, and who cannot remember what that leader decided says nothing.
"""

from typing import TYPE_CHECKING, Final

from protocol.errors import ErrorCode
from protocol.peer import ForwardProposal, ForwardProposalReply, PeerMessage
from protocol.types import NOBODY, EntryKind, MemberId, Term

if TYPE_CHECKING:
    from raft.core import Raft

SEEN_CONTEXTS: Final = 4096
"""How far a forwarded batch may be overtaken by later ones and still be recognised as new."""
FORWARDS_REMEMBERED_MAX: Final = 10_000
"""Forwarded batches whose refusal would still be passed on; what is accepted is not answered, so the oldest goes."""


class SeenWindow:
    """Which contexts of one member have been decided: a bitmap that moves with the highest."""

    def __init__(self) -> None:
        self._highest = -1
        self._bits = 0

    def first_time(self, context: int) -> bool:
        """Note `context`; False if it was noted before, or is too old to tell."""
        ahead = context - self._highest
        if ahead > 0:
            self._bits = ((self._bits << ahead) | 1) & ((1 << SEEN_CONTEXTS) - 1) if ahead < SEEN_CONTEXTS else 1
            self._highest = context
            return True
        bit = 1 << -ahead if -ahead < SEEN_CONTEXTS else 0
        if not bit or self._bits & bit:
            return False
        self._bits |= bit
        return True


class ProposalDesk:
    """What this node's own gateway has to be told, and which forwarded batches were decided in our last office."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._forwarded: dict[int, int] = {}
        """The gateway's sequence of each batch that was forwarded, by context; oldest first."""
        self.refused: list[tuple[int, ErrorCode]] = []
        """Sequences that are in no log, and why; the owner takes them."""
        self._office_term = Term(0)
        self._decided: dict[MemberId, SeenWindow] = {}

    def forwarded(self, sequence: int) -> int:
        """Note that `sequence` is forwarded; return the context to do it under."""
        self._context += 1
        self._forwarded[self._context] = sequence
        if len(self._forwarded) > FORWARDS_REMEMBERED_MAX:
            del self._forwarded[next(iter(self._forwarded))]
        return self._context

    def forward_refused(self, context: int, code: ErrorCode) -> None:
        """The leader did not take it; nobody's business if its gateway is gone."""
        sequence = self._forwarded.pop(context, None)
        if sequence is not None:
            self.refused.append((sequence, code))

    def forget_gateway(self) -> None:
        """Another gateway speaks from now on: refusals of its predecessor's batches are nobody's."""
        self._forwarded = {}
        self.refused = []

    def take_refused(self) -> list[tuple[int, ErrorCode]]:
        """Return the refusals since the last call."""
        refused, self.refused = self.refused, []
        return refused

    def office_taken(self, term: Term) -> None:
        """We lead `term`, in which nothing was decided yet."""
        self._office_term = term
        self._decided = {}

    def first_time(self, sender: MemberId, message: ForwardProposal) -> bool:
        """Whether this batch was certainly not decided before, by us as leader of the term it was meant for.

        Only the leader of that term is ever asked; so if it was not our last office, then it was an earlier one (or
        one of an earlier life), of which nothing is known any more.
        """
        if message.term != self._office_term:
            return False
        return self._decided.setdefault(sender, SeenWindow()).first_time(message.context)


def submit(raft: "Raft", sequence: int, payload: bytes) -> None:
    """Propose this node's batch: append it, forward it, or refuse it."""
    if raft.leading is None and raft.leader != NOBODY:
        context = raft.proposals.forwarded(sequence)
        raft.send(raft.leader, ForwardProposal(term=raft.term, context=context, payload=payload), bulk=True)
        return
    code = propose(raft, payload)
    if code is not ErrorCode.OK:
        raft.proposals.refused.append((sequence, code))


def propose_upkeep(raft: "Raft", term: Term, payload: bytes) -> ErrorCode:
    """Append what this node's lessor says as leader of `term`; another term's word is refused, never forwarded."""
    if raft.leading is None or raft.term != term:
        return ErrorCode.NOT_LEADER
    return propose(raft, payload, EntryKind.LEASE_UPKEEP)


def propose(raft: "Raft", payload: bytes, kind: EntryKind = EntryKind.COMMANDS) -> ErrorCode:
    """Append one batch as one entry.

    Returns:
        OK, or why it was not appended: nobody leads (or hands over), or too much is under way.
    """
    if raft.leading is None or raft.transfer.target != NOBODY:
        return ErrorCode.NO_LEADER
    config = raft.config
    uncommitted = raft.log.bytes_between(raft.commit, raft.log.last.index)
    if uncommitted and uncommitted + len(payload) > config.uncommitted_bytes_max:
        return ErrorCode.TOO_MANY_REQUESTS
    if raft.commit - raft.applied >= config.unapplied_entries_max:
        return ErrorCode.TOO_MANY_REQUESTS
    if raft.log.bytes_between(raft.applied, raft.commit) >= config.unapplied_bytes_max:
        return ErrorCode.TOO_MANY_REQUESTS
    raft.append(kind, payload)
    return ErrorCode.OK


def on_forward_proposal(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Propose for a follower. A copy of what was decided before is not answered: the first answer holds."""
    assert isinstance(message, ForwardProposal), f"{message.kind} came to on_forward_proposal"
    if not raft.proposals.first_time(sender, message):
        return
    code = propose(raft, message.payload) if message.term == raft.term else ErrorCode.NO_LEADER
    if code is ErrorCode.OK:
        # A client of that follower waits for this very entry to be applied there.
        assert raft.leading is not None, "only a leader takes proposals"
        raft.leading.await_news(sender, raft.log.last.index)
    else:
        raft.send(sender, ForwardProposalReply(term=raft.term, context=message.context, code=code))


def on_forward_proposal_reply(raft: "Raft", _sender: MemberId, message: PeerMessage) -> None:
    """A refusal finds its way back, if the gateway that asked still lives."""
    assert isinstance(message, ForwardProposalReply), f"{message.kind} came to on_forward_proposal_reply"
    raft.proposals.forward_refused(message.context, ErrorCode(message.code))
