"""The asyncio client: one task's calls and another's travel together.

`async with AsyncClient("tcp://127.0.0.1:2381") as client: await client.put("k", "v")`
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from actd import calls
from actd.admin import AsyncAuth
from actd.calls import Call, DowngradeAction, Key
from actd.client import DEFAULT_TIMEOUT_S
from actd.errors import ActdError, ClientClosed
from actd.keys import CurveKeys, may_use
from actd.leases import AsyncLease
from actd.login import Login
from actd.range_feed import RangeFeed
from actd.range_stream import AsyncRangeStream
from actd.results import (
    Alarm,
    CompactResult,
    DeleteResult,
    HashResult,
    KeyValue,
    LeaseResult,
    LeaseTimeResult,
    Member,
    PutResult,
    RangeResult,
    SavedSnapshot,
    StatusResult,
    TxnResult,
)
from actd.session import Session
from actd.snapshots import SNAPSHOT_SILENCE_S, AsyncSnapshotReader, SnapshotFeed, SnapshotFile
from actd.transport import Transport
from actd.txn import Txn
from actd.watch_aio import AsyncCache, AsyncWatch
from actd.watching import Filter, WatchFeed, prefix_range

R = TypeVar("R")


class AsyncClient:
    """An asyncio client; arguments as `Client`'s. Belongs to the loop of its first call."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        cluster: int = 0,
        name: str = "",
        curve: CurveKeys | None = None,
        user: str = "",
        password: str = "",
    ) -> None:
        doors = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
        if not doors:
            raise ValueError("a client needs at least one endpoint")
        self._doors = doors
        self._curve = curve
        self._session = Session(doors, cluster, name, may_use(curve, doors), Login(user, password))
        self.auth = AsyncAuth(self.submit)
        """Users, roles, permissions."""
        self._timeout_s = timeout_s
        self._transport: Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._descriptor = -1
        self._tasks: list[Callable[[Session], None]] = []
        self._turn_planned = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"AsyncClient({', '.join(self._doors)}; {'closed' if self._session.closed else 'open'})"

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End open calls with `ClientClosed` and let go of the socket."""
        self._session.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None and self._loop is not None and self._pid == os.getpid():
            self._loop.remove_reader(self._descriptor)
            self._transport.close()
            self._transport = None

    def submit(self, call: Call[R], timeout_s: float | None = None) -> "asyncio.Future[R]":
        """Start a call and return its future."""
        if self._pid != os.getpid():
            raise ClientClosed("this client was made before a fork; make one per process")
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        until = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        self._session.add(call, until, _ending(future))
        self._plan()
        return future

    def _plan(self) -> None:
        if not self._turn_planned and self._loop is not None:
            self._turn_planned = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_planned = False
        session = self._session
        if session.closed or self._loop is None:
            return
        now = time.monotonic()
        transport = self._transport
        if transport is None:
            transport = self._transport = Transport(self._curve)
        else:
            for frame in transport.receive():
                session.received(frame, now)
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task(session)
        session.tick(now)
        if session.reconnect:
            self._reconnect(transport, now)
        for frame in session.take_frames(now):
            transport.send(frame)
        if transport.readable():
            self._plan()
        if session.active:
            self._arm(session.deadline(now), now)

    def _reconnect(self, transport: Transport, now: float) -> None:
        assert self._loop is not None, "a turn has a loop"
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
        transport.connect(self._session.endpoint)
        self._descriptor = transport.fileno()
        self._loop.add_reader(self._descriptor, self._plan)
        self._session.connected(now)

    def _arm(self, due: float, now: float) -> None:
        """See to it that a turn begins at `due`; an earlier timer does, since a turn arms the next."""
        assert self._loop is not None, "a turn has a loop"
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(max(0.0, due - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._plan()

    def put(
        self, key: Key, value: Key = b"", *, timeout_s: float | None = None, **options: Any
    ) -> "asyncio.Future[PutResult]":
        """Store a pair; options: lease, prev_kv, ignore_value, ignore_lease."""
        return self.submit(calls.put(key, value, **options), timeout_s)

    def get(
        self, key: Key, *, revision: int = 0, serializable: bool = False, timeout_s: float | None = None
    ) -> "asyncio.Future[KeyValue | None]":
        """Return the pair of `key`, or None."""
        return self.submit(calls.get(key, revision=revision, serializable=serializable), timeout_s)

    def range(
        self, key: Key, range_end: Key = b"", *, timeout_s: float | None = None, **options: Any
    ) -> "asyncio.Future[RangeResult]":
        """Return the pairs in `[key, range_end)`; options as `Client.range`'s."""
        return self.submit(calls.range_(key, range_end, **options), timeout_s)

    def get_prefix(
        self, prefix: Key, *, timeout_s: float | None = None, **options: Any
    ) -> "asyncio.Future[RangeResult]":
        """Return the pairs whose keys begin with `prefix`."""
        return self.submit(calls.get_prefix(prefix, **options), timeout_s)

    async def range_stream(
        self,
        prefix: Key,
        range_end: Key | None = None,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncRangeStream:
        """Return an asynchronous iterator over any number of pairs; see `Client.range_stream`."""
        key, end = prefix_range(prefix) if range_end is None else (prefix, range_end)
        if not revision:
            revision = (await self.range(key, limit=1, keys_only=True, timeout_s=timeout_s)).revision
        feed = RangeFeed(key, end, revision=revision, limit=limit, keys_only=keys_only)
        return AsyncRangeStream(self, feed, self._timeout_s if timeout_s is None else timeout_s)

    def delete(
        self, key: Key, range_end: Key = b"", *, prev_kv: bool = False, timeout_s: float | None = None
    ) -> "asyncio.Future[DeleteResult]":
        """Delete a key or a range."""
        return self.submit(calls.delete(key, range_end, prev_kv=prev_kv), timeout_s)

    def delete_prefix(
        self, prefix: Key, *, prev_kv: bool = False, timeout_s: float | None = None
    ) -> "asyncio.Future[DeleteResult]":
        """Delete every key that begins with `prefix`."""
        return self.submit(calls.delete_prefix(prefix, prev_kv=prev_kv), timeout_s)

    def txn(self) -> "Txn[Awaitable[TxnResult]]":
        """Begin a transaction; `commit()` is awaited."""
        return Txn(self.submit)

    def compact(
        self, revision: int, *, physical: bool = False, timeout_s: float | None = None
    ) -> "asyncio.Future[CompactResult]":
        """Give up history before `revision`."""
        return self.submit(calls.compact(revision, physical=physical), timeout_s)

    def lease(self, ttl_s: int, lease: int = 0) -> AsyncLease:
        """Return a lease of `ttl_s` seconds as a context: inside it keeps itself alive, or tells by `lost`."""
        return AsyncLease(self, ttl_s, lease)

    def lease_grant(
        self, ttl_s: int, lease: int = 0, *, timeout_s: float | None = None
    ) -> "asyncio.Future[LeaseResult]":
        """Grant a lease that nobody keeps alive by itself; the server chooses the id unless one is given."""
        return self.submit(calls.lease_grant(ttl_s, lease), timeout_s)

    def lease_revoke(self, lease: int, *, timeout_s: float | None = None) -> "asyncio.Future[int]":
        """End a lease and delete its keys; the result is the revision."""
        return self.submit(calls.lease_revoke(lease), timeout_s)

    def lease_keep_alive(self, lease: int, *, timeout_s: float | None = None) -> "asyncio.Future[LeaseResult]":
        """Give a lease its whole time again; `ttl_s` is 0 if there is no such lease."""
        return self.submit(calls.lease_keep_alive(lease), timeout_s)

    def lease_time_to_live(
        self, lease: int, *, keys: bool = False, timeout_s: float | None = None
    ) -> "asyncio.Future[LeaseTimeResult]":
        """Tell what is left of a lease, and with `keys` what is attached to it."""
        return self.submit(calls.lease_time_to_live(lease, keys=keys), timeout_s)

    def leases(self, *, timeout_s: float | None = None) -> "asyncio.Future[tuple[int, ...]]":
        """Tell the ids of all leases."""
        return self.submit(calls.leases(), timeout_s)

    def status(self, *, timeout_s: float | None = None) -> "asyncio.Future[StatusResult]":
        """Return how the member at the other end stands."""
        return self.submit(calls.status(), timeout_s)

    def hash_kv(self, revision: int = 0, *, timeout_s: float | None = None) -> "asyncio.Future[HashResult]":
        """Return the hash of the member at the other end."""
        return self.submit(calls.hash_kv(revision), timeout_s)

    def alarms(self, *, timeout_s: float | None = None) -> "asyncio.Future[tuple[Alarm, ...]]":
        """Return what is wrong with members of the cluster."""
        return self.submit(calls.alarms(), timeout_s)

    def disarm(self, alarm: Alarm, *, timeout_s: float | None = None) -> "asyncio.Future[tuple[Alarm, ...]]":
        """Take an alarm back, once its cause is gone; return it if it was there."""
        return self.submit(calls.disarm(alarm), timeout_s)

    def arm(self, alarm: Alarm, *, timeout_s: float | None = None) -> "asyncio.Future[tuple[Alarm, ...]]":
        """Raise an alarm, as a member does by itself when it is full or damaged; the result is it."""
        return self.submit(calls.arm(alarm), timeout_s)

    def downgrade(
        self, action: DowngradeAction, version: str = "", *, timeout_s: float | None = None
    ) -> "asyncio.Future[str]":
        """Return the cluster's version; see `Client.downgrade`."""
        return self.submit(calls.downgrade(action, version), timeout_s)

    async def snapshot(self, path: str | os.PathLike[str], *, timeout_s: float = SNAPSHOT_SILENCE_S) -> SavedSnapshot:
        """Save all of a member's store as the file `path`, written from a thread; see `Client.snapshot`."""
        await self.status()
        async with AsyncSnapshotReader(self, SnapshotFeed()) as reader:
            with SnapshotFile(Path(path)) as file:
                while blobs := await reader.take(timeout_s):
                    await asyncio.to_thread(file.write, blobs)
                return await asyncio.to_thread(file.finish, reader.storage_version)

    def defragment(self, *, timeout_s: float | None = None) -> "asyncio.Future[None]":
        """Have the member at the other end give back the space that compaction has freed; requests go on."""
        return self.submit(calls.defragment(), timeout_s)

    def hash(self, *, timeout_s: float | None = None) -> "asyncio.Future[int]":
        """Return the hash of all that the member at the other end has in common with others: leases and users too."""
        return self.submit(calls.hash_all(), timeout_s)

    def members(
        self, *, linearizable: bool = True, timeout_s: float | None = None
    ) -> "asyncio.Future[tuple[Member, ...]]":
        """Return the members of the cluster."""
        return self.submit(calls.members(linearizable=linearizable), timeout_s)

    def member_add(
        self, peer_urls: Iterable[str], *, learner: bool = False, timeout_s: float | None = None
    ) -> "asyncio.Future[Member]":
        """Add a member, known by where it will listen for its peers; start its node afterwards."""
        return self.submit(calls.member_add(peer_urls, learner=learner), timeout_s)

    def member_remove(self, member: int, *, timeout_s: float | None = None) -> "asyncio.Future[tuple[Member, ...]]":
        """Remove a member for ever; its node stops by itself. The result is who is left."""
        return self.submit(calls.member_remove(member), timeout_s)

    def member_update(
        self, member: int, peer_urls: Iterable[str], *, timeout_s: float | None = None
    ) -> "asyncio.Future[tuple[Member, ...]]":
        """Say where a member listens for its peers from now on."""
        return self.submit(calls.member_update(member, peer_urls), timeout_s)

    def member_promote(self, member: int, *, timeout_s: float | None = None) -> "asyncio.Future[tuple[Member, ...]]":
        """Give a learner that has caught up its vote."""
        return self.submit(calls.member_promote(member), timeout_s)

    def move_leader(self, member: int, *, timeout_s: float | None = None) -> "asyncio.Future[None]":
        """Have the member at the other end hand leadership to `member`; only the leader can."""
        return self.submit(calls.move_leader(member), timeout_s)

    def run_soon(self, task: Callable[[Session], None]) -> None:
        """Have `task` called with the session within the next turn."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if not self._session.closed:
            self._tasks.append(task)
            self._plan()

    def watch(
        self,
        prefix: Key,
        range_end: Key | None = None,
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        without: Filter | None = None,
    ) -> AsyncWatch:
        """Return an asynchronous iterator over everything that happens to a prefix; arguments as `Client.watch`'s."""
        key, end = prefix_range(prefix) if range_end is None else (prefix, range_end)
        feed = WatchFeed(key, end, start_revision=start_revision, prev_kv=prev_kv, without=without)
        return AsyncWatch(self, feed)

    def cache(self, prefix: Key) -> AsyncCache:
        """Return all keys that begin with `prefix`, listed once and then kept up to date."""
        return AsyncCache(self, prefix)


def _ending(future: "asyncio.Future[Any]") -> Any:
    def done(result: Any, error: ActdError | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    return done
