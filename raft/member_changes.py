"""How a wish to change the membership becomes a configuration: asked at any member, decided and answered by the leader.

The leader takes one wish after the other: looks at the rules, proposes, and answers once the configuration that the
wish leads to is committed, joint halves left. A member that was added to vote joins as a learner and is promised its
vote: the leader promotes it by itself as soon as it has caught up, so that adding a machine that is not there yet
costs nobody a quorum.

Invariants: a wish is decided once, by the leader of the term it was sent in and by no other; a repeated question gets
the answer of the first; every wish of this node's gateway is answered, or forgotten with its gateway.
"""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from protocol.errors import ErrorCode, PeerFault
from protocol.membership import ChangeKind, MemberChange, MemberView
from protocol.peer import ForwardMemberChange, ForwardMemberChangeReply, PeerMessage
from protocol.types import NO_STORE, NOBODY, MemberId, Millis, Term
from raft import member_rules, membership
from raft.configuration import MemberRecord

if TYPE_CHECKING:
    from raft.core import Raft

CHANGES_WAITING_MAX: Final = 64
"""Wishes that wait at a leader, and those of one gateway that wait for an answer."""
ANSWERS_REMEMBERED_MAX: Final = 256
"""Answers a leader could give again."""
RETRY_HEARTBEATS: Final = 5
"""Heartbeat intervals after which a question is put again."""
PATIENCE_TIMEOUTS: Final = 10
"""Election timeouts after which a wish is given up; its fate is unknown then."""
FAR_FUTURE = Millis(1 << 62)


class Wish(NamedTuple):
    """A change somebody asked this leader for; `asker` is NOBODY for this node's own gateway."""

    asker: MemberId
    context: int
    change: MemberChange


class Answer(NamedTuple):
    """What this node's gateway is to be told."""

    sequence: int
    code: ErrorCode
    members: tuple[MemberView, ...]


@dataclass(slots=True)
class Asked:
    """A wish of this node's gateway without an answer."""

    sequence: int
    change: MemberChange
    term: Term
    """Of the leader that was asked; no other may be."""
    retry_at: Millis
    give_up_at: Millis


class ChangeDesk:
    """This node's wishes under way, and at the leader those of everybody."""

    def __init__(self, first_context: int) -> None:
        self._context = first_context
        self.asked: dict[int, Asked] = {}
        self.answers: list[Answer] = []
        self.waiting: deque[Wish] = deque()
        self.under_way: Wish | None = None
        """Proposed, and not committed yet."""
        self.decided: dict[tuple[MemberId, int], tuple[ErrorCode, tuple[MemberView, ...]]] = {}

    @property
    def due(self) -> Millis:
        """When a question should be repeated or given up."""
        return min((min(asked.retry_at, asked.give_up_at) for asked in self.asked.values()), default=FAR_FUTURE)

    @property
    def busy(self) -> bool:
        """Whether this leader has wishes to see to."""
        return self.under_way is not None or bool(self.waiting)

    def note(self, asked: Asked) -> int:
        """Remember a wish; return its context."""
        self._context += 1
        self.asked[self._context] = asked
        return self._context

    def answer(self, context: int, code: ErrorCode, members: tuple[MemberView, ...]) -> None:
        """Tell this node's gateway; nobody's business if it is gone."""
        asked = self.asked.pop(context, None)
        if asked is not None:
            self.answers.append(Answer(asked.sequence, code, members))

    def take_answers(self) -> list[Answer]:
        """Return the answers since the last call."""
        answers, self.answers = self.answers, []
        return answers

    def leader_changed(self) -> None:
        """What was under way with the leader before may have been done or not; as leader we owe nothing any more."""
        for context in list(self.asked):
            self.answer(context, ErrorCode.LEADER_CHANGED, ())
        self.waiting.clear()
        self.under_way = None
        self.decided.clear()

    def forget_gateway(self) -> None:
        """Drop what a gateway asked that is gone."""
        self.asked, self.answers = {}, []


# --- this node's gateway asks ----------------------------------------------------------------------


def ask(raft: "Raft", sequence: int, change: MemberChange) -> None:
    """Have the membership changed; the answer shows in `changes.answers`."""
    desk = raft.changes
    if raft.leader == NOBODY:
        desk.answers.append(Answer(sequence, ErrorCode.NO_LEADER, ()))
        return
    if len(desk.asked) >= CHANGES_WAITING_MAX:
        desk.answers.append(Answer(sequence, ErrorCode.TOO_MANY_REQUESTS, ()))
        return
    give_up_at = Millis(raft.now + PATIENCE_TIMEOUTS * raft.config.election_timeout_ms)
    context = desk.note(Asked(sequence, change, raft.term, _retry_at(raft), give_up_at))
    if raft.leading is not None:
        _take_in(raft, Wish(NOBODY, context, change))
    else:
        raft.send(raft.leader, ForwardMemberChange(term=raft.term, context=context, change=change))


def _retry_at(raft: "Raft") -> Millis:
    return Millis(raft.now + RETRY_HEARTBEATS * raft.config.heartbeat_interval_ms)


def retry(raft: "Raft") -> None:
    """Put questions again that were lost or whose answer was; give up those that are too old."""
    for context, asked in list(raft.changes.asked.items()):
        if raft.now >= asked.give_up_at:
            raft.changes.answer(context, ErrorCode.TIMEOUT, ())
        elif raft.term != asked.term:
            # The same member may lead again: it does not know any more what it decided.
            raft.changes.answer(context, ErrorCode.LEADER_CHANGED, ())
        elif raft.now >= asked.retry_at:
            asked.retry_at = _retry_at(raft)
            if raft.leading is None and raft.leader != NOBODY:
                question = ForwardMemberChange(term=raft.term, context=context, change=asked.change)
                raft.send(raft.leader, question)


