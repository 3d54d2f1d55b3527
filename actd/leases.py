"""Leases that keep themselves alive, and say so when they could not.

Owns when a lease asks for more time and when it must be taken for lost. Knows no socket.

A lease counts its time from the moment a keep-alive was *sent*: the store counts from when it was served, which is
later. So whoever looks at `lost` before it acts is never wrong for long; a lock still needs its fencing token where a
late write would do harm.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from actd import calls
from actd.errors import ActdError

if TYPE_CHECKING:
    from actd.aio import AsyncClient
    from actd.client import Client

ASKS_PER_TTL: Final = 3
"""A lease asks for more time when a third of it is over, as etcd's clients do."""
RETRY_S_MAX: Final = 1.0
"""Longest pause after a keep-alive that failed."""


class LeaseLost(ActdError):
    """The lease has run out, or may have."""


class KeepAlivePlan:
    """When to ask next, and until when the lease is certain. Pure: the time is an argument, in seconds."""

    def __init__(self, ttl_s: int, asked_at: float) -> None:
        self.lost = False
        self.extended(ttl_s, asked_at)

    def extended(self, ttl_s: int, asked_at: float) -> None:
        """A question that was put at `asked_at` was answered with `ttl_s`; 0: there is no such lease any more."""
        if ttl_s <= 0:
            self.lost = True
            return
        self._ttl_s = ttl_s
        self.certain_until = asked_at + ttl_s
        self.ask_at = asked_at + ttl_s / ASKS_PER_TTL

    def failed(self, now: float) -> None:
        """A question was not answered."""
        self.ask_at = now + min(RETRY_S_MAX, self._ttl_s / (4 * ASKS_PER_TTL))
        self.check(now)

    def check(self, now: float) -> None:
        """Take the lease for lost once it is not certain any more."""
        if now >= self.certain_until:
            self.lost = True

    def patience_s(self, now: float) -> float:
        """How long a question may take: until the lease is lost anyway."""
        return max(0.001, self.certain_until - now)


class Lease:
    """A lease of a `Client`: ``with client.lease(10) as lease: client.put("k", "v", lease=lease.id)``.

    Entering grants it and begins to keep it alive from a thread; leaving revokes it, unless it is lost.

    Attributes:
        id: what puts name; 0 before the lease was entered.
        ttl_s: what was granted; at least what was asked for.
        lost: set once the lease has run out or may have; wait on it, or look at it before acting.
    """

    def __init__(self, client: "Client", ttl_s: int, lease: int = 0) -> None:
        self._client = client
        self._wanted = (ttl_s, lease)
        self.id = 0
        self.ttl_s = 0
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._plan: KeepAlivePlan

    def __repr__(self) -> str:
        return f"Lease({self.id:x}, {self.ttl_s} s, {'lost' if self.lost.is_set() else 'held'})"

    def __enter__(self) -> "Lease":
        asked_at = time.monotonic()
        granted = self._client.lease_grant(*self._wanted)
        self.id, self.ttl_s = granted.lease, granted.ttl_s
        self._plan = KeepAlivePlan(granted.ttl_s, asked_at)
        self._thread = threading.Thread(target=self._keep_alive, name=f"lease {self.id:x}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        assert self._thread is not None, "it was entered"
        self._thread.join()
        if not self.lost.is_set():
            # It ends by itself if it cannot be revoked now.
            with contextlib.suppress(ActdError):
                self._client.lease_revoke(self.id, timeout_s=self._plan.patience_s(time.monotonic()))

    def check(self) -> None:
        """Raise unless the lease is held.

        Raises:
            LeaseLost: it has run out, or may have.
        """
        if self.lost.is_set():
            raise LeaseLost(f"lease {self.id:x} is lost")

    def _keep_alive(self) -> None:
        plan = self._plan
        while not plan.lost:
            now = time.monotonic()
            if self._stop.wait(max(0.0, min(plan.ask_at, plan.certain_until) - now)):
                return
            now = time.monotonic()
            try:
                call = calls.lease_keep_alive(self.id)
                kept = self._client.submit(call, plan.patience_s(now)).result()
                plan.extended(kept.ttl_s, now)
            except ActdError:
                plan.failed(time.monotonic())
        self.lost.set()


class AsyncLease:
    """A lease of an `AsyncClient`: ``async with client.lease(10) as lease: await client.put("k", lease=lease.id)``.

    Attributes as `Lease`'s; `lost` is an `asyncio.Event`.
    """

    def __init__(self, client: "AsyncClient", ttl_s: int, lease: int = 0) -> None:
        self._client = client
        self._wanted = (ttl_s, lease)
        self.id = 0
        self.ttl_s = 0
        self.lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._plan: KeepAlivePlan

    def __repr__(self) -> str:
        return f"AsyncLease({self.id:x}, {self.ttl_s} s, {'lost' if self.lost.is_set() else 'held'})"

    async def __aenter__(self) -> "AsyncLease":
        asked_at = time.monotonic()
        granted = await self._client.lease_grant(*self._wanted)
        self.id, self.ttl_s = granted.lease, granted.ttl_s
        self._plan = KeepAlivePlan(granted.ttl_s, asked_at)
        self._task = asyncio.create_task(keep_alive(self._plan, self._ask))
        self._task.add_done_callback(self._on_end)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._task is not None, "it was entered"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if not self.lost.is_set():
            with contextlib.suppress(ActdError):
                await self._client.lease_revoke(self.id, timeout_s=self._plan.patience_s(time.monotonic()))

    def check(self) -> None:
        """Raise unless the lease is held.

        Raises:
            LeaseLost: it has run out, or may have.
        """
        if self.lost.is_set():
            raise LeaseLost(f"lease {self.id:x} is lost")

    async def _ask(self, patience_s: float) -> int:
        kept = await self._client.submit(calls.lease_keep_alive(self.id), patience_s)
        return kept.ttl_s

    def _on_end(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            self.lost.set()


async def keep_alive(plan: KeepAlivePlan, ask: Callable[[float], Awaitable[int]]) -> None:
    """Keep a lease alive until it is lost; `ask` is given how long it may take, in seconds."""
    while not plan.lost:
        await asyncio.sleep(max(0.0, min(plan.ask_at, plan.certain_until) - time.monotonic()))
        now = time.monotonic()
        try:
            plan.extended(await ask(plan.patience_s(now)), now)
        except ActdError:
            plan.failed(time.monotonic())
