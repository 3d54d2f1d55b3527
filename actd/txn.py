"""Building transactions: conditions, operations, and two branches.

`client.txn().if_(version("k") == 0).then(Put("k", "v")).else_(Get("k")).commit()`
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from actd import calls, wire
from actd.calls import Call, Key, raw
from actd.results import TxnResult

R = TypeVar("R")

_EQUAL, _GREATER, _LESS, _NOT_EQUAL = range(4)
_TARGETS = {"version": (0, 4), "create_revision": (1, 5), "mod_revision": (2, 6), "value": (3, 7), "lease": (4, 8)}


@dataclass(frozen=True)
class Condition:
    """One comparison, as the request carries it."""

    body: bytes


@dataclass(frozen=True, eq=False)
class Subject:
    """Something of a key (or of every key in a range) that can be compared with ==, !=, > and <."""

    target: str
    key: bytes
    range_end: bytes = b""

    def _compare(self, result: int, operand: Any) -> Condition:
        code, number = _TARGETS[self.target]
        body = wire.integer(1, result) + wire.integer(2, code) + wire.blob(3, self.key)
        if self.target == "value":
            body += wire.message(number, raw(operand))
        else:
            body += wire.varint(number << 3) + wire.varint(int(operand))
        return Condition(body + wire.blob(64, self.range_end))

    def __eq__(self, operand: object) -> Condition:  # type: ignore[override]  # a condition, not a truth
        return self._compare(_EQUAL, operand)

    def __ne__(self, operand: object) -> Condition:  # type: ignore[override]  # a condition, not a truth
        return self._compare(_NOT_EQUAL, operand)

    def __gt__(self, operand: Any) -> Condition:
        return self._compare(_GREATER, operand)

    def __lt__(self, operand: Any) -> Condition:
        return self._compare(_LESS, operand)

    __hash__ = None  # type: ignore[assignment]  # equality makes conditions, so a hash would lie


def value(key: Key, range_end: Key = b"") -> Subject:
    """The value of `key`; absent keys match no comparison."""
    return Subject("value", raw(key), raw(range_end))


def version(key: Key, range_end: Key = b"") -> Subject:
    """How often `key` was written since it was created; 0: it is not there."""
    return Subject("version", raw(key), raw(range_end))


def create_revision(key: Key, range_end: Key = b"") -> Subject:
    """The revision that created `key`; 0: it is not there."""
    return Subject("create_revision", raw(key), raw(range_end))


def mod_revision(key: Key, range_end: Key = b"") -> Subject:
    """The revision that last wrote `key`; 0: it is not there."""
    return Subject("mod_revision", raw(key), raw(range_end))


def lease(key: Key, range_end: Key = b"") -> Subject:
    """The lease `key` hangs on; 0: none."""
    return Subject("lease", raw(key), raw(range_end))


class Operation:
    """Something a branch does; `body` is the RequestOp."""

    def __init__(self, number: int, body: bytes) -> None:
        self.body = wire.message(number, body)


class Put(Operation):
    """Store a pair."""

    def __init__(self, key: Key, value: Key = b"", *, lease: int = 0, prev_kv: bool = False) -> None:
        body = calls.put_body(key, value, lease, prev_kv=prev_kv, ignore_value=False, ignore_lease=False)
        super().__init__(2, body)


class Get(Operation):
    """Read a key or a range; options as `Client.range`'s."""

    def __init__(self, key: Key, range_end: Key = b"", **options: Any) -> None:
        super().__init__(1, calls.range_body(key, range_end, **options))


class Delete(Operation):
    """Delete a key or a range."""

    def __init__(self, key: Key, range_end: Key = b"", *, prev_kv: bool = False) -> None:
        super().__init__(3, calls.delete_body(key, range_end, prev_kv=prev_kv))


class Nested(Operation):
    """A transaction within the transaction."""

    def __init__(self, txn: "TxnParts") -> None:
        super().__init__(4, txn.body())


class TxnParts:
    """Conditions and branches as they are gathered."""

    def __init__(self) -> None:
        self._conditions: tuple[Condition, ...] = ()
        self._then: tuple[Operation, ...] = ()
        self._else: tuple[Operation, ...] = ()

    def add(
        self, conditions: tuple[Condition, ...], then: tuple[Operation, ...], otherwise: tuple[Operation, ...]
    ) -> None:
        """Add conditions and operations."""
        self._conditions += conditions
        self._then += then
        self._else += otherwise

    def body(self) -> bytes:
        """Return the TxnRequest."""
        parts = [wire.message(1, condition.body) for condition in self._conditions]
        parts += [wire.message(2, operation.body) for operation in self._then]
        parts += [wire.message(3, operation.body) for operation in self._else]
        return b"".join(parts)

    def call(self) -> Call[TxnResult]:
        """Return the call; it is not repeatable, since a branch may write."""
        return Call(4, self.body(), calls.read_txn, False)


class Txn(TxnParts, Generic[R]):
    """A transaction under construction; `commit` sends it."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self._run = run

    def if_(self, *conditions: Condition) -> "Txn[R]":
        """Add conditions; all must hold for `then` to be taken."""
        self._conditions += conditions
        return self

    def then(self, *operations: Operation) -> "Txn[R]":
        """Add operations for when they hold."""
        self._then += operations
        return self

    def else_(self, *operations: Operation) -> "Txn[R]":
        """Add operations for when they do not."""
        self._else += operations
        return self

    def commit(self, *, timeout_s: float | None = None) -> R:
        """Send it."""
        result: R = self._run(self.call(), timeout_s)
        return result
