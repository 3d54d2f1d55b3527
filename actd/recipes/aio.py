"""Recipes of the asyncio client; each is the one of `actd.recipes.blocking` with its methods awaited.

Owns how a flow waits on a loop. What each recipe guarantees, and what not, stands in docs/recipes.md.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from actd.aio import AsyncClient
from actd.calls import Key
from actd.errors import ActdError, CallTimedOut
from actd.leases import AsyncLease, LeaseLost
from actd.recipes.blocking import DEFAULT_TTL_S
from actd.recipes.lines import Observation, Place
from actd.recipes.meeting import Elements, Gate, Round, Taken
from actd.recipes.steps import Ask, Await, Flow
from actd.recipes.stm import Attempt, Isolation
from actd.results import KeyValue, WatchEvent
from actd.txn import Condition

T = TypeVar("T")


async def run(
    client: AsyncClient, flow: Flow[T], *, timeout_s: float | None = None, lease: AsyncLease | None = None
) -> T:
    """Run a flow to its end; arguments and errors as `actd.recipes.blocking.run`'s."""
    loop = asyncio.get_running_loop()
    until = None if timeout_s is None else loop.time() + timeout_s
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
            if isinstance(step, Ask):
                outcome = await client.submit(step.call)
            else:
                outcome = await _wait(client, step, None if until is None else until - loop.time(), lease)
        except ActdError as failed:
            error = failed


