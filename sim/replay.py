"""What the clients saw against what the log says: the committed commands, replayed through a model of plain dicts.

Owns the light linearizability check: the log gives the order, the model the answers; each answered write must be in the
log once with exactly the answer given, real-time order must hold, and a linearizable read must show everything that was
acknowledged before it began. Knows no actor. A general checker that needs no log can stand beside it.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import Message as ProtoMessage

from protocol.command import CommandKind, decode_batch
from protocol.errors import WIRE_ERRORS, ClientError, ErrorCode
from protocol.lease import decode_upkeep
from protocol.types import Entry, EntryKind
from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    TxnRequest,
)
from sim.clients import Call, History
from sim.kv_model import KvModel
from sim.trouble import SimulationFailed
from sim.workload import OF_THE_LESSOR, RESPONSES

_REQUESTS: Final[dict[int, type[Any]]] = {
    CommandKind.PUT: PutRequest,
    CommandKind.DELETE_RANGE: DeleteRangeRequest,
    CommandKind.TXN: TxnRequest,
    CommandKind.COMPACT: CompactionRequest,
    CommandKind.LEASE_GRANT: LeaseGrantRequest,
    CommandKind.LEASE_REVOKE: LeaseRevokeRequest,
}
_COMPARISONS: Final = (CommandKind.HASH_CHECK, CommandKind.HASH_FOUND)
_APPLIED_ERRORS: Final = {
    ErrorCode.COMPACTED,
    ErrorCode.FUTURE_REVISION,
    ErrorCode.KEY_NOT_FOUND,
    ErrorCode.LEASE_EXISTS,
    ErrorCode.LEASE_NOT_FOUND,
    ErrorCode.NO_SPACE,
}
"""Errors that only apply can find: the command is in the log, and the model must find the same."""


_SHAPE_ERRORS: Final = {
    ErrorCode.EMPTY_KEY,
    ErrorCode.VALUE_PROVIDED,
    ErrorCode.LEASE_PROVIDED,
    ErrorCode.TOO_MANY_OPERATIONS,
    ErrorCode.DUPLICATE_KEY,
    ErrorCode.INVALID_SORT_OPTION,
}
"""Errors of the request alone: found at the door or at apply; where the log has the command, the model must agree."""


@dataclass
class Outcome:
    """What the log and the model say of one command."""

    position: int
    code: int
    response: ProtoMessage | None


@dataclass
class Replay:
    """The model after the whole log, and what was true after each command position (1 is the first command)."""

    model: KvModel = field(default_factory=KvModel)
    outcomes: dict[bytes, list[Outcome]] = field(default_factory=dict)
    revisions: list[int] = field(default_factory=lambda: [1])
    compactions: list[int] = field(default_factory=lambda: [-1])
    first_position: dict[int, int] = field(default_factory=lambda: {1: 0})
    """Revision to the first position at which the store is at it."""
    batches_repeated: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    """Lease to the index of the entry that ended it, by its owner's wish or because its time was over."""
    run_out: set[int] = field(default_factory=set)
    """Those whose time was over."""
    _windows: dict[int, tuple[int, set[int]]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Apply one committed entry to the model."""
        if entry.kind == EntryKind.LEASE_UPKEEP:
            self._expire(entry)
        if entry.kind != EntryKind.COMMANDS:
            return
        origin, commands = decode_batch(entry.data)
        incarnation, sequences = self._windows.get(origin.member, (0, set()))
        if origin.incarnation > incarnation:
            incarnation, sequences = origin.incarnation, set()
        if origin.incarnation < incarnation or origin.sequence in sequences:
            self.batches_repeated += 1
            return
        sequences.add(origin.sequence)
        self._windows[origin.member] = (incarnation, sequences)
        for command in commands:
            if command.kind == CommandKind.AS_NODE:
                # Nobody's call: stores are compared, which changes nothing that a client sees.
                assert command.body[0] in _COMPARISONS, f"a member made command {command.body[0]} by itself"
                continue
            self._apply(command.kind, command.body, entry.index)

    def _expire(self, entry: Entry) -> None:
        """End what a leader says has run out, if it says so in its own term: a deposed one expires nothing."""
        upkeep = decode_upkeep(entry.data)
        for lease, granted in upkeep.expired if upkeep.term == entry.term else ():
            before = self.model.revision
            if self.model.expire(lease, granted):
                self.ends[lease] = entry.index
                self.run_out.add(lease)
            if self.model.revision != before:
                self._note_position()

    def _note_position(self) -> None:
        """The log has come one step further."""
        position = len(self.revisions)
        self.revisions.append(self.model.revision)
        self.compactions.append(self.model.compacted)
        self.first_position.setdefault(self.model.revision, position)

    def _apply(self, kind: int, body: bytes, index: int) -> None:
        model = self.model
        request = _REQUESTS[kind].FromString(body)
        code = int(ErrorCode.OK)
        response: ProtoMessage | None = None
        try:
            if kind == CommandKind.PUT:
                response = model.put(request)
            elif kind == CommandKind.DELETE_RANGE:
                response = model.delete_range(request)
            elif kind == CommandKind.TXN:
                response = model.txn(request)
            elif kind == CommandKind.LEASE_GRANT:
                response = model.lease_grant(request, index)
            elif kind == CommandKind.LEASE_REVOKE:
                response = model.lease_revoke(request)
                self.ends[request.ID] = index
            else:
                response = model.compact(request)
        except ClientError as error:
            code = int(error.code)
        self.outcomes.setdefault(body, []).append(Outcome(len(self.revisions), code, response))
        self._note_position()

    def at(self, position: int) -> KvModel:
        """The model as it was after `position`; for reading only."""
        revision = self.revisions[position]
        past = self.model.past
        return KvModel(revision, self.compactions[position], past[revision], past, self.model.leases)


def check_history(history: History, entries: dict[int, Entry]) -> Replay:
    """Replay the log and hold every call of the history against it.

    Raises:
        SimulationFailed: an answer, its absence or its order is not what the log allows.
    """
    replay = Replay()
    for index in sorted(entries):
        if index != 1 and index - 1 not in entries:
            raise SimulationFailed("no holes", f"entry {index} was applied, entry {index - 1} never")
        replay.add(entries[index])
    _check_writes_known(history, replay)
    floors = _Floors()
    for is_end, call in _events(history):
        if is_end:
            _check_answer(call, replay, floors)
        else:
            floors.begin(call)
    return replay


@dataclass
class _Floors:
    """The least a call may see, by what had been answered when it began."""

    position: int = 0
    by_gateway: dict[tuple[str, int], int] = field(default_factory=dict)
    at_begin: dict[int, tuple[int, int]] = field(default_factory=dict)

    def begin(self, call: Call) -> None:
        """Remember what has been answered so far: anywhere (a position), and by this call's gateway (a revision)."""
        self.at_begin[call.id] = (self.position, self.by_gateway.get(call.gateway, 0))

    def answered(self, call: Call, revision: int) -> None:
        """Note the header of an answer."""
        self.by_gateway[call.gateway] = max(self.by_gateway.get(call.gateway, 0), revision)


def _events(history: History) -> list[tuple[bool, Call]]:
    """Begins and ends in the order in which they happened."""
    events = [(call.begin, False, call) for call in history.calls]
    events += [(call.end, True, call) for call in history.calls if call.end is not None]
    return [(is_end, call) for _, is_end, call in sorted(events, key=lambda event: event[0])]


def _check_writes_known(history: History, replay: Replay) -> None:
    """Everything in the log was asked for by somebody, once."""
    asked = {call.request.body: call for call in history.calls if call.request.writes}
    for body, outcomes in replay.outcomes.items():
        if body not in asked:
            raise SimulationFailed("no write out of thin air", f"nobody asked for {body[:80]!r}")
        if len(outcomes) > 1:
            text = f"call {asked[body].id} took effect {len(outcomes)} times"
            raise SimulationFailed("a write happens at most once", text)


def _check_answer(call: Call, replay: Replay, floors: _Floors) -> None:
    if call.silent or call.request.method in OF_THE_LESSOR:
        return
    code = ErrorCode(call.code or 0)
    if call.request.writes:
        _check_write(call, code, replay, floors)
    elif code == ErrorCode.OK:
        _check_read(call, replay, floors)
    elif code in (ErrorCode.COMPACTED, ErrorCode.FUTURE_REVISION):
        _check_read_refused(call, code, replay, floors)


def _check_write(call: Call, code: ErrorCode, replay: Replay, floors: _Floors) -> None:
    outcomes = replay.outcomes.get(call.request.body, [])
    applied = code == ErrorCode.OK or code in _APPLIED_ERRORS
    if code in _SHAPE_ERRORS and outcomes:
        applied = True
    if not applied:
        if outcomes and not WIRE_ERRORS[code].outcome_unknown:
            raise SimulationFailed("refused is not done", f"{_told(call)} {code.name}, but it is in the log")
        return
    if not outcomes:
        raise SimulationFailed("acknowledged is kept", f"{_told(call)} {code.name}, but it is not in the log")
    outcome = outcomes[0]
    if outcome.code != code:
        raise SimulationFailed("answers are the model's", f"{_told(call)} {code.name}, the model says {outcome.code}")
    position, revision = floors.at_begin[call.id]
    if outcome.position <= position:
        text = f"{_told(call)} position {outcome.position}, position {position} was answered before it began"
        raise SimulationFailed("real-time order", text)
    floors.position = max(floors.position, outcome.position)
    if code == ErrorCode.OK:
        response = _checked_header(call, revision, floors)
        _compare(call, response, outcome.response)


def _check_read(call: Call, replay: Replay, floors: _Floors) -> None:
    position, gateway_revision = floors.at_begin[call.id]
    response = _checked_header(call, gateway_revision, floors)
    shown = response.header.revision
    if shown not in replay.first_position:
        raise SimulationFailed("reads show what is committed", f"{_told(call)} revision {shown}, which never was")
    first = replay.first_position[shown]
    least = 0 if call.request.serializable else position
    if replay.revisions[least] > shown:
        text = f"{_told(call)} revision {shown}, revision {replay.revisions[least]} was answered before it began"
        raise SimulationFailed("linearizable reads are fresh", text)
    if not call.request.serializable:
        floors.position = max(floors.position, first)
    view = replay.at(max(first, least))
    try:
        request: Any = call.request.message
        expected = view.range(request) if call.request.method == "range" else view.txn(request)
    except ClientError as error:
        raise SimulationFailed("answers are the model's", f"{_told(call)} OK, the model says {error}") from error
    _compare(call, response, expected)


def _check_read_refused(call: Call, code: ErrorCode, replay: Replay, floors: _Floors) -> None:
    """A read at a revision is refused only if it could have been, at some position it may have been served at."""
    wanted = getattr(call.request.message, "revision", 0)
    least = 0 if call.request.serializable else floors.at_begin[call.id][0]
    if code == ErrorCode.FUTURE_REVISION and wanted <= replay.revisions[least]:
        text = f"{_told(call)} {code.name} for {wanted}, the store was at {replay.revisions[least]}"
        raise SimulationFailed("linearizable reads are fresh", text)
    if code == ErrorCode.COMPACTED and wanted >= replay.compactions[-1]:
        raise SimulationFailed("answers are the model's", f"{_told(call)} {code.name} for {wanted}")


def _checked_header(call: Call, gateway_revision: int, floors: _Floors) -> Any:
    """Parse an answer; its revision never goes back on one gateway."""
    response: Any = RESPONSES[call.request.method].FromString(call.body)
    revision = response.header.revision
    if revision < gateway_revision:
        text = f"{_told(call)} revision {revision}, {call.gateway} had answered with {gateway_revision} before"
        raise SimulationFailed("revisions never go back", text)
    if not response.header.cluster_id or not response.header.member_id:
        raise SimulationFailed("answers are the model's", f"{_told(call)} a header that lacks an id")
    floors.answered(call, revision)
    return response


def _compare(call: Call, response: Any, expected: Any) -> None:
    """Equal but for what only a member knows: ids and term of the header."""
    for name in ("cluster_id", "member_id", "raft_term"):
        response.header.ClearField(name)
    if response != expected:
        raise SimulationFailed("answers are the model's", f"{_told(call)} {response}the model says {expected}")


def _told(call: Call) -> str:
    when = f"from {call.begin_us / 1000:.3f} to {call.end_us / 1000:.3f} ms"
    return f"call {call.id} ({call.request.method} of client {call.client} at {call.gateway}, {when}) was told"
