"""Clients of both doors that write and read without end, and what they were promised."""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Protocol

import grpc
from clusters import Cluster, wait_until

from actd.errors import ActdError
from protocol.wire import rpc_pb2 as rpc

CALL_S = 3.0
PAUSE_S = 0.002
"""Between two calls of one client, so that a load leaves room for what it is to disturb."""
PAUSE_AFTER_FAILURE_S = 0.02
_loads = itertools.count(1)


class NotAnswered(Exception):
    """The call failed; a write may have taken effect all the same."""


class User(Protocol):
    """A client of one door."""

    def put(self, key: str, value: str) -> int:
        """Write, and return the revision; `NotAnswered` if there was no success."""

    def get(self, key: str) -> tuple[str | None, int]:
        """Read linearizably; return the value and the store's revision."""

    def close(self) -> None:
        """Let go of the connection."""


class ZmqUser:
    """Our own client, which knows all nodes."""

    def __init__(self, cluster: Cluster, *names: str, timeout_s: float = CALL_S) -> None:
        self._client = cluster.client(*names, timeout_s=timeout_s)

    def put(self, key: str, value: str) -> int:
        """Write."""
        try:
            return self._client.put(key, value).revision
        except ActdError as error:
            raise NotAnswered(str(error)) from error

    def get(self, key: str) -> tuple[str | None, int]:
        """Read."""
        try:
            found = self._client.range(key)
        except ActdError as error:
            raise NotAnswered(str(error)) from error
        return (found.pairs[0].text if found.pairs else None), found.revision

    def close(self) -> None:
        """Let go."""
        self._client.close()


class GrpcUser:
    """A plain gRPC client on one node after the other: it moves on when a call fails."""

    def __init__(self, cluster: Cluster, *names: str, timeout_s: float = CALL_S, first: int = 0) -> None:
        self._addresses = [cluster.client_address(name) for name in names or cluster.names]
        self._turns = itertools.cycle(self._addresses[first:] + self._addresses[:first])
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(next(self._turns))

    def _call(self, method: str, request: bytes) -> bytes:
        call = self._channel.unary_unary(f"/etcdserverpb.KV/{method}")
        try:
            answer: bytes = call(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            self._channel.close()
            self._channel = grpc.insecure_channel(next(self._turns))
            raise NotAnswered(str(error)) from error
        return answer

    def put(self, key: str, value: str) -> int:
        """Write."""
        request = rpc.PutRequest(key=key.encode(), value=value.encode())
        return rpc.PutResponse.FromString(self._call("Put", request.SerializeToString())).header.revision

    def get(self, key: str) -> tuple[str | None, int]:
        """Read."""
        request = rpc.RangeRequest(key=key.encode())
        found = rpc.RangeResponse.FromString(self._call("Range", request.SerializeToString()))
        return (found.kvs[0].value.decode() if found.kvs else None), found.header.revision

    def close(self) -> None:
        """Let go."""
        self._channel.close()


class Load:
    """Two writers and a reader at each door; every key is written once, by one writer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._prefix = f"load-{next(_loads)}/"
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: dict[str, tuple[str, int]] = {}
        """Value and revision by key, in the order of the acknowledgements."""
        self._acknowledged = [0, 0]
        """How many by ZeroMQ, and how many by gRPC."""
        self.attempted: dict[str, str] = {}
        self.reads = 0
        self.faults: list[str] = []
        """Promises that were broken; none, if all is well."""
        self._last: tuple[str, str, int] | None = None
        """The acknowledged write of the highest revision."""
        users: list[User] = [ZmqUser(cluster), ZmqUser(cluster), ZmqUser(cluster)]
        users += [GrpcUser(cluster, first=number) for number in range(3)]
        runs = (self._write, self._write, self._read) * 2
        self._threads = [
            threading.Thread(target=self._run, args=(run, user, number), name=f"load {number}")
            for number, (run, user) in enumerate(zip(runs, users, strict=True))
        ]

    def _run(self, work: "type[Load] | object", user: User, number: int) -> None:
        assert callable(work), "a writer or a reader"
        try:
            for turn in itertools.count():
                if self._stop.is_set():
                    return
                try:
                    work(user, number, turn)
                    self._stop.wait(PAUSE_S)
                except NotAnswered:
                    self._stop.wait(PAUSE_AFTER_FAILURE_S)
        except BaseException as error:
            self.faults.append(f"client {number} failed: {error!r}")
            raise
        finally:
            user.close()

    def _write(self, user: User, number: int, turn: int) -> None:
        key, value = f"{self._prefix}{number}/{turn:06d}", f"{number} {turn}"
        self.attempted[key] = value
        with self._lock:
            floor = self._last[2] if self._last else 0
        revision = user.put(key, value)
        with self._lock:
            if revision <= floor:
                self.faults.append(f"{key}: revision {revision}, and {floor} had been acknowledged before it began")
            self.acknowledged[key] = (value, revision)
            self._acknowledged[isinstance(user, GrpcUser)] += 1
            if self._last is None or revision > self._last[2]:
                self._last = (key, value, revision)

    def _read(self, user: User, number: int, _turn: int) -> None:
        """Read the newest acknowledged write: it must be there, and the store not older than it."""
        with self._lock:
            last = self._last
        if last is None:
            return
        key, value, floor = last
        found, revision = user.get(key)
        if found != value or revision < floor:
            self.faults.append(f"reader {number}: {key} is {found!r} at {revision}, {value!r} was written at {floor}")
        self.reads += 1

    def await_more(self, count: int = 100, timeout_s: float = 60.0) -> None:
        """Wait until so many more writes are acknowledged, at each door some."""
        before = self._by_door()

        def enough() -> bool:
            new = [now - then for now, then in zip(self._by_door(), before, strict=True)]
            return sum(new) >= count and min(new) >= count // 10

        wait_until(enough, timeout_s, f"{count} more acknowledged writes")

    def _by_door(self) -> tuple[int, int]:
        with self._lock:
            return self._acknowledged[0], self._acknowledged[1]

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        """Put the cluster under load for as long as the block runs."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(20)

    def check(self) -> None:
        """Every member serves, has every acknowledged write at its revision and no other; all hash to the same."""
        cluster = self._cluster
        assert not self.faults, self.faults[:5]
        assert self.reads, "nothing was read"
        for name in cluster.names:
            cluster.await_serving(name)
        with cluster.client() as client:
            revision = client.put("last", "word").revision
        assert revision > max(at for _, at in self.acknowledged.values())
        for name in cluster.names:
            with cluster.client(name) as client:
                pairs = client.get_prefix(self._prefix).pairs
            held = {pair.key.decode(): (pair.text, pair.mod_revision) for pair in pairs}
            wrong = {key: (said, held.get(key)) for key, said in self.acknowledged.items() if held.get(key) != said}
            assert not wrong, f"{name} lost or changed {len(wrong)} of {len(self.acknowledged)}: {wrong}"
            invented = {key: pair for key, pair in held.items() if self.attempted.get(key) != pair[0]}
            assert not invented, f"{name} holds what nobody wrote: {invented}"
        hashes = cluster.hashes(revision)
        assert len(set(hashes.values())) == 1, hashes
