"""Recipes of the blocking client: locks, semaphores, elections, barriers, queues, transactional memory.

Owns how a flow waits in a thread. What each recipe guarantees, and what not, stands in docs/recipes.md.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self, TypeVar

from actd.calls import Key
from actd.client import Client
from actd.errors import ActdError, CallTimedOut
from actd.leases import Lease, LeaseLost
from actd.recipes.lines import Observation, Place
from actd.recipes.meeting import Elements, Gate, Round, Taken
from actd.recipes.steps import Ask, Await, Flow
from actd.recipes.stm import Attempt, Isolation
from actd.results import KeyValue, WatchEvent
from actd.txn import Condition

T = TypeVar("T")
DEFAULT_TTL_S: Final = 10
LOOK_S: Final = 0.5
"""How soon a thread that waits notices that its lease is lost."""


def run(client: Client, flow: Flow[T], *, timeout_s: float | None = None, lease: Lease | None = None) -> T:
    """Run a flow to its end.

    Args:
        client: who asks.
        flow: what is to be done.
        timeout_s: how long it may wait for others, or None for ever; calls have the client's own timeout.
        lease: without it the flow waits for nothing more.

    Raises:
        CallTimedOut: others took too long.
        LeaseLost: `lease` was lost meanwhile.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    outcome: object = None
    error: ActdError | None = None
    while True:
        try:
            step = flow.send(outcome) if error is None else flow.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        outcome, error = None, None
        try:
            outcome = client.submit(step.call).result() if isinstance(step, Ask) else _wait(client, step, until, lease)
        except ActdError as failed:
            error = failed


def _wait(client: Client, step: Await, until: float | None, lease: Lease | None) -> WatchEvent:
    start, without = step.start_revision, step.without
    with client.watch(step.key, step.range_end, start_revision=start, without=without) as watch:
        while True:
            left = LOOK_S if until is None else min(LOOK_S, until - time.monotonic())
            event = watch.next(max(0.0, left))
            if event is not None:
                return event
            if lease is not None:
                lease.check()
            if until is not None and time.monotonic() >= until:
                raise CallTimedOut("others took too long", retryable=True)


class _Held:
    """Something that is held by a lease of its own."""

    def __init__(self, client: Client, place: Place, ttl_s: int) -> None:
        self._client = client
        self._place = place
        self._ttl_s = ttl_s
        self._lease: Lease | None = None

    @property
    def token(self) -> int:
        """The fencing token, larger for each later holder; 0 while nothing is held."""
        return self._place.token

    @property
    def key(self) -> bytes:
        """The key that stands for what is held."""
        return self._place.key

    @property
    def lost(self) -> bool:
        """Whether it is not held, or may not be any more."""
        return not self._place.token or self._lease is None or self._lease.lost.is_set()

    @property
    def lease(self) -> Lease:
        """The lease it hangs on; `lease.lost` can be waited for.

        Raises:
            LeaseLost: nothing is held.
        """
        if self._lease is None:
            raise LeaseLost("nothing is held")
        return self._lease

    def check(self) -> None:
        """Raise unless it is held.

        Raises:
            LeaseLost: it is not held, or may not be any more.
        """
        self.lease.check()

    def held(self) -> Condition:
        """Return the condition for a transaction that must only happen while this is held."""
        return self._place.held()

    def _acquire(self, value: Key, timeout_s: float | None) -> int:
        if self._lease is not None:
            raise ActdError("it is held already, or being acquired")
        lease = self._lease = Lease(self._client, self._ttl_s).__enter__()
        try:
            return run(self._client, self._place.acquire(lease.id, value), timeout_s=timeout_s, lease=lease)
        except BaseException:
            self._end_lease()
            raise

    def _release(self) -> bool:
        try:
            return run(self._client, self._place.release())
        finally:
            self._end_lease()

    def _end_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.__exit__(None, None, None)


class Lock(_Held):
    """One holder at a time: ``with Lock(client, "jobs") as lock: use(lock.token)``."""

    def __init__(self, client: Client, name: Key, *, ttl_s: int = DEFAULT_TTL_S) -> None:
        super().__init__(client, Place(name), ttl_s)

    def acquire(self, *, timeout_s: float | None = None) -> int:
        """Wait for the lock and return the fencing token.

        Raises:
            CallTimedOut: it was not free in time.
            LeaseLost: the lease was lost while waiting.
        """
        return self._acquire(b"", timeout_s)

    def release(self) -> bool:
        """Let go; False if it had been lost before."""
        return self._release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class Semaphore(Lock):
    """At most `limit` holders at a time; all must name the same limit."""

    def __init__(self, client: Client, name: Key, limit: int, *, ttl_s: int = DEFAULT_TTL_S) -> None:
        _Held.__init__(self, client, Place(name, limit), ttl_s)