async def _wait(client: AsyncClient, step: Await, left_s: float | None, lease: AsyncLease | None) -> WatchEvent:
    watch = client.watch(step.key, step.range_end, start_revision=step.start_revision, without=step.without)
    event = asyncio.ensure_future(anext(watch))
    lost = asyncio.ensure_future(lease.lost.wait()) if lease is not None else None
    waited: list[asyncio.Future[Any]] = [event] if lost is None else [event, lost]
    try:
        await asyncio.wait(waited, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if event.done():
            return event.result()
        if lease is not None:
            lease.check()
        raise CallTimedOut("others took too long", retryable=True)
    finally:
        for future in waited:
            future.cancel()
            with contextlib.suppress(asyncio.CancelledError, ActdError, StopAsyncIteration):
                await future
        await watch.aclose()


class _Held:
    """Something that is held by a lease of its own."""

    def __init__(self, client: AsyncClient, place: Place, ttl_s: int) -> None:
        self._client = client
        self._place = place
        self._ttl_s = ttl_s
        self._lease: AsyncLease | None = None

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
    def lease(self) -> AsyncLease:
        """The lease it hangs on; `lease.lost` can be awaited.

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

    async def _acquire(self, value: Key, timeout_s: float | None) -> int:
        if self._lease is not None:
            raise ActdError("it is held already, or being acquired")
        lease = self._lease = AsyncLease(self._client, self._ttl_s)
        try:
            await lease.__aenter__()
        except BaseException:
            self._lease = None
            raise
        try:
            return await run(self._client, self._place.acquire(lease.id, value), timeout_s=timeout_s, lease=lease)
        except BaseException:
            await self._end_lease()
            raise

    async def _release(self) -> bool:
        try:
            return await run(self._client, self._place.release())
        finally:
            await self._end_lease()

    async def _end_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.__aexit__(None, None, None)


class AsyncLock(_Held):
    """One holder at a time: ``async with AsyncLock(client, "jobs") as lock: await use(lock.token)``."""

    def __init__(self, client: AsyncClient, name: Key, *, ttl_s: int = DEFAULT_TTL_S) -> None:
        super().__init__(client, Place(name), ttl_s)

    async def acquire(self, *, timeout_s: float | None = None) -> int:
        """Wait for the lock and return the fencing token."""
        return await self._acquire(b"", timeout_s)

    async def release(self) -> bool:
        """Let go; False if it had been lost before."""
        return await self._release()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.release()


class AsyncSemaphore(AsyncLock):
    """At most `limit` holders at a time; all must name the same limit."""

    def __init__(self, client: AsyncClient, name: Key, limit: int, *, ttl_s: int = DEFAULT_TTL_S) -> None:
        _Held.__init__(self, client, Place(name, limit), ttl_s)


class AsyncElection(_Held):
    """One leader at a time, whose value everybody can see."""

    def __init__(self, client: AsyncClient, name: Key, *, ttl_s: int = DEFAULT_TTL_S) -> None:
        super().__init__(client, Place(name), ttl_s)
        self._name = name

    async def campaign(self, value: Key = b"", *, timeout_s: float | None = None) -> int:
        """Wait to be elected, proclaim `value` and return the fencing token."""
        return await self._acquire(value, timeout_s)

    async def proclaim(self, value: Key) -> int:
        """Change the value everybody sees; return the revision."""
        return await run(self._client, self._place.proclaim(value))

    async def resign(self) -> bool:
        """Lead no more; False if that was over before."""
        return await self._release()

    async def leader(self) -> KeyValue | None:
        """Return the leader's pair, or None."""
        return await run(self._client, Observation(self._name).current())

    async def observe(self, *, timeout_s: float | None = None) -> AsyncIterator[KeyValue]:
        """Yield each leader and each value it proclaims; end when nothing new was heard for `timeout_s`."""
        observation = Observation(self._name)
        while True:
            try:
                yield await run(self._client, observation.next(), timeout_s=timeout_s)
            except CallTimedOut:
                return


class AsyncBarrier:
    """A gate: everybody waits while it is held."""

    def __init__(self, client: AsyncClient, name: Key) -> None:
        self._client = client
        self._gate = Gate(name)

    async def hold(self, lease: int = 0) -> bool:
        """Close the gate; False if it was closed. With a lease it opens at the latest when that ends."""
        return await run(self._client, self._gate.hold(lease))

    async def release(self) -> bool:
        """Open the gate; False if it was open."""
        return await run(self._client, self._gate.release())

    async def wait(self, *, timeout_s: float | None = None) -> int:
        """Return once the gate is open, with a revision at which it was."""
        return await run(self._client, self._gate.wait(), timeout_s=timeout_s)


class AsyncDoubleBarrier:
    """`count` clients begin together and end together; one object per client."""

    def __init__(self, client: AsyncClient, name: Key, count: int, *, ttl_s: int = DEFAULT_TTL_S) -> None:
        self._client = client
        self._round = Round(name, count)
        self._ttl_s = ttl_s
        self._lease: AsyncLease | None = None

    async def enter(self, *, timeout_s: float | None = None) -> None:
        """Return once `count` clients have entered."""
        lease = self._lease = await AsyncLease(self._client, self._ttl_s).__aenter__()
        try:
            await run(self._client, self._round.enter(lease.id), timeout_s=timeout_s, lease=lease)
        except BaseException:
            await lease.__aexit__(None, None, None)
            raise

    async def leave(self, *, timeout_s: float | None = None) -> None:
        """Return once all of them have left, or are lost."""
        if self._lease is None:
            raise ActdError("it was not entered")
        lease, self._lease = self._lease, None
        try:
            await run(self._client, self._round.leave(), timeout_s=timeout_s)
        finally:
            await lease.__aexit__(None, None, None)


class AsyncPriorityQueue:
    """Elements for one consumer each, the smallest priority first, and of equal ones the oldest."""

    def __init__(self, client: AsyncClient, name: Key) -> None:
        self._client = client
        self._elements = Elements(name)

    async def enqueue(self, value: Key, priority: int = 0, *, lease: int = 0) -> int:
        """Add an element; return its revision. With a lease it is there as long as that."""
        return await run(self._client, self._elements.enqueue(value, uuid.uuid4().hex, priority, lease))

    async def dequeue(self, *, timeout_s: float | None = None) -> Taken:
        """Take the first element, waiting for one if need be."""
        return await run(self._client, self._elements.dequeue(), timeout_s=timeout_s)

    async def try_dequeue(self) -> Taken | None:
        """Take the first element, or return None if there is none."""
        taken = await run(self._client, self._elements.try_dequeue())
        return taken if isinstance(taken, Taken) else None


class AsyncQueue(AsyncPriorityQueue):
    """Elements for one consumer each, the oldest first."""

    async def enqueue(self, value: Key, priority: int = 0, *, lease: int = 0) -> int:
        """Add an element behind all others; return its revision."""
        if priority:
            raise ValueError("a queue has no priorities")
        return await super().enqueue(value, lease=lease)


class AsyncMemory:
    """What a transaction of `transact_async` reads and writes."""

    def __init__(self, client: AsyncClient, attempt: Attempt) -> None:
        self._client = client
        self._attempt = attempt

    async def get(self, key: Key) -> bytes | None:
        """Return the value of `key` as of this transaction, or None."""
        known, value = self._attempt.known(key)
        return value if known else self._attempt.took(key, await self._client.submit(self._attempt.read_call(key)))

    def put(self, key: Key, value: Key) -> None:
        """Write `key`."""
        self._attempt.put(key, value)

    def delete(self, key: Key) -> None:
        """Delete `key`."""
        self._attempt.delete(key)


async def transact_async(
    client: AsyncClient,
    function: Callable[[AsyncMemory], Awaitable[T]],
    *,
    isolation: Isolation = "serializable_snapshot",
    attempts_max: int = 100,
) -> T:
    """Run `function` until what it read is still true when what it wrote happens; return its result."""
    for _ in range(attempts_max):
        attempt = Attempt(isolation)
        result = await function(AsyncMemory(client, attempt))
        if (await client.submit(attempt.commit_call())).succeeded:
            return result
    raise ActdError(f"{attempts_max} attempts, and others were always faster", retryable=True)
