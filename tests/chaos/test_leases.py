"""Leases of the ZeroMQ client on real nodes: held while the leader dies, lost when they are gone, and counted."""

import asyncio
import time
import urllib.request
from collections.abc import Callable

import pytest
from clusters import Cluster, wait_until

from actd import AsyncClient, LeaseLost, RequestRefused

MakeCluster = Callable[..., Cluster]
pytestmark = [pytest.mark.processes, pytest.mark.slow]


def test_a_lease_is_kept_alive_while_the_leader_dies(make_cluster: MakeCluster) -> None:
    """The key stays for much longer than the lease's time, through the death of the leading node; then it goes."""
    cluster = make_cluster()
    cluster.start_apart()
    with cluster.client(timeout_s=30) as client:
        with client.lease(5) as lease:
            client.put("held", "1", lease=lease.id)
            began = time.monotonic()
            cluster.kill_node(cluster.await_leader())
            wait_until(lambda: time.monotonic() - began > 3 * lease.ttl_s or lease.lost.is_set(), 60, "it is held")
            assert not lease.lost.is_set()
            lease.check()
            held = client.get("held")
            assert held is not None
            assert held.lease == lease.id
            assert client.leases() == (lease.id,)
        assert client.get("held") is None
        assert client.lease_time_to_live(lease.id).ttl_s == -1


def test_a_lease_is_lost_when_nobody_is_there_to_ask(make_cluster: MakeCluster) -> None:
    """Its time is over for its holder although no store has said so; leaving the context does not wait for long."""
    cluster = make_cluster()
    cluster.start()
    with cluster.client(timeout_s=5) as client, client.lease(3) as lease:
        began = time.monotonic()
        cluster.kill_everything()
        assert lease.lost.wait(60)
        assert time.monotonic() - began > 1


def test_a_lease_that_was_revoked_by_somebody_else_is_lost(shared_cluster: Cluster) -> None:
    """The context's `lost` is set at the next keep-alive, long before its time is over; leaving it is quiet."""
    with shared_cluster.client() as client, client.lease(30) as lease:
        client.lease_revoke(lease.id)
        assert lease.lost.wait(30)
        with pytest.raises(LeaseLost):
            lease.check()
        with pytest.raises(RequestRefused, match="requested lease not found"):
            client.put("x", lease=lease.id)


def test_an_asyncio_lease_lives_and_ends_with_its_context(shared_cluster: Cluster) -> None:
    """The same for tasks."""

    async def hold() -> None:
        async with AsyncClient([shared_cluster.zmq(name) for name in ("n1", "n2", "n3")]) as client:
            async with client.lease(5) as lease:
                await client.put("held", "1", lease=lease.id)
                left = await client.lease_time_to_live(lease.id, keys=True)
                assert (left.granted_ttl_s, left.keys) == (5, (b"held",))
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(lease.lost.wait(), 7)
                assert await client.get("held") is not None
            assert await client.get("held") is None
            async with client.lease(5) as lease:
                await client.lease_revoke(lease.id)
                await asyncio.wait_for(lease.lost.wait(), 30)

    asyncio.run(hold())


def test_leases_are_on_the_metrics_page(shared_cluster: Cluster) -> None:
    """Granted, kept alive, run out and revoked."""

    def figures() -> dict[str, float]:
        found: dict[str, float] = {}
        for name in ("n1", "n2", "n3"):
            with urllib.request.urlopen(f"http://{shared_cluster.client_address(name)}/metrics", timeout=20) as page:
                for line in page.read().decode().splitlines():
                    if line.startswith(("etcd_debugging_lease", "etcd_debugging_server_lease")):
                        key, _, value = line.rpartition(" ")
                        found[key] = max(found.get(key, 0), float(value))
        return found

    with shared_cluster.client() as client:
        before = figures()
        short = client.lease_grant(1).lease
        client.lease_revoke(client.lease_grant(1000).lease)
        assert client.lease_keep_alive(short).ttl_s >= 1
        wait_until(lambda: client.lease_time_to_live(short).ttl_s == -1, 30, "it runs out")
    wanted = {"lease_granted": 2, "lease_revoked": 2, "lease_renewed": 1, "server_lease_expired": 1}

    def counted() -> bool:
        now = figures()
        return all(
            now[f"etcd_debugging_{name}_total"] - before[f"etcd_debugging_{name}_total"] >= many
            for name, many in wanted.items()
        )

    wait_until(counted, 30, "the page shows it")
    assert figures()["etcd_debugging_lease_ttl_total_count"] >= 2
