"""What a gateway does of its own accord: it raises alarms, compacts history and has stores compared.

Owns when; what it decides becomes a command like a client's, put into the log by the same way. Knows no batch.
Invariants: whoever is refused for want of space is told so once the alarm that explains it is raised, or cannot be.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from actors.effects import Effect, Log
from gateway.auto_compaction import auto_compaction
from gateway.comparison import Comparison
from gateway.own_calls import OnAnswer
from protocol.command import CommandKind, ReadKind
from protocol.config import ClusterConfig
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.exports import HashFound, HashTaken
from protocol.integrity import Finding, encode_check, encode_finding
from protocol.local import MemberView, StoreProgressed
from protocol.types import NOBODY, MemberId, Millis, Term
from protocol.wire import rpc_pb2 as rpc

PUT_OVERHEAD_BYTES: Final = 256
"""What etcd's quota counts for a put besides key and value (rule 52)."""
_LONG_KINDS: Final = (ReadKind.DEFRAGMENT, ReadKind.HASH, ReadKind.HASH_KV)
LONG_TIMEOUTS_MS: Final[dict[int, int]] = {int(kind): 3_600_000 for kind in _LONG_KINDS}
"""How long calls may take that take as long as there is data; etcd sets no limit of its own."""
REVISIONS_PER_CHECK: Final = 50_000
"""Compared at once; the whole history is gone through part by part."""
_COMPACTED: Final = (int(ErrorCode.OK), int(ErrorCode.COMPACTED))


def _ignore(_code: int, _body: bytes) -> None:
    """What was lost is asked for again."""


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
        self._check_every_ms = config.storage.integrity_check_interval_ms
        self._check_due: Millis | None = None
        self._comparison = Comparison()
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

    # --- comparison of stores ----------------------------------------------------------------------

    def on_local(self, message: object, now: Millis, members: Sequence[MemberView]) -> None:
        """The store's owner tells what this member has found, or what others have."""
        if isinstance(message, HashTaken):
            finding = encode_finding(Finding(message.number, self._member, message.crc))
            self._propose(CommandKind.HASH_FOUND, finding, now, _ignore)
        elif isinstance(message, HashFound):
            voters = [view.member for view in members if not view.is_learner]
            for guilty in self._comparison.add(message.number, message.member, message.crc, voters):
                self._logs.append(Log("critical", "store_differs", {"member": f"{guilty:x}"}))
                if (rpc.CORRUPT, guilty) not in self.alarms:
                    self.raise_alarm(rpc.CORRUPT, guilty, now, _ignore)

    def _ask_for_check(self, now: Millis, *, leads: bool) -> None:
        """Have a part of the history compared, one part after the other, while this member leads."""
        if self._check_due is None or now < self._check_due:
            return
        self._check_due = Millis(now + self._check_every_ms)
        if leads:
            self._propose(CommandKind.HASH_CHECK, encode_check(REVISIONS_PER_CHECK), now, _ignore)

    # --- time --------------------------------------------------------------------------------------

    @property
    def deadline(self) -> Millis | None:
        """When `wake` has something to do."""
        due = self._compaction.deadline
        return self._check_due if due is None or (self._check_due or due) < due else due

    def progressed(self, message: StoreProgressed) -> None:
        """The store tells where it stands."""
        self.alarms = message.alarms
        self._revision = message.revision

    def start(self, now: Millis) -> None:
        """Time begins."""
        self._compaction.start(now)
        if self._check_every_ms:
            self._check_due = Millis(now + self._check_every_ms)

    def wake(self, now: Millis, *, leads: bool) -> list[Effect]:
        """Do what is due."""
        self._now = now
        self._ask_for_check(now, leads=leads)
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
