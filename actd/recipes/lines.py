"""What it takes to hold a lock, a place of a semaphore, or an office: flows over a line of keys.

Owns when something is held. Knows no client. Invariants: at most one lease holds a lock or leads at a revision of the
store, at most `places` hold a semaphore; a token is the revision that created the holder's key, so later holders have
larger ones.
"""

from typing import Final

from actd.calls import Key
from actd.errors import ActdError, WatchCompacted
from actd.recipes.steps import Await, Flow, Line, NotHeld, ask_txn, happened
from actd.results import KeyValue, WatchEvent
from actd.txn import Condition, Put, create_revision


class Place:
    """A lease's place in a line: held by the first `places` of it.

    Attributes:
        token: the fencing token; 0 while nothing is held.
    """

    def __init__(self, name: Key, places: int = 1) -> None:
        if places < 1:
            raise ValueError("nobody could hold it")
        self.line: Final = Line(name)
        self.token = 0
        self._places = places
        self._lease = 0

    def acquire(self, lease: int, value: Key = b"") -> Flow[int]:
        """Wait for the turn of `lease`, and return the token; who gives up leaves no key behind.

        Raises:
            NotHeld: the lease ended while waiting.
        """
        pair = yield from self.line.stand(lease, value)
        created = pair.create_revision
        try:
            if self._places == 1:
                yield from self.line.await_turn(created)
            else:
                yield from self.line.await_place(created, self._places)
            yield from self.line.confirm(lease, created)
        except ActdError:
            yield from self.line.leave(lease, created)
            raise
        self.token, self._lease = created, lease
        return created

    def release(self) -> Flow[bool]:
        """Let go; False if it was lost before."""
        if not self.token:
            return False
        token, self.token = self.token, 0
        return (yield from self.line.leave(self._lease, token))

    @property
    def key(self) -> bytes:
        """The key that stands for what is held."""
        return self.line.key_of(self._lease)

    def held(self) -> Condition:
        """Return the condition for a transaction that must only happen while this is held.

        Raises:
            NotHeld: nothing is held.
        """
        if not self.token:
            raise NotHeld("nothing is held")
        return create_revision(self.key) == self.token

    def proclaim(self, value: Key) -> Flow[int]:
        """Change the value others see; return the revision.

        Raises:
            NotHeld: it is not held any more.
        """
        done = yield from ask_txn(self.held(), then=(Put(self.key, value, lease=self._lease),))
        if not done.succeeded:
            raise NotHeld("it is not held any more")
        return done.revision


class Observation:
    """Who leads, change by change: every leader and every value of a leader while it leads, in order.

    What was compacted before it was heard is left out; the present is always told.
    """

    def __init__(self, name: Key) -> None:
        self._line = Line(name)
        self._leader: KeyValue | None = None

    def current(self) -> Flow[KeyValue | None]:
        """Return the leader's pair now, or None."""
        found = yield from self._line.first()
        return found.pairs[0] if found.pairs else None

    def next(self) -> Flow[KeyValue]:
        """Return the next leader, or the next value of the one that leads."""
        while True:
            try:
                changed = yield from self._next_value()
            except WatchCompacted:
                changed = None
            if changed is not None:
                self._leader = changed
                return changed
            self._leader = None
            found = yield from self._line.first()
            if found.pairs:
                self._leader = found.pairs[0]
                return self._leader
            yield from happened(self._line.prefix, self._line.end, found.revision + 1, "delete")

    def _next_value(self) -> Flow[KeyValue | None]:
        """Return what the leader proclaims next, or None once it leads no more."""
        if self._leader is None:
            return None
        event: WatchEvent = yield Await(self._leader.key, b"", self._leader.mod_revision + 1)
        return event.pair if event.kind == "put" else None
