"""The blocking client: safe for threads and forks; calls of several threads travel together.

`with Client("tcp://127.0.0.1:2381") as client: client.put("k", "v")`
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from actd import calls
from actd.admin import Auth
from actd.calls import Call, DowngradeAction, Key
from actd.errors import ActdError, ClientClosed
from actd.keys import CurveKeys, may_use
from actd.leases import Lease
from actd.login import Login
from actd.range_feed import RangeFeed
from actd.range_stream import RangeStream
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
from actd.snapshots import SNAPSHOT_SILENCE_S, SnapshotFeed, SnapshotFile, SnapshotReader
from actd.transport import Transport, Waiter
from actd.txn import Txn
from actd.watch import Cache, Watch
from actd.watching import Filter, WatchFeed, prefix_range

R = TypeVar("R")
DEFAULT_TIMEOUT_S: Final = 10.0
PIPELINE_CALLS_MAX: Final = 10_000


class _Worker:
    """One background thread that owns socket and session; belongs to one process."""

    def __init__(self, session: Session, curve: CurveKeys | None) -> None:
        self.pid = os.getpid()
        self._curve = curve
        self._session = session
        self._lock = threading.Lock()
        self._inbox: list[tuple[Call[Any], float, Future[Any]]] = []
        self._tasks: list[Callable[[Session], None]] = []
        self._nudged = False
        self._closing = False
        self._nudge_read, self._nudge_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="actd client", daemon=True)
        self._thread.start()

    def submit(self, call: Call[R], until: float) -> "Future[R]":
        """Queue a call."""
        future: Future[R] = Future()
        with self._lock:
            if self._closing:
                raise ClientClosed("the client is closed")
            self._inbox.append((call, until, future))
            if not self._nudged:
                self._nudge()
        return future

    def run_soon(self, task: Callable[[Session], None]) -> None:
        """Have `task` called with the session on the thread that owns it; it must not block."""
        with self._lock:
            if self._closing:
                return
            self._tasks.append(task)
            if not self._nudged:
                self._nudge()

    def _nudge(self) -> None:
        """Wake the thread; the caller holds the lock, so that the pipe is open."""
        self._nudged = True
        os.write(self._nudge_write, b"x")

    def close(self) -> None:
        """End all calls and the thread; from a callback of one of its calls, the thread ends soon after."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._nudge()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        transport = Transport(self._curve)
        try:
            self._turn_until_closed(transport)
        finally:
            # Also when a turn fails: nobody may be left waiting for a thread that is gone.
            with self._lock:
                self._closing = True
                os.close(self._nudge_write)
            self._take_inbox()
            os.close(self._nudge_read)
            self._session.close()
            transport.close()

    def _turn_until_closed(self, transport: Transport) -> None:
        waiter = Waiter(self._nudge_read)
        session = self._session
        while self._take_inbox():
            now = time.monotonic()
            session.tick(now)
            if session.reconnect:
                transport.connect(session.endpoint)
                session.connected(now)
            for frame in session.take_frames(now):
                transport.send(frame)
            waiter.wait(transport, session.deadline(now) - time.monotonic())
            now = time.monotonic()
            for frame in transport.receive():
                session.received(frame, now)

    def _take_inbox(self) -> bool:
        """Hand new calls to the session; False once the client is being closed."""
        with self._lock:
            inbox, self._inbox = self._inbox, []
            tasks, self._tasks = self._tasks, []
            closing = self._closing
            if self._nudged:
                self._nudged = False
                with contextlib.suppress(BlockingIOError):
                    os.read(self._nudge_read, 64)
        for call, until, future in inbox:
            self._session.add(call, until, _ending(future))
        for task in tasks:
            task(self._session)
        return not closing


def _ending(future: "Future[Any]") -> Any:
    def done(result: Any, error: ActdError | None) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    return done


