"""What a gateway does of its own accord: it raises alarms and compacts history.

Owns when; what it decides becomes a command like a client's, put into the log by the same way. Knows no batch.
Invariants: whoever is refused for want of space is told so once the alarm that explains it is raised, or cannot be.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from actors.effects import Effect, Log
from gateway.auto_compaction import auto_compaction
from gateway.own_calls import OnAnswer
from protocol.command import CommandKind
from protocol.config import ClusterConfig
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.local import MemberView, StoreProgressed
from protocol.types import NOBODY, MemberId, Millis, Term
from protocol.wire import rpc_pb2 as rpc

PUT_OVERHEAD_BYTES: Final = 256
"""What etcd's quota counts for a put besides key and value (rule 52)."""
_COMPACTED: Final = (int(ErrorCode.OK), int(ErrorCode.COMPACTED))


class Propose(Protocol):
    """How a command of the node's own gets into the log."""

    def __call__(self, kind: CommandKind, body: bytes, now: Millis, on_answer: OnAnswer) -> None:
        """Put it there; `on_answer` is told what became of it."""
        ...


class Housekeeper:
    """The household of one member."""

    def __init__(
        self, member: MemberId, config: ClusterConfig, propose: Propose, answer: Callable[[int, int, bytes], None]
    ) -> None:
        self._member = member
        self._propose = propose
        self._answer = answer
        self._now = Millis(0)
        self._revision = 0
        self.alarms: tuple[tuple[int, MemberId], ...] = ()
        """As the store told them last."""
        self.held: dict[int, None] = {}
        """Calls that are over the quota, until the alarm is raised."""
        self._raising = False
        self._compaction = auto_compaction(config.compaction)
        self._logs: list[Effect] = []

    # --- space -------------------------------------------------------------------------------------

    @property
    def out_of_space(self) -> bool:
        """Whether everybody knows that this member has no space."""
        return (rpc.NOSPACE, self._member) in self.alarms

    def hold(self, call_id: int, now: Millis) -> None:
        """Refuse a call that is over the quota once the alarm is raised, so that whoever is refused finds it."""
        self.held[call_id] = None
        if self._raising:
            return
        self._raising = True
        self.raise_alarm(rpc.NOSPACE, self._member, now, self._on_raised)

    def _on_raised(self, _code: int, _body: bytes) -> None:
        self._raising = False
        held, self.held = self.held, {}
        for call_id in held:
            self._answer(call_id, ErrorCode.NO_SPACE, b"")

    def raise_alarm(self, kind: rpc.AlarmType.ValueType, member: MemberId, now: Millis, on_answer: OnAnswer) -> None:
        """Have every member know of an alarm."""
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, memberID=member, alarm=kind)
        self._propose(CommandKind.ALARM, request.SerializeToString(), now, on_answer)

    # --- time --------------------------------------------------------------------------------------

    @property
    def deadline(self) -> Millis | None:
        """When `wake` has something to do."""
        return self._compaction.deadline

    def progressed(self, message: StoreProgressed) -> None:
        """The store tells where it stands."""
        self.alarms = message.alarms
        self._revision = message.revision

    def start(self, now: Millis) -> None:
        """Time begins."""
        self._compaction.start(now)

    def wake(self, now: Millis, *, leads: bool) -> list[Effect]:
        """Do what is due."""
        self._now = now
        target = self._compaction.wake(now, self._revision, leads=leads)
        if target:
            body = rpc.CompactionRequest(revision=target).SerializeToString()
            self._propose(CommandKind.COMPACT, body, now, self._on_compacted)
            self._logs.append(Log("info", "auto_compaction", {"revision": target}))
        logs, self._logs = self._logs, []
        return logs

    def _on_compacted(self, code: int, _body: bytes) -> None:
        self._compaction.ended(self._now, done=code in _COMPACTED)
        if code not in _COMPACTED:
            self._logs.append(Log("warning", "auto_compaction_failed", {"code": ErrorCode(code).name}))


def complete_status(
    body: bytes, member: MemberId, leader: MemberId, term: Term, members: Sequence[MemberView]
) -> bytes:
    """Add to a Status what the store does not know: fields may be put before and behind, the errors in etcd's order."""
    learner = any(view.is_learner for view in members if view.member == member)
    head = rpc.StatusResponse(errors=[WIRE_ERRORS[ErrorCode.NO_LEADER].text] if leader == NOBODY else [])
    tail = rpc.StatusResponse(leader=leader, raftTerm=term, isLearner=learner)
    return head.SerializeToString() + body + tail.SerializeToString()
