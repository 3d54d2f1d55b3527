"""Alarms: what every member knows to be wrong with a member, and what is refused while it is.

Owns the alarm rows of the store and etcd's rules 52 to 55: an alarm is raised and taken back by entries, so all members
refuse the same commands. Knows no quota and no hash: who raises an alarm, and why, is the gateway's business.
Invariant: the rows of the store and `raised` are equal between entries.
"""

from typing import Final

from protocol.command import CommandKind
from protocol.errors import ErrorCode
from protocol.types import MemberId
from protocol.wire.rpc_pb2 import AlarmMember, AlarmRequest, AlarmType
from storage.engine import Engine
from storage.layout import META

ALARM_PREFIX: Final = META + b"alarm/"
ALARM_END: Final = META + b"alarm0"

Alarm = tuple[int, MemberId]
"""What is wrong (an `AlarmType`), and with whom; 0: nobody knows with whom."""

_NAMES: Final[dict[int, str]] = {number: name for name, number in AlarmType.items()}
_WITHOUT_SPACE: Final = (CommandKind.PUT, CommandKind.LEASE_GRANT)
_CORRUPT: Final = (
    CommandKind.PUT,
    CommandKind.DELETE_RANGE,
    CommandKind.TXN,
    CommandKind.COMPACT,
    CommandKind.LEASE_GRANT,
    CommandKind.LEASE_REVOKE,
)


class AlarmBook:
    """The alarms of one open store."""

    def __init__(self, engine: Engine) -> None:
        self.raised: dict[Alarm, None] = {}
        """Sorted, so that every member lists them alike."""
        self.serial = 0
        """Grows with each change."""
        for key in engine.scan_keys(ALARM_PREFIX, ALARM_END):
            self.raised[_parse(key)] = None
        self._sort()

    def has(self, kind: int) -> bool:
        """Whether anybody has an alarm of this kind."""
        return any(raised == kind for raised, _ in self.raised)

    def concerns(self, kind: int, member: MemberId) -> bool:
        """Whether this very member has an alarm of this kind."""
        return (kind, member) in self.raised

    def apply(self, request: AlarmRequest, changes: dict[bytes, bytes | None]) -> list[AlarmMember]:
        """Raise or take back an alarm; return what etcd answers with: the alarm named, if it is or was there."""
        alarm = (request.alarm, MemberId(request.memberID))
        if request.action == AlarmRequest.GET:
            return self.listed(request.alarm)
        if request.action == AlarmRequest.ACTIVATE and request.alarm != AlarmType.NONE:
            if alarm not in self.raised:
                changes[_key(alarm)] = b""
                self.raised[alarm] = None
                self._sort()
            return [_member(alarm)]
        if request.action == AlarmRequest.DEACTIVATE and alarm in self.raised:
            changes[_key(alarm)] = None
            del self.raised[alarm]
            self.serial += 1
            return [_member(alarm)]
        return []

    def listed(self, kind: int) -> list[AlarmMember]:
        """Return the alarms of a kind, or of every kind for NONE."""
        return [_member(alarm) for alarm in self.raised if kind in (AlarmType.NONE, alarm[0])]

    def texts(self) -> list[str]:
        """Return the alarms as Status lists them: etcd's very text, its blank at the end included."""
        return [f"memberID:{member} alarm:{_NAMES.get(kind, str(kind))} " for kind, member in self.raised]

    def refusals(self) -> dict[int, ErrorCode]:
        """Return which kinds of commands are refused whatever they ask, and how."""
        if self.has(AlarmType.CORRUPT):
            return dict.fromkeys(map(int, _CORRUPT), ErrorCode.CORRUPT)
        if self.has(AlarmType.NOSPACE):
            return dict.fromkeys(map(int, _WITHOUT_SPACE), ErrorCode.NO_SPACE)
        return {}

    def _sort(self) -> None:
        self.raised = dict.fromkeys(sorted(self.raised))
        self.serial += 1


def _member(alarm: Alarm) -> AlarmMember:
    return AlarmMember(memberID=alarm[1], alarm=AlarmType.ValueType(alarm[0]))


def _key(alarm: Alarm) -> bytes:
    return ALARM_PREFIX + alarm[0].to_bytes(4, "big", signed=True) + alarm[1].to_bytes(8, "big")


def _parse(key: bytes) -> Alarm:
    body = key[len(ALARM_PREFIX) :]
    return int.from_bytes(body[:4], "big", signed=True), MemberId(int.from_bytes(body[4:], "big"))
