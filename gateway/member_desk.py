"""The core's desk for members: what the gateway knows of them, and calls on their way to raft.

Owns the lane of these calls, and what a learner refuses. A call that changes something goes to raft once; only what
was certainly not done is asked again.
Invariant: a member list that must be linearizable is asked of raft behind a barrier of the reads, so it is no older
than what was committed when the call came.
"""

from collections.abc import Callable
from typing import Final, Protocol

from actors.effects import Effect, Send
from gateway.calls import Batch, Body, Lane
from gateway.members import MemberCall, MemberCalls
from gateway.methods import OWN_CALL, Method, Route
from protocol import local
from protocol.command import ReadKind
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.membership import MemberView
from protocol.types import MemberId, Millis, Term

RETRY_MS: Final = 20
"""Pause before what was refused or came too early is tried again."""
CALLS_UNDER_WAY_MAX: Final = 64
SEQUENCES_BEGIN: Final = 1 << 62
"""Calls to raft have numbers of their own, above those of any batch."""
_LEARNER_SERVES: Final = (ReadKind.RANGE, ReadKind.STATUS)


class Core(Protocol):
    """What the desk needs of the gateway's core."""

    identity: NodeIdentity
    term: Term
    leader: MemberId

    def answer(self, call_id: int, code: int, body: Body) -> None:
        """Answer a call, if somebody still waits."""
        ...


def list_members(_body: bytes) -> bytes:
    """Mark a barrier behind which raft is to be asked for the members."""
    raise AssertionError("the barrier of a member list answers nobody")


def learner_refusal(method: Method, kind: int, *, own_state: bool) -> ErrorCode:
    """Return why a learner does not serve a call that its own state is enough for, or is not (feature map, rule 68)."""
    served = method.number == OWN_CALL or (own_state and kind in _LEARNER_SERVES)
    return ErrorCode.OK if served else ErrorCode.NOT_SUPPORTED_FOR_LEARNER


class MemberDesk:
    """Members as this gateway knows them."""

    def __init__(self, core: Core, is_open: Callable[[int], bool]) -> None:
        self._core = core
        self._is_open = is_open
        self.calls = MemberCalls(core.identity)
        self.lane = Lane("members", unserved_max=CALLS_UNDER_WAY_MAX, inflight_max=CALLS_UNDER_WAY_MAX, as_user=0)
        self.views: tuple[MemberView, ...] = ()
        """What raft told last: committed, though others may have committed more."""
        self.is_learner = False
        self._sequence = SEQUENCES_BEGIN

    def learn(self, views: tuple[MemberView, ...]) -> ErrorCode | None:
        """Take the members over as raft tells them; return why no stream may be opened here, if none may."""
        self.views = views
        self.is_learner = any(view.is_learner for view in views if view.member == self._core.identity.member)
        return ErrorCode.NOT_SUPPORTED_FOR_LEARNER if self.is_learner else None

    def route(self, route: Route, kind: int, reads: Lane) -> tuple[tuple[ErrorCode, bytes] | None, Lane]:
        """Return what a call is answered with at once, if it is, and the lane it waits in otherwise."""
        core = self._core
        if route is Route.RAFT:
            if kind == MemberCall.MOVE_LEADER and core.leader != core.identity.member:
                return (ErrorCode.NOT_LEADER, b""), self.lane
            return None, self.lane
        if not kind and self.views and not self.is_learner:
            return (ErrorCode.OK, self.calls.member_list(self.views, core.term)), reads
        return None, reads

    def send(self, now: Millis, effects: list[Effect]) -> None:
        """Send what waits, each call by itself."""
        lane = self.lane
        while lane.queue and lane.resume(now) and not lane.full:
            call_id, kind, body = lane.queue.popleft()
            if self._is_open(call_id):
                self._sequence = sequence = self._sequence + 1
                lane.sent(sequence, Batch([call_id], [kind, body], self._core.term, self._core.leader, now))
                effects.append(Send("raft", self.calls.ask(sequence, kind, body)))

    def on_answered(self, message: local.MembersAnswered | local.LeadershipTransferEnded, now: Millis) -> None:
        """Answer a call, or ask again where nothing was done."""
        members = message.members if isinstance(message, local.MembersAnswered) else ()
        self._end(message.sequence, message.code, members, now)

    def _end(self, sequence: int, code: int, members: tuple[MemberView, ...], now: Millis) -> None:
        batch = self.lane.inflight.get(sequence)
        if batch is None:
            return
        if code == ErrorCode.NO_LEADER:
            self.calls.forget(sequence)
            self.lane.requeue(sequence, None, self._is_open)
            self.lane.pause(Millis(now + RETRY_MS))
            return
        self.lane.done(sequence)
        kind = batch.flat[0]
        assert isinstance(kind, int), "kinds and bodies alternate"
        body = b""
        if kind == MemberCall.MOVE_LEADER:
            code = ErrorCode.TIMEOUT_LEADER_TRANSFER if code == ErrorCode.TIMEOUT else code
        elif not code:
            body = self.calls.answer(sequence, kind, members, self._core.term)
        else:
            self.calls.forget(sequence)
        self._core.answer(batch.ids[0], code, body)

    def raft_lost(self, now: Millis) -> None:
        """Raft died: what it was asked for may have been done."""
        for sequence in list(self.lane.inflight):
            self._end(sequence, ErrorCode.TIMEOUT_CONNECTION_LOST, (), now)