class Client:
    """A blocking client.

    Args:
        endpoints: doors of the cluster, `tcp://host:port`; the others are learnt from the first that answers.
        timeout_s: how long a call may take, unless it says otherwise.
        cluster: the cluster id that is expected, or 0 for any.
        name: what the door's log calls this client.
        curve: keys, where the doors want CURVE.
        user, password: who it is, where the cluster asks; it authenticates by itself, and again when its token ends.
    """

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
        self._endpoints = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
        if not self._endpoints:
            raise ValueError("a client needs at least one endpoint")
        may_use(curve, self._endpoints)
        self._timeout_s = timeout_s
        self._curve = curve
        self._make_session = partial(
            Session, self._endpoints, cluster, name, may_use(curve, self._endpoints), Login(user, password)
        )
        self.auth = Auth(lambda call: self._call(call, None))
        """Users, roles, permissions."""
        self._worker: _Worker | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"Client({', '.join(self._endpoints)}; {state})"

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End open calls with `ClientClosed` and let go of the socket."""
        self._closed = True
        worker, self._worker = self._worker, None
        if worker is not None and worker.pid == os.getpid():
            worker.close()

    def submit(self, call: Call[R], timeout_s: float | None = None) -> "Future[R]":
        """Start a call and return its future; several started ones travel together."""
        return self._own_worker().submit(call, time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s))

    def _own_worker(self) -> _Worker:
        """Return the thread that serves this process."""
        if self._closed:
            raise ClientClosed("the client is closed")
        pid = os.getpid()
        if self._pid != pid:
            # After a fork the parent's socket and thread are not ours, and its lock may be held for ever: begin anew.
            self._lock = threading.Lock()
            self._worker = None
            self._pid = pid
        worker = self._worker
        if worker is None:
            with self._lock:
                worker = self._worker
                if worker is None:
                    worker = self._worker = _Worker(self._make_session(), self._curve)
        return worker

    def _call(self, call: Call[R], timeout_s: float | None) -> R:
        return self.submit(call, timeout_s).result()

    def put(self, key: Key, value: Key = b"", *, timeout_s: float | None = None, **options: Any) -> PutResult:
        """Store a pair; options: lease, prev_kv, ignore_value, ignore_lease."""
        return self._call(calls.put(key, value, **options), timeout_s)

    def get(
        self, key: Key, *, revision: int = 0, serializable: bool = False, timeout_s: float | None = None
    ) -> KeyValue | None:
        """Return the pair of `key`, or None."""
        return self._call(calls.get(key, revision=revision, serializable=serializable), timeout_s)

    def range(self, key: Key, range_end: Key = b"", *, timeout_s: float | None = None, **options: Any) -> RangeResult:
        """Return the pairs in `[key, range_end)`; options: limit, revision, order, sort_by, serializable, keys_only,
        count_only, min/max_mod_revision, min/max_create_revision.
        """
        return self._call(calls.range_(key, range_end, **options), timeout_s)

    def get_prefix(self, prefix: Key, *, timeout_s: float | None = None, **options: Any) -> RangeResult:
        """Return the pairs whose keys begin with `prefix`; options as `range`."""
        return self._call(calls.get_prefix(prefix, **options), timeout_s)

    def range_stream(
        self,
        prefix: Key,
        range_end: Key | None = None,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        timeout_s: float | None = None,
    ) -> RangeStream:
        """Return an iterator over any number of pairs, all of one revision, that come in pieces.

        Args:
            prefix: of the keys; the first key where `range_end` is given.
            range_end: end of a range as in `range`.
            revision: which the pairs are read at; 0: the current one, which is asked for first.
            limit: the most pairs that are wanted; 0: all.
            keys_only: leave the values out.
            timeout_s: how long nothing may come.
        """
        key, end = prefix_range(prefix) if range_end is None else (prefix, range_end)
        revision = revision or self.range(key, limit=1, keys_only=True, timeout_s=timeout_s).revision
        feed = RangeFeed(key, end, revision=revision, limit=limit, keys_only=keys_only)
        return RangeStream(self._own_worker(), feed, self._timeout_s if timeout_s is None else timeout_s)

    def delete(
        self, key: Key, range_end: Key = b"", *, prev_kv: bool = False, timeout_s: float | None = None
    ) -> DeleteResult:
        """Delete a key or a range."""
        return self._call(calls.delete(key, range_end, prev_kv=prev_kv), timeout_s)

    def delete_prefix(self, prefix: Key, *, prev_kv: bool = False, timeout_s: float | None = None) -> DeleteResult:
        """Delete every key that begins with `prefix`."""
        return self._call(calls.delete_prefix(prefix, prev_kv=prev_kv), timeout_s)

    def txn(self) -> "Txn[TxnResult]":
        """Begin a transaction: `.if_(…).then(…).else_(…).commit()`."""
        return Txn(self._call)

    def compact(self, revision: int, *, physical: bool = False, timeout_s: float | None = None) -> CompactResult:
        """Give up history before `revision`; `physical` waits until its space is free."""
        return self._call(calls.compact(revision, physical=physical), timeout_s)

    def lease(self, ttl_s: int, lease: int = 0) -> Lease:
        """Return a lease of `ttl_s` seconds as a context: inside it keeps itself alive, or tells by `lost`."""
        return Lease(self, ttl_s, lease)

    def lease_grant(self, ttl_s: int, lease: int = 0, *, timeout_s: float | None = None) -> LeaseResult:
        """Grant a lease that nobody keeps alive by itself; the server chooses the id unless one is given."""
        return self._call(calls.lease_grant(ttl_s, lease), timeout_s)

    def lease_revoke(self, lease: int, *, timeout_s: float | None = None) -> int:
        """End a lease and delete its keys; return the revision."""
        return self._call(calls.lease_revoke(lease), timeout_s)

    def lease_keep_alive(self, lease: int, *, timeout_s: float | None = None) -> LeaseResult:
        """Give a lease its whole time again; `ttl_s` is 0 if there is no such lease."""
        return self._call(calls.lease_keep_alive(lease), timeout_s)

    def lease_time_to_live(self, lease: int, *, keys: bool = False, timeout_s: float | None = None) -> LeaseTimeResult:
        """Return what is left of a lease, and with `keys` what is attached to it."""
        return self._call(calls.lease_time_to_live(lease, keys=keys), timeout_s)

    def leases(self, *, timeout_s: float | None = None) -> tuple[int, ...]:
        """Return the ids of all leases."""
        return self._call(calls.leases(), timeout_s)

    def status(self, *, timeout_s: float | None = None) -> StatusResult:
        """Return how the member at the other end stands."""
        return self._call(calls.status(), timeout_s)

    def hash_kv(self, revision: int = 0, *, timeout_s: float | None = None) -> HashResult:
        """Return the hash of the member at the other end."""
        return self._call(calls.hash_kv(revision), timeout_s)

    def alarms(self, *, timeout_s: float | None = None) -> tuple[Alarm, ...]:
        """Return what is wrong with members of the cluster."""
        return self._call(calls.alarms(), timeout_s)

    def disarm(self, alarm: Alarm, *, timeout_s: float | None = None) -> tuple[Alarm, ...]:
        """Take an alarm back, once its cause is gone; return it if it was there."""
        return self._call(calls.disarm(alarm), timeout_s)

    def arm(self, alarm: Alarm, *, timeout_s: float | None = None) -> tuple[Alarm, ...]:
        """Raise an alarm, as a member does by itself when it is full or damaged; return it."""
        return self._call(calls.arm(alarm), timeout_s)

    def downgrade(self, action: DowngradeAction, version: str = "", *, timeout_s: float | None = None) -> str:
        """Return the cluster's version, after "validate" or "enable" of a downgrade to `version`, or "cancel" of one.

        Raises:
            RequestRefused: `version` is no version or not one minor version below, or a downgrade is under way.
        """
        return self._call(calls.downgrade(action, version), timeout_s)

    def snapshot(self, path: str | os.PathLike[str], *, timeout_s: float = SNAPSHOT_SILENCE_S) -> SavedSnapshot:
        """Save all of a member's store as the file `path`; what was there is replaced once the new one is whole.

        Args:
            path: of the file. It is written beside itself first, so its directory needs room for both.
            timeout_s: how long nothing may come; a large store takes a while to be made one file.

        Raises:
            ActdError: no door serves, it broke off, or it is not what its digest says. `path` is as it was.
            OSError: the file cannot be written.
        """
        self.status()  # Whoever cannot be reached or may not ask says so in no time.
        with SnapshotReader(self._own_worker(), SnapshotFeed()) as reader, SnapshotFile(Path(path)) as file:
            while blobs := reader.take(timeout_s):
                file.write(blobs)
            return file.finish(reader.storage_version)

    def defragment(self, *, timeout_s: float | None = None) -> None:
        """Have the member at the other end give back the space that compaction has freed; requests go on."""
        self._call(calls.defragment(), timeout_s)

    def hash(self, *, timeout_s: float | None = None) -> int:
        """Return the hash of all that the member at the other end has in common with others: leases and users too."""
        return self._call(calls.hash_all(), timeout_s)

    def members(self, *, linearizable: bool = True, timeout_s: float | None = None) -> tuple[Member, ...]:
        """Return the members of the cluster."""
        return self._call(calls.members(linearizable=linearizable), timeout_s)

    def member_add(self, peer_urls: Iterable[str], *, learner: bool = False, timeout_s: float | None = None) -> Member:
        """Add a member, known by where it will listen for its peers; return it. Start its node afterwards."""
        return self._call(calls.member_add(peer_urls, learner=learner), timeout_s)

    def member_remove(self, member: int, *, timeout_s: float | None = None) -> tuple[Member, ...]:
        """Remove a member for ever; its node stops by itself. Return the members that are left."""
        return self._call(calls.member_remove(member), timeout_s)

    def member_update(
        self, member: int, peer_urls: Iterable[str], *, timeout_s: float | None = None
    ) -> tuple[Member, ...]:
        """Say where a member listens for its peers from now on; return the members."""
        return self._call(calls.member_update(member, peer_urls), timeout_s)

    def member_promote(self, member: int, *, timeout_s: float | None = None) -> tuple[Member, ...]:
        """Give a learner that has caught up its vote; return the members."""
        return self._call(calls.member_promote(member), timeout_s)

    def move_leader(self, member: int, *, timeout_s: float | None = None) -> None:
        """Have the member at the other end hand leadership to `member`; only the leader can."""
        self._call(calls.move_leader(member), timeout_s)

    def watch(
        self,
        prefix: Key,
        range_end: Key | None = None,
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        without: Filter | None = None,
        timeout_s: float | None = None,
    ) -> Watch:
        """Return an iterator over everything that happens to keys that begin with `prefix`.

        Args:
            prefix: of the keys; the key itself where `range_end` is given.
            range_end: end of a range as in `range`; b"" watches the single key.
            start_revision: the first revision to hear of; 0: from now on.
            prev_kv: have events carry the pair they replaced.
            without: leave out "put" or "delete" events.
            timeout_s: how long the first door may take to begin.
        """
        key, end = prefix_range(prefix) if range_end is None else (prefix, range_end)
        feed = WatchFeed(key, end, start_revision=start_revision, prev_kv=prev_kv, without=without)
        return Watch(self._own_worker(), feed, self._timeout_s if timeout_s is None else timeout_s)

    def cache(self, prefix: Key, *, timeout_s: float | None = None) -> Cache:
        """Return all keys that begin with `prefix`, listed once and then kept up to date in the background."""
        return Cache(self._own_worker(), prefix, self._timeout_s if timeout_s is None else timeout_s)

    @contextlib.contextmanager
    def pipeline(self, *, calls_open_max: int = PIPELINE_CALLS_MAX) -> Iterator["Pipeline"]:
        """Start many calls without waiting; leaving the block waits for all and raises the first error.

        Args:
            calls_open_max: starting one more than these waits for the oldest, so that memory stays bounded.
        """
        pipeline = Pipeline(self, calls_open_max)
        yield pipeline
        pipeline.wait()


class Pipeline:
    """Calls that travel together; each returns a future."""

    def __init__(self, client: Client, calls_open_max: int) -> None:
        self._client = client
        self._calls_open_max = calls_open_max
        self._futures: deque[Future[Any]] = deque()
        self._failed: BaseException | None = None

    def _start(self, call: Call[R]) -> "Future[R]":
        while len(self._futures) >= self._calls_open_max:
            self._wait_for_oldest()
        future = self._client.submit(call)
        self._futures.append(future)
        return future

    def _wait_for_oldest(self) -> None:
        error = self._futures.popleft().exception()
        if self._failed is None:
            self._failed = error

    def put(self, key: Key, value: Key = b"", **options: Any) -> "Future[PutResult]":
        """Start a put."""
        return self._start(calls.put(key, value, **options))

    def get(self, key: Key, **options: Any) -> "Future[KeyValue | None]":
        """Start a get."""
        return self._start(calls.get(key, **options))

    def delete(self, key: Key, range_end: Key = b"") -> "Future[DeleteResult]":
        """Start a delete."""
        return self._start(calls.delete(key, range_end))

    def wait(self) -> None:
        """Wait for all; raise the first error."""
        while self._futures:
            self._wait_for_oldest()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
