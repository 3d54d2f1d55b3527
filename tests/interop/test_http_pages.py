"""The HTTP pages of a real node: what probes and Prometheus read, with and without a quorum, while actors die."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable

import psutil
import pytest
from clusters import GROUP, Cluster, wait_until
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.processes, pytest.mark.slow]
COUNTED = ("counter", "histogram")
Counters = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def page(cluster: Cluster, path: str, node: str = "n1") -> tuple[int, str]:
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(f"http://{cluster.client_address(node)}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def counters(cluster: Cluster, node: str = "n1") -> Counters:
    """Every counter and bucket of a node's metrics, by name and labels."""
    status, text = page(cluster, "/metrics", node)
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in COUNTED
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def put_total(found: Counters) -> float:
    """How many puts a node says it has applied."""
    return found["etcd_mvcc_put_total", ()]


def test_a_node_with_a_quorum(shared_cluster: Cluster) -> None:
    """Everything is well, and each page says so as etcd's does."""
    assert json.loads(page(shared_cluster, "/version")[1]).keys() == {"etcdserver", "etcdcluster", "storage"}
    assert page(shared_cluster, "/health") == (200, '{"health":"true","reason":""}')
    assert page(shared_cluster, "/health?serializable=true") == (200, '{"health":"true","reason":""}')
    assert page(shared_cluster, "/livez") == (200, "ok\n")
    assert page(shared_cluster, "/readyz") == (200, "ok\n")
    status, text = page(shared_cluster, "/readyz?verbose")
    assert status == 200
    assert "[+]linearizable_read ok" in text


def test_a_node_alone(make_cluster: Callable[..., Cluster]) -> None:
    """Without a quorum it is not healthy and not ready, but it lives and serves what it has."""
    cluster = make_cluster()
    cluster.start()
    alone = cluster.names[0]
    for name in cluster.names[1:]:
        pid = cluster.pid("gateway", name)
        assert pid is not None
        # The supervisor is the parent of its node's actors: without it they end.
        supervisor = psutil.Process(pid).ppid()
        os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: page(cluster, "/health", alone)[0] == 503, 30, "the node knows that it is alone")
    assert json.loads(page(cluster, "/health", alone)[1])["health"] == "false"
    assert page(cluster, "/health?serializable=true", alone) == (200, '{"health":"true","reason":""}')
    assert page(cluster, "/livez", alone) == (200, "ok\n")
    status, text = page(cluster, "/readyz", alone)
    assert status == 503
    assert "[-]linearizable_read failed" in text
    assert "[+]serializable_read ok" in text


def test_no_counter_falls_when_an_actor_dies(make_cluster: Callable[..., Cluster]) -> None:
    """raft, wal and applier of a node die one after the other: whatever it counted, it goes on from there."""
    cluster = make_cluster(1)
    cluster.start()
    written = 0

    def write() -> None:
        nonlocal written
        with cluster.client() as client:
            for _ in range(50):
                client.put("k", "v")
        written += 50

    last: Counters = {}

    def read() -> Counters:
        nonlocal last
        now = counters(cluster)
        fallen = {key: (last[key], now.get(key)) for key in last if now.get(key, -1) < last[key]}
        assert not fallen, f"counters fell: {fallen}"
        last = now
        return now

    write()
    wait_until(lambda: put_total(read()) >= written, 20, "the puts are counted")
    for actor in GROUP:
        before = put_total(read())
        dead = cluster.kill(actor, "n1")
        wait_until(lambda dead=dead, actor=actor: read() and cluster.pid(actor, "n1") not in (None, dead), 30)
        cluster.await_serving("n1")
        write()
        wait_until(
            lambda before=before: put_total(read()) >= before + 50, 20, f"puts are counted after {actor}'s death"
        )
