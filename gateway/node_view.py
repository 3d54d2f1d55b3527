"""What the HTTP pages may see of a node: its health, its versions, its metrics. Asks the core as any client would.

Owns the health checks and their counters. Knows no HTTP. Invariant: a check never waits longer than
`CHECK_TIMEOUT_MS`, whatever the store does.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from gateway import grpc_methods
from gateway.calls import Body, whole
from gateway.credentials import NODE_ITSELF
from gateway.grpc_door import GrpcShared
from gateway.loop import Core, GatewayLoop
from gateway.methods import METHODS, OWN_CALL
from gateway.metrics_page import MetricsPage, Sample
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.identity import NodeIdentity
from protocol.types import NOBODY, MemberId, Millis
from protocol.wire import rpc_pb2 as rpc

CHECK_TIMEOUT_MS: Final = 5_000
_RANGE: Final = METHODS[b"/etcdserverpb.KV/Range"]._replace(number=OWN_CALL)
_STATUS: Final = METHODS[b"/etcdserverpb.Maintenance/Status"]
_ALARM: Final = re.compile(r"alarm:\s*([A-Z]+)")


class NodeCore(Core, Protocol):
    """What the pages need of a `GatewayCore` besides what the loop needs."""

    leader: MemberId

    def measure(self) -> None:
        """Refresh gauges."""
        ...


class CheckFailed(Exception):
    """A health check's answer is no; the text says why, as etcd says it."""


class Health(NamedTuple):
    """The answer of `/health`; `reason` is empty where all is well."""

    healthy: bool
    reason: str = ""


Check = Callable[[], Awaitable[None]]


