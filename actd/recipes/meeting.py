"""Barriers and queues: flows of clients that meet at keys. Knows no client.

Invariants: a double barrier lets a round pass only when all of it has come, and out only when all of it has left or
lost its lease; an element of a queue is handed to one consumer at most.
"""

from typing import Any, Final, NamedTuple

from actd import calls
from actd.calls import Key, prefix_end, raw
from actd.errors import ActdError, WatchCompacted
from actd.recipes.steps import Ask, Await, Flow, Line, NotHeld, ask, ask_txn, happened
from actd.results import KeyValue, RangeResult
from actd.txn import Delete, Operation, Put, TxnParts, create_revision, mod_revision


class Gate:
    """A key that holds everybody back while it is there."""

    def __init__(self, name: Key) -> None:
        self.key: Final = raw(name)

    def hold(self, lease: int = 0) -> Flow[bool]:
        """Close the gate; False if it was closed already. With a lease it opens at the latest when that ends."""
        done = yield from ask_txn(create_revision(self.key) == 0, then=(Put(self.key, lease=lease),))
        return done.succeeded

    def release(self) -> Flow[bool]:
        """Open the gate; False if it was open."""
        gone = yield from ask(calls.delete(self.key)._replace(repeatable=True))
        return bool(gone.deleted)

    def wait(self) -> Flow[int]:
        """Return once the gate is open, with a revision at which it was."""
        while True:
            found = yield from ask(calls.range_(self.key))
            if not found.pairs:
                return found.revision
            yield from happened(self.key, b"", found.revision + 1, "put")


class Round:
    """One client's part in a meeting of `count`; it may take part again and again.

    The key `name/ready` names the create revision of the last client of the round that has met; who came later belongs
    to the next.
    """

    def __init__(self, name: Key, count: int) -> None:
        if count < 1:
            raise ValueError("nobody could meet")
        self._everything = raw(name) + b"/"
        self._ready = raw(name) + b"/ready"
        self._line = Line(raw(name) + b"/waiters")
        self._count = count
        self._created = 0
        self._until = 0
        """The create revision of the last of its round."""
        self._lease = 0

    def enter(self, lease: int) -> Flow[None]:
        """Return once `count` clients have come.

        Raises:
            NotHeld: the lease ended while waiting.
        """
        self._lease = lease
        self._created = (yield from self._line.stand(lease)).create_revision
        try:
            while not (yield from self._has_met()):
                pass
        except ActdError:
            yield from self._line.leave(lease, self._created)
            raise

    def _has_met(self) -> Flow[bool]:
        ready, waiting, revision = yield from self._look()
        last = int(ready.value) if ready else 0
        if self._created <= last:
            self._until = last
            return True
        ours = [pair.create_revision for pair in waiting if pair.create_revision > last]
        if self._created not in ours:
            raise NotHeld("the lease ended while waiting")
        if len(ours) < self._count:
            yield from happened(self._everything, prefix_end(self._everything), revision + 1)
            return False
        until = ours[self._count - 1]
        unchanged = mod_revision(self._ready) == (ready.mod_revision if ready else 0)
        yield from ask_txn(unchanged, then=(Put(self._ready, str(until)),))
        return False

    def _look(self) -> Flow[tuple[KeyValue | None, tuple[KeyValue, ...], int]]:
        """Return the ready key, who waits, the oldest first, and the revision of both."""
        line = calls.range_body(self._line.prefix, self._line.end, keys_only=True, order="ascend", sort_by="create")
        both = Operation(1, calls.range_body(self._ready)), Operation(1, line)
        done = yield from ask_txn(then=both)
        ready, waiting = done.results
        assert isinstance(ready, RangeResult), "that is what was asked"
        assert isinstance(waiting, RangeResult), "that is what was asked"
        return (ready.pairs[0] if ready.pairs else None), waiting.pairs, done.revision

    def leave(self) -> Flow[None]:
        """Return once everybody of the round has left, or lost its lease."""
        yield from self._line.leave(self._lease, self._created)
        yield from self._line.await_place(self._until + 1, 1)


class Taken(NamedTuple):
    """An element that was taken from a queue."""

    value: bytes
    priority: int
    enqueued_at: int
    """The revision at which it came."""


class Elements:
    """Elements under a prefix: the smallest priority first, and of equal ones the oldest."""

    def __init__(self, name: Key) -> None:
        self._prefix: Final = raw(name) + b"/"
        self._end: Final = prefix_end(self._prefix)

    def enqueue(self, value: Key, unique: str, priority: int, lease: int = 0) -> Flow[int]:
        """Add an element under a key that ends with `unique`; return its revision."""
        if not 0 <= priority <= 0xFFFF:
            raise ValueError("a priority is between 0 and 65535")
        key = self._prefix + f"{priority:04x}/{unique}".encode()
        done = yield from ask_txn(
            create_revision(key) == 0,
            then=(Put(key, value, lease=lease),),
            otherwise=(Operation(1, calls.range_body(key)),),
        )
        if done.succeeded:
            return done.revision
        # The first copy of the request did it; if the element is taken already, the revision is not known any more.
        found = done.results[0]
        assert isinstance(found, RangeResult), "that is what was asked"
        return found.pairs[0].create_revision if found.pairs else done.revision

    def try_dequeue(self) -> Flow[Taken | int]:
        """Take the first element, or return the revision at which there was none.

        Raises:
            ActdError: with `outcome_unknown`, an element may have been taken and be lost.
        """
        while True:
            found = yield from ask(calls.range_(self._prefix, self._end, limit=1))
            if not found.pairs:
                return found.revision
            pair = yield from self._oldest_of(found.pairs[0])
            parts = TxnParts()
            parts.add((mod_revision(pair.key) == pair.mod_revision,), (Delete(pair.key),), ())
            # Asked once: a second copy could not tell that the first took the element.
            done: Any = yield Ask(parts.call())
            if done.succeeded:
                priority = int(pair.key[len(self._prefix) : len(self._prefix) + 4], 16)
                return Taken(pair.value, priority, pair.create_revision)

    def _oldest_of(self, pair: KeyValue) -> Flow[KeyValue]:
        """Return the oldest element with the priority of `pair`."""
        rank = pair.key[: len(self._prefix) + 5]
        found = yield from ask(calls.range_(rank, prefix_end(rank), limit=1, order="ascend", sort_by="create"))
        return found.pairs[0] if found.pairs else pair

    def dequeue(self) -> Flow[Taken]:
        """Take the first element, waiting for one if need be."""
        while True:
            taken = yield from self.try_dequeue()
            if isinstance(taken, Taken):
                return taken
            try:
                yield Await(self._prefix, self._end, taken + 1, "delete")
            except WatchCompacted:
                continue