class Election(_Held):
    """One leader at a time, whose value everybody can see."""

    def __init__(self, client: Client, name: Key, *, ttl_s: int = DEFAULT_TTL_S) -> None:
        super().__init__(client, Place(name), ttl_s)
        self._name = name

    def campaign(self, value: Key = b"", *, timeout_s: float | None = None) -> int:
        """Wait to be elected, proclaim `value` and return the fencing token.

        Raises:
            CallTimedOut: others led for too long.
            LeaseLost: the lease was lost while waiting.
        """
        return self._acquire(value, timeout_s)

    def proclaim(self, value: Key) -> int:
        """Change the value everybody sees; return the revision.

        Raises:
            NotHeld: somebody else leads, or nobody.
        """
        return run(self._client, self._place.proclaim(value))

    def resign(self) -> bool:
        """Lead no more; False if that was over before."""
        return self._release()

    def leader(self) -> KeyValue | None:
        """Return the leader's pair, or None."""
        return run(self._client, Observation(self._name).current())

    def observe(self, *, timeout_s: float | None = None) -> Iterator[KeyValue]:
        """Yield each leader and each value it proclaims; end when nothing new was heard for `timeout_s`."""
        observation = Observation(self._name)
        while True:
            try:
                yield run(self._client, observation.next(), timeout_s=timeout_s)
            except CallTimedOut:
                return


class Barrier:
    """A gate: everybody waits while it is held."""

    def __init__(self, client: Client, name: Key) -> None:
        self._client = client
        self._gate = Gate(name)

    def hold(self, lease: int = 0) -> bool:
        """Close the gate; False if it was closed. With a lease it opens at the latest when that ends."""
        return run(self._client, self._gate.hold(lease))

    def release(self) -> bool:
        """Open the gate; False if it was open."""
        return run(self._client, self._gate.release())

    def wait(self, *, timeout_s: float | None = None) -> int:
        """Return once the gate is open, with a revision at which it was.

        Raises:
            CallTimedOut: it was not opened in time.
        """
        return run(self._client, self._gate.wait(), timeout_s=timeout_s)


class DoubleBarrier:
    """`count` clients begin together and end together; one object per client."""

    def __init__(self, client: Client, name: Key, count: int, *, ttl_s: int = DEFAULT_TTL_S) -> None:
        self._client = client
        self._round = Round(name, count)
        self._ttl_s = ttl_s
        self._lease: Lease | None = None

    def enter(self, *, timeout_s: float | None = None) -> None:
        """Return once `count` clients have entered.

        Raises:
            CallTimedOut: they had not in time; this client does not count any more.
        """
        lease = self._lease = Lease(self._client, self._ttl_s).__enter__()
        try:
            run(self._client, self._round.enter(lease.id), timeout_s=timeout_s, lease=lease)
        except BaseException:
            lease.__exit__(None, None, None)
            raise

    def leave(self, *, timeout_s: float | None = None) -> None:
        """Return once all of them have left, or are lost.

        Raises:
            CallTimedOut: some were still inside.
        """
        if self._lease is None:
            raise ActdError("it was not entered")
        lease, self._lease = self._lease, None
        try:
            run(self._client, self._round.leave(), timeout_s=timeout_s)
        finally:
            lease.__exit__(None, None, None)


class PriorityQueue:
    """Elements for one consumer each, the smallest priority first, and of equal ones the oldest."""

    def __init__(self, client: Client, name: Key) -> None:
        self._client = client
        self._elements = Elements(name)

    def enqueue(self, value: Key, priority: int = 0, *, lease: int = 0) -> int:
        """Add an element; return its revision. With a lease it is there as long as that."""
        return run(self._client, self._elements.enqueue(value, uuid.uuid4().hex, priority, lease))

    def dequeue(self, *, timeout_s: float | None = None) -> Taken:
        """Take the first element, waiting for one if need be.

        Raises:
            CallTimedOut: there was none in time.
            ActdError: with `outcome_unknown`, an element may have been taken and be lost.
        """
        return run(self._client, self._elements.dequeue(), timeout_s=timeout_s)

    def try_dequeue(self) -> Taken | None:
        """Take the first element, or return None if there is none."""
        taken = run(self._client, self._elements.try_dequeue())
        return taken if isinstance(taken, Taken) else None


class Queue(PriorityQueue):
    """Elements for one consumer each, the oldest first."""

    def enqueue(self, value: Key, priority: int = 0, *, lease: int = 0) -> int:
        """Add an element behind all others; return its revision."""
        if priority:
            raise ValueError("a queue has no priorities")
        return super().enqueue(value, lease=lease)


class Memory:
    """What a transaction of `transact` reads and writes."""

    def __init__(self, client: Client, attempt: Attempt) -> None:
        self._client = client
        self._attempt = attempt

    def get(self, key: Key) -> bytes | None:
        """Return the value of `key` as of this transaction, or None."""
        known, value = self._attempt.known(key)
        if known:
            return value
        return self._attempt.took(key, self._client.submit(self._attempt.read_call(key)).result())

    def put(self, key: Key, value: Key) -> None:
        """Write `key`."""
        self._attempt.put(key, value)

    def delete(self, key: Key) -> None:
        """Delete `key`."""
        self._attempt.delete(key)


def transact(
    client: Client,
    function: Callable[[Memory], T],
    *,
    isolation: Isolation = "serializable_snapshot",
    attempts_max: int = 100,
) -> T:
    """Run `function` until what it read is still true when what it wrote happens; return its result.

    Raises:
        ActdError: others were always faster (`retryable`); or, with `outcome_unknown`, it may have happened.
    """
    for _ in range(attempts_max):
        attempt = Attempt(isolation)
        result = function(Memory(client, attempt))
        if client.submit(attempt.commit_call()).result().succeeded:
            return result
    raise ActdError(f"{attempts_max} attempts, and others were always faster", retryable=True)