class NodeView:
    """One node as its HTTP pages show it."""

    def __init__(
        self, loop: GatewayLoop, core: NodeCore, identity: NodeIdentity, page: MetricsPage, versions: tuple[str, str]
    ) -> None:
        """`versions` are those of the server and of the storage format."""
        self._loop = loop
        self._core = core
        self._identity = identity
        self._page = page
        self.server_version, self.storage_version = versions
        self._health = {True: 0, False: 0}
        self._checked: dict[tuple[str, str], bool] = {}
        self._check_counts: dict[tuple[str, str, bool], int] = {}
        self.checks: Final[dict[str, dict[str, Check]]] = {
            "livez": {"serializable_read": self._check_serializable_read},
            "readyz": {
                "data_corruption": self._check_data_corruption,
                "linearizable_read": self._check_linearizable_read,
                "non_learner": self._check_non_learner,
                "serializable_read": self._check_serializable_read,
            },
        }
        """The checks of each page, by name."""

    @property
    def cluster_version(self) -> str:
        """What the cluster as a whole serves, once it is known."""
        if self._core.leader == NOBODY:
            return "not_decided"
        return self.server_version.rpartition(".")[0] + ".0"

    # --- asking the core --------------------------------------------------------------------------

    async def _ask(self, method: object, body: bytes) -> tuple[int, bytes]:
        """Return the core's answer to a request, as any client would get it."""
        answered: asyncio.Future[tuple[int, bytes]] = self._loop.loop.create_future()

        def on_answer(code: int, answer: Body) -> None:
            if not answered.done():
                answered.set_result((code, whole(answer)))

        due = Millis(self._loop.now_ms() + CHECK_TIMEOUT_MS)
        call_id = self._loop.submit(method, body, due, on_answer, NODE_ITSELF)
        try:
            return await answered
        finally:
            self._loop.cancel(call_id)

    async def _range(self, *, serializable: bool) -> None:
        request = rpc.RangeRequest(key=b"health", limit=1, keys_only=True, serializable=serializable)
        code, _ = await self._ask(_RANGE, request.SerializeToString())
        # While rights matter the node itself has none: that it was looked at is all a check wants to know, as etcd's.
        if code not in (ErrorCode.OK, ErrorCode.AUTH_OLD_REVISION):
            raise CheckFailed(WIRE_ERRORS[ErrorCode(code)].text)

    async def _status(self) -> rpc.StatusResponse:
        code, body = await self._ask(_STATUS, b"")
        if code:
            raise CheckFailed(WIRE_ERRORS[ErrorCode(code)].text)
        return rpc.StatusResponse.FromString(body)

    async def _alarms(self) -> list[str]:
        """Return the names of raised alarms, as `Status` tells them."""
        return [name for error in (await self._status()).errors for name in _ALARM.findall(error)]

    # --- checks -----------------------------------------------------------------------------------

    async def _check_serializable_read(self) -> None:
        await self._range(serializable=True)

    async def _check_linearizable_read(self) -> None:
        await self._range(serializable=False)

    async def _check_data_corruption(self) -> None:
        if "CORRUPT" in await self._alarms():
            raise CheckFailed("alarm activated: CORRUPT")

    async def _check_non_learner(self) -> None:
        if (await self._status()).isLearner:
            raise CheckFailed("this member is a learner")

    async def run_checks(self, page: str, names: Iterable[str]) -> dict[str, str]:
        """Run checks of a page; return by name why each failed, or nothing where it did not."""
        results: dict[str, str] = {}
        for name in names:
            try:
                await self.checks[page][name]()
                results[name] = ""
            except CheckFailed as failed:
                results[name] = str(failed)
            passed = not results[name]
            self._checked[page, name] = passed
            self._check_counts[page, name, passed] = self._check_counts.get((page, name, passed), 0) + 1
        return results

    async def health(self, *, serializable: bool, excluded: Iterable[str]) -> Health:
        """Return what `/health` answers."""
        health = await self._judge(serializable=serializable, excluded=frozenset(excluded))
        self._health[health.healthy] += 1
        return health

    async def _judge(self, *, serializable: bool, excluded: frozenset[str]) -> Health:
        try:
            for alarm in await self._alarms():
                if alarm not in excluded:
                    return Health(healthy=False, reason=f"ALARM {alarm}")
            if not serializable and self._core.leader == NOBODY:
                return Health(healthy=False, reason="RAFT NO LEADER")
            await self._range(serializable=serializable)
        except CheckFailed as failed:
            return Health(healthy=False, reason=f"RANGE ERROR:{failed}")
        return Health(healthy=True)

    # --- metrics ----------------------------------------------------------------------------------

    def samples(self) -> Iterator[Sample]:
        """Yield what the node says of itself and what its health checks have counted."""
        yield "etcd_server_id", {"server_id": f"{self._identity.member:x}"}, 1
        yield "etcd_server_version", {"server_version": self.server_version}, 1
        if self._core.leader != NOBODY:
            yield "etcd_cluster_version", {"cluster_version": self.cluster_version.rpartition(".")[0]}, 1
        yield "etcd_server_health_success", {}, self._health[True]
        yield "etcd_server_health_failures", {}, self._health[False]
        for (page, name), passed in self._checked.items():
            yield "etcd_server_healthcheck", {"type": page, "name": name}, float(passed)
        for (page, name, passed), count in self._check_counts.items():
            status = "success" if passed else "error"
            yield "etcd_server_healthchecks_total", {"type": page, "name": name, "status": status}, count

    async def metrics(self) -> bytes:
        """Return the page."""
        from gateway.process_figures import node_pids, read_processes

        self._core.measure()
        processes = await self._loop.loop.run_in_executor(None, lambda: read_processes(node_pids()))
        return self._page.render(processes)


def door_samples(shared: GrpcShared) -> Iterator[Sample]:
    """Yield what the gRPC door has counted."""
    yield "etcd_network_client_grpc_received_bytes_total", {}, shared.received_bytes
    yield "etcd_network_client_grpc_sent_bytes_total", {}, shared.sent_bytes
    yield from grpc_methods.samples(shared.methods)