def on_forward_member_change_reply(raft: "Raft", _sender: MemberId, message: PeerMessage) -> None:
    """The leader has decided."""
    assert isinstance(message, ForwardMemberChangeReply), f"{message.kind} came to on_forward_member_change_reply"
    raft.changes.answer(message.context, ErrorCode(message.code), message.members)


# --- the leader decides ----------------------------------------------------------------------------


def on_forward_member_change(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """A follower's gateway asks. Only the leader of the term it was sent in decides: it alone knows whether it has."""
    assert isinstance(message, ForwardMemberChange), f"{message.kind} came to on_forward_member_change"
    desk = raft.changes
    if raft.leading is None or message.term != raft.term:
        return
    if message.change.kind not in list(ChangeKind):
        raise PeerFault(f"{sender:x} wishes change {message.change.kind} of the members, which is none")
    wish = Wish(sender, message.context, message.change)
    decided = desk.decided.get((sender, message.context))
    if decided is not None:
        _tell(raft, wish, *decided)
    elif wish != desk.under_way and wish not in desk.waiting:
        _take_in(raft, wish)


def _take_in(raft: "Raft", wish: Wish) -> None:
    if len(raft.changes.waiting) >= CHANGES_WAITING_MAX:
        _tell(raft, wish, ErrorCode.TOO_MANY_REQUESTS, ())
        return
    raft.changes.waiting.append(wish)
    go_on(raft)


def _tell(raft: "Raft", wish: Wish, code: ErrorCode, members: tuple[MemberView, ...]) -> None:
    if wish.asker == NOBODY:
        raft.changes.answer(wish.context, code, members)
    elif wish.asker != raft.member:
        reply = ForwardMemberChangeReply(term=raft.term, context=wish.context, code=int(code), members=members)
        raft.send(wish.asker, reply)


def _decide(raft: "Raft", wish: Wish, code: ErrorCode) -> None:
    members = () if code else raft.configuration.views()
    decided = raft.changes.decided
    decided[wish.asker, wish.context] = (code, members)
    if len(decided) > ANSWERS_REMEMBERED_MAX:
        del decided[next(iter(decided))]
    _tell(raft, wish, code, members)


def go_on(raft: "Raft") -> None:
    """Decide waiting wishes until one has to wait for its commit, or all must."""
    desk = raft.changes
    while desk.waiting and desk.under_way is None and _at_rest(raft):
        wish = desk.waiting.popleft()
        code = member_rules.refusal(raft, wish.change)
        if code is ErrorCode.OK:
            code = _make(raft, wish.change)
        if code is not ErrorCode.OK or _at_rest(raft):
            # Refused, or the table says already what a member tells of itself.
            _decide(raft, wish, code)
        else:
            desk.under_way = wish
            raft.log_event(
                "members_changing", {"change": ChangeKind(wish.change.kind).name, "member": f"{wish.change.member:x}"}
            )


def _at_rest(raft: "Raft") -> bool:
    """Whether a new configuration may be begun: none is under way, and no transfer either."""
    return membership.may_change(raft) and not raft.configuration.joint and raft.transfer.target == NOBODY


def settled(raft: "Raft") -> None:
    """A configuration that leads nowhere else is committed: what it was made for is answered."""
    desk = raft.changes
    if desk.under_way is not None:
        wish, desk.under_way = desk.under_way, None
        _decide(raft, wish, ErrorCode.OK)


def tick(raft: "Raft") -> None:
    """See to wishes that had to wait, and to promises that can be kept now."""
    if raft.changes.waiting:
        go_on(raft)
    configuration = raft.configuration
    promised = [
        member
        for member, record in sorted(configuration.members.items())
        if record.promised and membership.caught_up(raft, member)
    ]
    if promised and raft.changes.under_way is None and _at_rest(raft):
        raft.log_event("members_promoted", {"members": [f"{member:x}" for member in promised]})
        _promote(raft, promised)


def _promote(raft: "Raft", members: list[MemberId]) -> ErrorCode:
    configuration = raft.configuration
    table = dict(configuration.members)
    for member in members:
        table[member] = table[member]._replace(promised=False)
    learners = tuple(learner for learner in configuration.learners if learner not in members)
    return membership.change_members(raft, (*configuration.voters, *members), learners, table)


def _make(raft: "Raft", change: MemberChange) -> ErrorCode:
    """Propose what a change leads to; its rules have been looked at."""
    configuration = raft.configuration
    table = dict(configuration.members)
    voters, learners = configuration.voters, configuration.learners
    member = change.member
    if change.kind == ChangeKind.PROMOTE:
        return _promote(raft, [member])
    if change.kind == ChangeKind.ADD:
        table[member] = MemberRecord("", change.peer_urls, (), NO_STORE, promised=not change.is_learner)
        learners = (*learners, member)
    elif change.kind == ChangeKind.REMOVE:
        del table[member]
        voters = tuple(voter for voter in voters if voter != member)
        learners = tuple(learner for learner in learners if learner != member)
    elif change.kind == ChangeKind.UPDATE:
        table[member] = table[member]._replace(peer_urls=change.peer_urls)
    else:
        table[member] = table[member]._replace(name=change.name, client_urls=change.client_urls)
    if change.kind == ChangeKind.PUBLISH and table == configuration.members:
        return ErrorCode.OK
    # Even if nothing changes: an answer lists the members, which only what is committed again shows to be so still.
    return membership.change_members(raft, voters, learners, table)
