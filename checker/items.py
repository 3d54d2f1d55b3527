"""Operations as a search sees them: what role each plays, between which instants, and at which revision.

Owns the reading of an answer: a header's revision says at which revision an operation took effect, so a write that was
answered *is* that revision. Knows histories; knows neither store nor search.

Roles:
    WRITER: made exactly revision `pin`. READER: changed nothing, was answered at revision `pin`.
    COMPACTOR: compacted at revision `pin`. REFUSED: failed with an error that depends on the store, at some revision.
    MAYBE: a write of unknown outcome. MAYBE_COMPACT: a compaction of unknown outcome.

Operations that certainly did nothing and reads of unknown outcome say nothing and become no items. A serializable read
may be stale, but not invented: it is a READER that may have looked at any time before it returned.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from checker.history import History, Operation, Outcome
from checker.model import branch_of, operation_of
from checker.plain import Plain
from protocol.errors import ErrorCode

BEGINNING: Final = -(1 << 62)
"""Before every instant."""
END: Final = 1 << 62
"""After every instant."""

STATE_ERRORS: Final = {
    code.name: code
    for code in (
        ErrorCode.KEY_NOT_FOUND,
        ErrorCode.LEASE_NOT_FOUND,
        ErrorCode.COMPACTED,
        ErrorCode.FUTURE_REVISION,
    )
}
"""Errors that only the store can find: the model must find the same somewhere between call and return."""


class Role(IntEnum):
    """What an operation is to the search; see the module."""

    WRITER = 0
    READER = 1
    COMPACTOR = 2
    REFUSED = 3
    MAYBE = 4
    MAYBE_COMPACT = 5


@dataclass(slots=True)
class Item:
    """One operation in its role. `number` is its place in the history."""

    number: int
    role: Role
    call: str
    request: Plain
    invoked: int
    returned: int
    """END: the search need not place it."""
    pin: int = 0
    answer: Plain = field(default_factory=dict)
    """Without its top header."""
    checked: bool = True
    """Whether the answer must be the model's; a writer taken for granted only has to change something."""
    error: ErrorCode = ErrorCode.OK
    threshold: int = 0
    """The revision a refused range or a compaction asks for."""
    rank: int = 0
    """For a MAYBE: when the client gave up; those of late are tried first."""

    @property
    def required(self) -> bool:
        """Whether a linearization must contain it."""
        return self.returned != END


@dataclass
class Problem:
    """What a search decides: whether these items have an order that the model allows."""

    items: list[Item]
    leases: frozenset[int] = frozenset()
    feed: Mapping[int, Mapping[str, str | None]] | None = None
    """What every revision changed, where that is known: see `checker.feed`."""


def problem_of(history: History, feed: Mapping[int, Mapping[str, str | None]] | None = None) -> Problem:
    """Return the problem a history poses; a `feed` of all changes, if there is one, settles unknown outcomes."""
    return Problem(list(items_of(history.operations)), history.leases, feed)


def items_of(operations: Iterable[Operation]) -> Iterator[Item]:
    """Yield the items of operations, numbered by their place."""
    for number, operation in enumerate(operations):
        item = item_of(number, operation)
        if item is not None:
            yield item


def item_of(number: int, operation: Operation) -> Item | None:
    """Return the item of one operation, or None if it says nothing."""
    if operation.outcome == Outcome.OK:
        return _answered(number, operation)
    if operation.outcome == Outcome.UNKNOWN:
        return _unknown(number, operation)
    error = STATE_ERRORS.get(operation.error)
    serializable = is_serializable(operation)
    if error is None or (serializable and operation.call == "txn"):
        return None
    assert operation.returned is not None, "a refusal has an instant"
    invoked = BEGINNING if serializable else operation.invoked
    item = Item(number, Role.REFUSED, operation.call, operation.request, invoked, operation.returned, error=error)
    item.threshold = operation.request.get("revision", 0)
    return item


def _answered(number: int, operation: Operation) -> Item:
    answer = {name: value for name, value in operation.answer.items() if name != "header"}
    invoked = BEGINNING if is_serializable(operation) else operation.invoked
    assert operation.returned is not None, "an answer has an instant"
    pin = operation.answer["header"]["revision"]
    role = Role.READER
    if operation.call == "compact":
        role = Role.COMPACTOR
    elif is_effective(operation.call, answer):
        role = Role.WRITER
    item = Item(number, role, operation.call, operation.request, invoked, operation.returned, pin, answer)
    item.threshold = operation.request.get("revision", 0)
    return item


def _unknown(number: int, operation: Operation) -> Item | None:
    if operation.call == "range" or (operation.call == "txn" and not may_write(operation.request)):
        return None
    role = Role.MAYBE_COMPACT if operation.call == "compact" else Role.MAYBE
    item = Item(number, role, operation.call, operation.request, operation.invoked, END)
    item.threshold = operation.request.get("revision", 0)
    item.rank = operation.invoked if operation.returned is None else operation.returned
    return item


def is_effective(call: str, answer: Plain) -> bool:
    """Whether an answer says that a revision was made."""
    if call == "put":
        return True
    if call == "delete":
        return bool(answer.get("deleted"))
    if call != "txn":
        return False
    for response in answer.get("responses", ()):
        if "response_put" in response or response.get("response_delete_range", {}).get("deleted"):
            return True
        if is_effective("txn", response.get("response_txn", {})):
            return True
    return False


def is_serializable(operation: Operation) -> bool:
    """Whether a read asked for nothing but what one member knows (a txn: if every range of it is serializable)."""
    if operation.call == "range":
        return bool(operation.request.get("serializable"))
    if operation.call != "txn" or may_write(operation.request):
        return False
    ranges = [inner for name, inner in operations_of(operation.request) if name == "request_range"]
    return all(inner.get("serializable") for inner in ranges)


def may_write(request: Plain) -> bool:
    """Whether any branch of a txn holds a put or a delete."""
    return any(name in ("request_put", "request_delete_range") for name, _ in operations_of(request))


def operations_of(request: Plain) -> Iterator[tuple[str, Plain]]:
    """Yield every operation of both branches of a txn, nested txns opened."""
    for succeeded in (True, False):
        for operation in branch_of(request, succeeded):
            if operation:
                name, inner = operation_of(operation)
                if name == "request_txn":
                    yield from operations_of(inner)
                else:
                    yield name, inner


def may_put(item: Item, key: str, value: str | None = None) -> bool:
    """Whether any branch of a write puts `key`, and with `value` if that is given."""
    puts = [("request_put", item.request)] if item.call == "put" else []
    if item.call == "txn":
        puts = [(name, inner) for name, inner in operations_of(item.request) if name == "request_put"]
    return any(
        put.get("key") == key and (value is None or put.get("ignore_value") or put.get("value", "") == value)
        for _, put in puts
    )
