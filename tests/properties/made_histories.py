"""Linearizable histories made by running one store in the middle of overlapping calls, and ways to falsify them.

A request takes effect at one instant between its call and its return, on the plain model. Clients may give up before or
after that instant, or never learn of it; stale reads look at any state the store has been in.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import Message

from checker.history import History, Operation, Outcome, answered, lost, refused
from checker.items import is_serializable
from checker.plain import CALLS, plain_of
from protocol.errors import ClientError, ErrorCode
from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from sim.kv_model import KvModel

LEASES = {7: 1}


def ask(model: KvModel, request: Any) -> "Message | ErrorCode":
    """What the plain model answers, or the code with which it refuses."""
    call = CALLS[type(request)]
    try:
        answer: Message = getattr(model, {"delete": "delete_range"}.get(call, call))(request)
    except ClientError as error:
        return error.code
    return answer


@dataclass
class _Open:
    client: str
    request: Message
    invoked: int
    told: "Message | ErrorCode | None" = None


class HistoryMaker:
    """Makes a history, one event after another; every event has an instant of its own."""

    def __init__(
        self,
        rng: random.Random,
        next_request: Callable[[str], Message | None],
        clients: int,
        *,
        storm_share: float = 0.0,
    ) -> None:
        self.history = History(leases=frozenset(LEASES))
        self.model = KvModel(leases=dict(LEASES))
        self._rng = rng
        self._next_request = next_request
        self._clients = clients
        self._storm_share = storm_share
        """How likely an event is that every client gives up at once, as when a leader dies."""
        self._lost_share = 0.0
        self._now = 0
        self._open: dict[str, _Open] = {}
        self._ghosts: list[_Open] = []
        self._past = [(1, -1)]

    def run(self, lost_share: float) -> History:
        """Run until no client has anything to ask and nobody waits for an answer."""
        names = [f"c{number}" for number in range(self._clients)]
        self._lost_share = lost_share
        while names:
            self._now += 1
            if self._ghosts and self._rng.random() < 0.1:
                ghost = self._ghosts.pop(self._rng.randrange(len(self._ghosts)))
                if self._rng.random() < 0.5:
                    self._perform(ghost)
                continue
            if self._storm_share and self._rng.random() < self._storm_share:
                for call in self._open.values():
                    self._give_up(call)
                self._open.clear()
            name = self._rng.choice(names)
            call = self._open.get(name)
            if call is None:
                request = self._next_request(name)
                if request is None:
                    names.remove(name)
                else:
                    self._open[name] = _Open(name, request, self._now)
            elif self._rng.random() < self._lost_share:
                self._give_up(self._open.pop(name))
            elif call.told is None:
                self._perform(call)
            else:
                self._end(self._open.pop(name))
        return self.history

    def _perform(self, call: _Open) -> None:
        request = call.request
        probe = Operation("", CALLS[type(request)], plain_of(request), 0, None, Outcome.UNKNOWN)
        if is_serializable(probe):
            revision, compacted = self._rng.choice(self._past)
            past = self.model.past
            stale = KvModel(revision, compacted, past[revision], past, self.model.leases)
            call.told = ask(stale, request)
        else:
            call.told = ask(self.model, request)
            self._past.append((self.model.revision, self.model.compacted))

    def _give_up(self, call: _Open) -> None:
        self.history.operations.append(lost(call.client, call.request, call.invoked, self._now))
        if call.told is None:
            self._ghosts.append(call)

    def _end(self, call: _Open) -> None:
        told = call.told
        if isinstance(told, ErrorCode):
            operation = refused(call.client, call.request, told, call.invoked, self._now)
        else:
            assert told is not None, "a call ends with what it was told"
            operation = answered(call.client, call.request, told, call.invoked, self._now)
        self.history.operations.append(operation)


class BusyClients:
    """Requests as a chaos run makes them: compare-and-set, prefix reads, stale reads, old reads, compactions.

    Args:
        total: requests until everybody stops.
        keys: how many keys there are.
        values: how many different values are put; 0: every put has its own.
    """

    def __init__(self, rng: random.Random, total: int, *, keys: int = 20, values: int = 0) -> None:
        self._rng = rng
        self._left = total
        self._total = total
        self._keys = keys
        self._values = values
        self.maker: HistoryMaker | None = None

    def next(self, _client: str) -> Message | None:
        """Return the next request, or None at the end."""
        if not self._left:
            return None
        self._left -= 1
        kind = self._rng.choices(("put", "get", "list", "cas", "delete", "compact"), (30, 25, 12, 25, 6, 0.5))[0]
        return getattr(self, f"_{kind}")()  # type: ignore[no-any-return]

    def _key(self) -> bytes:
        return b"k/%03d" % self._rng.randrange(self._keys)

    def _value(self) -> bytes:
        return b"%d" % (self._rng.randrange(self._values) if self._values else self._left)

    def _revision(self) -> int:
        assert self.maker is not None, "the maker is told after both are made"
        return max(1, self.maker.model.revision - self._rng.randrange(60))

    def _put(self) -> Message:
        return PutRequest(key=self._key(), value=self._value(), prev_kv=self._rng.random() < 0.2)

    def _get(self) -> Message:
        return RangeRequest(key=self._key(), serializable=self._rng.random() < 0.2)

    def _list(self) -> Message:
        request = RangeRequest(key=b"k/", range_end=b"k0", serializable=self._rng.random() < 0.2)
        if self._rng.random() < 0.3:
            request.limit = 5
        if self._rng.random() < 0.3:
            request.revision = self._revision()
        return request

    def _cas(self) -> Message:
        assert self.maker is not None, "the maker is told after both are made"
        key = self._key()
        pair = self.maker.model.live.get(key)
        compare = Compare(key=key, target=Compare.MOD, mod_revision=pair.mod_revision if pair else 0)
        if pair and self._rng.random() < 0.3:
            compare = Compare(key=key, target=Compare.VALUE, value=pair.value)
        put = RequestOp(request_put=PutRequest(key=key, value=self._value()))
        read = RequestOp(request_range=RangeRequest(key=key))
        return TxnRequest(compare=[compare], success=[put, read], failure=[read])

    def _delete(self) -> Message:
        key = self._key()
        return DeleteRangeRequest(key=key, range_end=key + b"\xff" if self._rng.random() < 0.3 else b"", prev_kv=True)

    def _compact(self) -> Message:
        return CompactionRequest(revision=self._revision())


def busy_history(
    seed: int,
    total: int,
    *,
    clients: int = 10,
    lost: float = 0.01,
    storms: float = 0.0,
    keys: int = 20,
    values: int = 0,
) -> History:
    """A linearizable history of `total` operations as a chaos run would record it."""
    rng = random.Random(seed)
    busy = BusyClients(rng, total, keys=keys, values=values)
    busy.maker = HistoryMaker(rng, busy.next, clients, storm_share=storms)
    return busy.maker.run(lost)


# --- lies ---------------------------------------------------------------------------------------


def falsified(rng: random.Random, history: History) -> History:
    """Return the history with one thing changed: an answer, an instant, an outcome, or two answers exchanged."""
    operations = list(history.operations)
    if not operations:
        return history
    at = rng.randrange(len(operations))
    operation = operations[at]
    lie = rng.randrange(5)
    if lie == 0 and operation.outcome == Outcome.OK:
        operations[at] = replace(operation, answer=_changed(rng, operation.answer))
    elif lie == 1:
        span = [other.invoked for other in operations] + [operation.invoked + 1]
        begin = rng.choice(span)
        end = begin if operation.returned is None else begin + rng.randrange(4)
        operations[at] = replace(operation, invoked=begin, returned=end)
    elif lie == 2:
        lies = [Outcome.FAILED, Outcome.UNKNOWN]
        error = rng.choice(["COMPACTED", "FUTURE_REVISION", "KEY_NOT_FOUND", "NO_LEADER"])
        operations[at] = replace(operation, outcome=rng.choice(lies), answer={}, error=error)
    elif lie == 3:
        del operations[at]
    else:
        alike = [n for n, o in enumerate(operations) if (o.call, o.outcome) == (operation.call, Outcome.OK)]
        if operation.outcome == Outcome.OK:
            other = rng.choice(alike)
            operations[at] = replace(operation, answer=operations[other].answer)
            operations[other] = replace(operations[other], answer=operation.answer)
    return History(operations, history.unit, history.leases)


def _changed(rng: random.Random, plain: Any) -> Any:
    """A copy of an answer with one leaf of it changed, or one part left out."""
    copy = dict(plain)
    name = rng.choice(sorted(copy)) if copy else ""
    value = copy.get(name)
    if isinstance(value, bool):
        del copy[name]
    elif isinstance(value, int):
        copy[name] = max(1, value + rng.choice((-2, -1, 1, 2)))
    elif isinstance(value, str):
        copy[name] = rng.choice(["1", "2", "never"])
    elif isinstance(value, dict):
        copy[name] = _changed(rng, value)
    elif isinstance(value, list) and value:
        index = rng.randrange(len(value))
        changed = [*value]
        if rng.random() < 0.3:
            del changed[index]
        else:
            changed[index] = _changed(rng, changed[index])
        copy[name] = changed
    else:
        copy["count"] = 1
    return copy
