"""What clients were told of the members against the committed configurations: the member table as a register.

Owns the rules for answers of the Cluster service; knows no actor. The log gives the order of the configurations; each
answered call is put at the first of them that can explain it, is not older than what was answered before it began, and
was written when it ended.
Hence an acknowledged change is in every later linearizable list, unless it was undone since.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from protocol.errors import ErrorCode
from protocol.local import PersistEntries
from protocol.membership import MemberView
from protocol.message import Message
from protocol.types import EntryKind
from sim.administrator import may_be_done
from sim.clients import Call, History
from sim.configurations import Placed
from sim.trouble import SimulationFailed
from sim.workload import RESPONSES

if TYPE_CHECKING:
    from sim.process import Process
    from sim.world import World

CHANGES: Final = ("member_add", "member_remove", "member_update", "member_promote")


@dataclass(frozen=True)
class _State:
    """The member table from some entry on."""

    index: int
    views: tuple[MemberView, ...]
    written_us: int
    """Nobody could know it before."""


class WrittenTimes:
    """When each configuration was first written, by anybody."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.by_entry: dict[tuple[int, int], int] = {}
        """By index and term."""
        world.listeners.append(self.on_message)

    def on_message(self, _process: "Process", message: Message) -> None:
        """A local message leaves."""
        if isinstance(message, PersistEntries):
            for entry in message.entries:
                if entry.kind == EntryKind.CONFIGURATION:
                    self.by_entry.setdefault((entry.index, entry.term), self._world.now_us)


def check_members(
    history: History, committed: list[Placed], written_us: Mapping[tuple[int, int], int]
) -> dict[str, int]:
    """Hold every call of a member history against the committed configurations; return what was met.

    Args:
        history: what was asked about members, and told.
        committed: the configurations in the order of the log.
        written_us: when each was first written, by index and term; those that are missing were always there.

    Raises:
        SimulationFailed: an answer is not what the log allows.
    """
    states = [
        _State(placed.index, placed.configuration.views(), written_us.get((placed.index, placed.term), 0))
        for placed in committed
    ]
    events = [(call.begin, False, call) for call in history.calls]
    events += [(call.end, True, call) for call in history.calls if call.end is not None]
    floor, floors = 0, dict[int, int]()
    checked = 0
    for _, is_end, call in sorted(events, key=lambda event: event[0]):
        if not is_end:
            floors[call.id] = floor
        elif call.code == ErrorCode.OK and call.request.method != "move_leader":
            message: Any = call.request.message
            linearizable = call.request.method in CHANGES or message.linearizable
            place = _place(call, states, floors[call.id] if linearizable else 0)
            checked += 1
            if linearizable:
                floor = max(floor, place)
    _check_unasked(history, states)
    return {"member_answers_checked": checked}


def _place(call: Call, states: list[_State], floor: int) -> int:
    """Return the place of the first state that explains an answer, from `floor` on."""
    told = _told(call)
    for place in range(floor, len(states)):
        if states[place].views == told and _holds(call, told) and states[place].written_us <= call.end_us:
            return place
    older = [state.index for state in states[:floor] if state.views == told]
    behind = f"it was so at {older[-1]}, {states[floor].index} was answered before it began" if older else ""
    when = behind or "it was never so, or not yet"
    raise SimulationFailed("member lists are fresh", f"{_name(call)} was told {_short(told)}: {when}")


def _holds(call: Call, told: tuple[MemberView, ...]) -> bool:
    """Whether a list shows what the call was answered OK for."""
    message: Any = call.request.message
    if call.request.method == "member_add":
        response: Any = RESPONSES["member_add"].FromString(call.body)
        added = [view for view in told if view.member == response.member.ID]
        urls = tuple(sorted(message.peerURLs))
        return len(added) == 1 and added[0].peer_urls == urls and added[0].is_learner == message.isLearner
    of_it = [view for view in told if view.member == getattr(message, "ID", None)]
    if call.request.method == "member_remove":
        return not of_it
    if call.request.method == "member_promote":
        return len(of_it) == 1 and not of_it[0].is_learner
    if call.request.method == "member_update":
        return len(of_it) == 1 and of_it[0].peer_urls == tuple(sorted(message.peerURLs))
    return True


def _check_unasked(history: History, states: list[_State]) -> None:
    """Nobody comes, goes, gets a vote or moves without having been asked for, and what was refused was not done."""
    founders = {view.member for view in states[0].views}
    came = {view.member: view for state in reversed(states) for view in state.views if view.member not in founders}
    asked = [call for call in history.calls if call.request.method in CHANGES and may_be_done(call)]
    for member, view in came.items():
        if not any(call.request.method == "member_add" and _urls(call) == view.peer_urls for call in asked):
            raise SimulationFailed("no member out of thin air", f"nobody added {member:x} at {view.peer_urls}")
    last = {view.member for view in states[-1].views}
    for member in sorted({*founders, *came} - last):
        if not any(call.request.method == "member_remove" and _member(call) == member for call in asked):
            raise SimulationFailed("no member out of thin air", f"nobody removed {member:x}")
    for call in history.calls:
        if call.request.method == "member_add" and call.code == ErrorCode.OK:
            response: Any = RESPONSES["member_add"].FromString(call.body)
            if sum(_added(other) == response.member.ID for other in history.calls) > 1:
                raise SimulationFailed("ids are never reused", f"{_name(call)} got the id of another")


def _added(call: Call) -> int:
    if call.request.method != "member_add" or call.code != ErrorCode.OK:
        return 0
    response: Any = RESPONSES["member_add"].FromString(call.body)
    return int(response.member.ID)


def _urls(call: Call) -> tuple[str, ...]:
    message: Any = call.request.message
    return tuple(sorted(message.peerURLs))


def _member(call: Call) -> int:
    message: Any = call.request.message
    return int(message.ID)


def _told(call: Call) -> tuple[MemberView, ...]:
    response: Any = RESPONSES[call.request.method].FromString(call.body)
    return tuple(
        MemberView(each.ID, each.name, tuple(each.peerURLs), tuple(each.clientURLs), is_learner=each.isLearner)
        for each in response.members
    )


def _name(call: Call) -> str:
    return f"call {call.id} ({call.request.method} at {call.gateway}, from {call.begin_us} to {call.end_us} us)"


def _short(views: tuple[MemberView, ...]) -> str:
    return ", ".join(f"{view.member:x}{' (learner)' if view.is_learner else ''} at {view.peer_urls}" for view in views)
