"""Recipes without a thread or a loop: flows that yield what they need next and are sent what came of it.

Owns the two steps, and the parts all recipes share. Knows no client: `blocking` and `aio` run the flows.
Invariant: whatever a flow asks twice does no harm: what it writes is guarded by the revision that created its key, and
what cannot be guarded is asked once.
"""

from collections.abc import Generator
from typing import Any, Final, NamedTuple, TypeVar

from actd import calls
from actd.calls import Call, Key, prefix_end, raw
from actd.errors import ActdError, WatchCompacted
from actd.results import KeyValue, RangeResult, TxnResult
from actd.txn import Condition, Delete, Operation, Put, TxnParts, create_revision
from actd.watching import Filter

T = TypeVar("T")


class Ask(NamedTuple):
    """Make a call; the outcome is its result."""

    call: Call[Any]


class Await(NamedTuple):
    """Wait until something happens to a range; the outcome is the event."""

    key: bytes
    range_end: bytes
    start_revision: int
    without: Filter | None = None


Flow = Generator[Ask | Await, Any, T]


class NotHeld(ActdError):
    """What the recipe holds was lost, or was never had."""


def ask(call: Call[T]) -> Flow[T]:
    """Make a call and return its result."""
    result: T = yield Ask(call)
    return result


def ask_txn(
    *conditions: Condition, then: tuple[Operation, ...], otherwise: tuple[Operation, ...] = ()
) -> Flow[TxnResult]:
    """Make a transaction that does no harm when it is made twice."""
    parts = TxnParts()
    parts.add(conditions, then, otherwise)
    return (yield from ask(parts.call()._replace(repeatable=True)))


def happened(key: bytes, range_end: bytes, start_revision: int, without: Filter | None = None) -> Flow[bool]:
    """Return once something has happened; False if that may be compacted, so that the present must be looked at."""
    try:
        yield Await(key, range_end, start_revision, without)
    except WatchCompacted:
        return False
    return True


class Line:
    """Keys under a prefix, in the order in which they were created; each hangs on its holder's lease."""

    def __init__(self, name: Key) -> None:
        self.prefix: Final = raw(name) + b"/"
        self.end: Final = prefix_end(self.prefix)

    def key_of(self, lease: int) -> bytes:
        """Return the key of a lease's holder: etcd's layout, so that etcd's own recipes stand in the same line."""
        return self.prefix + f"{lease:x}".encode()

    def stand(self, lease: int, value: Key = b"") -> Flow[KeyValue]:
        """Take a place in line, or find the one that is there; return the pair."""
        key = self.key_of(lease)
        get = calls.range_body(key)
        done = yield from ask_txn(
            create_revision(key) == 0,
            then=(Put(key, value, lease=lease), Operation(1, get)),
            otherwise=(Operation(1, get),),
        )
        found = done.results[-1]
        assert isinstance(found, RangeResult), "the last operation of both branches reads"
        return found.pairs[0]

    def first(self) -> Flow[RangeResult]:
        """Return whose turn it is, if anybody's."""
        return (yield from ask(calls.range_(self.prefix, self.end, limit=1, order="ascend", sort_by="create")))

    def before(self, created: int, *, count_only: bool = False) -> Flow[RangeResult]:
        """Return the newest of those that came before revision `created`, and how many there are if asked for that."""
        options: dict[str, Any] = {"max_create_revision": created - 1}
        if count_only:
            options |= {"keys_only": True}
        else:
            options |= {"limit": 1, "order": "descend", "sort_by": "create", "keys_only": True}
        return (yield from ask(calls.range_(self.prefix, self.end, **options)))

    def await_turn(self, created: int) -> Flow[None]:
        """Return once nobody who came before is left; each waits for one other, so that one end wakes one."""
        while True:
            found = yield from self.before(created)
            if not found.pairs:
                return
            yield from happened(found.pairs[0].key, b"", found.revision + 1, "put")

    def await_place(self, created: int, places: int) -> Flow[None]:
        """Return once fewer than `places` who came before are left."""
        while True:
            found = yield from self.before(created, count_only=True)
            if len(found.pairs) < places:
                return
            yield from happened(self.prefix, self.end, found.revision + 1, "put")

    def confirm(self, lease: int, created: int) -> Flow[KeyValue]:
        """Return the holder's pair as it is now.

        Raises:
            NotHeld: the place was lost meanwhile.
        """
        pair = yield from ask(calls.get(self.key_of(lease)))
        if pair is None or pair.create_revision != created:
            raise NotHeld("the lease ended while waiting")
        return pair

    def leave(self, lease: int, created: int) -> Flow[bool]:
        """Give the place up; False if it was not held any more."""
        key = self.key_of(lease)
        done = yield from ask_txn(create_revision(key) == created, then=(Delete(key),))
        return done.succeeded
